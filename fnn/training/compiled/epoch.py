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

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnn.augmentations import Augmentation
from fnn.core import Layer
from fnn.dtypes import all_finite
from fnn.gradients.engines import Engine, objective, value_and_grad
from fnn.losses import Loss
from fnn.optimizers import loss_scale
from fnn.training.compiled.descent import Carry, descend
from fnn.training.compiled.meshes import split
from fnn.training.compiled.order import shuffle
from fnn.typing import Batch

__all__ = [
    "NONE",
    "Bad",
    "Epoch",
    "augmented",
    "epoch",
    "keys_of",
    "minibatch",
    "run_epoch",
    "run_epoch_on",
    "run_steps",
    "run_steps_on",
    "schedule",
    "steps",
]


#: Folded into a step's key for the augmentation: "augm" in ASCII. The layers fold in
#: small numbers, 0 for the first child.
FOR_AUGMENTATION = 0x6175676D


class Bad(NamedTuple):
    """Steps whose loss or gradient was not finite.

    `count` how many, `first` the number of the first (−1 if none), `seen` of how many.
    """

    count: Any
    first: Any
    seen: Any


#: Before the first step.
NONE = Bad(np.int32(0), np.int32(-1), np.int32(0))


class Epoch(NamedTuple):
    """The result of an epoch.

    carry: what is carried on.
    losses: J (S,) of every minibatch.
    finite: whether all losses are, and all variables in the end.
    bad: the bad steps, where a guard looked for them.
    """

    carry: Carry
    losses: Array
    finite: Array
    bad: Bad


def epoch(
    net: Layer,
    loss: Loss,
    optimizer: Any,
    carry: Carry,
    data: Batch,
    key: Array,
    number: int | Array,
    l2: float | Array | None = None,
    *,
    augment: Augmentation | None = None,
    engine: Engine,
    batch_size: int,
    mesh: Mesh | None = None,
    guard: str | None = None,
) -> Epoch:
    """Every example once, in a new order, in minibatches.

        (k_order, k_step) = split(fold_in(key, number))
        order = shuffle(k_order, N)
        step t: the batch order[tB : (t+1)B], the layers' key k_t = fold_in(k_step, t)

        x ← augment(fold_in(k_t, 0x6175676D), x)
        g = ∂J/∂Θ of the batch,    Θ ← Θ + update(g)

    A pure function, for `jit` (`run_epoch` is that), `vmap` or a loop of your own.

    Args:
        net: the network.
        loss: the loss.
        optimizer: one that `descent.as_optimizer` returned.
        carry: what `descent.start`, or the epoch before, returned.
        data: x (N, ...) and y (N, ...), on the device.
        key: of the run.
        number: of this epoch: 1, 2, ...
        l2: λ of the penalty λ/(2N) Σ Θ²; None computes none at all.
        augment: one that `as_augmentation` returned, or None. The order and the keys of
            the layers do not depend on it.
        engine: a function with an engine's signature.
        batch_size: B, at most N.
        mesh: the devices that a minibatch is split over (see `meshes`), or None.
        guard: "skip" leaves out every step whose loss or gradient is not finite, "stop"
            the first such step and all that follow. That costs a pass over every
            gradient; without one (None) it is only said whether all went well.

    Returns:
        An `Epoch`: the new carry, and J of every minibatch, the penalty included. The
        mean over the examples weights them by `batch_sizes(N, B)`.

    Example:
        >>> import jax, jax.numpy as jnp, fnn, optax
        >>> from fnn.gradients.engines import manual
        >>> from fnn.training.compiled.descent import as_optimizer, start
        >>> net, loss = fnn.serial(fnn.Dense(1)), fnn.losses.SquaredError()
        >>> optimizer = as_optimizer(optax.sgd(0.1))
        >>> carry = start(optimizer, net.init(jax.random.key(0), (2,)))
        >>> data = jnp.ones((5, 2)), jnp.zeros((5, 1))
        >>> out = epoch(net, loss, optimizer, carry, data, jax.random.key(1), 1,
        ...             engine=manual, batch_size=2)
        >>> out.losses.shape
        (3,)
    """
    n = len(data[0])
    chosen, rest, step_key = schedule(key, number, n, batch_size)

    def read(at: tuple[Array, Array]) -> tuple[Batch, Array]:
        indices, t = at
        step_t = jax.random.fold_in(step_key, t)
        return minibatch(data, indices, step_t, augment, mesh), step_t

    step = _step(net, loss, optimizer, read, l2, n, engine, guard)
    state, losses = lax.scan(step, (carry, NONE), chosen)
    if len(rest):
        state, last = step(state, (rest, jnp.asarray(len(losses))))
        losses = jnp.append(losses, last)
    return _ended(state, losses)


def steps(
    net: Layer,
    loss: Loss,
    optimizer: Any,
    carry: Carry,
    data: Batch,
    first: Array,
    key: Array,
    l2: float | Array | None = None,
    n: int | None = None,
    *,
    augment: Augmentation | None = None,
    engine: Engine,
    mesh: Mesh | None = None,
    guard: str | None = None,
) -> Epoch:
    """Some steps of an epoch, on given minibatches: x (k, B, ...), y (k, B, ...).

    As `epoch`, of whose keys `key` is k_step and `first` the number of the first step.
    n is the number of training examples, for the penalty.
    """

    def read(at: tuple[Batch, Array]) -> tuple[Batch, Array]:
        batch, t = at
        step_t = jax.random.fold_in(key, t)
        x, y = split(batch, mesh)
        return (augmented(augment, step_t, x), y), step_t

    step = _step(net, loss, optimizer, read, l2, n, engine, guard)
    numbers = first + jnp.arange(len(data[0]))
    state, losses = lax.scan(step, (carry, NONE), (data, numbers))
    return _ended(state, losses)


