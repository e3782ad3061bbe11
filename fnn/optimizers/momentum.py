"""Gradient descent, plain and with momentum: the heavy ball and Nesterov's.

Legend: θ parameters, g gradient, α learning rate, β momentum, v velocity.
"""

from typing import Any, NamedTuple

from fnn.optimizers.arithmetic import Leaf, cap_infinities
from fnn.optimizers.base import Optimizer
from fnn.optimizers.hyperparameters import as_dtype
from fnn.optimizers.lookahead import (
    NesterovForm,
    beta_if_lookahead,
    check_nesterov,
)
from fnn.optimizers.state import OptimizerState, init_count, init_statistic
from fnn.pytree import leaf, pytree
from fnn.typing import Array, Number, PyTree, Schedule

__all__ = [
    "SGD",
    "Momentum",
    "MomentumState",
    "SGDState",
    "momentum",
    "momentum_step",
    "nesterov",
    "sgd",
]


class SGDState(NamedTuple):
    """The statistics of `SGD`: none.

    count: int32 (), the number of updates so far.
    """

    count: Array


class MomentumState(NamedTuple):
    """The statistics of `Momentum`.

    count: int32 (), the number of updates so far.
    trace: like the parameters, at least float32. Optax's trace, or the lecture's v.
    lookahead: β, (), in the look-ahead form; None in the others.
    """

    count: Array
    trace: PyTree
    lookahead: Array | None

    @property
    def velocity(self) -> PyTree:
        """The trace by the lecture's name."""
        return self.trace


@pytree
class SGD(Optimizer):
    """The gradient descent optimizer, θ ← θ − α g; built by `sgd`."""

    def init(self, params: PyTree) -> OptimizerState:
        return OptimizerState(SGDState(init_count()))

    def update_leaf(self, scalars: tuple[Number], param: Any, g: Leaf) -> tuple[Leaf]:
        (alpha,) = scalars
        return (-alpha * g,)


@pytree
class Momentum(Optimizer):
    """A gradient descent with momentum; built by `sgd`, `momentum` and `nesterov`."""

    momentum: Number = leaf(default=0.9)
    nesterov: NesterovForm = False
    accumulator_dtype: Any = None
    learning_rate_in_trace: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nesterov("Momentum.nesterov", self.nesterov)
        if self.nesterov == "lookahead" and not self.learning_rate_in_trace:
            raise ValueError(
                'nesterov="lookahead" needs learning_rate_in_trace=True: θ̂ = θ + βv '
                "holds only for a velocity in units of θ"
            )

    def init(self, params: PyTree) -> OptimizerState:
        trace = init_statistic(params, dtype=self.accumulator_dtype)
        return OptimizerState(
            MomentumState(init_count(), trace, beta_if_lookahead(self))
        )

    def state_numbers(self) -> dict[str, Any]:
        return {"lookahead": beta_if_lookahead(self)}

    def update_leaf(
        self, scalars: tuple[Number], param: Any, g: Leaf, v: Leaf
    ) -> tuple[Leaf, Leaf]:
        (alpha,) = scalars
        if self.learning_rate_in_trace:
            return momentum_step(v, -alpha * g, self.momentum, self.nesterov)
        step, v = momentum_step(v, g, self.momentum, self.nesterov)
        return -alpha * step, v


def momentum_step(
    v: Leaf, push: Leaf, beta: Number, nesterov: NesterovForm
) -> tuple[Leaf, Leaf]:
    """Return the step and the new velocity.

    v ← βv + push;    step = v,    or Nesterov's: step = βv + push, with the new v
    """
    v = cap_infinities(push + beta * v)
    return cap_infinities(push + beta * v) if nesterov else v, v


def sgd(
    learning_rate: Schedule,
    momentum: Number | None = None,
    nesterov: NesterovForm = False,
    accumulator_dtype: Any = None,
    *,
    learning_rate_in_trace: bool | None = None,
) -> Optimizer:
    """Build stochastic gradient descent, with momentum or without, in optax's form.

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
        learning_rate_in_trace: whether α scales g before it is added to the velocity
            (lecture), or else the step after it (optax, the default).

    Returns:
        An optimizer, `SGD` or `Momentum`, whose state holds an `SGDState` (count) or a
        `MomentumState` (count, trace, lookahead).

    Raises:
        TypeError: an argument has another type.
        ValueError: α or β out of range, or nesterov without momentum.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import optimizers
        >>> opt = optimizers.sgd(0.5)
        >>> updates, state = opt.update(jnp.array([1.0, -2.0]), opt.init(jnp.zeros(2)))
        >>> updates, state[0]
        (Array([-0.5,  1. ], dtype=float32), SGDState(count=Array(1, dtype=int32)))

    Source:
        Robbins and Monro 1951; Sutskever et al. 2013, "On the importance of
        initialization and momentum in deep learning", eq. (1)-(4). Lecture 5.1, 5.2.
    """
    if momentum is not None:
        if learning_rate_in_trace is None:
            learning_rate_in_trace = nesterov == "lookahead"
        return Momentum(
            learning_rate, momentum, nesterov, accumulator_dtype, learning_rate_in_trace
        )
    check_nesterov("sgd: nesterov", nesterov)
    as_dtype("sgd: accumulator_dtype", accumulator_dtype)
    if nesterov:
        raise ValueError(f"sgd: nesterov={nesterov!r} needs a momentum, such as 0.9")
    if not isinstance(learning_rate_in_trace, bool | None):
        raise TypeError(
            "sgd: learning_rate_in_trace must be True, False or None, got "
            f"{learning_rate_in_trace!r}"
        )
    return SGD(learning_rate)


def momentum(learning_rate: Schedule, momentum: Number = 0.9) -> Momentum:
    """Build the heavy ball, in the lecture's form.

        v ← βv − α g,    θ ← θ + v

    For optax's form, which differs under a schedule, see `sgd`.

    Args:
        learning_rate: α ≥ 0, a number or a schedule.
        momentum: β in [0, 1); the lecture also plots 0.5.

    Returns:
        A `Momentum`, whose state holds a `MomentumState` (count, trace, None).

    Raises:
        TypeError: an argument has another type.
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


def nesterov(learning_rate: Schedule, momentum: Number = 0.9) -> Momentum:
    """Build Nesterov's momentum, in the look-ahead form: the gradient is that at θ̂.

        θ̂ = θ + βv,    v ← βv − α g(θ̂),    θ ← θ + v

    Training stores θ̂; `eval_params` returns θ. It needs a constant β, and nothing
    after it that changes θ̂; `eval_params` raises where it can see such a thing. For
    optax's form, which has no θ and scales by α after the trace, see `sgd`.

    Args:
        learning_rate: α ≥ 0, a number or a schedule.
        momentum: β in [0, 1), a constant.

    Returns:
        A `Momentum`, whose state holds a `MomentumState` (count, trace, lookahead).

    Raises:
        TypeError: an argument has another type, or β is a schedule.
        ValueError: α or β out of range.

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
