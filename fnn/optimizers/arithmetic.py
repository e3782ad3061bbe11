"""The arithmetic of one leaf, which stays finite, in real and in complex numbers.

A complex weight is one weight: its second moment is |g|² = (Re g)² + (Im g)², a real
number, and everything else is as in the equations. Gradients are those of optax: the
conjugate of what `jax.grad` returns, so that −g points downhill.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn.dtypes import at_least_float32
from fnn.typing import Array, Inexact

__all__ = [
    "Leaf",
    "as_numbers",
    "cap_infinities",
    "cast_leaf",
    "clip_and_cast",
    "clip_before_squaring",
    "divide_or_zero",
    "is_complex",
    "real_dtype",
    "square",
    "working_dtype",
]

#: One leaf of a tree. In one call, all leaves have the same shape.
Leaf = Inexact[Array, "*leaf"]


# --- dtypes ------------------------------------------------------------------------


def as_numbers(x: Any) -> Any:
    """Return an array or the shape of one; a Python number becomes a float's array."""
    if isinstance(x, int | float) and not isinstance(x, bool):
        return jnp.asarray(x, float)
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return x  # also a jax.ShapeDtypeStruct
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError):
        raise TypeError(
            f"an optimizer moves arrays of numbers, got the leaf {x!r}: keep it out of "
            "the parameters, or put None in its place (eqx.filter does)"
        ) from None


def working_dtype(dtype: Any) -> Any:
    """Return the dtype to compute in: at least float32, and complex for complex."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"an optimizer moves floating-point numbers, got a leaf of dtype {dtype}: "
            "leave it out with optax.masked, or keep it out of the parameters"
        )
    return at_least_float32(dtype)


def real_dtype(dtype: Any) -> Any:
    """Return the dtype of real and imaginary parts, and a real dtype unchanged."""
    return jnp.finfo(dtype).dtype


def is_complex(x: Array) -> bool:
    """Return whether x has a complex dtype."""
    return jnp.issubdtype(x.dtype, jnp.complexfloating)


def cast_leaf(x: Any, dtype: Any) -> Any:
    """Cast x to the working dtype, or to its real dtype where x is real.

    A complex x has a real part only where it is kept for a real weight.
    """
    if x is None:
        return None
    x = as_numbers(x)
    if is_complex(x):
        return x.astype(dtype) if dtype != real_dtype(dtype) else x.real.astype(dtype)
    return jnp.asarray(x, real_dtype(dtype))


# --- numbers -----------------------------------------------------------------------


def square(x: Leaf) -> Leaf:
    """Return x², or |x|² where x is complex."""
    return x.real * x.real + x.imag * x.imag if is_complex(x) else x * x


def clip_before_squaring(g: Leaf) -> Leaf:
    """Clip |g| so that |g|², sums of a few of them, and |g|²/(1 − b2) stay finite."""
    limit = 0.5 * float(jnp.finfo(g.dtype).max) ** 0.5
    if not is_complex(g):
        return jnp.clip(g, -limit, limit)
    # By the larger part: |g| itself may overflow. The direction stays.
    limit, larger = limit * 0.5**0.5, jnp.maximum(jnp.abs(g.real), jnp.abs(g.imag))
    factor = jnp.where(larger > limit, limit / jnp.maximum(larger, limit), 1)
    return of_parts(lambda part: factor * part, g)


def cap_infinities(x: Leaf) -> Leaf:
    """Replace infinities by the largest number of x's dtype; NaN stays."""
    # Not jnp.clip, which XLA does not fuse here: RMSProp took twice the time.
    largest = float(jnp.finfo(x.dtype).max)
    return of_parts(lambda x: jnp.where(jnp.isinf(x), jnp.copysign(largest, x), x), x)


def divide_or_zero(x: Leaf, y: Leaf) -> Leaf:
    """Return x / y for a real y, and 0 where y is 0: there x is 0, or too small."""
    # By parts: a division by a complex number would square y, which may underflow.
    return of_parts(lambda x: jnp.where(y == 0, 0, x / y), x)


def clip_and_cast(x: Array, dtype: Any) -> Array:
    """Cast x to this dtype; what is too large for it becomes its largest number."""
    if is_complex(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            f"complex parameters need a complex dtype for their mean, got {dtype}: "
            "leave mu_dtype or accumulator_dtype out, or pass jnp.complex64"
        )
    limit = float(jnp.finfo(dtype).max)
    if limit < float(jnp.finfo(x.dtype).max):
        x = of_parts(lambda x: jnp.clip(x, -limit, limit), x)
    return x.astype(dtype)


def of_parts(function: Callable[[Any], Any], x: Leaf) -> Leaf:
    """Apply a function to a real x, or to real and imaginary part of a complex one."""
    if not is_complex(x):
        return function(x)
    return jax.lax.complex(function(x.real), function(x.imag))
