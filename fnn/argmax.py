"""The place of the maximum among several arrays, element by element.

Plain layers and kernels hand the gradient of a maximum to the place that won. The
places are compared with one another and not with the maximum: they may be computed once
more where they are read, in a loop that rounds otherwise, and then none attains it.
"""

from collections.abc import Iterable

import jax.numpy as jnp
from jax import Array

__all__ = ["first_winner"]


def first_winner(places: Iterable[Array]) -> Array:
    """k*, the number of the first place with the largest number: small integers.

        k* = min { k : x_k = max_j x_j }        element by element; a NaN is the largest

    Args:
        places: x_0, x_1, ..., of one shape and dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> first_winner([jnp.array([1.0, 2.0]), jnp.array([1.0, 3.0])])
        Array([0, 1], dtype=int8)
    """
    best, *others = places
    dtype = jnp.int8 if len(others) < 127 else jnp.int32
    winner = jnp.zeros(best.shape, dtype)
    for number, seen in enumerate(others, 1):
        # A NaN wins too, the first one, and passes its gradient on.
        better = ~(seen <= best) & (best == best)
        best = jnp.where(better, seen, best)
        winner = jnp.where(better, jnp.asarray(number, dtype), winner)
    return winner
