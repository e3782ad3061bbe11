"""The result of an explanation: an object for scripts, a table for people."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fnn.letters import printable
from fnn.tables import WIDTH, format_number, format_rows, format_shape, rule

__all__ = ["Explanation", "Factor"]


class Factor(NamedTuple):
    """One factor of the chain rule, computed by a layer's own backward.

    Args:
        symbol: its symbol, such as `∂a₃/∂z₂`.
        path: the path of the gradient: `2/Dense.dx`, `0/Dense.bias`, `loss.delta`.
        shape: (entries above the line, entries below it), both over the whole batch;
            only entries that the parameter has an influence on are counted.
        value: the Jacobian, of that shape; None where it is larger than the limit.
        product: the product of all factors from the loss to here, which is δ:
            (entries below the line,).
        error: the largest absolute difference of `product` and `jax.grad`'s δ.
        agrees: whether this difference is rounding.
        branches: what each branch of a block adds to `product`, by label.
    """

    symbol: str
    path: str
    shape: tuple[int, int]
    value: np.ndarray | None
    product: np.ndarray
    error: float
    agrees: bool
    branches: Mapping[str, np.ndarray] = {}


@dataclass(frozen=True)
class Explanation:
    """The factors of ∂L/∂parameter, their product, and the gradient by `jax.grad`.

    Attributes:
        symbol: the symbol of the parameter, such as `b₁₂`.
        path: the path of the parameter, such as `0/Dense.bias`.
        index: the index of one entry; None for all of the parameter.
        loss: the loss L.
        factors: the factors, from the loss to the parameter.
        product: their product, ∂L/∂parameter by hand: (), or the parameter's shape.
        autodiff: the same by `jax.grad`.
        examples: the number of examples N.
    """

    symbol: str
    path: str
    index: tuple[int, ...] | None
    loss: float
    factors: tuple[Factor, ...]
    product: np.ndarray
    autodiff: np.ndarray
    examples: int

    @property
    def error(self) -> float:
        """Return the largest absolute difference of `product` and `autodiff`."""
        return self.factors[-1].error

    @property
    def agrees(self) -> bool:
        """Return whether the product agrees with `jax.grad` after every factor."""
        return self.first_divergence is None

    @property
    def first_divergence(self) -> str | None:
        """Return the path of the first factor after which the product is wrong.

        It reads `2/Dense.dx`, and counts from the loss; None where all are right.
        """
        wrong = (factor.path for factor in self.factors if not factor.agrees)
        return next(wrong, None)

    def __str__(self) -> str:
        table = [*_table(self), *_matrices(self)]
        return printable("\n".join([*_equation(self), "", *table, "", *_summary(self)]))


# ---- The table -------------------------------------------------------------------

_HEADER = ("factor", "by hand in", "shape", "value", "product", "error")

#: The largest matrix that is printed.
_MAX_ROWS, _MAX_COLUMNS = 6, 7


def _equation(e: Explanation) -> list[str]:
    left = f"∂L/∂{e.symbol} = "
    # Lines break between factors only: not inside one that lists units.
    chain = " · ".join(f.symbol.replace(" ", "\u00a0") for f in e.factors)
    lines = textwrap.wrap(
        left + chain,
        WIDTH,
        subsequent_indent=" " * (len(left) - 2),
        break_on_hyphens=False,
        break_long_words=False,
    )
    entry = "" if e.index is None else str(list(e.index))
    name = f"{e.symbol} is {e.path}{entry}"
    return [line.replace("\u00a0", " ") for line in lines] + [name]


def _table(e: Explanation) -> list[str]:
    rows = [_HEADER]
    for f in e.factors:
        value = "–" if f.value is None else _value_or_norm(f.value)
        shape, product = format_shape(f.shape), _value_or_norm(f.product)
        error = format_number(f.error) + ("" if f.agrees else " !")
        rows.append((f.symbol, f.path, shape, value, product, error))
        rows += [
            ("", f"  through {label}", "", "", _value_or_norm(part), "")
            for label, part in f.branches.items()
        ]
    header, *body = format_rows(rows, "<<>>>>", paths=1)
    return [header, rule(body), *body]


def _matrices(e: Explanation) -> list[str]:
    lines: list[str] = []
    for f in e.factors:
        rows, columns = f.shape
        too_large = rows > _MAX_ROWS or columns > _MAX_COLUMNS
        if f.value is None or f.shape == (1, 1) or too_large:
            continue
        lines += ["", f"{f.symbol} ="]
        lines += ["".join(f"{format_number(v):>10}" for v in row) for row in f.value]
    return lines


def _summary(e: Explanation) -> list[str]:
    lines = []
    if any(f.shape != (1, 1) for f in e.factors):
        lines += ["|v| is the norm of v; – stands for a matrix that is too large."]
    if e.examples > 1:
        lines += [f"L is the mean of {e.examples} examples; shapes count all of them."]
    lines += [
        f"product   {_value_or_norm(e.product, 9)}",
        f"jax.grad  {_value_or_norm(e.autodiff, 9)}",
    ]
    if e.agrees:
        return [*lines, f"AGREES: the difference is {format_number(e.error)}."]
    off = f"DIFFERS by {format_number(e.error)}"
    return [*lines, f"{off}: the product goes wrong at {e.first_divergence}."]


def _value_or_norm(a: np.ndarray, digits: int = 4) -> str:
    """Write one number as it is, several numbers by their norm."""
    if a.size == 1:
        return format_number(a.item(), digits)
    return f"|{format_number(float(np.linalg.norm(a)), digits)}|"
