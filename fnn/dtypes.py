"""The floating-point dtypes that fnn computes with."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Shaped

__all__ = ["all_finite", "at_least_float32", "widen"]


def at_least_float32(dtype: Any) -> Any:
    """Return float64 for float64, and float32 for every other dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> at_least_float32(jnp.bfloat16).__name__
        'float32'
    """
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def widen(x: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Cast to float32, unless x is float64: then return it unchanged."""
    return x.astype(at_least_float32(x.dtype))


def all_finite(tree: Any) -> Bool[Array, ""]:
    """Return whether every floating-point number in a tree is finite."""
    leaves = [
        leaf
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    ]
    return jnp.array([jnp.isfinite(leaf).all() for leaf in leaves]).all()
