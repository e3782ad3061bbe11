"""One step of descent, with fnn's optimizers and optax's alike."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fnn.core import Variables
from fnn.gradients.engines import Gradients
from fnn.optimizers import eval_params
from fnn.pytree import holds_numbers, pytree
from fnn.typing import PyTree

__all__ = ["Carry", "Transformation", "as_optimizer", "copied", "descend", "start"]


class Carry(NamedTuple):
    """What training carries from step to step.

    `variables` are those that gradients are taken at: for a look-ahead optimizer θ̂,
    and `optimizer.eval_params(optimizer_state, params)` gives θ.
    """

    variables: Variables
    optimizer_state: PyTree


@pytree
class Transformation:
    """An optax optimizer as a pytree: its closures are structure, and compiled in.

    Args:
        transformation: anything with optax's `init` and `update`.
    """

    transformation: optax.GradientTransformation

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
        return eval_params(state, params)


def as_optimizer(optimizer: Any) -> Any:
    """An optimizer that can be an argument of a compiled function.

    fnn's optimizers are, and so is any registered pytree of numbers; all else, optax's
    named tuples of functions included, is wrapped in a `Transformation`.
    """
    if holds_numbers(optimizer):
        return optimizer
    if isinstance(optimizer, optax.GradientTransformation):
        return Transformation(optimizer)
    return Transformation(
        optax.GradientTransformation(optimizer.init, optimizer.update)
    )


def start(optimizer: Any, variables: Variables) -> Carry:
    """The first carry, made of copies.

    An epoch donates its carry. Without copies that would delete the arrays of the
    caller, and fail where an optimizer's state holds the parameters themselves.
    """
    variables = jax.tree.map(jnp.asarray, Variables(*variables))
    return copied(Carry(variables, optimizer.init(variables.params)))


def copied(tree: PyTree) -> PyTree:
    """The same numbers in new arrays; none of a weak type, which would retrace."""

    def copy(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        return jnp.array(leaf, dtype=leaf.dtype, copy=True)

    return jax.tree.map(copy, tree)


def descend(optimizer: Any, carry: Carry, out: Gradients, cost: Any) -> Carry:
    """One step: Θ ← Θ + update(g). `cost` is J of the minibatch, a function of Θ."""
    params = carry.variables.params
    extra: dict[str, Any] = {}
    if isinstance(optimizer, Transformation):
        # L-BFGS, Polyak and plateau want them; optax drops them for all others.
        extra = {"value": out.loss, "grad": out.grads, "value_fn": cost}
    try:
        updates, state = optimizer.update(
            out.grads, carry.optimizer_state, params, **extra
        )
    except TypeError as error:
        error.add_note(
            "in optimizer.update(grads, state, params), which fnn.fit gives value=, "
            "grad= and value_fn= (of this minibatch) where it is optax's, and no more"
        )
        raise
    params = optax.apply_updates(params, updates)
    return Carry(Variables(params, out.state), state)
