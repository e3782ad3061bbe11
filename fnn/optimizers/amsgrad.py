"""AMSGrad: Adam whose learning rates never grow.

Legend: as in `adam`; v_max the largest v̂ so far.
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

__all__ = ["AMSGrad", "AMSGradState", "amsgrad"]


class AMSGradState(NamedTuple):
    """State of `AMSGrad`: Adam's, and the largest v̂ so far (nu_max, like nu)."""

    count: Array
    mu: PyTree
    nu: PyTree
    nu_max: PyTree


@pytree
class AMSGrad(Optimizer):
    """AMSGrad; built by `amsgrad`."""

    b1: Number = leaf(default=0.9)
    b2: Number = leaf(default=0.999)
    eps: Number = leaf(default=1e-8)
    eps_root: Number = leaf(default=0.0)
    mu_dtype: Any = None
    bias_correction_mu: bool = True
    bias_correction_nu: bool = True

    __post_init__ = Optimizer.check_numbers

    def init(self, params: PyTree) -> AMSGradState:
        mu = statistic(params, dtype=self.mu_dtype)
        return AMSGradState(start(), mu, nu=statistic(params), nu_max=statistic(params))

    def update(
        self, grads: PyTree, state: AMSGradState, params: PyTree = None
    ) -> tuple[PyTree, AMSGradState]:
        count, *moments = state
        updates, *moments = self.per_leaf(count, grads, params, *moments)
        return updates, AMSGradState(increment(count), *moments)

    def scalars(self, count: Array) -> tuple:
        t = increment(count)
        of_m = unbiased(self.b1, t) if self.bias_correction_mu else 1.0
        of_v = unbiased(self.b2, t) if self.bias_correction_nu else 1.0
        return at(self.learning_rate, count) * of_m, of_v

    def rule(
        self, scalars: tuple, param: Any, g: Array, m: Array, v: Array, v_max: Array
    ) -> tuple:
        of_m, of_v = scalars
        g = bounded(g)
        m = (1 - self.b1) * g + self.b1 * m
        v = (1 - self.b2) * (g * g) + self.b2 * v
        v_max = jnp.maximum(v_max, of_v * v)
        denominator = jnp.sqrt(v_max + self.eps_root) + self.eps
        return -quotient(of_m * m, denominator), m, v, v_max


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
    """AMSGrad: Adam whose learning rates never grow.

        v̂ ← max(v̂, v / (1 − β₂ᵗ)),    θ ← θ − α m̂ / (√(v̂ + ε_root) + ε)

    m, m̂ and v as in `adam`. optax: the defaults. The paper has no bias correction:
    `bias_correction_mu=False, bias_correction_nu=False`, and ε = 0.

    Args:
        learning_rate: α ≥ 0, a number or a schedule.
        b1: β₁ in [0, 1).
        b2: β₂ in [0, 1).
        eps: ε ≥ 0, outside the root.
        eps_root: ε_root ≥ 0, inside it.
        mu_dtype: dtype in which m is kept; by default as v.
        bias_correction_mu: whether m̂ = m / (1 − β₁ᵗ), or m̂ = m.
        bias_correction_nu: the same for v.

    Returns:
        An `AMSGrad`, whose state is an `AMSGradState` (count, mu, nu, nu_max).

    Raises:
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
