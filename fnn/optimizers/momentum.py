"""Gradient descent, alone and with momentum: the heavy ball and Nesterov's.

Legend: θ parameters, g gradient, α learning rate, β momentum, v velocity.
"""

from typing import Any, NamedTuple

from jax import Array

from fnn.optimizers.base import Optimizer, increment, saturated, start, statistic
from fnn.optimizers.lookahead import Nesterov, beta_if_lookahead, check_nesterov
from fnn.pytree import leaf, pytree
from fnn.typing import PyTree, Schedule

__all__ = [
    "SGD",
    "Momentum",
    "MomentumState",
    "SGDState",
    "accelerated",
    "momentum",
    "nesterov",
    "sgd",
]


class SGDState(NamedTuple):
    """count: int32 (), the number of updates so far."""

    count: Array


class MomentumState(NamedTuple):
    """State of `Momentum`.

    count: int32 (), the number of updates so far.
    velocity: like the parameters, at least float32. Optax's trace, or the lecture's v.
    lookahead: β, (), in the look-ahead form; None in the others.
    """

    count: Array
    velocity: PyTree
    lookahead: Array | None


@pytree
class SGD(Optimizer):
    """Gradient descent, θ ← θ − α g; built by `sgd`."""

    __post_init__ = Optimizer.check_numbers

    def init(self, params: PyTree) -> SGDState:
        return SGDState(start())

    def update(
        self, grads: PyTree, state: SGDState, params: PyTree = None
    ) -> tuple[PyTree, SGDState]:
        (updates,) = self.per_leaf(state.count, grads, params)
        return updates, SGDState(increment(state.count))

    def rule(self, scalars: tuple, param: Any, g: Array) -> tuple:
        (alpha,) = scalars
        return (-alpha * g,)


@pytree
class Momentum(Optimizer):
    """Gradient descent with momentum; built by `sgd`, `momentum` and `nesterov`."""

    momentum: float | Array = leaf(default=0.9)
    nesterov: Nesterov = False
    accumulator_dtype: Any = None
    learning_rate_in_trace: bool = False

    def __post_init__(self) -> None:
        self.check_numbers()
        check_nesterov(self)
        if self.nesterov == "lookahead" and not self.learning_rate_in_trace:
            raise ValueError(
                'nesterov="lookahead" needs learning_rate_in_trace=True: θ̂ = θ + βv '
                "holds only for a velocity in units of θ"
            )

    def init(self, params: PyTree) -> MomentumState:
        velocity = statistic(params, dtype=self.accumulator_dtype)
        return MomentumState(start(), velocity, beta_if_lookahead(self))

    def update(
        self, grads: PyTree, state: MomentumState, params: PyTree = None
    ) -> tuple[PyTree, MomentumState]:
        updates, v = self.per_leaf(state.count, grads, params, state.velocity)
        lookahead = beta_if_lookahead(self)
        return updates, MomentumState(increment(state.count), v, lookahead)

    def rule(self, scalars: tuple, param: Any, g: Array, v: Array) -> tuple:
        (alpha,) = scalars
        if self.learning_rate_in_trace:
            return accelerated(v, -alpha * g, self.momentum, self.nesterov)
        step, v = accelerated(v, g, self.momentum, self.nesterov)
        return -alpha * step, v


def accelerated(v: Array, push: Array, beta: Any, nesterov: Nesterov) -> tuple:
    """The step and the new velocity: v ← βv + push, and the step is v.

    For Nesterov's it is push + βv, with the new v.
    """
    v = saturated(push + beta * v)
    return saturated(push + beta * v) if nesterov else v, v


