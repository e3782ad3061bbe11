"""Padding with copies of the image's own positions, and its backward.

    CIRCULAR    the image goes on at its other side:         c d | a b c d | a b
    REFLECT     the image is mirrored at its last position:  c b | a b c d | c b
    REPLICATE   the last position is repeated:               a a | a b c d | d d

Padding copies positions, so the backward adds the gradient of each copy to that of its
source.

Legend: N examples, H positions along each spatial axis of x, Q of them with padding,
C features.
"""

import jax.numpy as jnp
import numpy as np

from fnn.core import Layer
from fnn.layers.windows import PaddingPairs
from fnn.typing import Array, Float, Shaped

__all__ = ["COPY_MODES", "check_copies", "pad", "pad_backward"]

#: The modes of padding that copy positions of the image.
COPY_MODES = ("CIRCULAR", "REFLECT", "REPLICATE")


def pad(x: Array, mode: str, padding: PaddingPairs) -> Shaped[Array, "N *Q C"]:
    """Put lo and hi copies before and after each spatial axis of x (N, H, ..., C)."""
    for axis, (lo, hi) in enumerate(padding, start=1):
        before, after = _sources(mode, x.shape[axis], lo, hi)
        copies = x.take(before, axis), x, x.take(after, axis)
        x = jnp.concatenate(copies, axis)
    return x


def pad_backward(
    dpadded: Float[Array, "N *Q C"], mode: str, padding: PaddingPairs
) -> Float[Array, "N *H C"]:
    """Return dx from the gradient of the padded x: the adjoint of `pad`."""
    dx = dpadded
    for axis, (lo, hi) in reversed(list(enumerate(padding, start=1))):
        size = dx.shape[axis] - lo - hi
        before, after = _sources(mode, size, lo, hi)
        dx = jnp.moveaxis(dx, axis, 0)
        first, dx, last = dx[:lo], dx[lo : lo + size], dx[lo + size :]
        dx = jnp.moveaxis(dx.at[before].add(first).at[after].add(last), 0, axis)
    return dx


def check_copies(
    layer: Layer, mode: str, sizes: tuple[int, ...], padding: PaddingPairs
) -> None:
    """Raise where padding needs more copies than the image has positions to copy."""
    if mode == "REPLICATE":  # one position is enough for any number of copies
        return
    for size, (lo, hi) in zip(sizes, padding, strict=True):
        most = size - 1 if mode == "REFLECT" else size
        if max(lo, hi) > most:
            raise ValueError(
                f"{layer!r} pads {max(lo, hi)} positions with copies from images of "
                f"{size}, which have {most} to copy. Use larger images, a smaller "
                'window or dilation, or padding="SAME".'
            )


def _sources(mode: str, size: int, lo: int, hi: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions that are copied before and after the image."""
    if mode == "CIRCULAR":
        return np.arange(size - lo, size), np.arange(hi)
    if mode == "REPLICATE":
        return np.zeros(lo, int), np.full(hi, size - 1)
    return np.arange(lo, 0, -1), np.arange(size - 2, size - 2 - hi, -1)
