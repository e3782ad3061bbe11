"""The maximum over windows that tile the image, taken of planes.

    forward     y = max of the planes of a window, element by element
                k* = the number of the first plane that attains it, in row-major order
    backward    dx: dy goes to plane k*

Nothing is rounded; the winners are those of `reduce_window` and of its gradient.

Legend: windows of p × q places; planes as in `planes`, of a group that p and q divide.
"""

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import product

import jax.numpy as jnp
from jax import Array

from fnn.argmax import first_winner
from fnn.kernels.planes import Group, Planes

__all__ = ["given_to_winners", "max_of_planes", "winners_of_planes"]


def max_of_planes(planes: Planes, group: Group, window: Group) -> Planes:
    """The planes of y, of group (g/p, g'/q)."""
    return tuple(
        reduce(jnp.maximum, [planes[i] for i in window_planes])
        for window_planes in windows(group, window)
    )


def winners_of_planes(planes: Planes, group: Group, window: Group) -> Planes:
    """k*, the number of the place that won, for every window: planes of integers."""
    each = windows(group, window)
    return tuple(first_winner(planes[i] for i in numbers) for numbers in each)


def given_to_winners(
    winners: Planes, dy: Sequence[Array], group: Group, window: Group
) -> Planes:
    """The planes of dx."""
    dx: dict[int, Array] = {}
    for numbers, won, grad in zip(windows(group, window), winners, dy, strict=True):
        for place, i in enumerate(numbers):
            dx[i] = jnp.where(won == won.dtype.type(place), grad, 0)
    return tuple(dx[i] for i in range(len(dx)))


def windows(group: Group, window: Group) -> Iterator[list[int]]:
    """The planes of each window of a group, by number."""
    (g, k), (p, q) = group, window
    for a, b in product(range(0, g, p), range(0, k, q)):
        yield [(a + i) * k + b + j for i, j in product(range(p), range(q))]
