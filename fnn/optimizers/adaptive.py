"""AdaGrad and AdaDelta: a learning rate for every weight, from its past gradients.

Legend: θ parameters, g gradient, α learning rate, r sum of g ⊙ g, Δ the step before
the learning rate, E[·] a fading mean, λ weight decay; products, roots and quotients
elementwise.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from fnn.optimizers.arithmetic import (
    Leaf,
    cap_infinities,
    clip_before_squaring,
    divide_or_zero,
    square,
)
from fnn.optimizers.base import Optimizer
from fnn.optimizers.hyperparameters import as_hyperparameter, value_at_step
from fnn.optimizers.state import OptimizerState, init_count, init_statistic
from fnn.optimizers.weight_decay import Mask, as_mask, decaying_params
from fnn.pytree import leaf, pytree
from fnn.typing import Array, Int, Number, PyTree, Schedule

__all__ = [
    "AdaDelta",
    "AdaDeltaState",
    "AdaGrad",
    "AdaGradState",
    "adadelta",
    "adagrad",
    "root_with_eps",
]


class AdaGradState(NamedTuple):
    """The statistics of `AdaGrad`.

    count: int32 (), the number of updates so far.
    sum_of_squares: r, like the parameters, at least float32, and real.
    """

    count: Array
    sum_of_squares: PyTree


class AdaDeltaState(NamedTuple):
    """The statistics of `AdaDelta`; every tree is like the parameters.

    count: int32 (), the number of updates so far.
    e_g: the mean of g ⊙ g, at least float32, and real.
    e_x: the same of Δ ⊙ Δ, with Δ the step before the learning rate.
    """

    count: Array
    e_g: PyTree
    e_x: PyTree


@pytree
class AdaGrad(Optimizer):
    """The optimizer AdaGrad; built by `adagrad`."""

    initial_accumulator_value: Number = leaf(default=0.1)
    eps: Number = leaf(default=1e-7)
    eps_in_sqrt: bool = True

    def init(self, params: PyTree) -> OptimizerState:
        r_0 = init_statistic(params, self.initial_accumulator_value, of_squares=True)
        return OptimizerState(AdaGradState(init_count(), sum_of_squares=r_0))

    def update_leaf(
        self, scalars: tuple[Number], param: Any, g: Leaf, r: Leaf
    ) -> tuple[Leaf, Leaf]:
        (alpha,) = scalars
        g = clip_before_squaring(g)
        r = cap_infinities(r + square(g))
        step = divide_or_zero(g, root_with_eps(r, self.eps, self.eps_in_sqrt))
        return -alpha * step, r


@pytree
class AdaDelta(Optimizer):
    """The optimizer AdaDelta; built by `adadelta`."""

    learning_rate: Schedule = leaf(default=1.0)
    rho: Number = leaf(default=0.9)
    eps: Number = leaf(default=1e-6)
    weight_decay: Schedule | None = leaf(default=None)
    weight_decay_mask: Mask = None

    def __post_init__(self) -> None:
        super().__post_init__()
        mask = as_mask("AdaDelta.weight_decay_mask", self.weight_decay_mask)
        object.__setattr__(self, "weight_decay_mask", mask)

    def init(self, params: PyTree) -> OptimizerState:
        e_g, e_x = (init_statistic(params, of_squares=True) for _ in range(2))
        return OptimizerState(AdaDeltaState(init_count(), e_g, e_x))

    def update(
        self, grads: PyTree, state: OptimizerState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, OptimizerState]:
        if self.weight_decay is not None:
            params = decaying_params("AdaDelta", params, self.weight_decay_mask)
        return super().update(grads, state, params)

    def step_scalars(self, count: Int[Array, ""]) -> tuple[Any, ...]:
        if self.weight_decay is None:
            return *super().step_scalars(count), None
        return *super().step_scalars(count), value_at_step(self.weight_decay, count)

    def update_leaf(
        self, scalars: tuple[Any, ...], param: Any, g: Leaf, e_g: Leaf, e_x: Leaf
    ) -> tuple[Leaf, Leaf, Leaf]:
        alpha, decay = scalars
        g = clip_before_squaring(g if decay is None else g + decay * param)
        e_g = (1 - self.rho) * square(g) + self.rho * e_g
        step = divide_or_zero(jnp.sqrt(e_x + self.eps), jnp.sqrt(e_g + self.eps)) * g
        e_x = (1 - self.rho) * square(step) + self.rho * e_x
        return -alpha * step, e_g, e_x


def root_with_eps(r: Leaf, eps: Number, eps_in_sqrt: bool) -> Leaf:
    """Return √(r + ε), or √r + ε where ε is not in the root."""
    return jnp.sqrt(r + eps) if eps_in_sqrt else jnp.sqrt(r) + eps


def adagrad(
    learning_rate: Schedule,
    initial_accumulator_value: Number = 0.1,
    eps: Number = 1e-7,
    *,
    eps_in_sqrt: bool = True,
) -> AdaGrad:
    """Build AdaGrad: the more a weight has moved, the smaller its steps.

        r ← r + g ⊙ g,    θ ← θ − α g / √(r + ε)      eps_in_sqrt (optax)
                          θ ← θ − α g / (ε + √r)      otherwise (lecture)

    optax: the defaults (r₀ = 0.1, ε = 1e-7 inside the root). The lecture:
    `adagrad(α, initial_accumulator_value=0, eps=1e-7, eps_in_sqrt=False)`.

    Args:
        learning_rate: α ≥ 0, a number or a schedule.
        initial_accumulator_value: r₀ ≥ 0.
        eps: ε ≥ 0.
        eps_in_sqrt: whether ε is inside the root.

    Returns:
        An `AdaGrad`, whose state holds an `AdaGradState` (count, sum_of_squares).

    Raises:
        TypeError: an argument has another type.
        ValueError: a number is negative or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import optimizers
        >>> opt = optimizers.adagrad(0.5, initial_accumulator_value=0, eps=0)
        >>> opt.update(jnp.array([3.0, -4.0, 0.0]), opt.init(jnp.zeros(3)))[0]
        Array([-0.5,  0.5, -0. ], dtype=float32)

    Source:
        Duchi, Hazan and Singer 2011, "Adaptive Subgradient Methods for Online Learning
        and Stochastic Optimization", Figure 1 (diagonal). Lecture 5.3.
    """
    return AdaGrad(learning_rate, initial_accumulator_value, eps, eps_in_sqrt)


def adadelta(
    learning_rate: Schedule | None = None,
    rho: Number = 0.9,
    eps: Number = 1e-6,
    weight_decay: Schedule = 0.0,
    weight_decay_mask: PyTree = None,
) -> AdaDelta:
    """Build AdaDelta: steps have the units of θ, so that α may be 1.

        g ← g + λθ                                     with weight_decay
        E[g²] ← ρE[g²] + (1 − ρ) g²
        Δ = √(E[Δ²] + ε) / √(E[g²] + ε) ⊙ g
        E[Δ²] ← ρE[Δ²] + (1 − ρ) Δ²,    θ ← θ − αΔ

    The lecture and Zeiler: `adadelta(1.0, rho=0.95)`. optax: `rho=0.9`, the default.
    Without a learning rate fnn takes α = 1 and descends; optax then leaves out even the
    factor −1 and ascends.

    Args:
        learning_rate: α ≥ 0, a number or a schedule; None is 1.
        rho: ρ in [0, 1).
        eps: ε ≥ 0. With 0 no weight ever moves, since E[Δ²] starts at 0.
        weight_decay: λ ≥ 0, a number or a schedule. Unlike that of `adamw`, it is
            divided by √E[g²] with the rest of the gradient.
        weight_decay_mask: which weights decay, see `adamw`.

    Returns:
        An `AdaDelta`, whose state holds an `AdaDeltaState` (count, e_g, e_x).
        With weight_decay its `update` needs the parameters.

    Raises:
        TypeError: an argument has another type.
        ValueError: a number is out of range, or `update` got no parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import optimizers
        >>> opt = optimizers.adadelta(rho=0.75, eps=1.0)
        >>> opt.update(jnp.array([0.0, 2.0]), opt.init(jnp.zeros(2)))[0]
        Array([-0.       , -1.4142135], dtype=float32)

    Source:
        Zeiler 2012, "ADADELTA: An Adaptive Learning Rate Method", eq. (8), (9), (14)
        and Algorithm 1. Lecture 5.7.
    """
    decay = as_hyperparameter("adadelta.weight_decay", weight_decay, schedule=True)
    return AdaDelta(
        1.0 if learning_rate is None else learning_rate,
        *(rho, eps),
        # None is structure: without decay there is nothing to compute.
        weight_decay=None if isinstance(decay, float | int) and decay == 0 else decay,
        weight_decay_mask=weight_decay_mask,
    )
