"""Weights of labels, and labels that are ignored: what each counts for in a mean.

    J = Σ_n v_n L_n / Σ_n v_n           v_n = 0 where the label is ignored

It is computed as the plain mean of M numbers, each v_n L_n times M / Σ_n v_n.

Legend: M positions, or examples where there is one position in each; K classes.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks import is_integer
from fnn.describe import shown
from fnn.labels import is_concrete
from fnn.typing import Array, Float, Scalar

__all__ = ["as_ignore", "as_weights", "mean_factor", "weight_array"]


def as_ignore(name: str, ignore: Any) -> int | None:
    """Return the label that is ignored as a Python int, or None."""
    if ignore is None:
        return None
    if not is_integer(ignore):
        raise TypeError(
            f"{name}: ignore must be the integer that stands for no label, such as -1, "
            f"got {shown(ignore)}"
        )
    return int(ignore)


def as_weights(name: str, weights: Any) -> Any:
    """Return class weights as a tuple of floats, as an array, or None.

    Raises:
        TypeError, ValueError: they are not a sequence of numbers, or one is negative,
            NaN or infinite.
    """
    if weights is None:
        return None
    if not isinstance(weights, (tuple, list, np.ndarray, jax.Array)):
        raise TypeError(
            f"{name}: class_weights must be a tuple or an array of numbers, one for "
            f"each class, got {shown(weights)}"
        )
    if isinstance(weights, (tuple, list)):
        weights = tuple(_as_number(name, weight) for weight in weights)
    elif weights.ndim == 0 or not _is_real(weights):
        raise TypeError(
            f"{name}: class_weights must be one number for each class, got "
            f"{shown(weights)}"
        )
    parts = weights if isinstance(weights, tuple) else [weights]
    known = [
        np.asarray(part, np.float64) for part in parts if is_concrete(jnp.asarray(part))
    ]
    wrong = [w for part in known for w in part.ravel() if not 0 <= w < math.inf]
    if wrong:
        raise ValueError(
            f"{name}: class_weights must be finite and not negative, got {wrong[0]}"
        )
    return weights


def _as_number(name: str, weight: Any) -> Any:
    """Return a weight as a float; leave an array, which may be traced, as it is."""
    if isinstance(weight, jax.Array) and weight.ndim == 0 and _is_real(weight):
        return weight if not is_concrete(weight) else float(weight)
    if isinstance(weight, bool) or not isinstance(
        weight, int | float | np.integer | np.floating
    ):
        raise TypeError(f"{name}: a class weight must be a number, got {shown(weight)}")
    return float(weight)


def _is_real(array: Any) -> bool:
    return any(jax.dtypes.issubdtype(array.dtype, k) for k in (np.floating, np.integer))


def weight_array(
    loss: object, weights: Any, classes: int, dtype: Any
) -> Float[Array, "K"]:
    """Return class weights as an array; raise unless there is one for each class."""
    weights = jnp.asarray(weights, dtype)
    if weights.shape != (classes,):
        raise ValueError(
            f"{type(loss).__name__}: class_weights must be {classes} numbers, one for "
            f"each class, got an array of shape {weights.shape}"
        )
    return weights


def mean_factor(weights: Float[Array, "..."]) -> Scalar:
    """Return M / Σ v, which makes a plain mean a weighted one; 0 where Σ v is 0."""
    total = weights.sum()
    return jnp.where(total > 0, weights.size / jnp.where(total > 0, total, 1), 0)
