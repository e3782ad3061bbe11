"""Padding with the image's own places, and its adjoint.

    CIRCULAR    the image goes on at its other side:      c d | a b c d | a b
    REFLECT     the image is mirrored at its last place:  c b | a b c d | c b

Padding copies places; the adjoint adds what arrives at the copies to where they were
taken from.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

__all__ = ["EDGES", "check_room", "fold", "pad"]

EDGES = ("CIRCULAR", "REFLECT")

Amounts = tuple[tuple[int, int], ...]


def pad(x: Array, mode: str, amounts: Amounts) -> Array:
    """Put lo and hi copied places before and after each spatial axis of x."""
    for axis, (lo, hi) in enumerate(amounts, start=1):
        before, after = _sources(mode, x.shape[axis], lo, hi)
        copies = x.take(before, axis), x, x.take(after, axis)
        x = jnp.concatenate(copies, axis)
    return x


def fold(dx: Array, mode: str, amounts: Amounts) -> Array:
    """The adjoint of `pad`: from the gradient of the padded x to that of x."""
    for axis, (lo, hi) in reversed(list(enumerate(amounts, start=1))):
        size = dx.shape[axis] - lo - hi
        before, after = _sources(mode, size, lo, hi)
        dx = jnp.moveaxis(dx, axis, 0)
        first, dx, last = dx[:lo], dx[lo : lo + size], dx[lo + size :]
        dx = jnp.moveaxis(dx.at[before].add(first).at[after].add(last), 0, axis)
    return dx


def check_room(layer: Any, mode: str, sizes: tuple[int, ...], amounts: Amounts) -> None:
    """Raise where there are fewer places to copy than padding to fill."""
    for size, (lo, hi) in zip(sizes, amounts, strict=True):
        most = size - 1 if mode == "REFLECT" else size
        if max(lo, hi) > most:
            raise ValueError(
                f"{layer!r} pads {max(lo, hi)} places with copies from images of "
                f"{size}, which have {most} to copy. Use larger images, a smaller "
                'window or dilation, or padding="SAME".'
            )


def _sources(mode: str, size: int, lo: int, hi: int) -> tuple[np.ndarray, np.ndarray]:
    """Which places are copied before and after."""
    if mode == "CIRCULAR":
        return np.arange(size - lo, size), np.arange(hi)
    return np.arange(lo, 0, -1), np.arange(size - 2, size - 2 - hi, -1)
