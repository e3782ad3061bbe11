"""Regression metrics: distances between predictions and real-valued targets.

Legend: N examples, K outputs; z (N, ..., K) predictions, t targets of z's shape, which
for K = 1 may also be given as (N, ...).
"""

import jax.numpy as jnp

from fnn.checks import as_array, as_inputs
from fnn.dtypes import widen
from fnn.metrics.answers import mean_over_positions
from fnn.typing import Array, Float, Scalar

__all__ = [
    "absolute_errors",
    "mean_absolute_error",
    "r2",
    "root_mean_squared_error",
]


def mean_absolute_error(outputs: Array, y: Array) -> Scalar:
    """Return the mean distance to the target.

        MAE = 1/(NK) Σ_nk | z_nk − t_nk |

    Args:
        outputs: z (N, ..., K), or (N,).
        y: targets of z's shape; for K = 1 also (N, ...).

    Returns:
        A scalar, in y's units.

    Raises:
        ValueError: y has another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> print(mean_absolute_error(jnp.zeros((2, 1)), jnp.array([1.0, -3.0])))
        2.0
    """
    return absolute_errors(outputs, y).mean()


def absolute_errors(outputs: Array, y: Array) -> Float[Array, "N"]:
    """Return the mean of |z − t| over the outputs of each example."""
    z, t = _as_pair(outputs, y)
    return mean_over_positions(jnp.abs(z - t))


def root_mean_squared_error(outputs: Array, y: Array) -> Scalar:
    """Return the root of the mean squared distance to the target.

        RMSE = √( 1/(NK) Σ_nk (z_nk − t_nk)² )

    Args:
        outputs: as in `mean_absolute_error`.
        y: as in `mean_absolute_error`.

    Returns:
        A scalar, in y's units. It is a number of all examples: the mean over batches
        would be smaller.

    Raises:
        ValueError: y has another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> print(root_mean_squared_error(jnp.zeros((2, 1)), jnp.array([1.0, -7.0])))
        5.0
    """
    z, t = _as_pair(outputs, y)
    return jnp.sqrt(jnp.square(z - t).mean())


def r2(outputs: Array, y: Array) -> Scalar:
    """Return the coefficient of determination: the share of variance explained.

        R² = 1 − Σ_n (z_n − t_n)² / Σ_n (t_n − t̄)²

    Of several outputs it is the mean of their R². Where the targets of an output are
    all equal, it is 1 if all predictions are right, and else 0.

    Args:
        outputs: as in `mean_absolute_error`.
        y: as in `mean_absolute_error`.

    Returns:
        A scalar, at most 1; 0 for the prediction z = t̄. It is a number of all examples,
        and NaN for a single one.

    Raises:
        ValueError: y has another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> print(r2(jnp.array([[1.0], [2.0], [4.0]]), jnp.array([1.0, 2.0, 3.0])))
        0.5

    Source: Draper and Smith, Applied Regression Analysis (1998), section 1.3.
    """
    z, t = _as_pair(outputs, y)
    if len(z) == 1:
        return jnp.full((), jnp.nan, z.dtype)
    z, t = (a.reshape(len(a), -1) for a in (z, t))
    # Shifted by the first target: equal targets then differ from their mean by exactly
    # 0, and large ones lose no digits.
    shifted = t - t[:1]
    unexplained = jnp.square(z - t).sum(0)
    total = jnp.square(shifted - shifted.mean(0, keepdims=True)).sum(0)
    ratio = unexplained / jnp.where(total == 0, 1, total)
    all_equal = jnp.where(unexplained == 0, 1, 0 * unexplained)
    return jnp.where(total == 0, all_equal, 1 - ratio).mean()


def _as_pair(outputs: Array, y: Array) -> tuple[Array, Array]:
    """Return predictions and targets of one shape, in at least float32."""
    z, t = as_inputs(as_array("outputs", outputs)), as_array("y", y)
    is_column = z.ndim > 1 and z.shape[-1] == 1 and t.shape == z.shape[:-1]
    if z.ndim == 0 or not (is_column or t.shape == z.shape):
        raise ValueError(
            f"expected targets of the outputs' shape {z.shape}, got {t.shape}"
        )
    z = widen(z)
    return z, t.reshape(z.shape).astype(z.dtype)
