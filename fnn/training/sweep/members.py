"""Many training runs at once, each stopped in its own time, in one compiled program.

What `fit` does in a Python loop is here a `lax.while_loop` over epochs whose body is
mapped over the members. A member that has stopped is computed along with the others,
but keeps its state: nothing of its new state is taken. The loop ends when all members
have stopped.

Legend: M members, E epochs, V = ⌊E / every⌋ evaluations, S batches.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.augmentations import Augmentation
from fnn.core import Layer, Variables
from fnn.dtypes import all_finite
from fnn.losses import Weighted
from fnn.shapes import count_examples, example_shape
from fnn.training.compiled.descent import Carry, as_optimizer, initial_carry
from fnn.training.compiled.epoch import epoch
from fnn.training.compiled.order import batch_sizes, subset
from fnn.training.early_stopping import EarlyStopping
from fnn.training.evaluation import evaluate_batches
from fnn.training.planned import plan_network
from fnn.training.run.loop import VALIDATION_BATCH, eval_variables
from fnn.training.sweep.records import (
    Member,
    MemberSpec,
    SweepSpec,
    SweepState,
    TrainedMembers,
)
from fnn.typing import Array, Batch, Bool, KeyArray, PyTree, Scalar, Shaped

__all__ = ["train_members"]


@partial(jax.jit, static_argnames=("spec",))
def train_members(
    spec: SweepSpec,
    members: Member,
    train: Batch,
    validation: Batch | None,
    augment: Augmentation | None,
    early_stopping: EarlyStopping | None,
) -> TrainedMembers:
    """Train all members.

    Args:
        spec: the specification of the sweep.
        members: hyperparameters and keys with a leading axis M.
        train: x (N, ...) and y (N, ...).
        validation: the same of other examples, or None.
        augment: an augmentation, or None.
        early_stopping: when to stop each member, or None.

    Returns:
        The variables and the history of each member.
    """
    every = 1 if early_stopping is None else early_stopping.every
    count = len(members.key)
    over_members = partial(_over_members, count)
    plan_net = partial(
        plan_network,
        mode=spec.plan,
        in_shape=example_shape(train[0]),
        batch_size=spec.batch_size,
        engine=spec.engine,
        ensemble=count > 1,
    )

    def one_epoch(state: tuple[Array, SweepState]) -> tuple[Array, SweepState]:
        t, before = state
        t = t + 1
        run = over_members(partial(_train_epoch, spec, plan_net, train, augment, t))
        carry, losses = run(members, before.carry)
        finite = over_members(all_finite)(carry.variables.params)
        diverged = ~jnp.isfinite(losses) & ~finite
        after = before._replace(
            carry=carry,
            diverged=diverged,
            running=~diverged,
            epochs=jnp.broadcast_to(t, before.epochs.shape),
            train_loss=before.train_loss.at[:, t - 1].set(losses.astype(float)),
        )
        if validation is not None:
            after = lax.cond(t % every == 0, evaluate, lambda t, after: after, t, after)
        return t, _select(before.running, after, before)

    def evaluate(t: Array, state: SweepState) -> SweepState:
        assert validation is not None
        validate = partial(_validate, spec, plan_net, validation, early_stopping)
        values = over_members(validate)(members, state.carry)
        return _record_evaluation(over_members, early_stopping, t, state, *values)

    def continues(state: tuple[Array, SweepState]) -> Array:
        t, now = state
        return (t < spec.epochs) & now.running.any()

    carry = over_members(partial(_initial_carry, spec, train))(members)
    first = _initial_state(spec, carry, early_stopping, validation)
    start = jnp.zeros((), jnp.int32), first
    _, end = lax.while_loop(continues, one_epoch, start)
    last = over_members(partial(_eval_variables, spec))(members, end.carry)
    return _trained_members(end, last, early_stopping)


# ---- One member ------------------------------------------------------------------


def _build(spec: SweepSpec, member: Member) -> tuple[MemberSpec, KeyArray]:
    """Return a member's specification and the key of its epochs, as in `fit`."""
    built = MemberSpec(*spec.build(**member.hyperparameters))
    if spec.is_weighted:
        built = built._replace(loss=Weighted(built.loss))
    return built, jax.random.split(member.key)[1]


def _initial_carry(spec: SweepSpec, train: Batch, member: Member) -> Carry:
    built, _ = _build(spec, member)
    init_key = jax.random.split(member.key)[0]
    variables = built.net.init(init_key, example_shape(train[0]))
    return initial_carry(as_optimizer(built.optimizer), variables)


def _train_epoch(
    spec: SweepSpec,
    plan_net: Callable[[Layer], Layer],
    train: Batch,
    augment: Augmentation | None,
    t: Array,
    member: Member,
    carry: Carry,
) -> tuple[Carry, Scalar]:
    """Return the new carry, and the mean loss."""
    built, key = _build(spec, member)
    out = epoch(
        *(plan_net(built.net), built.loss, as_optimizer(built.optimizer)),
        *(carry, train, key, t, built.l2),
        augment=augment,
        engine=spec.engine,
        batch_size=spec.batch_size,
    )
    n = count_examples(train)
    return out.carry, _average_batches(out.losses, n, spec.batch_size)


