"""The floating-point dtypes that fnn computes with."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Shaped

__all__ = ["all_finite", "at_least_float32", "explain_kept_constants", "widen"]


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


@contextmanager
def explain_kept_constants() -> Generator[None, None, None]:
    """Explain JAX's error about a NumPy array that programs of two precisions use.

    JAX converts an array that a function finds outside itself, and keeps the result for
    as long as a program lives that has it. A program in another precision is then given
    the wrong one (jax 0.10.1 to 0.12), which XLA refuses. `jnp.asarray` in the function
    converts it each time.
    """
    try:
        yield
    except ValueError as error:
        if "Cannot lower jaxpr with verifier errors" not in str(error):
            raise
        place = re.search(r'\("([^"]+)":(\d+)', str(error))
        raise TypeError(
            "A layer or a loss computes with a NumPy array from outside"
            + (f" (line {place[2]} of {place[1]})" if place else "")
            + ". JAX keeps it in the precision in which it used it first, and then "
            "cannot compute the same in float64 as in float32. Write "
            "jnp.asarray(c, x.dtype) in place of an array c."
        ) from error
