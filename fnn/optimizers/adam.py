"""Adam and NAdam: momentum and a learning rate for every weight, bias-corrected.

Legend: θ parameters, g gradient, α learning rate, m mean of g (mu), v mean of g ⊙ g
(nu), m̂ and v̂ the same, corrected for their start at 0; all elementwise.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from fnn.optimizers.arithmetic import (
    Leaf,
    clip_before_squaring,
    divide_or_zero,
    square,
)
from fnn.optimizers.base import Optimizer, bias_correction_factor
from fnn.optimizers.hyperparameters import value_at_step
from fnn.optimizers.state import (
    OptimizerState,
    increment,
    init_count,
    init_statistic,
)
from fnn.pytree import leaf, pytree
from fnn.typing import Array, Int, Number, PyTree, Schedule

__all__ = ["Adam", "AdamState", "adam", "nadam", "scaled_step", "update_moments"]


class AdamState(NamedTuple):
    """The statistics of `Adam` and `AdamW`; every tree is like the parameters.

    count: int32 (), the number of updates so far.
    mu: m, at least float32, or mu_dtype.
    nu: v, at least float32, and real.
    """

    count: Array
    mu: PyTree
    nu: PyTree


@pytree
class Adam(Optimizer):
    """The optimizer Adam, and with nesterov NAdam; built by `adam` and `nadam`."""

    b1: Number = leaf(default=0.9)
    b2: Number = leaf(default=0.999)
    eps: Number = leaf(default=1e-8)
    eps_root: Number = leaf(default=0.0)
    mu_dtype: Any = None
    nesterov: bool = False

    def init(self, params: PyTree) -> OptimizerState:
        state = AdamState(
            init_count(),
            mu=init_statistic(params, dtype=self.mu_dtype),
            nu=init_statistic(params, of_squares=True),
        )
        return OptimizerState(state)

    def step_scalars(self, count: Int[Array, ""]) -> tuple[Any, ...]:
        # As at the end of the paper's section 2: the corrections go into numbers
        # that all weights share, so that a weight costs one root and one division.
        t = increment(count)
        alpha = value_at_step(self.learning_rate, count)
        v_factor = bias_correction_factor(self.b2, t)
        if not self.nesterov:
            return alpha * bias_correction_factor(self.b1, t), None, v_factor
        m_factor = alpha * self.b1 * bias_correction_factor(self.b1, t + 1)
        g_factor = alpha * (1 - self.b1) * bias_correction_factor(self.b1, t)
        return m_factor, g_factor, v_factor

    def update_leaf(
        self, scalars: tuple[Any, ...], param: Any, g: Leaf, m: Leaf, v: Leaf
    ) -> tuple[Leaf, Leaf, Leaf]:
        m_factor, g_factor, v_factor = scalars
        g = clip_before_squaring(g)
        m, v = update_moments(g, m, v, self.b1, self.b2)
        step = m_factor * m if g_factor is None else m_factor * m + g_factor * g
        return -scaled_step(step, v_factor * v, self.eps, self.eps_root), m, v


def update_moments(
    g: Leaf, m: Leaf, v: Leaf, b1: Number, b2: Number
) -> tuple[Leaf, Leaf]:
    """Return β₁m + (1 − β₁) g and β₂v + (1 − β₂) |g|²."""
    m = (1 - b1) * g + b1 * m
    v = (1 - b2) * square(g) + b2 * v
    return m, v


def scaled_step(step: Leaf, v_hat: Leaf, eps: Number, eps_root: Number) -> Leaf:
    """Return step / (√(v̂ + ε_root) + ε), where step is αm̂."""
    return divide_or_zero(step, jnp.sqrt(v_hat + eps_root) + eps)


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
    """Build Adam: momentum, and a learning rate for every weight, bias-corrected.

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
        mu_dtype: dtype of the stored m; by default that of v.
        nesterov: NAdam, see `nadam`.

    Returns:
        An `Adam`, whose state holds an `AdamState` (count, mu, nu).

    Raises:
        TypeError: an argument has another type.
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
    """Build NAdam: Adam with Nesterov's momentum.

        m̂ = β₁ m / (1 − β₁ᵗ⁺¹) + (1 − β₁) g / (1 − β₁ᵗ);    the rest as in `adam`

    optax's form: like most, it leaves out the paper's factor β₂ on v̂.

    Args:
        learning_rate: α ≥ 0, a number or a schedule.
        b1: β₁ in [0, 1).
        b2: β₂ in [0, 1).
        eps: ε ≥ 0, outside the root.
        eps_root: ε_root ≥ 0, inside it.
        mu_dtype: dtype of the stored m; by default that of v.

    Returns:
        An `Adam` with nesterov=True, whose state holds an `AdamState` (count, mu, nu).

    Raises:
        TypeError: an argument has another type.
        ValueError: a number is out of range.

    Example:
        >>> from fnn import optimizers
        >>> optimizers.nadam(1e-3)
        Adam(learning_rate=0.001, nesterov=True)

    Source:
        Dozat 2016, "Incorporating Nesterov Momentum into Adam", Algorithm 2.
    """
    return Adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=True)
