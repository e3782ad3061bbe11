"""AdaGrad and AdaDelta: a learning rate for every weight, from its past gradients.

Legend: θ parameters, g gradient, α learning rate, r sum of g ⊙ g, Δ the step before
the learning rate, E[·] a fading mean; products, roots and quotients elementwise.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from fnn.optimizers.base import (
    Leaf,
    Optimizer,
    cap_infinities,
    clip_before_squaring,
    divide_or_zero,
    init_count,
    init_statistic,
)
from fnn.pytree import leaf, pytree
from fnn.typing import Array, Number, PyTree, Schedule

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
    """The state of `AdaGrad`.

    count: int32 (), the number of updates so far.
    sum_of_squares: r, like the parameters, at least float32.
    """

    count: Array
    sum_of_squares: PyTree


class AdaDeltaState(NamedTuple):
    """The state of `AdaDelta`; every tree is like the parameters, at least float32.

    count: int32 (), the number of updates so far.
    e_g: the mean of g ⊙ g.
    e_x: the mean of Δ ⊙ Δ, with Δ the step before the learning rate.
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

    def init(self, params: PyTree) -> AdaGradState:
        r_0 = init_statistic(params, self.initial_accumulator_value)
        return AdaGradState(init_count(), sum_of_squares=r_0)

    def update_leaf(
        self, scalars: tuple[Number], param: Any, g: Leaf, r: Leaf
    ) -> tuple[Leaf, Leaf]:
        (alpha,) = scalars
        g = clip_before_squaring(g)
        r = cap_infinities(r + g * g)
        step = divide_or_zero(g, root_with_eps(r, self.eps, self.eps_in_sqrt))
        return -alpha * step, r


@pytree
class AdaDelta(Optimizer):
    """The optimizer AdaDelta; built by `adadelta`."""

    learning_rate: Schedule = leaf(default=1.0)
    rho: Number = leaf(default=0.9)
    eps: Number = leaf(default=1e-6)

    def init(self, params: PyTree) -> AdaDeltaState:
        return AdaDeltaState(
            init_count(), e_g=init_statistic(params), e_x=init_statistic(params)
        )

    def update_leaf(
        self, scalars: tuple[Number], param: Any, g: Leaf, e_g: Leaf, e_x: Leaf
    ) -> tuple[Leaf, Leaf, Leaf]:
        (alpha,) = scalars
        g = clip_before_squaring(g)
        e_g = (1 - self.rho) * (g * g) + self.rho * e_g
        step = divide_or_zero(jnp.sqrt(e_x + self.eps), jnp.sqrt(e_g + self.eps)) * g
        e_x = (1 - self.rho) * (step * step) + self.rho * e_x
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
        An `AdaGrad`, whose state is an `AdaGradState` (count, sum_of_squares).

    Raises:
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
    learning_rate: Schedule | None = None, rho: Number = 0.9, eps: Number = 1e-6
) -> AdaDelta:
    """Build AdaDelta: steps have the units of θ, so that α may be 1.

        E[g²] ← ρE[g²] + (1 − ρ) g²
        Δ = √(E[Δ²] + ε) / √(E[g²] + ε) ⊙ g
        E[Δ²] ← ρE[Δ²] + (1 − ρ) Δ²,    θ ← θ − αΔ

    The lecture and Zeiler: `adadelta(1.0, rho=0.95)`. optax: `rho=0.9`, the default.
    Without a learning rate fnn takes α = 1 and descends; optax then leaves out even the
    factor −1 and ascends. For optax's weight_decay, put `optax.add_decayed_weights`
    before it in a chain.

    Args:
        learning_rate: α ≥ 0, a number or a schedule; None is 1.
        rho: ρ in [0, 1).
        eps: ε ≥ 0. With 0 no weight ever moves, since E[Δ²] starts at 0.

    Returns:
        An `AdaDelta`, whose state is an `AdaDeltaState` (count, e_g, e_x).

    Raises:
        ValueError: a number is out of range.

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
    return AdaDelta(1.0 if learning_rate is None else learning_rate, rho, eps)