def _eval_variables(spec: SweepSpec, member: Member, carry: Carry) -> Variables:
    """Return the variables to validate and to keep."""
    return eval_variables(as_optimizer(_build(spec, member)[0].optimizer), carry)


def _validate(
    spec: SweepSpec,
    plan_net: Callable[[Layer], Layer],
    data: Batch,
    early_stopping: EarlyStopping | None,
    member: Member,
    carry: Carry,
) -> tuple[Variables, dict[str, Scalar]]:
    """Return the variables to keep, and their loss and metrics."""
    built, key = _build(spec, member)
    variables = _eval_variables(spec, member, carry)
    if early_stopping is not None:
        data = subset(data, early_stopping.subset, jax.random.fold_in(key, 0))
    n = count_examples(data)
    size = min(VALIDATION_BATCH, n)
    out = evaluate_batches(
        plan_net(built.net),
        built.loss,
        variables,
        data,
        metrics=spec.metrics,
        batch_size=size,
    )
    means = {k: _average_batches(each, n, size) for k, each in out.means.items()}
    return variables, means | out.wholes


def _average_batches(values: Shaped[Array, "S"], n: int, batch_size: int) -> Scalar:
    """Average the means of each batch over all n examples."""
    shares = batch_sizes(n, batch_size) / n
    return values @ jnp.asarray(shares, values.dtype)


# ---- All of them -----------------------------------------------------------------


def _over_members(count: int, f: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Map f over the first axis of its arguments; do not batch a single member.

    (Under `vmap` even a single convolution becomes a grouped one.)
    """
    if count > 1:
        return jax.vmap(f)

    def of_one(*args: PyTree) -> PyTree:
        out = f(*jax.tree.map(lambda a: a[0], args))
        return jax.tree.map(lambda a: a[None], out)

    return of_one


def _record_evaluation(
    over_members: Callable[..., Callable[..., PyTree]],
    early_stopping: EarlyStopping | None,
    t: Array,
    state: SweepState,
    current: Variables,
    values: dict[str, Array],
) -> SweepState:
    """Record the evaluation after epoch t, and update early stopping and the best.

    Args:
        over_members: maps a function over the members.
        early_stopping: when to stop each member, or None.
        t: the number of the epoch.
        state: the state after the epoch.
        current: the variables that were evaluated.
        values: their loss and metrics (M,) by name.
    """
    every = 1 if early_stopping is None else early_stopping.every
    history = {
        name: column.at[:, t // every - 1].set(values[name].astype(column.dtype))
        for name, column in state.validation.items()
    }
    state = state._replace(validation=history)
    if early_stopping is None:
        return state
    update = over_members(
        lambda stopping, metric: early_stopping.update(stopping, metric, t)
    )
    stopping = update(state.stopping, values[early_stopping.monitor])
    return state._replace(
        stopping=stopping,
        best=_select(stopping.best_epoch == t, current, state.best),
        running=state.running & ~stopping.stop,
    )


def _select(chosen: Bool[Array, "M"], new: PyTree, old: PyTree) -> PyTree:
    """Take the new leaves for the chosen members, and the old ones for the others."""

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, new, old)


def _initial_state(
    spec: SweepSpec,
    carry: Carry,
    early_stopping: EarlyStopping | None,
    validation: Batch | None,
) -> SweepState:
    """Return the state before the first epoch."""
    m = len(jax.tree.leaves(carry)[0])
    names = spec.validated
    every = 1 if early_stopping is None else early_stopping.every
    stopping = (EarlyStopping() if early_stopping is None else early_stopping).init()
    empty = jnp.zeros((m, spec.epochs // every))
    columns: dict[str, Any] = {}
    if validation is not None:
        columns = dict.fromkeys(names, empty)
    return SweepState(
        carry=carry,
        stopping=jax.tree.map(lambda a: jnp.repeat(a[None], m, 0), stopping),
        best=carry.variables,
        running=jnp.ones(m, bool),
        diverged=jnp.zeros(m, bool),
        epochs=jnp.zeros(m, jnp.int32),
        train_loss=jnp.zeros((m, spec.epochs)),
        validation=columns,
    )


def _trained_members(
    state: SweepState, last: Variables, early_stopping: EarlyStopping | None
) -> TrainedMembers:
    """Return the results of all members from the last state."""
    stopping = state.stopping
    best, best_epoch = last, state.epochs
    if early_stopping is not None:
        best, best_epoch = state.best, stopping.best_epoch
    return TrainedMembers(
        variables=best,
        last_variables=last,
        best_epoch=best_epoch,
        epochs=state.epochs,
        patience_ended=stopping.stop & ~state.diverged,
        diverged=state.diverged,
        train_loss=state.train_loss,
        validation=state.validation,
    )
