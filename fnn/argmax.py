"""The index of the maximum among several arrays, element by element.

Max-pooling passes dy to the position of the maximum. The arrays are compared with one
another and not with their maximum: inside a loop XLA may compute them a second time and
round differently, and then none of them equals the maximum.

A maximum of −∞ or NaN has no position. Where everything is −∞, padding attains it too;
and where NaN stands, JAX's own derivative depends on what stands beside it.
"""

from collections.abc import Iterable

import jax.numpy as jnp

from fnn.typing import Array, Int

__all__ = ["first_argmax"]


def first_argmax(arrays: Iterable[Array]) -> Int[Array, "..."]:
    """Return k*, the index of the first array with the largest number.

        k* = min { k : x_k = max_j x_j }        element by element
        k* = K where that maximum is −∞, or one of the numbers is NaN

    Args:
        arrays: x_0, ..., x_(K−1), of one shape and dtype.

    Returns:
        k*, an array of that shape, of int8 where there are few arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> first_argmax([jnp.array([1.0, 2.0]), jnp.array([1.0, 3.0])])
        Array([0, 1], dtype=int8)
    """
    best, *others = arrays
    dtype = jnp.int8 if len(others) < 127 else jnp.int32
    argmax = jnp.zeros(best.shape, dtype)
    for k, x in enumerate(others, 1):
        # A NaN is larger than any number, and stays.
        larger = ~(x <= best) & (best == best)
        best = jnp.where(larger, x, best)
        argmax = jnp.where(larger, jnp.asarray(k, dtype), argmax)
    return jnp.where(best > -jnp.inf, argmax, jnp.asarray(len(others) + 1, dtype))
