"""RMSProp, centered or not; plain, with momentum, and with Nesterov's.

Legend: θ parameters, g gradient, α learning rate, r mean of g ⊙ g, m mean of g,
v velocity, β momentum; products, roots and quotients elementwise.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from fnn.optimizers.adaptive import root_with_eps
from fnn.optimizers.arithmetic import (
    Leaf,
    clip_before_squaring,
    divide_or_zero,
    square,
)
from fnn.optimizers.base import Optimizer, bias_correction_factor
from fnn.optimizers.lookahead import (
    NesterovForm,
    beta_if_lookahead,
    check_nesterov,
)
from fnn.optimizers.momentum import momentum_step
from fnn.optimizers.state import (
    OptimizerState,
    increment,
    init_count,
    init_statistic,
)
from fnn.pytree import leaf, pytree
from fnn.typing import Array, Int, Number, PyTree, Schedule

__all__ = ["RMSProp", "RMSPropState", "rmsprop"]


class RMSPropState(NamedTuple):
    """The statistics of `RMSProp`; every tree is like the parameters, ≥ float32.

    count: int32 (), the number of updates so far.
    nu: r, the mean of g ⊙ g, real.
    mu: m, the mean of g, if centered; else None.
    trace: v, with momentum; else None.
    lookahead: β, (), in the look-ahead form; else None.
    """

    count: Array
    nu: PyTree
    mu: PyTree
    trace: PyTree
    lookahead: Array | None

    @property
    def velocity(self) -> PyTree:
        """The trace by the lecture's name."""
        return self.trace


@pytree
class RMSProp(Optimizer):
    """The optimizer RMSProp, with momentum or without; built by `rmsprop`."""

    decay: Number = leaf(default=0.9)
    eps: Number = leaf(default=1e-8)
    initial_scale: Number = leaf(default=0.0)
    eps_in_sqrt: bool = True
    centered: bool = False
    momentum: Number | None = leaf(default=None)
    nesterov: NesterovForm = False
    bias_correction: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nesterov("RMSProp.nesterov", self.nesterov)
        if self.nesterov and self.momentum is None:
            raise ValueError(
                f"RMSProp: nesterov={self.nesterov!r} needs a momentum, such as 0.9"
            )

    def init(self, params: PyTree) -> OptimizerState:
        state = RMSPropState(
            init_count(),
            nu=init_statistic(params, self.initial_scale, of_squares=True),
            mu=init_statistic(params) if self.centered else None,
            trace=None if self.momentum is None else init_statistic(params),
            lookahead=beta_if_lookahead(self),
        )
        return OptimizerState(state)

    def state_numbers(self) -> dict[str, Any]:
        return {"lookahead": beta_if_lookahead(self)}

    def step_scalars(self, count: Int[Array, ""]) -> tuple[Number, ...]:
        scalars = super().step_scalars(count)
        if not self.bias_correction:
            return *scalars, 1.0
        return *scalars, bias_correction_factor(self.decay, increment(count))

    def update_leaf(
        self,
        scalars: tuple[Number, Number],
        param: Any,
        g: Leaf,
        r: Leaf,
        m: Leaf | None,
        v: Leaf | None,
    ) -> tuple[Leaf, Leaf, Leaf | None, Leaf | None]:
        alpha, correction = scalars
        g = clip_before_squaring(g)
        r = (1 - self.decay) * square(g) + self.decay * r
        variance = correction * r
        if m is not None:
            m = (1 - self.decay) * g + self.decay * m
            # A constant gradient has variance 0, which rounding can make negative.
            variance = jnp.maximum(variance - square(correction * m), 0)
        root = root_with_eps(variance, self.eps, self.eps_in_sqrt)
        push = -alpha * divide_or_zero(g, root)
        if v is None or self.momentum is None:
            return push, r, m, v
        step, v = momentum_step(v, push, self.momentum, self.nesterov)
        return step, r, m, v


def rmsprop(
    learning_rate: Schedule,
    decay: Number = 0.9,
    eps: Number = 1e-8,
    initial_scale: Number = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Number | None = None,
    nesterov: NesterovForm = False,
    bias_correction: bool = False,
) -> RMSProp:
    """Build RMSProp: AdaGrad with a moving average in place of the sum.

        r ← ρr + (1 − ρ) g ⊙ g
        v ← βv − α g / √(r + ε),    θ ← θ + v                  (β = 0 without momentum)
        θ ← θ − α g / √(r + ε) + βv, with the new v            nesterov=True
        g at θ̂ = θ + βv, then v and θ as in the second line    nesterov="lookahead"

    optax: the defaults, and nesterov False or True; its momentum, too, is a trace after
    the learning rate. The lecture: `eps=1e-6`; with momentum (5.6) `momentum=β`; with
    Nesterov (5.5) `nesterov="lookahead"`. That one stores θ̂ and needs a constant β and
    nothing after it; `eval_params` returns θ. (The lecture's 5.5 has no ε and is 0/0
    for a weight whose gradient has always been 0; here ε is as in 5.4.)
    True and "lookahead" make the same updates, also under a schedule.

    Args:
        learning_rate: α ≥ 0, a number or a schedule.
        decay: ρ in [0, 1).
        eps: ε ≥ 0.
        initial_scale: r₀ ≥ 0.
        eps_in_sqrt: whether the denominator is √(r + ε), or else √r + ε.
        centered: whether m² is subtracted from r; not below 0, where optax takes the
            root of a negative number (NaN).
        momentum: β in [0, 1), or None.
        nesterov: False, True or "lookahead".
        bias_correction: whether r (and m) are divided by 1 − ρᵗ, as in Adam.

    Returns:
        An `RMSProp`, whose state holds an `RMSPropState` (count, nu, mu, trace,
        lookahead).

    Raises:
        TypeError: an argument has another type, or β is a schedule.
        ValueError: a number is out of range, or nesterov without momentum.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import optimizers
        >>> opt = optimizers.rmsprop(0.5, decay=0.75, eps=0)
        >>> opt.update(jnp.array([3.0, -4.0, 0.0]), opt.init(jnp.zeros(3)))[0]
        Array([-1.,  1., -0.], dtype=float32)

    Source:
        Tieleman and Hinton 2012, Coursera lecture 6e; centered: Graves 2013,
        "Generating Sequences With Recurrent Neural Networks", eq. (38)-(45). Lecture
        5.4-5.6.
    """
    return RMSProp(
        learning_rate,
        decay,
        eps,
        initial_scale,
        eps_in_sqrt,
        centered,
        momentum,
        nesterov,
        bias_correction,
    )
