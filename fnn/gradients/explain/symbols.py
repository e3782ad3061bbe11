"""What the numbers in a network are called: the letters of a textbook.

    x → a → z → a → z → ... → L

a is what a layer with parameters gives; z is what one without makes of it. Layers with
parameters are numbered from 1, in forward order. In a network of few units these are
numbered through, as on a blackboard; else each layer counts its own:

    a₃, z₃, w₂₁, b₁₂                    unit 3; layer 2, from unit 1; layer 1, unit 2
    a⁽²⁾, a⁽²⁾₁₇, z⁽²⁾₄,₅,₁, w⁽²⁾₁₀,₁₇  all of layer 2; one unit; one of an image

A prime tells a z from the z that it is made of: z⁽²⁾′ may be z⁽²⁾ after pooling.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from fnn.network import Node

__all__ = ["Symbol", "symbols"]

#: As many units at most are numbered through the network: each has one digit.
FEW = 9

#: As many of those at most are listed by name.
LISTED = 3

LETTERS = {"weight": "w", "bias": "b", "scale": "γ"}
LOWER = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
UPPER = str.maketrans("0123456789()", "⁰¹²³⁴⁵⁶⁷⁸⁹⁽⁾")


class Symbol(NamedTuple):
    """What the output of one layer is called.

    `letter` with so many `primes`, layer `number`, of `shape` for each example.
    `before` is how many units come before its first, where they are numbered through
    the network; None where they are not.
    """

    letter: str
    primes: int
    number: int
    shape: tuple[int, ...]
    before: int | None = None

    def output(self, entries: np.ndarray) -> str:
        """The name of some entries of the output, a mask of shape (N, ...)."""
        primes = "′" * self.primes
        units = np.argwhere(entries.any(0)) + 1
        if self.before is not None and len(units) <= LISTED:
            numbers = (self.before + unit for (unit,) in units)
            names = [self.letter + _lower([number]) + primes for number in numbers]
            return names[0] if len(names) == 1 else f"({', '.join(names)})"
        name = self.letter + _upper(self.number) + primes
        return name + _lower(units[0], ",") if len(units) == 1 else name

    def parameter(
        self, name: str, shape: tuple[int, ...], index: tuple[int, ...] | None
    ) -> str:
        """The name of an entry of one of the layer's parameters; of all without one."""
        letter = LETTERS.get(name, name)
        entry = [i + 1 for i in index or ()]
        if self.before is None:
            return letter + _upper(self.number) + _lower(entry, ",")
        # As on a blackboard, an index without a choice is left out: w₂₁, and not w₂₁₁.
        free = [i for i, size in zip(entry, shape, strict=False) if size > 1]
        numbers = [self.number, *(free or entry[-1:])]
        return letter + _lower(numbers, "," if max(numbers) > 9 else "")


def symbols(
    nodes: Iterable[Node], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Symbol]:
    """The symbol of each layer's output, by path.

    Args:
        nodes: the layers, in forward order; a block comes after what is in it.
        shapes: of each one's output for one example, by path.
    """
    found: dict[str, Symbol] = {}
    number, primes = 0, -1
    for path, layer, (params, _) in nodes:
        weighted = bool(jax.tree.leaves(params)) and not layer.children
        number, primes = (number + 1, -1) if weighted else (number, primes + 1)
        letter = "a" if weighted else "z"
        found[path] = Symbol(letter, max(primes, 0), number, shapes[path])
    return _numbered_through(found)


def _numbered_through(found: dict[str, Symbol]) -> dict[str, Symbol]:
    """The same with units numbered through the network, where they are few.

    And where each z has the units of its a, so that the two can share a number.
    """
    shapes = {s.number: s.shape for s in found.values() if s.letter == "a"}
    known = [s for s in found.values() if s.number]  # not what is before all weights
    before, total = {0: 0}, 0
    for number, shape in shapes.items():
        before[number] = total
        total += math.prod(shape)
    flat = all(len(s.shape) == 1 and s.shape == shapes[s.number] for s in known)
    if not flat or total > FEW:
        return found
    return {path: s._replace(before=before[s.number]) for path, s in found.items()}


def _lower(numbers: Iterable[int], between: str = "") -> str:
    return between.join(str(number).translate(LOWER) for number in numbers)


def _upper(number: int) -> str:
    return f"({number})".translate(UPPER)
