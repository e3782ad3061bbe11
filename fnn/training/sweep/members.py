"""Many trainings at once, each stopped in its own time, in one compiled program.

What `fit` does in a Python loop is here a `lax.while_loop` over epochs whose body is
mapped over the members. A member that has stopped is computed on with the others, and
keeps what it had: nothing of the new state is taken over. The loop ends when all have
stopped.

Legend: M members, E epochs, V = ⌊E / every⌋ evaluations.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from fnn.augmentations import Augmentation
from fnn.core import Layer, Variables
from fnn.dtypes import all_finite
from fnn.training.compiled.descent import Carry, as_optimizer, start
from fnn.training.compiled.epoch import epoch
from fnn.training.compiled.order import batch_sizes, subset
from fnn.training.early_stopping import EarlyStopping
from fnn.training.evaluation import of_batches
from fnn.training.planned import planned
from fnn.training.run.loop import VALIDATION_BATCH, evaluated
from fnn.training.sweep.records import Members, Outcome, Task, Trial
from fnn.typing import PyTree

__all__ = ["train_members"]


@partial(jax.jit, static_argnames=("task",))
def train_members(
    task: Task,
    numbers: dict[str, Array],
    keys: Array,
    train: tuple[Array, Array],
    validation: tuple[Array, Array] | None,
    augment: Augmentation | None,
    rule: EarlyStopping | None,
) -> Outcome:
    """Train M members, whose hyperparameters and keys have a leading axis M."""
    every = 1 if rule is None else rule.every
    each, member = partial(_each, len(keys)), (numbers, keys)
    prepare = partial(
        planned,
        mode=task.plan,
        in_shape=train[0].shape[1:],
        batch_size=task.batch_size,
        engine=task.engine,
        ensemble=len(keys) > 1,
    )

    def one_epoch(state: tuple[Array, Members]) -> tuple[Array, Members]:
        t, before = state
        t = t + 1
        run = each(partial(_train_epoch, task, prepare, train, augment, t))
        carry, losses = run(member, before.carry)
        diverged = ~jnp.isfinite(losses) & ~each(all_finite)(carry.variables.params)
        after = before._replace(
            carry=carry,
            diverged=diverged,
            running=~diverged,
            epochs=jnp.broadcast_to(t, before.epochs.shape),
            train_loss=before.train_loss.at[:, t - 1].set(losses.astype(float)),
        )
        if validation is not None:
            measure = each(partial(_validate, task, prepare, validation, rule))
            after = lax.cond(
                t % every == 0,
                lambda after: _evaluated(
                    each, rule, t, after, *measure(member, after.carry)
                ),
                lambda after: after,
                after,
            )
        return t, _where(before.running, after, before)

    def going_on(state: tuple[Array, Members]) -> Array:
        t, members = state
        return (t < task.epochs) & members.running.any()

    first = _first(task, each(partial(_begin, task, train))(member), rule, validation)
    _, end = lax.while_loop(going_on, one_epoch, (jnp.zeros((), jnp.int32), first))
    last = each(partial(_current, task))(member, end.carry)
    return _outcome(end, last, rule)


# ---- One member ------------------------------------------------------------------


def _trial(task: Task, member: tuple[dict[str, Array], Array]) -> tuple[Trial, Array]:
    """A member's trial and the key of its epochs, `fit`'s."""
    numbers, key = member
    return Trial(*task.build(**numbers)), jax.random.split(key)[1]


def _begin(task: Task, train: tuple[Array, Array], member: tuple) -> Carry:
    trial, _ = _trial(task, member)
    init_key = jax.random.split(member[1])[0]
    variables = trial.net.init(init_key, train[0].shape[1:])
    return start(as_optimizer(trial.optimizer), variables)


def _train_epoch(
    task: Task,
    prepare: Callable[[Layer], Layer],
    train: tuple[Array, Array],
    augment: Augmentation | None,
    t: Array,
    member: tuple,
    carry: Carry,
) -> tuple[Carry, Array]:
    """What is carried on, and the mean loss."""
    trial, key = _trial(task, member)
    out = epoch(
        *(prepare(trial.net), trial.loss, as_optimizer(trial.optimizer)),
        *(carry, train, key, t, trial.l2),
        augment=augment,
        engine=task.engine,
        batch_size=task.batch_size,
    )
    return out.carry, _mean(out.losses, len(train[0]), task.batch_size)


def _current(task: Task, member: tuple, carry: Carry) -> Variables:
    """The variables to validate and to keep."""
    return evaluated(as_optimizer(_trial(task, member)[0].optimizer), carry)


def _validate(
    task: Task,
    prepare: Callable[[Layer], Layer],
    data: tuple[Array, Array],
    rule: EarlyStopping | None,
    member: tuple,
    carry: Carry,
) -> tuple[Variables, dict[str, Array]]:
    """The variables to keep, and what is measured with them."""
    trial, key = _trial(task, member)
    variables = _current(task, member, carry)
    if rule is not None:
        data = subset(data, rule.subset, jax.random.fold_in(key, 0))
    n = len(data[0])
    size = min(VALIDATION_BATCH, n)
    means = of_batches(
        prepare(trial.net),
        trial.loss,
        variables,
        data,
        metrics=task.metrics,
        batch_size=size,
    )
    return variables, {name: _mean(each, n, size) for name, each in means.items()}


def _mean(values: Array, n: int, batch_size: int) -> Array:
    """The mean over examples of what are means of batches."""
    shares = batch_sizes(n, batch_size) / n
    return values @ jnp.asarray(shares, values.dtype)


# ---- All of them -----------------------------------------------------------------


def _each(count: int, f: Callable) -> Callable:
    """`f` over the first axis of its arguments; a single member is not batched at all.

    (Under `vmap` even a single convolution becomes a grouped one.)
    """
    if count > 1:
        return jax.vmap(f)

    def alone(*args: PyTree) -> PyTree:
        out = f(*jax.tree.map(lambda a: a[0], args))
        return jax.tree.map(lambda a: a[None], out)

    return alone


def _evaluated(
    each: Callable,
    rule: EarlyStopping | None,
    t: Array,
    members: Members,
    current: Variables,
    values: dict[str, Array],
) -> Members:
    """What evaluations of all members after epoch t mean for each."""
    every = 1 if rule is None else rule.every
    history = {
        name: column.at[:, t // every - 1].set(values[name].astype(column.dtype))
        for name, column in members.validation.items()
    }
    members = members._replace(validation=history)
    if rule is None:
        return members
    update = each(lambda state, metric: rule.update(state, metric, t))
    stopping = update(members.stopping, values[rule.monitor])
    return members._replace(
        stopping=stopping,
        best=_where(stopping.best_epoch == t, current, members.best),
        running=members.running & ~stopping.stop,
    )


def _where(chosen: Array, new: PyTree, old: PyTree) -> PyTree:
    """Member by member, the new or the old."""

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, new, old)


def _first(
    task: Task, carry: Carry, rule: EarlyStopping | None, validation: Any
) -> Members:
    """Before the first epoch."""
    m = len(jax.tree.leaves(carry)[0])
    names = ("loss", *(name for name, _ in task.metrics))
    every = 1 if rule is None else rule.every
    stopping = (EarlyStopping() if rule is None else rule).init()
    empty = jnp.full((m, task.epochs // every), jnp.nan)
    return Members(
        carry=carry,
        stopping=jax.tree.map(lambda a: jnp.repeat(a[None], m, 0), stopping),
        best=carry.variables,
        running=jnp.ones(m, bool),
        diverged=jnp.zeros(m, bool),
        epochs=jnp.zeros(m, jnp.int32),
        train_loss=jnp.full((m, task.epochs), jnp.nan),
        validation={} if validation is None else dict.fromkeys(names, empty),
    )


def _outcome(members: Members, last: Variables, rule: EarlyStopping | None) -> Outcome:
    """What to return of the members."""
    stopping = members.stopping
    best = (
        (last, members.epochs) if rule is None else (members.best, stopping.best_epoch)
    )
    return Outcome(
        variables=best[0],
        last_variables=last,
        best_epoch=best[1],
        epochs=members.epochs,
        patience_ended=stopping.stop & ~members.diverged,
        diverged=members.diverged,
        train_loss=members.train_loss,
        validation=members.validation,
    )