def _step(net, loss, optimizer, read, l2, n, engine, guard) -> Any:
    """The body of the scan: `read` gives the minibatch of a step, and its key."""
    penalty = 0.0 if l2 is None else l2
    grad_fn = value_and_grad(net, loss, engine, l2=penalty, n=n)
    precision = getattr(engine, "precision", None)

    def step(state: tuple[Carry, Bad], at: Any) -> tuple[tuple[Carry, Bad], Array]:
        carry, bad = state
        batch, key = read(at)
        scale = loss_scale(carry.optimizer_state)
        out = grad_fn(carry.variables, batch, key=key, loss_scale=scale)
        options = dict(key=key, l2=penalty, n=n, precision=precision)
        cost = objective(net, loss, carry.variables, batch, **options)
        if guard is None:
            return (descend(optimizer, carry, out, cost), bad), out.loss
        fine = all_finite((out.loss, out.grads))
        bad = _count(bad, fine)
        # An optimizer that scales the loss leaves bad steps out itself, and must see
        # them: only then does its scale fall.
        go = bad.count == 0 if guard == "stop" else fine | (scale is not None)
        # Not a `where` over all that is carried: that would copy it at every step.
        carry = lax.cond(
            go, lambda: descend(optimizer, carry, out, cost), lambda: carry
        )
        return (carry, bad), out.loss

    return step


def _ended(state: tuple[Carry, Bad], losses: Array) -> Epoch:
    carry, bad = state
    return Epoch(carry, losses, all_finite((losses, carry.variables)), bad)


def keys_of(key: Array, number: int | Array) -> tuple[Array, Array]:
    """k_order and k_step of a run's epoch of that number."""
    order_key, step_key = jax.random.split(jax.random.fold_in(key, number))
    return order_key, step_key


def schedule(
    key: Array, number: int | Array, n: int, batch_size: int
) -> tuple[tuple[Array, Array], Array, Array]:
    """Which examples at which step: those of the full steps, the rest, the steps' key.

    `key` is the run's, `number` the epoch's. The full steps are indices (⌊n/B⌋, B) and
    numbers (⌊n/B⌋,), the rest (n mod B,).
    """
    order_key, step_key = keys_of(key, number)
    steps = n // batch_size
    full, rest = jnp.split(shuffle(order_key, n), [steps * batch_size])
    return (full.reshape(steps, batch_size), jnp.arange(steps)), rest, step_key


def minibatch(
    data: Batch,
    indices: Array,
    key: Array,
    augment: Augmentation | None,
    mesh: Mesh | None,
) -> Batch:
    """The examples of a step, augmented by its key."""
    # One gather a step: faster than shuffling all data first, and no second copy.
    x, y = (part.at[indices].get(mode="promise_in_bounds") for part in data)
    x, y = split((x, y), mesh)
    return augmented(augment, key, x), y


def augmented(augment: Augmentation | None, key: Array, x: Array) -> Array:
    """The images of a step, whose key is given."""
    if augment is None:
        return x
    return augment(jax.random.fold_in(key, FOR_AUGMENTATION), x)


def _count(bad: Bad, fine: Array) -> Bad:
    first = jnp.where((bad.count == 0) & ~fine, bad.seen, bad.first)
    return Bad(bad.count + (~fine).astype(jnp.int32), first, bad.seen + 1)


# ---- Compiled; on many devices what comes out stays in place -------------------------

_static = {
    epoch: ("engine", "batch_size", "mesh", "guard"),
    steps: ("engine", "mesh", "guard", "n"),
}


def _compiled(function: Any, **options: Any) -> Any:
    return jax.jit(
        function,
        static_argnames=_static[function],
        donate_argnames=("carry",),
        **options,
    )


#: `epoch`, compiled. The carry that goes in is donated: use the one that comes out.
run_epoch = _compiled(epoch)
#: `steps`, compiled likewise.
run_steps = _compiled(steps)


def run_epoch_on(mesh: Mesh | None, carry: Carry) -> Any:
    """`run_epoch` for a carry on many devices: what comes out lies where it lay.

    Left to XLA, some of it would lie elsewhere, and the next epoch compile once more.
    """
    return run_epoch if mesh is None else _in_place(epoch, carry, mesh)


def run_steps_on(mesh: Mesh | None, carry: Carry) -> Any:
    """The same for `run_steps`."""
    return run_steps if mesh is None else _in_place(steps, carry, mesh)


def _in_place(function: Any, carry: Carry, mesh: Mesh) -> Any:
    leaves, structure = jax.tree.flatten(jax.tree.map(lambda a: a.sharding, carry))
    return _kept_in_place(function, tuple(leaves), structure, mesh)


@cache
def _kept_in_place(function: Any, leaves: tuple, structure: Any, mesh: Mesh) -> Any:
    carry: Any = jax.tree.unflatten(structure, leaves)
    everywhere: Any = NamedSharding(mesh, PartitionSpec())
    rest = everywhere, everywhere, jax.tree.map(lambda _: everywhere, NONE)
    return _compiled(function, out_shardings=Epoch(carry, *rest))
