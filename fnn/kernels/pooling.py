"""The maximum over windows that tile the image, taken of planes.

    forward     y = max of the planes of a window, element by element
    backward    dx: dy goes to the first plane that attains it, in row-major order

Nothing is rounded; the winners are those of `reduce_window` and of its gradient.

Legend: windows of p × q places; planes as in `planes`, of a group that p and q divide.
"""

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import product

import jax.numpy as jnp
from jax import Array

from fnn.kernels.planes import Group, Planes

__all__ = ["max_of_planes", "winners_of_planes"]


def max_of_planes(planes: Planes, group: Group, window: Group) -> Planes:
    """The planes of y, of group (g/p, g'/q)."""
    return tuple(
        reduce(jnp.maximum, [planes[i] for i in window_planes])
        for window_planes in windows(group, window)
    )


def winners_of_planes(
    planes: Planes,
    y: Planes,
    dy: Sequence[Array],
    group: Group,
    window: Group,
) -> Planes:
    """The planes of dx."""
    dx: dict[int, Array] = {}
    for numbers, top, grad in zip(windows(group, window), y, dy, strict=True):
        free = jnp.ones(top.shape, bool)
        for i in numbers[:-1]:
            wins = free & ~(planes[i] < top)  # so that a NaN wins too, and passes dy on
            dx[i] = jnp.where(wins, grad, 0)
            free &= ~wins
        # Not compared: planes may be computed again, in a loop that rounds otherwise.
        dx[numbers[-1]] = jnp.where(free, grad, 0)
    return tuple(dx[i] for i in range(len(planes)))


def windows(group: Group, window: Group) -> Iterator[list[int]]:
    """The planes of each window of a group, by number."""
    (g, k), (p, q) = group, window
    for a, b in product(range(0, g, p), range(0, k, q)):
        yield [(a + i) * k + b + j for i, j in product(range(p), range(q))]
