"""Checks of hyperparameters, with one text for every optimizer.

A number of the wrong type is refused where the optimizer is built, not in the middle of
the first step. A traced number is not read: only its shape and dtype are.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.describe import shown
from fnn.own_code import explain_traced_arrays
from fnn.typing import Array, Int, Number, Schedule

__all__ = [
    "as_dtype",
    "as_hyperparameter",
    "check_in_range",
    "value_at_step",
]

#: Fields that may be schedules.
SCHEDULES = ("learning_rate", "weight_decay")

#: Fields that say how much of the past to keep. The other numbers need only be ≥ 0.
DECAYS = ("b1", "b2", "decay", "momentum", "rho")

_HINTS = {
    "learning_rate": ": updates already point downhill; to climb, negate the loss",
    "weight_decay": ": a positive one already makes weights smaller",
}


def as_hyperparameter(name: str, value: Any, *, schedule: bool = False) -> Any:
    """Return one number, possibly traced, or a schedule where one may stand.

    Args:
        name: such as `Adam.b1`, for errors.
        value: what was passed. Numbers are Python floats by now (see `fnn.pytree`).
        schedule: whether it may be a function of the step.

    Raises:
        TypeError: it is anything else, such as an array of several numbers.
    """
    if isinstance(value, float):
        return value
    if callable(value) and not isinstance(value, type):
        if schedule:
            return value
        raise TypeError(
            f"{name} must be a constant number, got the function {value!r}: only "
            f"{' and '.join(SCHEDULES)} may be schedules"
        )
    if _is_real(value):
        _expect_one(name, value)
        return value
    if isinstance(value, jax.Array) and jnp.iscomplexobj(value):
        # optax.inject_hyperparams casts its numbers to the parameters' dtype.
        _expect_one(name, value)
        if isinstance(value, jax.core.Tracer):
            return value.real
        if complex(value).imag == 0:
            return complex(value).real
    kind = "a number" + " or a schedule (a function of the step)" * schedule
    raise TypeError(f"{name} must be {kind}, got {shown(value)}")


def _is_real(value: Any) -> bool:
    """Return whether it is a real number or an array of them, traced or not."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return True
    dtype = getattr(value, "dtype", np.dtype(object))
    kinds = (np.floating, np.integer)
    is_array = isinstance(value, jax.Array | np.ndarray | np.generic)
    return is_array and any(jax.dtypes.issubdtype(dtype, kind) for kind in kinds)


def _expect_one(name: str, value: Any) -> None:
    if jnp.ndim(value) != 0:
        raise TypeError(
            f"{name} must be one number, got an array of shape {jnp.shape(value)}: to "
            "try several, build the optimizer inside jax.vmap, or use fnn.sweep"
        )


def check_in_range(name: str, value: Any) -> None:
    """Raise where a Python number is out of its field's range; others are not read."""
    if not isinstance(value, float):
        return
    field = name.rpartition(".")[2]
    if field in DECAYS and not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")
    if not 0 <= value < float("inf"):
        raise ValueError(
            f"{name} must be finite and not negative, got {value}"
            + _HINTS.get(field, "")
        )


def as_dtype(name: str, dtype: Any) -> str | None:
    """Return the name of a floating-point or complex dtype, or None for None."""
    if dtype is None:
        return None
    # A number or an array has a dtype, and is none.
    is_value = isinstance(dtype, np.generic | np.ndarray | jax.Array)
    try:
        named = None if is_value else jnp.dtype(dtype)
    except TypeError:
        named = None
    if named is None or not jnp.issubdtype(named, jnp.inexact):
        raise TypeError(
            f"{name} must be a floating-point dtype such as jnp.bfloat16, or None for "
            f"the default, got {shown(dtype)}"
        )
    return named.name


def value_at_step(number: Schedule, count: Int[Array, ""]) -> Number:
    """Return the number, or the schedule's value at this step (0, 1, ...)."""
    if not callable(number):
        return number
    # optax's schedules mix dtypes freely.
    mixing = jax.numpy_dtype_promotion("standard")
    with mixing, explain_traced_arrays(lambda: f"the schedule {number!r}"):
        value = number(count)
    if not _is_real(value) or jnp.ndim(value) != 0:
        raise TypeError(
            "a schedule must return one number, the value at the step that it is "
            f"given, got {shown(value)} from {number!r}"
        )
    return jnp.asarray(value, float)
