"""Adam and NAdam: momentum and a learning rate for every weight, both unbiased.

Legend: θ parameters, g gradient, α learning rate, m mean of g (mu), v mean of g ⊙ g
(nu), m̂ and v̂ the same without the bias of their start at 0; all elementwise.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from fnn.optimizers.base import (
    Optimizer,
    at,
    bounded,
    increment,
    quotient,
    start,
    statistic,
    unbiased,
)
from fnn.pytree import leaf, pytree
from fnn.typing import Number, PyTree, Schedule

__all__ = ["Adam", "AdamState", "adam", "nadam"]


class AdamState(NamedTuple):
    """State of `Adam` and `AdamW`; every tree is like the parameters.

    count: int32 (), the number of updates so far.
    mu: m, at least float32, or mu_dtype.
    nu: v, at least float32.
    """

    count: Array
    mu: PyTree
    nu: PyTree


@pytree
class Adam(Optimizer):
    """Adam, and with nesterov NAdam; built by `adam` and `nadam`."""

    b1: Number = leaf(default=0.9)
    b2: Number = leaf(default=0.999)
    eps: Number = leaf(default=1e-8)
    eps_root: Number = leaf(default=0.0)
    mu_dtype: Any = None
    nesterov: bool = False

    __post_init__ = Optimizer.check_numbers

    def init(self, params: PyTree) -> AdamState:
        return AdamState(
            start(), mu=statistic(params, dtype=self.mu_dtype), nu=statistic(params)
        )

    def update(
        self, grads: PyTree, state: AdamState, params: PyTree = None
    ) -> tuple[PyTree, AdamState]:
        updates, *moments = self.per_leaf(
            state.count, grads, params, state.mu, state.nu
        )
        return updates, AdamState(increment(state.count), *moments)

    def scalars(self, count: Array) -> tuple:
        # As the end of the paper's section 2 has it: the corrections go into numbers
        # that all weights share, so that a weight costs one root and one quotient.
        t = increment(count)
        alpha = at(self.learning_rate, count)
        of_v = unbiased(self.b2, t)
        if not self.nesterov:
            return alpha * unbiased(self.b1, t), None, of_v
        of_m = alpha * self.b1 * unbiased(self.b1, t + 1)
        of_g = alpha * (1 - self.b1) * unbiased(self.b1, t)
        return of_m, of_g, of_v

    def rule(self, scalars: tuple, param: Any, g: Array, m: Array, v: Array) -> tuple:
        of_m, of_g, of_v = scalars
        g = bounded(g)
        m = (1 - self.b1) * g + self.b1 * m
        v = (1 - self.b2) * (g * g) + self.b2 * v
        step = of_m * m if of_g is None else of_m * m + of_g * g
        return -quotient(step, jnp.sqrt(of_v * v + self.eps_root) + self.eps), m, v


def adam(
    learning_rate: Schedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> Adam:
    """Adam: momentum, and a learning rate for every weight, both unbiased.

        m ← β₁m + (1 − β₁) g,        m̂ = m / (1 − β₁ᵗ)
        v ← β₂v + (1 − β₂) g ⊙ g,    v̂ = v / (1 − β₂ᵗ)
        θ ← θ − α m̂ / (√(v̂ + ε_root) + ε)

    The defaults are optax's, and the lecture's (s, r, ρ₁, ρ₂, δ there are m, v, b1, b2,
    eps here; ε_root is 0).

    Args:
        learning_rate: α ≥ 0, a number or a schedule; the paper and the lecture: 1e-3.
        b1: β₁ in [0, 1).
        b2: β₂ in [0, 1).
        eps: ε ≥ 0, outside the root.
        eps_root: ε_root ≥ 0, inside it.
        mu_dtype: dtype in which m is kept; by default as v.
        nesterov: NAdam, see `nadam`.

    Returns:
        An `Adam`, whose state is an `AdamState` (count, mu, nu).

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import optimizers
        >>> opt = optimizers.adam(0.5)
        >>> opt.update(jnp.array([3.0, -4e-3, 0.0]), opt.init(jnp.zeros(3)))[0].round(3)
        Array([-0.5,  0.5, -0. ], dtype=float32)

    Source:
        Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization", Algorithm 1.
        Lecture 5.8.
    """
    return Adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov)


def nadam(
    learning_rate: Schedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: Any = None,
) -> Adam:
    """NAdam: Adam with Nesterov's momentum.

        m̂ = β₁ m / (1 − β₁ᵗ⁺¹) + (1 − β₁) g / (1 − β₁ᵗ);    the rest as in `adam`

    As optax, and as others, without the paper's factor β₂ on v̂.

    Args:
        learning_rate: α ≥ 0, a number or a schedule.
        b1: β₁ in [0, 1).
        b2: β₂ in [0, 1).
        eps: ε ≥ 0, outside the root.
        eps_root: ε_root ≥ 0, inside it.
        mu_dtype: dtype in which m is kept; by default as v.

    Returns:
        An `Adam` with nesterov=True, whose state is an `AdamState` (count, mu, nu).

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> from fnn import optimizers
        >>> optimizers.nadam(1e-3)
        Adam(learning_rate=0.001, nesterov=True)

    Source:
        Dozat 2016, "Incorporating Nesterov Momentum into Adam", Algorithm 2.
    """
    return Adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=True)
