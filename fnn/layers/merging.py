"""Merges of several arrays into one, forward and backward.

sum             y = Σ_b x_b             dx_b = dy
product         y = Π_b x_b             dx_b = dy Π_{c≠b} x_c
concatenate     y = [x_1 ... x_B]       dx_b: the slice of dy that is x_b's
"""

from collections.abc import Sequence
from functools import reduce
from itertools import accumulate
from typing import Any, NamedTuple

import jax.numpy as jnp

from fnn.checks import is_integer
from fnn.core import Layer
from fnn.describe import shown
from fnn.layers.shape import shape_only
from fnn.typing import Array, InShape

__all__ = ["MERGES", "check_merge", "check_mergeable", "merge", "merge_backward"]

MERGES = ("sum", "product", "concatenate")


class Merged(NamedTuple):
    """The arrays that the backward needs: the shapes of all parts, and factors."""

    shapes: tuple[Array, ...]
    factors: tuple[Array, ...]


def check_merge(name: str, operation: Any, axis: Any) -> None:
    """Raise unless the operation is one of `MERGES`, and the axis an integer not 0."""
    if operation not in MERGES:
        raise ValueError(
            f'{name} must be "sum", "product" or "concatenate", got {shown(operation)}'
        )
    if not is_integer(axis) or axis == 0:
        raise ValueError(
            f"{name}: axis must be an integer other than 0, the axis of the examples, "
            f"got {shown(axis)}"
        )


def check_mergeable(
    owner: Layer, shapes: Sequence[InShape], operation: str, axis: int
) -> None:
    """Raise unless arrays of these shapes, the axis of examples included, fit."""
    if operation == "concatenate":
        ranks = {len(shape) for shape in shapes}
        (rank, *others) = ranks
        fits = not others and -rank < axis < rank
        rest = {(*s[: axis % len(s)], *s[axis % len(s) + 1 :]) for s in shapes if s}
        if fits and len(rest) == 1:
            return
        problem = f"concatenates along axis {axis} arrays that differ in others"
    elif len(set(shapes)) == 1:
        # Equal, not broadcastable: a silent broadcast would need its own backward.
        return
    else:
        verb = "adds" if operation == "sum" else "multiplies"
        problem = f"{verb} arrays of different shapes"
    listed = ", ".join(map(str, shapes))
    raise ValueError(f"{owner!r} {problem}: {listed}.")


def merge(parts: Sequence[Array], operation: str, axis: int) -> tuple[Array, Merged]:
    """Return y, and what the backward needs."""
    shapes = tuple(map(shape_only, parts))
    if operation == "sum":
        return sum(parts[1:], start=parts[0]), Merged(shapes, ())
    if operation == "product":
        return reduce(jnp.multiply, parts), Merged(shapes, tuple(parts))
    return jnp.concatenate(parts, axis=axis), Merged(shapes, ())


def merge_backward(saved: Merged, dy: Array, operation: str, axis: int) -> list[Array]:
    """Return dx of each part, of the part's dtype."""
    shapes, factors = saved
    if operation == "sum":
        dxs = [dy] * len(shapes)
    elif operation == "product":
        # Products of those before and of those after: a division would fail at 0.
        before = accumulate(factors[:-1], jnp.multiply, initial=dy)
        after = [jnp.ones_like(dy)]
        for factor in factors[:0:-1]:
            after.append(factor * after[-1])
        dxs = [b * a for b, a in zip(before, reversed(after), strict=True)]
    else:
        ends = list(accumulate(shape.shape[1:][axis] for shape in shapes))
        dxs = jnp.split(dy, ends[:-1], axis=axis)
    return [dx.astype(shape.dtype) for dx, shape in zip(dxs, shapes, strict=True)]
