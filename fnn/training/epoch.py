"""The compiled unit of training: one epoch is one program.

    jit( scan over shuffled minibatches of data that already live on the device )

Nothing is called back from inside. With N examples and batches of B, an epoch has
⌊N/B⌋ steps of B examples and, where B does not divide N, one smaller step for the
rest. (Padding the rest would be wrong: BatchNorm would see the padding.)

The network, the loss and fnn's augmentations and optimizers are pytrees and go in as
ordinary arguments: rebuilding the same network, or changing a dropout rate, a learning
rate or λ, does not compile again. The engine and the batch size are compiled in, and so
are the closures that an optax optimizer is made of.

Legend: N training examples, B batch size, S = ⌈N/B⌉ steps.
"""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnn.augmentations import Augmentation
from fnn.core import Layer, PyTree, Variables
from fnn.gradients.engines import Engine, Gradients, objective, value_and_grad
from fnn.losses import Loss
from fnn.optimizers import eval_params
from fnn.pytree import holds_numbers, pytree
from fnn.training.batches import shuffle
from fnn.training.meshes import split

__all__ = [
    "Carry",
    "Epoch",
    "Transformation",
    "as_optimizer",
    "epoch",
    "run_epoch",
    "run_epoch_on",
    "start",
]

Batch = tuple[Array, Array]

#: Folded into a step's key for the augmentation: "augm" in ASCII. The layers fold in
#: small numbers, 0 for the first child.
FOR_AUGMENTATION = 0x6175676D


class Carry(NamedTuple):
    """What training carries from step to step.

    `variables` are those that gradients are taken at: for a look-ahead optimizer θ̂,
    and `optimizer.eval_params(optimizer_state, params)` gives θ.
    """

    variables: Variables
    optimizer_state: PyTree


class Epoch(NamedTuple):
    """The result of an epoch: what is carried on, and J (S,) of every minibatch."""

    carry: Carry
    losses: Array


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


def epoch(
    net: Layer,
    loss: Loss,
    optimizer: Any,
    carry: Carry,
    data: Batch,
    key: Array,
    l2: float | Array | None = None,
    *,
    augment: Augmentation | None = None,
    engine: Engine,
    batch_size: int,
    mesh: Mesh | None = None,
) -> Epoch:
    """Every example once, in a new order, in minibatches.

        (k_order, k_step) = split(key)
        order = shuffle(k_order, N)
        step t: the batch order[tB : (t+1)B], the layers' key k_t = fold_in(k_step, t)

        x ← augment(fold_in(k_t, 0x6175676D), x)
        g = ∂J/∂Θ of the batch,    Θ ← Θ + update(g)

    A pure function, for `jit` (`run_epoch` is that), `vmap` or a loop of your own.

    Args:
        net: the network.
        loss: the loss.
        optimizer: one that `as_optimizer` returned.
        carry: what `start`, or the epoch before, returned.
        data: x (N, ...) and y (N, ...), on the device.
        key: of this epoch.
        l2: λ of the penalty λ/(2N) Σ Θ²; None computes none at all.
        augment: one that `as_augmentation` returned, or None. The order and the keys of
            the layers do not depend on it.
        engine: a function with an engine's signature.
        batch_size: B, at most N.
        mesh: the devices that a minibatch is split over (see `meshes`), or None.

    Returns:
        The new carry, and J of every minibatch, the penalty included: (S,). The mean
        over the examples weights them by `batch_sizes(N, B)`.

    Example:
        >>> import jax, jax.numpy as jnp, fnn, optax
        >>> from fnn.gradients.engines import manual
        >>> net, loss = fnn.serial(fnn.Dense(1)), fnn.losses.SquaredError()
        >>> optimizer = as_optimizer(optax.sgd(0.1))
        >>> carry = start(optimizer, net.init(jax.random.key(0), (2,)))
        >>> data = jnp.ones((5, 2)), jnp.zeros((5, 1))
        >>> out = epoch(net, loss, optimizer, carry, data, jax.random.key(1),
        ...             engine=manual, batch_size=2)
        >>> out.losses.shape
        (3,)
    """
    n = len(data[0])
    penalty = 0.0 if l2 is None else l2
    grad_fn = value_and_grad(net, loss, engine, l2=penalty, n=n)
    order_key, step_key = jax.random.split(key)
    order = shuffle(order_key, n)

    def step(carry: Carry, chosen: tuple[Array, Array]) -> tuple[Carry, Array]:
        indices, t = chosen
        # One gather a step: faster than shuffling all data first, and no second copy.
        x, y = (part.at[indices].get(mode="promise_in_bounds") for part in data)
        x, y = split((x, y), mesh)
        step_t = jax.random.fold_in(step_key, t)
        if augment is not None:
            x = augment(jax.random.fold_in(step_t, FOR_AUGMENTATION), x)
        out = grad_fn(carry.variables, (x, y), key=step_t)
        cost = objective(
            net, loss, carry.variables, (x, y), key=step_t, l2=penalty, n=n
        )
        return _descend(optimizer, carry, out, cost), out.loss

    steps = n // batch_size
    full, rest = jnp.split(order, [steps * batch_size])
    chosen = full.reshape(steps, batch_size), jnp.arange(steps)
    carry, losses = lax.scan(step, carry, chosen)
    if len(rest):
        carry, last = step(carry, (rest, jnp.asarray(steps)))
        losses = jnp.append(losses, last)
    return Epoch(carry, losses)


#: `epoch`, compiled. The carry that goes in is donated: use the one that comes out.
_compile = partial(
    jax.jit,
    epoch,
    static_argnames=("engine", "batch_size", "mesh"),
    donate_argnames=("carry",),
)
run_epoch = _compile()


def run_epoch_on(mesh: Mesh | None, carry: Carry) -> Any:
    """`run_epoch` for a carry on many devices: what comes out lies where it lay.

    Left to XLA, some of it would lie elsewhere, and the next epoch compile once more.
    """
    if mesh is None:
        return run_epoch
    leaves, structure = jax.tree.flatten(jax.tree.map(lambda a: a.sharding, carry))
    return _kept_in_place(tuple(leaves), structure, mesh)


@cache
def _kept_in_place(leaves: tuple, structure: Any, mesh: Mesh) -> Any:
    carry: Any = jax.tree.unflatten(structure, leaves)
    losses: Any = NamedSharding(mesh, PartitionSpec())
    return _compile(out_shardings=Epoch(carry, losses))


def _descend(optimizer: Any, carry: Carry, out: Gradients, cost: Any) -> Carry:
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