def sgd(
    learning_rate: Schedule,
    momentum: float | Array | None = None,
    nesterov: Nesterov = False,
    accumulator_dtype: Any = None,
    *,
    learning_rate_in_trace: bool | None = None,
) -> Optimizer:
    """Stochastic gradient descent, with momentum if asked, in optax's form.

        θ ← θ − α g                                   without momentum (lecture 5.1)
        t ← g + βt,    θ ← θ − α t                    with momentum
        t ← g + βt,    θ ← θ − α (g + βt)             nesterov=True

    While α is constant, v = −αt, and this is the lecture's path. Under a schedule it
    is not: optax applies today's α to all past gradients, the lecture to each its own.
    `learning_rate_in_trace=True` is the lecture's form; see `momentum`, `nesterov`.

    Args:
        learning_rate: α ≥ 0, a number or a schedule.
        momentum: β in [0, 1), or None for plain gradient descent.
        nesterov: False, True, or "lookahead" (see `nesterov`; implies
            learning_rate_in_trace).
        accumulator_dtype: dtype of the velocity; by default the parameters', and
            float32 for half precision.
        learning_rate_in_trace: whether α scales g on its way into the velocity
            (lecture) or the velocity on its way out (optax, the default).

    Returns:
        An optimizer, `SGD` or `Momentum`, whose state is an `SGDState` (count) or a
        `MomentumState` (count, velocity, lookahead).

    Raises:
        ValueError: α or β out of range, or nesterov without momentum.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import optimizers
        >>> opt = optimizers.sgd(0.5)
        >>> opt.update(jnp.array([1.0, -2.0]), opt.init(jnp.zeros(2)))
        (Array([-0.5,  1. ], dtype=float32), SGDState(count=Array(1, dtype=int32)))

    Source:
        Robbins and Monro 1951; Sutskever et al. 2013, "On the importance of
        initialization and momentum in deep learning", eq. (1)-(4). Lecture 5.1, 5.2.
    """
    if momentum is None:
        if nesterov:
            raise ValueError(
                f"sgd: nesterov={nesterov!r} needs a momentum, such as 0.9"
            )
        return SGD(learning_rate)
    if learning_rate_in_trace is None:
        learning_rate_in_trace = nesterov == "lookahead"
    return Momentum(
        learning_rate, momentum, nesterov, accumulator_dtype, learning_rate_in_trace
    )


def momentum(learning_rate: Schedule, momentum: float | Array = 0.9) -> Momentum:
    """The heavy ball, as the lecture has it.

        v ← βv − α g,    θ ← θ + v

    For optax's form, which differs under a schedule, see `sgd`.

    Args:
        learning_rate: α ≥ 0, a number or a schedule.
        momentum: β in [0, 1); the lecture also plots 0.5.

    Returns:
        A `Momentum`, whose state is a `MomentumState` (count, velocity, None).

    Raises:
        ValueError: α or β out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import optimizers
        >>> opt = optimizers.momentum(0.5, momentum=0.5)
        >>> updates, state = opt.update(jnp.ones(1), opt.init(jnp.zeros(1)))
        >>> opt.update(jnp.ones(1), state)[0]
        Array([-0.75], dtype=float32)

    Source:
        Polyak 1964; Sutskever et al. 2013, eq. (1)-(2). Lecture 5.2.
    """
    return Momentum(learning_rate, momentum, learning_rate_in_trace=True)


def nesterov(learning_rate: Schedule, momentum: float | Array = 0.9) -> Momentum:
    """Nesterov's momentum, in the look-ahead form: the gradient is taken at θ̂.

        θ̂ = θ + βv,    v ← βv − α g(θ̂),    θ ← θ + v

    Training stores θ̂; `eval_params` gives θ back. It needs a constant β, and nothing
    after it that changes θ̂; `eval_params` refuses where it can see such a thing. For
    optax's form, which has no θ and scales by α after the trace, see `sgd`.

    Args:
        learning_rate: α ≥ 0, a number or a schedule.
        momentum: β in [0, 1), a constant.

    Returns:
        A `Momentum`, whose state is a `MomentumState` (count, velocity, lookahead).

    Raises:
        ValueError: α or β out of range.
        TypeError: β is a schedule.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import optimizers
        >>> opt = optimizers.nesterov(0.5, momentum=0.5)
        >>> updates, state = opt.update(jnp.ones(1), opt.init(jnp.zeros(1)))
        >>> updates, opt.eval_params(state, updates)    # θ̂ and θ, from 0
        (Array([-0.75], dtype=float32), Array([-0.5], dtype=float32))

    Source:
        Nesterov 1983; Sutskever et al. 2013, eq. (3)-(4).
    """
    return Momentum(learning_rate, momentum, "lookahead", learning_rate_in_trace=True)
