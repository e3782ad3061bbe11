"""Optimizers whose weights are averaged: `ema` and `swa`, around any other.

The optimizer inside trains as it would alone: gradients are taken at θ, and the average
θ̄ of `fnn.optimizers.averages` is only looked at.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from fnn.optimizers.averages import (
    AverageState,
    average_like,
    average_with,
    exponential_weight,
    mean_weight,
)
from fnn.optimizers.evaluation import eval_params
from fnn.optimizers.hyperparameters import as_hyperparameter, check_in_range
from fnn.optimizers.state import increment, init_count, init_statistic
from fnn.optimizers.transformation import Transformation, expect_optimizer, takes_extra
from fnn.pytree import leaf, pytree
from fnn.typing import Array, Int, PyTree

__all__ = ["WeightAverage", "ema", "swa"]


@pytree
class WeightAverage(Transformation):
    """An optimizer whose weights are averaged; built by `ema` and `swa`.

    Args:
        optimizer: the optimizer inside.
        decay: d of an exponential average; None for the mean of points.
        start: the step of the first point of a mean.
        every: the number of steps from one point to the next.
    """

    optimizer: Any = leaf()
    decay: Any = leaf(default=None)
    start: int = 1
    every: int = 1

    def __post_init__(self) -> None:
        name = "swa" if self.decay is None else "ema"
        expect_optimizer(f"{name}: optimizer", self.optimizer)
        if self.decay is not None:
            decay = as_hyperparameter("ema.decay", self.decay)
            check_in_range("ema.decay", decay)
            object.__setattr__(self, "decay", decay)
        for field in ("start", "every"):
            steps = getattr(self, field)
            is_count = isinstance(steps, int | np.integer)
            if not is_count or isinstance(steps, bool) or steps < 1:
                raise ValueError(
                    f"swa: {field} counts steps (minibatches) and must be ≥ 1, got "
                    f"{steps!r}"
                )

    def init(self, params: PyTree) -> AverageState:
        return AverageState(
            count=init_count(),
            average=init_statistic(params),
            weight=jnp.ones((), jnp.float32),
            inner=self.optimizer.init(params),
        )

    def update(
        self, grads: PyTree, state: AverageState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, AverageState]:
        if params is None:
            raise ValueError(
                "an average of weights needs them: update(grads, state, params)"
            )
        average = average_with(state, self._inner_params(state, params))
        extra = extra if takes_extra(self.optimizer.update) else {}
        updates, inner = self.optimizer.update(grads, state.inner, params, **extra)
        count = increment(state.count)
        weight = self._weight(count).astype(jnp.float32)
        return updates, AverageState(count, average, weight, inner)

    def _weight(self, t: Int[Array, ""]) -> Array:
        """Return wₜ."""
        if self.decay is not None:
            return exponential_weight(self.decay, t)
        return mean_weight(self.start, self.every, t)

    def _inner_params(self, state: AverageState, params: PyTree) -> PyTree:
        """Return θₜ, which for a look-ahead optimizer inside is not what trains."""
        find = getattr(self.optimizer, "eval_params", eval_params)
        return find(state.inner, params)

    def eval_params(self, state: AverageState, params: PyTree) -> PyTree:
        """Return θ̄ₜ, in the parameters' dtypes."""
        return average_like(state, self._inner_params(state, params))


def ema(optimizer: Any, decay: float = 0.999) -> WeightAverage:
    """Wrap an optimizer in an exponential moving average of the weights.

        θ̄ₜ = Σₛ dᵗ⁻ˢ θₛ / Σₛ dᵗ⁻ˢ,  s = 1 ... t

    Training goes on as without it; validation, early stopping and `result.variables`
    see θ̄. A BatchNorm's running statistics are a moving average already, and stay so.

    Args:
        optimizer: one of `fnn.optimizers`, or optax's; a whole chain.
        decay: d in [0, 1): about the last 1/(1 − d) steps count.

    Returns:
        An optimizer with `init`, `update` and `eval_params`.

    Raises:
        TypeError, ValueError: `optimizer` is not one; the decay is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import optimizers
        >>> averaged = optimizers.ema(optimizers.sgd(1.0), decay=0.5)
        >>> params = jnp.zeros(1)
        >>> state = averaged.init(params)
        >>> for _ in range(2):
        ...     updates, state = averaged.update(-jnp.ones(1), state, params)
        ...     params = params + updates
        >>> print(params, averaged.eval_params(state, params))   # (0.5 · 1 + 2) / 1.5
        [2.] [1.6666667]

    Source:
        Polyak & Juditsky 1992; with the bias correction of Kingma & Ba,
        arXiv:1412.6980, section 7.2, so that no start from zero is left in the average.
    """
    if decay is None:
        raise TypeError("ema: decay must be a number in [0, 1), got None")
    return WeightAverage(optimizer, decay)


def swa(optimizer: Any, start: int, every: int = 1) -> WeightAverage:
    """Wrap an optimizer in stochastic weight averaging: the mean of a run's last part.

        θ̄ = (θ_start + θ_{start+every} + θ_{start+2 every} + ...) / number of points

    Until `start`, θ̄ is θ. The learning rate is high, or goes up and down, while points
    are collected; that is a schedule of the optimizer inside.

    A BatchNorm's running statistics are those of θ, and do not fit θ̄. Let them follow
    before the network is used, without taking a step:

        for x in batches:
            state = net.forward(params, state, x, key=key, train=True).state

    Args:
        optimizer: one of `fnn.optimizers`, or optax's; a whole chain.
        start: the first step (minibatch 1, 2, ...) whose weights are a point. An epoch
            has ⌈N/m⌉ steps.
        every: the number of steps between points; ⌈N/m⌉ for one point an epoch.

    Returns:
        An optimizer with `init`, `update` and `eval_params`.

    Raises:
        TypeError, ValueError: `optimizer` is not one; `start` or `every` is no count.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import optimizers
        >>> averaged = optimizers.swa(optimizers.sgd(1.0), start=2, every=2)
        >>> params = jnp.zeros(1)
        >>> state = averaged.init(params)
        >>> for _ in range(5):
        ...     updates, state = averaged.update(-jnp.ones(1), state, params)
        ...     params = params + updates
        >>> print(params, averaged.eval_params(state, params))   # (2 + 4) / 2
        [5.] [3.]

    Source: Izmailov et al., arXiv:1803.05407, algorithm 1.
    """
    return WeightAverage(optimizer, None, start, every)
