"""Planes: an image split into interleaved smaller images (space-to-depth).

A kernel may compute g neighbouring outputs along an axis at once, each by a product of
its own. Output p of that axis is then position ⌊p/g⌋ of plane p mod g:

    group (2, 2)    [a b a b]      four planes, of a, b, c and d. The maximum over
                    [c d c d]      windows of 2 × 2 is the maximum of these planes,
                    [a b a b]      element by element, and no element is moved.
                    [c d c d]

Legend: images are (C, H, W, N), the batch last; a group is (g, g'); planes are a tuple
of g g' arrays in row-major order, each (C, h, w, N) with h = ⌈H/g⌉ and w = ⌈W/g'⌉.
"""

from collections.abc import Sequence
from itertools import product

import jax.numpy as jnp
from jax import lax

from fnn.typing import Array, Float, Shaped

__all__ = [
    "Group",
    "materialize",
    "pad_or_crop",
    "planes_to_space",
    "sizes_only",
    "space_to_planes",
    "split_planes",
]

Group = tuple[int, int]


def space_to_planes(
    image: Float[Array, "C H W N"], group: Group, sizes: Sequence[int] | None = None
) -> tuple[Float[Array, "C h w N"], ...]:
    """Split an image into planes; zeros fill it up to a multiple of the group.

    Args:
        image: the image.
        group: (g, g').
        sizes: (h, w) of a plane, where they differ from ⌈H/g⌉ and ⌈W/g'⌉.
    """
    (g, k), (rows, columns) = group, image.shape[1:3]
    h, w = sizes or (-(-rows // g), -(-columns // k))
    image = pad_or_crop(image, (0, 0), (h * g, w * k))
    return tuple(image[:, a::g, b::k] for a, b in product(range(g), range(k)))


def planes_to_space(
    planes: tuple[Float[Array, "C h w N"], ...], group: Group, sizes: Sequence[int]
) -> Float[Array, "C H W N"]:
    """Interleave planes to an image of sizes (H, W): undo `space_to_planes`."""
    (g, k), (rows, columns) = group, sizes
    lines = [_interleave(planes[a * k : (a + 1) * k], 3) for a in range(g)]
    return _interleave(lines, 2)[:, :rows, :columns]


def _interleave(parts: Sequence[Array], axis: int) -> Array:
    if len(parts) == 1:
        return parts[0]
    shape = list(parts[0].shape)
    shape[axis - 1] *= len(parts)
    return jnp.stack(parts, axis).reshape(shape)


def split_planes(
    planes: tuple[Float[Array, "C h w N"], ...],
    group: Group,
    factor: Group,
    sizes: Sequence[int],
) -> tuple[Float[Array, "C _ _ N"], ...]:
    """Split each plane by a factor (r, r') again: planes of the group (g r, g' r').

    Each new plane is cropped to `sizes`, its first rows and columns.
    """
    (g, k), (r, q), (rows, columns) = group, factor, sizes
    return tuple(
        planes[a * k + b][
            :, i : i + (rows - 1) * r + 1 : r, j : j + (columns - 1) * q + 1 : q
        ]
        for i, a, j, b in product(range(r), range(g), range(q), range(k))
    )


def pad_or_crop(
    image: Float[Array, "C h w N"], offset: Sequence[int], sizes: Sequence[int]
) -> Float[Array, "C H W N"]:
    """Move an image to an offset in an image of these sizes.

    Zeros fill what it does not cover; what does not fit is cropped.
    """
    axes = zip(offset, sizes, image.shape[1:3], strict=True)
    ends = [(a, s - a - h, 0) for a, s, h in axes]
    return lax.pad(image, jnp.zeros((), image.dtype), [(0, 0, 0), *ends, (0, 0, 0)])


def sizes_only(image: Float[Array, "C H W N"]) -> Float[Array, "0 H W"]:
    """Return an array without elements that keeps the sizes H and W for a backward."""
    return jnp.zeros((0, *image.shape[1:3]))


def materialize(
    x: Shaped[Array, "*S"], after: Array | None = None
) -> Shaped[Array, "*S"]:
    """Write x to memory, where several other arrays are computed from it.

    XLA's CPU backend likes to compute an array again for each of its readers, and
    removes `optimization_barrier` before it decides so. A branch that is never taken,
    without the compiler knowing, is a barrier that stays: 0 a > 0 is false for every
    number a, and for NaN. With `after`, a is an element of that array. Then x is
    written once `after` exists, and what is computed from it is not merged with what
    was computed from x before. Integers need it: of them the compiler knows that
    0 a > 0 is false.
    """
    never = (x if after is None else after).ravel()[0] * 0 > 0
    return lax.cond(never, jnp.negative, lambda x: x, x)
