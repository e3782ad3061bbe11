"""The maximum over windows that tile the image, computed from planes.

    forward     y = max of the planes of a window, element by element
                k* = the number of the first plane that attains it, in row-major order
    backward    dx: dy goes to plane k*

Nothing is rounded; y and dx are those of `reduce_window` and of its gradient.

Legend: a pool (p, q) is a window of p × q positions; planes (C, h, w, N) as in
`planes`, of a group that p and q divide.
"""

from collections.abc import Iterator
from functools import reduce
from itertools import product

import jax.numpy as jnp

from fnn.argmax import first_argmax
from fnn.kernels.planes import Group
from fnn.typing import Array, Float, Int

__all__ = ["argmax_of_planes", "max_of_planes", "scatter_to_argmax"]


def max_of_planes(
    planes: tuple[Float[Array, "C h w N"], ...], group: Group, pool: Group
) -> tuple[Float[Array, "C h w N"], ...]:
    """Compute the planes of y, which are of the group (g/p, g'/q)."""
    return tuple(
        reduce(jnp.maximum, [planes[i] for i in numbers])
        for numbers in _planes_of_windows(group, pool)
    )


def argmax_of_planes(
    planes: tuple[Float[Array, "C h w N"], ...], group: Group, pool: Group
) -> tuple[Int[Array, "C h w N"], ...]:
    """Return k*, the number of the first maximum, for every window."""
    return tuple(
        first_argmax(planes[i] for i in numbers)
        for numbers in _planes_of_windows(group, pool)
    )


def scatter_to_argmax(
    argmax: tuple[Int[Array, "C h w N"], ...],
    dy: tuple[Float[Array, "C h w N"], ...],
    group: Group,
    pool: Group,
) -> tuple[Float[Array, "C h w N"], ...]:
    """Compute the planes of dx: dy at the first maximum, zero elsewhere."""
    windows = _planes_of_windows(group, pool)
    dx: dict[int, Array] = {}
    for numbers, k_first, grad in zip(windows, argmax, dy, strict=True):
        for k, i in enumerate(numbers):
            dx[i] = jnp.where(k_first == k_first.dtype.type(k), grad, 0)
    return tuple(dx[i] for i in range(len(dx)))


def _planes_of_windows(group: Group, pool: Group) -> Iterator[list[int]]:
    """Yield the numbers of the planes of each window in a group."""
    (g, k), (p, q) = group, pool
    for a, b in product(range(0, g, p), range(0, k, q)):
        yield [(a + i) * k + b + j for i, j in product(range(p), range(q))]
