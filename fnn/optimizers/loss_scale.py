"""Loss scaling: steps that overflow are skipped, and the scale is adapted.

Half of float16's numbers are larger than most gradients, and below 6e-8 a gradient is
zero. The loss is therefore multiplied by s before the backward, and gradients are
divided by s in float32 after it. The largest s without overflow is found by trial.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.describe import shown
from fnn.dtypes import all_finite
from fnn.optimizers.evaluation import eval_params
from fnn.optimizers.hyperparameters import as_hyperparameter
from fnn.optimizers.transformation import Transformation, expect_optimizer, takes_extra
from fnn.pytree import leaf, pytree, tree_where
from fnn.typing import Array, Bool, Int, PyTree, Scalar

__all__ = ["LossScaleState", "LossScaled", "loss_scale", "loss_scaled"]


class LossScaleState(NamedTuple):
    """The state of `LossScaled`.

    scale: s, float32 ().
    good: int32 (), the number of finite steps since s last changed.
    inner: the state of the optimizer inside.
    """

    scale: Array
    good: Array
    inner: PyTree


@pytree
class LossScaled(Transformation):
    """An optimizer with dynamic loss scaling; built by `loss_scaled`."""

    optimizer: Any = leaf()
    initial: float = leaf(2.0**16)
    factor: float = leaf(2.0)
    minimum: float = leaf(1.0)
    period: int = 2000

    def __post_init__(self) -> None:
        expect_optimizer("LossScaled.optimizer", self.optimizer)
        for name, least in (("initial", 0.0), ("factor", 1.0), ("minimum", 0.0)):
            full_name = f"LossScaled.{name}"
            value = as_hyperparameter(full_name, getattr(self, name))
            if isinstance(value, float) and not least < value < float("inf"):
                raise ValueError(
                    f"{full_name} must be finite and > {least:g}, got {value}"
                )
            object.__setattr__(self, name, value)
        period = self.period
        is_count = isinstance(period, int | np.integer) and not isinstance(period, bool)
        if not is_count or period < 1:
            raise ValueError(
                f"LossScaled.period counts steps and must be ≥ 1, got {shown(period)}"
            )

    def init(self, params: PyTree) -> LossScaleState:
        return LossScaleState(
            scale=jnp.asarray(self.initial, jnp.float32),
            good=jnp.zeros((), jnp.int32),
            inner=self.optimizer.init(params),
        )

    def update(
        self, grads: PyTree, state: LossScaleState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, LossScaleState]:
        is_finite = all_finite(grads)
        extra = extra if takes_extra(self.optimizer.update) else {}
        updates, inner = self.optimizer.update(grads, state.inner, params, **extra)
        updates = jax.tree.map(
            lambda u: jnp.where(is_finite, u, jnp.zeros_like(u)), updates
        )
        inner = tree_where(is_finite, inner, state.inner)
        scale, good = self._adapt_scale(is_finite, state.scale, state.good)
        return updates, LossScaleState(scale, good, inner)

    def _adapt_scale(
        self, is_finite: Bool[Array, ""], scale: Scalar, good: Int[Array, ""]
    ) -> tuple[Scalar, Int[Array, ""]]:
        """Return the scale for the next step, and the new number of good steps."""
        factor, minimum = (
            jnp.asarray(number, scale.dtype) for number in (self.factor, self.minimum)
        )
        good = jnp.where(is_finite, good + 1, 0)
        grows = good >= self.period
        larger = scale * factor
        grown = jnp.where(grows & jnp.isfinite(larger), larger, scale)
        shrunk = jnp.maximum(scale / factor, minimum)
        return jnp.where(is_finite, grown, shrunk), jnp.where(grows, 0, good)

    def eval_params(self, state: LossScaleState, params: PyTree) -> PyTree:
        inner_eval_params = getattr(self.optimizer, "eval_params", eval_params)
        return inner_eval_params(state.inner, params)


def loss_scaled(
    optimizer: Any,
    initial: float = 2.0**16,
    factor: float = 2.0,
    period: int = 2000,
    minimum: float = 1.0,
) -> LossScaled:
    """Wrap an optimizer in dynamic loss scaling.

        any gradient inf or NaN     no step;  s ← max(s / factor, minimum)
        all finite                  a step;   s ← factor s after `period` in a row

    Its state holds s, the scale of the next gradient; `loss_scale(state)` returns it.
    `update` expects gradients that are already divided by s. A skipped step changes
    neither the parameters nor the state of the optimizer inside.

    Args:
        optimizer: one of `fnn.optimizers`, or optax's; a whole chain with its clipping.
        initial: the first s. A power of two scales without rounding.
        factor: by how much s grows and shrinks; > 1.
        period: the number of finite steps in a row after which s grows.
        minimum: the smallest s.

    Returns:
        An optimizer with `init`, `update` and `eval_params`.

    Raises:
        TypeError: an argument has another type.
        ValueError: a number is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import optimizers
        >>> optimizer = loss_scaled(optimizers.sgd(0.1), initial=8)
        >>> params = jnp.ones(2)
        >>> grads = jnp.array([1.0, jnp.inf])
        >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
        >>> print(updates, loss_scale(state))
        [0. 0.] 4.0

    Source:
        Micikevicius et al., arXiv:1710.03740, section 3.2; the numbers are those of
        torch.amp.GradScaler, the minimum that of jmp.DynamicLossScale.
    """
    return LossScaled(optimizer, initial, factor, minimum, period)


def loss_scale(state: PyTree) -> Array | None:
    """Return the s by which the next gradient is to be scaled, or None without one.

    Args:
        state: the state of an optimizer, or of a chain around one.

    Returns:
        s, float32 (), or None where no optimizer scales the loss.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import optimizers
        >>> print(loss_scale(optimizers.sgd(0.1).init(jnp.ones(2))))
        None
    """

    def is_scaled(part: Any) -> bool:
        return isinstance(part, LossScaleState)

    parts = jax.tree.leaves(state, is_leaf=is_scaled)
    scales = [part.scale for part in parts if is_scaled(part)]
    return scales[0] if scales else None
