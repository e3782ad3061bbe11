"""The chain rule as it was found: an object for scripts, a table for people."""

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

__all__ = ["Explanation", "Factor"]


class Factor(NamedTuple):
    """One factor of the chain rule, as a layer's own backward has it.

    Args:
        symbol: its name, such as `∂a₃/∂z₂`.
        path: what was asked, as in `2/Dense.dx`, `0/Dense.bias`, `loss.delta`.
        shape: (entries above the line, entries below it), both over the whole batch,
            of those only that the parameter has an influence on.
        value: the Jacobian, of that shape; None where it is larger than the limit.
        product: of all factors from the loss to here, (entries below the line,): δ.
        error: largest absolute difference of `product` and `jax.grad`'s.
        agrees: whether that is rounding.
        branches: what each branch of a block brings to `product`; their sum is it.
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
    """How the loss depends on a parameter: factors, product, and `jax.grad`'s word.

    Attributes:
        symbol: of the parameter, such as `b₁₂`.
        path: of the parameter, such as `0/Dense.bias`.
        index: which entry of it; None for all of it.
        loss: the loss L.
        factors: from the loss to the parameter.
        product: of the factors, ∂L/∂parameter by hand: (), or the parameter's shape.
        autodiff: the same by `jax.grad`.
        examples: N.
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
        """The largest absolute difference of product and `jax.grad`."""
        return self.factors[-1].error

    @property
    def agrees(self) -> bool:
        """Whether the product of all factors, and each before it, is `jax.grad`'s."""
        return self.first_divergence is None

    @property
    def first_divergence(self) -> str | None:
        """The first factor, from the loss down, after which the product is wrong.

        Its path, such as `2/Dense.dx`; None where all are right.
        """
        wrong = (factor.path for factor in self.factors if not factor.agrees)
        return next(wrong, None)

    def __str__(self) -> str:
        return "\n".join(
            [*_equation(self), "", *_table(self), *_matrices(self), "", *_summary(self)]
        )


# ---- The table, at most 80 columns wide ------------------------------------------

_WIDTH = 80
_HEADER = ("factor", "by hand in", "shape", "value", "product", "error")

#: Matrices of at most so many rows and columns are printed.
_ROWS, _COLUMNS = 6, 7


def _equation(e: Explanation) -> list[str]:
    left = f"∂L/∂{e.symbol} = "
    # A break may come between factors only: not inside one that lists units.
    chain = " · ".join(f.symbol.replace(" ", "\u00a0") for f in e.factors)
    lines = textwrap.wrap(
        left + chain,
        _WIDTH,
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
        value = "–" if f.value is None else _size(f.value)
        shape = f"{f.shape[0]}×{f.shape[1]}"
        error = _number(f.error) + ("" if f.agrees else " !")
        rows.append((f.symbol, f.path, shape, value, _size(f.product), error))
        rows += [
            ("", f"  through {label}", "", "", _size(part), "")
            for label, part in f.branches.items()
        ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
    widths[1] = min(widths[1], max(12, _WIDTH - sum(widths) + widths[1] - 10))
    head, *body = (_line(row, widths) for row in rows)
    return [head, "─" * max(map(len, body)), *body]


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    symbol, path, *numbers = row
    if len(path) > widths[1]:
        path = "…" + path[1 - widths[1] :]
    cells = [symbol.ljust(widths[0]), path.ljust(widths[1])]
    cells += [cell.rjust(w) for cell, w in zip(numbers, widths[2:], strict=True)]
    return "  ".join(cells).rstrip()


def _matrices(e: Explanation) -> list[str]:
    lines: list[str] = []
    for f in e.factors:
        rows, columns = f.shape
        if f.value is None or f.shape == (1, 1) or rows > _ROWS or columns > _COLUMNS:
            continue
        lines += ["", f"{f.symbol} ="]
        lines += ["".join(f"{_number(v):>10}" for v in row) for row in f.value]
    return lines


def _summary(e: Explanation) -> list[str]:
    lines = []
    if any(f.shape != (1, 1) for f in e.factors):
        lines += ["|v| is the norm of v; – stands for a matrix that is too large."]
    if e.examples > 1:
        lines += [f"L is the mean of {e.examples} examples; shapes count all of them."]
    lines += [f"product   {_size(e.product, 9)}", f"jax.grad  {_size(e.autodiff, 9)}"]
    if e.agrees:
        return [*lines, f"AGREES: the difference is {_number(e.error)}."]
    off = f"DIFFERS by {_number(e.error)}"
    return [*lines, f"{off}: the product goes wrong at {e.first_divergence}."]


def _size(a: np.ndarray, digits: int = 4) -> str:
    """One number as it is, several by their norm."""
    if a.size == 1:
        return _number(a.item(), digits)
    return f"|{_number(float(np.linalg.norm(a)), digits)}|"


def _number(value: float, digits: int = 4) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{abs(value) if value == 0 else value:.0f}"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits}g}"
    return f"{value:.{min(digits - 3, 6)}e}".replace("e-0", "e-").replace("e+0", "e")
