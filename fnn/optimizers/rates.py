"""The learning rate of an optimizer's last step, where it can be told."""

from typing import Any

import jax
import numpy as np

from fnn.optimizers.base import Optimizer
from fnn.optimizers.hyperparameters import value_at_step
from fnn.typing import PyTree

__all__ = ["last_learning_rate"]


def last_learning_rate(optimizer: Any, state: PyTree) -> float | None:
    """Return the learning rate of the last step; before a step, that of the first.

    Args:
        optimizer: any optimizer. One of fnn tells its rate, also inside `ema`, `swa` or
            `loss_scaled`; so does one of optax in `optax.inject_hyperparams`, whose
            state holds it. The rate in another of optax's closures cannot be seen.
        state: its state.

    Returns:
        The rate, or None where it cannot be told, or where there are several.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from fnn import optimizers
        >>> adam = optimizers.adam(optax.linear_schedule(1.0, 0.0, 4))
        >>> params, state = jnp.zeros(2), adam.init(jnp.zeros(2))
        >>> for _ in range(2):
        ...     updates, state = adam.update(params, state, params)
        >>> last_learning_rate(adam, state)
        0.75
    """
    while hasattr(state, "inner") and hasattr(optimizer, "optimizer"):
        optimizer, state = optimizer.optimizer, state.inner
    if isinstance(optimizer, Optimizer):
        rate = optimizer.learning_rate
        if callable(rate):
            step = np.maximum(jax.device_get(state.count) - 1, 0)
            rate = value_at_step(rate, jax.device_put(step))
        return float(jax.device_get(rate))
    injected = jax.tree.leaves(state, is_leaf=_has_hyperparams)
    rates = [
        part.hyperparams["learning_rate"]
        for part in injected
        if _has_hyperparams(part) and "learning_rate" in part.hyperparams
    ]
    return float(jax.device_get(rates[0])) if len(rates) == 1 else None


def _has_hyperparams(part: Any) -> bool:
    """Return whether this is the state of `optax.inject_hyperparams`."""
    return isinstance(getattr(part, "hyperparams", None), dict)
