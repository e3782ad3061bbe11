"""The rounding error of a gradient: measured by rounding, not guessed.

A function is run in float64 with the result of every arithmetic operation rounded to
the p significant bits of a lower precision: 24 of float32, 11 of float16, 8 of
bfloat16. Its distance from the exact run is what that precision can lose, whatever the
function: a sum that cancels loses more, a ReLU nothing. (Monte Carlo arithmetic:
D. S. Parker, UCLA CSD-970002, 1997.) A sum is one operation: it is rounded once, as
one that is accumulated in more bits is.

Several draws round at different numbers, because one may be right by luck:

    round_c(a) = round_p(c a) / c,    1 ≤ c < 2, one c for each draw

Equal numbers stay equal, so that of two equal maxima the first one still wins.

Legend: D draws.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.gradients.jaxpr import bind, replace_operations
from fnn.typing import Array, PyTree, Scalar, Shaped

__all__ = ["lost_digits"]

#: The factor c of each draw.
DRAWS = (1.0, 1.08, 1.19, 1.31, 1.43, 1.57, 1.71, 1.87)


def lost_digits(
    fn: Callable[..., PyTree], *arguments: PyTree, dtype: Any = "float32"
) -> PyTree:
    """Compute fn with all its arithmetic rounded to a dtype, minus the exact result.

    Args:
        fn: a function of float64 arrays.
        arguments: the arguments that fn is called with.
        dtype: the dtype whose number of bits is kept; exponents keep float64's range.

    Returns:
        A tree like fn's result; each leaf has a first axis of D draws.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> with jax.enable_x64(True):
        ...     lost = lost_digits(lambda a: (a + 1e4) - 1e4, jnp.array(1 / 3))
        ...     bool(1e-5 < abs(lost).max() < 1e-3)
        True
    """
    exact = fn(*arguments)
    mantissa_bits = jnp.finfo(dtype).nmant

    def error(c: Scalar) -> PyTree:
        def rounded(
            primitive: Any, inputs: list[Any], params: dict[str, Any]
        ) -> list[Array]:
            outputs = bind(primitive, inputs, params)
            return [_rounded(output, c, mantissa_bits) for output in outputs]

        return jax.tree.map(
            jnp.subtract, replace_operations(fn, rounded)(*arguments), exact
        )

    # One after the other: under `vmap` every number is another one for each draw, and
    # convolutions become grouped ones, which are slow.
    return lax.map(error, jnp.asarray(DRAWS, jnp.float64))


def _rounded(
    number: Shaped[Array, "..."], c: Scalar, mantissa_bits: int
) -> Shaped[Array, "..."]:
    """Compute round_c; leave numbers that are not float64 as they are."""
    if number.dtype != jnp.float64:
        return number
    scaled = lax.reduce_precision(
        number * c, exponent_bits=11, mantissa_bits=mantissa_bits
    )
    return scaled / c
