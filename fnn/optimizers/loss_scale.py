"""Loss scaling: steps that overflow are left out, and the scale of the loss follows.

Half of float16's numbers are smaller than most gradients: below 6e-8 they are zero. The
loss is therefore multiplied by s before the backward, and gradients divided by s in
float32 after it. s is as large as it can be without overflow, and found by trying.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fnn.optimizers.lookahead import eval_params
from fnn.pytree import leaf, pytree
from fnn.typing import PyTree

__all__ = ["LossScaleState", "LossScaled", "loss_scale", "loss_scaled"]


class LossScaleState(NamedTuple):
    """`scale` s, float32; `good` finite steps since s last changed, int32; both ().

    `inner` is the state of the optimizer inside.
    """

    scale: Array
    good: Array
    inner: PyTree


@pytree
class LossScaled:
    """See `loss_scaled`, which builds it."""

    optimizer: Any = leaf()
    initial: float = leaf(2.0**16)
    factor: float = leaf(2.0)
    minimum: float = leaf(1.0)
    period: int = 2000

    def __post_init__(self) -> None:
        for name, least in (("initial", 0.0), ("factor", 1.0), ("minimum", 0.0)):
            value = getattr(self, name)
            if isinstance(value, float) and not least < value < float("inf"):
                raise ValueError(
                    f"LossScaled.{name} must be finite and > {least:g}, got {value}"
                )
        if not isinstance(self.period, int) or self.period < 1:
            raise ValueError(
                f"LossScaled.period counts steps and must be ≥ 1, got {self.period!r}"
            )

    def init(self, params: PyTree) -> LossScaleState:
        return LossScaleState(
            scale=jnp.asarray(self.initial, jnp.float32),
            good=jnp.zeros((), jnp.int32),
            inner=self.optimizer.init(params),
        )

    def update(
        self, grads: PyTree, state: LossScaleState, params: PyTree = None
    ) -> tuple[PyTree, LossScaleState]:
        ok = jnp.asarray(True)
        for g in jax.tree.leaves(grads):
            ok &= jnp.isfinite(g).all()
        updates, inner = self.optimizer.update(grads, state.inner, params)
        updates = jax.tree.map(lambda u: jnp.where(ok, u, jnp.zeros_like(u)), updates)
        inner = jax.tree.map(lambda a, b: jnp.where(ok, a, b), inner, state.inner)
        return updates, LossScaleState(*self._rescaled(ok, state), inner)

    def _rescaled(self, ok: Array, state: LossScaleState) -> tuple[Array, Array]:
        scale = state.scale
        factor, minimum = (
            jnp.asarray(number, scale.dtype) for number in (self.factor, self.minimum)
        )
        good = jnp.where(ok, state.good + 1, 0)
        due = good >= self.period
        larger = scale * factor
        grown = jnp.where(due & jnp.isfinite(larger), larger, scale)
        shrunk = jnp.maximum(scale / factor, minimum)
        return jnp.where(ok, grown, shrunk), jnp.where(due, 0, good)

    def eval_params(self, state: LossScaleState, params: PyTree) -> PyTree:
        find = getattr(self.optimizer, "eval_params", eval_params)
        return find(state.inner, params)


def loss_scaled(
    optimizer: Any,
    initial: float = 2.0**16,
    factor: float = 2.0,
    period: int = 2000,
    minimum: float = 1.0,
) -> LossScaled:
    """Dynamic loss scaling around an optimizer.

        any gradient inf or NaN     no step;  s ← max(s / factor, minimum)
        all finite                  a step;   s ← factor s after `period` in a row

    Its state holds s, which `loss_scale(state)` reads and the next gradient wants; the
    gradients that `update` is given are already divided by s. A step left out changes
    neither the parameters nor the state of the optimizer inside.

    Args:
        optimizer: one of `fnn.optimizers`, or optax's; a whole chain with its clipping.
        initial: the first s. A power of two scales without rounding.
        factor: > 1.
        period: how many good steps in a row make s grow.
        minimum: s never becomes smaller.

    Returns:
        An optimizer with `init`, `update` and `eval_params`.

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
    """The s that the next gradient is to be scaled by; None where nothing scales.

    Args:
        state: the state of an optimizer, or of a chain around one.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import optimizers
        >>> print(loss_scale(optimizers.sgd(0.1).init(jnp.ones(2))))
        None
    """

    def scales(part: Any) -> bool:
        return isinstance(part, LossScaleState)

    found = [s.scale for s in jax.tree.leaves(state, is_leaf=scales) if scales(s)]
    return found[0] if found else None
