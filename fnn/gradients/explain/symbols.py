"""Symbols for the numbers in a network: the letters of a textbook.

    x → a → z → a → z → ... → L

a is the output of a layer with parameters; z is that of a layer without. Layers with
parameters are numbered from 1, in forward order. In a network of few units these are
numbered through all layers, as on a blackboard; otherwise each layer counts its own:

    a₃, z₃, w₂₁, b₁₂                    unit 3; layer 2, from unit 1; layer 1, unit 2
    a⁽²⁾, a⁽²⁾₁₇, z⁽²⁾₄,₅,₁, w⁽²⁾₁₀,₁₇  all of layer 2; one unit; one of an image

Primes distinguish several z of one number: z⁽²⁾′ may be z⁽²⁾ after pooling.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from fnn.network import Node
from fnn.typing import Bool

__all__ = ["Symbol", "symbols"]

#: Up to this number of units, they are numbered through the network: one digit each.
MAX_NUMBERED = 9

#: Up to this number of such units, a list of units is written out.
MAX_LISTED = 3

LETTERS = {"weight": "w", "bias": "b", "scale": "γ"}
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
SUPERSCRIPTS = str.maketrans("0123456789()", "⁰¹²³⁴⁵⁶⁷⁸⁹⁽⁾")


class Symbol(NamedTuple):
    """The symbol of one layer's output.

    Args:
        letter: "a" or "z".
        primes: the number of primes after the letter.
        number: the number of the layer.
        shape: the shape of the output, for one example.
        units_before: the number of units in the layers before, where units are numbered
            through the network; None where they are not.
    """

    letter: str
    primes: int
    number: int
    shape: tuple[int, ...]
    units_before: int | None = None

    def output(self, entries: Bool[np.ndarray, "N ..."]) -> str:
        """Return the symbol of some entries of the output, given as a mask."""
        primes = "′" * self.primes
        units = np.argwhere(entries.any(0)) + 1
        if self.units_before is not None and len(units) <= MAX_LISTED:
            numbers = (self.units_before + unit for (unit,) in units)
            names = [self.letter + _subscript([number]) + primes for number in numbers]
            return names[0] if len(names) == 1 else f"({', '.join(names)})"
        name = self.letter + _superscript(self.number) + primes
        return name + _subscript(units[0], ",") if len(units) == 1 else name

    def parameter(
        self, name: str, shape: tuple[int, ...], index: tuple[int, ...] | None
    ) -> str:
        """Return the symbol of an entry of one of the layer's parameters.

        Without an index it is the symbol of the whole parameter.
        """
        letter = LETTERS.get(name, name)
        entry = [i + 1 for i in index or ()]
        if self.units_before is None:
            return letter + _superscript(self.number) + _subscript(entry, ",")
        # As on a blackboard, an index without a choice is left out: w₂₁, and not w₂₁₁.
        free = [i for i, size in zip(entry, shape, strict=False) if size > 1]
        numbers = [self.number, *(free or entry[-1:])]
        return letter + _subscript(numbers, "," if max(numbers) > 9 else "")


def symbols(
    nodes: Iterable[Node], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Symbol]:
    """Choose the symbol of each layer's output, by path.

    Args:
        nodes: the layers, in forward order; a block comes after its branches.
        shapes: the shape of each layer's output for one example, by path.
    """
    found: dict[str, Symbol] = {}
    number, primes = 0, -1
    for path, layer, (params, _) in nodes:
        weighted = bool(jax.tree.leaves(params)) and not layer.children
        number, primes = (number + 1, -1) if weighted else (number, primes + 1)
        letter = "a" if weighted else "z"
        found[path] = Symbol(letter, max(primes, 0), number, shapes[path])
    return _number_units(found)


def _number_units(found: dict[str, Symbol]) -> dict[str, Symbol]:
    """Number the units through the network, where they are few.

    Each z must have the units of its a, so that the two can share a number.
    """
    shapes = {s.number: s.shape for s in found.values() if s.letter == "a"}
    weighted = [s for s in found.values() if s.number]  # not those before all weights
    before, total = {0: 0}, 0
    for number, shape in shapes.items():
        before[number] = total
        total += math.prod(shape)
    same = all(len(s.shape) == 1 and s.shape == shapes[s.number] for s in weighted)
    if not same or total > MAX_NUMBERED:
        return found
    return {
        path: symbol._replace(units_before=before[symbol.number])
        for path, symbol in found.items()
    }


def _subscript(numbers: Iterable[int], separator: str = "") -> str:
    return separator.join(str(number).translate(SUBSCRIPTS) for number in numbers)


def _superscript(number: int) -> str:
    return f"({number})".translate(SUPERSCRIPTS)
