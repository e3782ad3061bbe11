"""One step of descent, with fnn's optimizers and optax's alike."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fnn.core import Layer, Variables
from fnn.describe import describe
from fnn.gradients.engines import Gradients
from fnn.layers.freezing import keep_frozen
from fnn.named_leaves import differences
from fnn.optimizers import eval_params
from fnn.optimizers.transformation import takes_extra
from fnn.pytree import holds_numbers, pytree
from fnn.training.functions import first_equal
from fnn.typing import Array, PyTree

__all__ = [
    "Carry",
    "OptaxOptimizer",
    "as_optimizer",
    "copy_arrays",
    "descend",
    "initial_carry",
    "update",
]


class Carry(NamedTuple):
    """The state that training carries from step to step.

    `variables` are those that gradients are taken at: for a look-ahead optimizer θ̂,
    and `optimizer.eval_params(optimizer_state, params)` returns θ.
    """

    variables: Variables
    optimizer_state: PyTree


@pytree
class OptaxOptimizer:
    """An optax optimizer as a pytree: its closures are structure, and compiled in.

    Args:
        transformation: anything with optax's `init` and `update`.
        own_eval_params: the method `eval_params` of what was wrapped, if it has one.
    """

    transformation: optax.GradientTransformation
    own_eval_params: Any = None

    def init(self, params: PyTree) -> PyTree:
        with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes freely
            return self.transformation.init(params)

    def update(
        self, grads: PyTree, state: PyTree, params: PyTree, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        update = optax.with_extra_args_support(self.transformation).update
        with jax.numpy_dtype_promotion("standard"):
            return update(grads, state, params, **extra)

    def eval_params(self, state: PyTree, params: PyTree) -> PyTree:
        with jax.numpy_dtype_promotion("standard"):
            return (self.own_eval_params or eval_params)(state, params)


def as_optimizer(optimizer: Any) -> Any:
    """Return an optimizer that can be an argument of a compiled function.

    fnn's optimizers can, and so can any registered pytree of numbers; all else, such as
    optax's named tuples of functions, is wrapped in an `OptaxOptimizer`. One that is
    made again, of the same code and numbers, is equal to the first, and not compiled
    again.
    """
    if holds_numbers(optimizer):
        return optimizer
    if isinstance(optimizer, optax.GradientTransformation):
        return OptaxOptimizer(first_equal(optimizer))
    kind = optax.GradientTransformation
    if takes_extra(optimizer.update):
        kind = optax.GradientTransformationExtraArgs
    return OptaxOptimizer(
        first_equal(kind(optimizer.init, optimizer.update)),
        first_equal(getattr(optimizer, "eval_params", None)),
    )


def initial_carry(optimizer: Any, variables: Variables) -> Carry:
    """Return the carry before the first step, made of copies.

    An epoch donates its carry. Without copies that would delete the arrays of the
    caller, and fail where an optimizer's state holds the parameters themselves.
    """
    variables = jax.tree.map(jnp.asarray, Variables(*variables))
    return copy_arrays(Carry(variables, optimizer.init(variables.params)))


def copy_arrays(tree: PyTree) -> PyTree:
    """Copy a tree of arrays; no copy has a weak type, which would compile again."""

    def copy(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        return jnp.array(leaf, dtype=leaf.dtype, copy=True)

    return jax.tree.map(copy, tree)


def descend(
    net: Layer, optimizer: Any, carry: Carry, out: Gradients, cost: Any
) -> Carry:
    """Take one step: Θ ← Θ + update(g), but for frozen parameters, which stay.

    Args:
        net: the network, which says what is frozen.
        optimizer: one that `as_optimizer` returned.
        carry: the state before the step.
        out: what the engine returned for the minibatch.
        cost: J of the minibatch, a function of Θ.

    Returns:
        The state after the step.
    """
    params = carry.variables.params
    result = update(optimizer, out.grads, carry, out.loss, cost)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"optimizer.update must return (updates, state), got {describe(result)}"
        )
    updates, state = result
    _expect_like("updates", "the parameters", params, updates, dtypes=False)
    _expect_like("a state", "the one it is given", carry.optimizer_state, state)
    params = optax.apply_updates(params, keep_frozen(net, updates))
    return Carry(Variables(params, out.state), state)


def update(
    optimizer: Any, grads: PyTree, carry: Carry, value: Array, cost: Any
) -> tuple[PyTree, PyTree]:
    """Return the updates and the next state, as the optimizer returns them.

    Args:
        optimizer: one that `as_optimizer` returned.
        grads: the gradient of J.
        carry: the state before the step.
        value: J.
        cost: J as a function of Θ.
    """
    extra: dict[str, Any] = {}
    if takes_extra(optimizer.update):
        # L-BFGS, Polyak and plateau want them, and L-BFGS no others.
        extra = {"value": value, "grad": grads, "value_fn": cost}
    params = carry.variables.params
    try:
        return optimizer.update(grads, carry.optimizer_state, params, **extra)
    except (TypeError, ValueError) as error:
        error.add_note(
            "in optimizer.update(grads, state, params), to which fnn.fit passes "
            "value=, grad= and value_fn= (of this minibatch) if it takes **extra, and "
            "no more"
        )
        raise


def _expect_like(
    what: str, which: str, expected: PyTree, given: PyTree, dtypes: bool = True
) -> None:
    """Raise where `optimizer.update` returned a tree of another structure or shapes."""
    lines = differences(expected, given, dtypes=dtypes)
    if not lines and jax.tree.structure(expected) != jax.tree.structure(given):
        lines = [f"expected {describe(expected)}", f"got {describe(given)}"]
    if lines:
        shown = lines[:5] + ["..."] * (len(lines) > 5)
        raise ValueError(
            f"optimizer.update must return {what} like {which}:\n  "
            + "\n  ".join(shown)
        )
