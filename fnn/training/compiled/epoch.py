"""The compiled unit of training: one epoch is one program.

    jit( scan over shuffled minibatches of data that already live on the device )

The program never calls back to Python. With N examples and batches of B, an epoch has
⌊N/B⌋ steps of B examples and, where B does not divide N, one smaller step for the
rest. (Padding the rest would be wrong: BatchNorm would see the padding.) The smaller
step is compiled by itself; a plan takes longer to compile than plain layers, which
can take its place there.

The network, the loss and fnn's augmentations and optimizers are pytrees and go in as
ordinary arguments: rebuilding the same network, or changing a dropout rate, a learning
rate or λ, does not compile again. The engine and the batch size are compiled in, and so
are the closures that an optax optimizer is made of.

Legend: N training examples, B batch size, S = ⌈N/B⌉ steps.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnn.augmentations import Augmentation
from fnn.core import Layer
from fnn.dtypes import all_finite
from fnn.gradients.engines import Engine, objective, value_and_grad
from fnn.losses import Loss
from fnn.optimizers import loss_scale
from fnn.shapes import count_examples
from fnn.training.compiled.descent import Carry, descend
from fnn.training.compiled.order import epoch_order, minibatch
from fnn.typing import Array, Batch, KeyArray, Number, Scalar

__all__ = [
    "NO_BAD_STEPS",
    "BadSteps",
    "Epoch",
    "epoch",
    "epoch_program",
    "run_epoch",
    "run_steps",
    "steps",
    "steps_program",
]


class BadSteps(NamedTuple):
    """The steps whose loss, gradient or new state was not finite.

    count: how many there were.
    first: the number of the first one, −1 if there was none.
    seen: the number of steps that were looked at.
    """

    count: Any
    first: Any
    seen: Any


#: The value before the first step.
NO_BAD_STEPS = BadSteps(np.int32(0), np.int32(-1), np.int32(0))


class Epoch(NamedTuple):
    """The result of an epoch.

    carry: the state after the last step.
    losses: J (S,) of every minibatch.
    finite: whether all losses are finite, and all variables after the last step.
    bad_steps: the bad steps, where a guard looked for them.
    """

    carry: Carry
    losses: Array
    finite: Array
    bad_steps: BadSteps


def epoch(
    net: Layer,
    loss: Loss,
    optimizer: Any,
    carry: Carry,
    data: Batch,
    key: KeyArray,
    number: int | Array,
    l2: Number | None = None,
    *,
    rest_net: Layer | None = None,
    augment: Augmentation | None = None,
    engine: Engine,
    batch_size: int,
    mesh: Mesh | None = None,
    guard: str | None = None,
) -> Epoch:
    """Train on every example once, in a new order, in minibatches.

        (k_order, k_step) = split(fold_in(key, number))
        order = shuffle(k_order, N)
        step t: the batch order[tB : (t+1)B], the layers' key k_t = fold_in(k_step, t)

        x ← augment(fold_in(k_t, 0x6175676D), x)
        g = ∂J/∂Θ of the batch,    Θ ← Θ + update(g)

    It is a pure function, for `jit` (`run_epoch` is the compiled one), `vmap` or a loop
    of your own.

    Args:
        net: the network.
        loss: the loss.
        optimizer: one that `descent.as_optimizer` returned.
        carry: what `descent.initial_carry`, or the epoch before, returned.
        data: x (N, ...) and y (N, ...), on the device.
        key: the key of the run.
        number: the number of this epoch: 1, 2, ...
        l2: λ of the penalty λ/(2N) Σ Θ²; None computes none at all.
        rest_net: an equivalent network for the last step, where that is smaller; None
            for `net`.
        augment: one that `as_augmentation` returned, or None. The order and the keys of
            the layers do not depend on it.
        engine: a function with an engine's signature.
        batch_size: B, at most N.
        mesh: the devices that a minibatch is sharded over (see `meshes`), or None.
        guard: "skip" leaves out every step whose loss, gradient or new state is not
            finite, "stop" the first such step and all that follow. That costs a pass
            over every gradient; with None, only the result says whether all numbers are
            finite.

    Returns:
        An `Epoch`: the new carry, and J of every minibatch, the penalty included. The
        mean over the examples weights them by `batch_sizes(N, B)`.

    Example:
        >>> import jax, jax.numpy as jnp, fnn, optax
        >>> from fnn.gradients.engines import manual
        >>> from fnn.training.compiled.descent import as_optimizer, initial_carry
        >>> net, loss = fnn.serial(fnn.Dense(1)), fnn.losses.SquaredError()
        >>> optimizer = as_optimizer(optax.sgd(0.1))
        >>> carry = initial_carry(optimizer, net.init(jax.random.key(0), (2,)))
        >>> data = jnp.ones((5, 2)), jnp.zeros((5, 1))
        >>> out = epoch(net, loss, optimizer, carry, data, jax.random.key(1), 1,
        ...             engine=manual, batch_size=2)
        >>> out.losses.shape
        (3,)
    """
    n = count_examples(data)
    full, rest, step_key = epoch_order(key, number, n, batch_size)

    def read_batch(inputs: tuple[Array, Array]) -> tuple[Batch, KeyArray]:
        indices, t = inputs
        return minibatch(data, indices, t, step_key, augment, mesh)

    others = loss, optimizer, read_batch, l2, n, engine, guard
    step = _scan_body(net, *others)
    inputs = full, jnp.arange(len(full))
    state, losses = lax.scan(step, (carry, NO_BAD_STEPS), inputs)
    if len(rest):
        step = step if rest_net is None else _scan_body(rest_net, *others)
        state, last = step(state, (rest, jnp.asarray(len(losses))))
        losses = jnp.append(losses, last)
    return _as_epoch(state, losses)


def steps(
    net: Layer,
    loss: Loss,
    optimizer: Any,
    carry: Carry,
    data: Batch,
    first: Array,
    key: KeyArray,
    l2: Number | None = None,
    n: int | None = None,
    *,
    augment: Augmentation | None = None,
    engine: Engine,
    mesh: Mesh | None = None,
    guard: str | None = None,
) -> Epoch:
    """Take some steps of an epoch, on given minibatches.

    The arguments are those of `epoch`, except for these.

    Args:
        net: the network.
        loss: the loss.
        optimizer: the optimizer.
        carry: the state before the first of these steps.
        data: the minibatches x (k, B, ...) and y (k, B, ...) of k steps.
        first: the number of the first of these steps.
        key: k_step of the epoch.
        l2: λ.
        n: the number of training examples, for the penalty.
        augment: an augmentation or None.
        engine: an engine.
        mesh: the devices, or None.
        guard: "skip", "stop" or None.

    Returns:
        An `Epoch` of these steps alone.
    """

    def read_batch(inputs: tuple[Batch, Array]) -> tuple[Batch, KeyArray]:
        batch, t = inputs
        return minibatch(batch, None, t, key, augment, mesh)

    step = _scan_body(net, loss, optimizer, read_batch, l2, n, engine, guard)
    numbers = first + jnp.arange(count_examples(data))
    state, losses = lax.scan(step, (carry, NO_BAD_STEPS), (data, numbers))
    return _as_epoch(state, losses)


def _scan_body(
    net: Layer,
    loss: Loss,
    optimizer: Any,
    read_batch: Callable[[Any], tuple[Batch, KeyArray]],
    l2: Number | None,
    n: int | None,
    engine: Engine,
    guard: str | None,
) -> Callable[..., tuple[tuple[Carry, BadSteps], Scalar]]:
    """Return the body of the scan: one step of descent.

    `read_batch` returns the minibatch of a step, and its key, from the scan's inputs.
    """
    penalty = 0.0 if l2 is None else l2
    grad_fn = value_and_grad(net, loss, engine, l2=penalty, n=n)
    precision = getattr(engine, "precision", None)

    def step(
        state: tuple[Carry, BadSteps], inputs: Any
    ) -> tuple[tuple[Carry, BadSteps], Scalar]:
        carry, bad_steps = state
        batch, key = read_batch(inputs)
        scale = loss_scale(carry.optimizer_state)
        out = grad_fn(carry.variables, batch, key=key, loss_scale=scale)
        options = dict(key=key, l2=penalty, n=n, precision=precision)
        cost = objective(net, loss, carry.variables, batch, **options)
        if guard is None:
            return (descend(net, optimizer, carry, out, cost), bad_steps), out.loss
        # A layer's state may be infinite from the beginning; then it tells nothing.
        stays = all_finite(out.state) | ~all_finite(carry.variables.state)
        finite = all_finite((out.loss, out.grads)) & stays
        bad_steps = _count(bad_steps, finite)
        # An optimizer that scales the loss leaves bad steps out itself, and must see
        # them: only then does its scale fall.
        takes_step = (
            bad_steps.count == 0 if guard == "stop" else finite | (scale is not None)
        )
        # Not a `where` over the whole carry: that would copy it at every step.
        carry = lax.cond(
            takes_step, lambda: descend(net, optimizer, carry, out, cost), lambda: carry
        )
        return (carry, bad_steps), out.loss

    return step


def _as_epoch(state: tuple[Carry, BadSteps], losses: Array) -> Epoch:
    carry, bad_steps = state
    return Epoch(carry, losses, all_finite((losses, carry.variables)), bad_steps)


def _count(bad_steps: BadSteps, finite: Array) -> BadSteps:
    """Count one step more, which is bad if `finite` is false."""
    count, first, seen = bad_steps
    first = jnp.where((count == 0) & ~finite, seen, first)
    return BadSteps(count + (~finite).astype(jnp.int32), first, seen + 1)


# ---- Compiled; on many devices the new carry stays where the old one was -------------

_STATIC_ARGUMENTS = {
    "epoch": ("engine", "batch_size", "mesh", "guard"),
    "steps": ("engine", "mesh", "guard", "n"),
}


def _compiled(function: Callable[..., Epoch], **options: Any) -> Any:
    return jax.jit(
        function,
        static_argnames=_STATIC_ARGUMENTS[function.__name__],
        donate_argnames=("carry",),
        **options,
    )


#: `epoch`, compiled. The carry that goes in is donated: use the one that comes out.
run_epoch = _compiled(epoch)
#: `steps`, compiled in the same way.
run_steps = _compiled(steps)


def epoch_program(mesh: Mesh | None, carry: Carry) -> Any:
    """Return `run_epoch` for a carry on these devices, which the new carry stays on.

    XLA would choose other devices for some arrays, and the next epoch would be compiled
    once more.
    """
    return run_epoch if mesh is None else _in_place(epoch, carry, mesh)


def steps_program(mesh: Mesh | None, carry: Carry) -> Any:
    """Return `run_steps` for a carry on these devices, as `epoch_program` does."""
    return run_steps if mesh is None else _in_place(steps, carry, mesh)


def _in_place(function: Callable[..., Epoch], carry: Carry, mesh: Mesh) -> Any:
    leaves, structure = jax.tree.flatten(jax.tree.map(lambda a: a.sharding, carry))
    return _compiled_in_place(function, tuple(leaves), structure, mesh)


@cache
def _compiled_in_place(
    function: Callable[..., Epoch],
    shardings: tuple[Any, ...],
    structure: Any,
    mesh: Mesh,
) -> Any:
    """Compile a function whose new carry has the given shardings; cached by them."""
    carry: Any = jax.tree.unflatten(structure, shardings)
    everywhere: Any = NamedSharding(mesh, PartitionSpec())
    bad_steps: Any = jax.tree.map(lambda _: everywhere, NO_BAD_STEPS)
    return _compiled(
        function, out_shardings=Epoch(carry, everywhere, everywhere, bad_steps)
    )
