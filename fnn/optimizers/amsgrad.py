"""AMSGrad: Adam whose learning rates never grow.

Legend: as in `fnn.optimizers.adam`; v_max the largest v̂ so far.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from fnn.optimizers.adam import scaled_step, update_moments
from fnn.optimizers.arithmetic import Leaf, clip_before_squaring
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

__all__ = ["AMSGrad", "AMSGradState", "amsgrad"]


class AMSGradState(NamedTuple):
    """The statistics of `AMSGrad`: count, mu, nu as Adam's; nu_max, the largest v̂."""

    count: Array
    mu: PyTree
    nu: PyTree
    nu_max: PyTree


@pytree
class AMSGrad(Optimizer):
    """The optimizer AMSGrad; built by `amsgrad`."""

    b1: Number = leaf(default=0.9)
    b2: Number = leaf(default=0.999)
    eps: Number = leaf(default=1e-8)
    eps_root: Number = leaf(default=0.0)
    mu_dtype: Any = None
    bias_correction_mu: bool = True
    bias_correction_nu: bool = True

    def init(self, params: PyTree) -> OptimizerState:
        state = AMSGradState(
            init_count(),
            mu=init_statistic(params, dtype=self.mu_dtype),
            nu=init_statistic(params, of_squares=True),
            nu_max=init_statistic(params, of_squares=True),
        )
        return OptimizerState(state)

    def step_scalars(self, count: Int[Array, ""]) -> tuple[Any, ...]:
        t, m_factor, v_factor = increment(count), 1.0, 1.0
        if self.bias_correction_mu:
            m_factor = bias_correction_factor(self.b1, t)
        if self.bias_correction_nu:
            v_factor = bias_correction_factor(self.b2, t)
        return value_at_step(self.learning_rate, count) * m_factor, v_factor

    def update_leaf(
        self,
        scalars: tuple[Any, ...],
        param: Any,
        g: Leaf,
        m: Leaf,
        v: Leaf,
        v_max: Leaf,
    ) -> tuple[Leaf, ...]:
        m_factor, v_factor = scalars
        m, v = update_moments(clip_before_squaring(g), m, v, self.b1, self.b2)
        v_max = jnp.maximum(v_max, v_factor * v)
        return -scaled_step(m_factor * m, v_max, self.eps, self.eps_root), m, v, v_max


def amsgrad(
    learning_rate: Schedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
) -> AMSGrad:
    """Build AMSGrad: Adam whose learning rates never grow.

        v̂ ← max(v̂, v / (1 − β₂ᵗ)),    θ ← θ − α m̂ / (√(v̂ + ε_root) + ε)

    m, m̂ and v as in `adam`. optax: the defaults. The paper has no bias correction:
    `bias_correction_mu=False, bias_correction_nu=False`, and ε = 0.

    Args:
        learning_rate: α ≥ 0, a number or a schedule.
        b1: β₁ in [0, 1).
        b2: β₂ in [0, 1).
        eps: ε ≥ 0, outside the root.
        eps_root: ε_root ≥ 0, inside it.
        mu_dtype: dtype of the stored m; by default that of v.
        bias_correction_mu: whether m̂ = m / (1 − β₁ᵗ), or m̂ = m.
        bias_correction_nu: the same for v.

    Returns:
        An `AMSGrad`, whose state holds an `AMSGradState` (count, mu, nu, nu_max).

    Raises:
        TypeError: an argument has another type.
        ValueError: a number is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import optimizers
        >>> opt = optimizers.amsgrad(0.5)
        >>> opt.update(jnp.array([3.0, -4.0, 0.0]), opt.init(jnp.zeros(3)))[0].round(3)
        Array([-0.5,  0.5, -0. ], dtype=float32)

    Source:
        Reddi, Kale and Kumar 2018, "On the Convergence of Adam and Beyond",
        Algorithm 2.
    """
    return AMSGrad(
        learning_rate,
        b1,
        b2,
        eps,
        eps_root,
        mu_dtype,
        bias_correction_mu,
        bias_correction_nu,
    )
