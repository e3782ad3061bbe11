"""Planes: an image dealt out like cards.

A kernel may compute g neighbouring outputs along an axis at once, each by a product of
its own. Output p of that axis is then place ⌊p/g⌋ of plane p mod g:

    group (2, 2)    [a b a b]      four planes, of a, b, c and d:
                    [c d c d]      whoever wants the maximum over windows of 2 × 2
                    [a b a b]      takes it of four planes, element by element,
                    [c d c d]      and nothing is shuffled

Legend: images are (C, H, W, N), the batch last; a group is (g, g'); planes are a tuple
of g g' arrays in row-major order, each (C, ⌈H/g⌉, ⌈W/g'⌉, N).
"""

from collections.abc import Sequence
from itertools import product

import jax.numpy as jnp
from jax import Array, lax

__all__ = ["Group", "Planes", "apart", "deal", "place", "together", "written"]

Planes = tuple[Array, ...]
Group = tuple[int, int]


def together(planes: Planes, group: Group, sizes: tuple[int, int]) -> Array:
    """The image of these sizes whose planes these are: the inverse of `apart`."""
    (g, k), (h, w) = group, sizes
    lines = [_interleave(planes[a * k : (a + 1) * k], 3) for a in range(g)]
    return _interleave(lines, 2)[:, :h, :w]


def _interleave(parts, axis: int) -> Array:
    if len(parts) == 1:
        return parts[0]
    shape = list(parts[0].shape)
    shape[axis - 1] *= len(parts)
    return jnp.stack(parts, axis).reshape(shape)


def apart(image: Array, group: Group, sizes: Group | None = None) -> Planes:
    """The planes of an image, zeros added up to a multiple of the group.

    `sizes` are those of a plane, where they shall be larger still.
    """
    (g, k), (h, w) = group, image.shape[1:3]
    rows, columns = sizes or (-(-h // g), -(-w // k))
    image = place(image, (0, 0), (rows * g, columns * k))
    return tuple(image[:, a::g, b::k] for a, b in product(range(g), range(k)))


def deal(planes: Planes, group: Group, by: Group, sizes: tuple[int, int]) -> Planes:
    """Each plane dealt out `by` (r, r') once more: planes of group (g r, g' r').

    Only the first `sizes` places of each new plane are kept.
    """
    (g, k), (r, q), (h, w) = group, by, sizes
    return tuple(
        planes[a * k + b][:, i : i + (h - 1) * r + 1 : r, j : j + (w - 1) * q + 1 : q]
        for i, a, j, b in product(range(r), range(g), range(q), range(k))
    )


def place(image: Array, at: Sequence[int], sizes: Sequence[int]) -> Array:
    """The image put at a place of one of these sizes, zeros around; the rest is cut."""
    axes = zip(at, sizes, image.shape[1:3], strict=True)
    ends = [(a, s - a - h, 0) for a, s, h in axes]
    return lax.pad(image, jnp.zeros((), image.dtype), [(0, 0, 0), *ends, (0, 0, 0)])


def written(x: Array, after: Array | None = None) -> Array:
    """x, written to memory: for arrays that several others are made of.

    XLA's CPU backend likes to compute an array again for each of its readers, and
    undoes `optimization_barrier` before it decides so. A branch that is never taken,
    without the compiler knowing, is a barrier that stays: 0 a > 0 holds for no number,
    nor for NaN. With `after`, a is a number of that array: what is made of x then is
    made when `after` is there, and is not the same as what was made of x before.
    """
    never = (x if after is None else after).ravel()[0] * 0 > 0
    return lax.cond(never, jnp.negative, lambda x: x, x)
