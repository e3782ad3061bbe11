"""The loop over epochs: train, validate, remember the best, ask whether to stop."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fnn.checks import is_key
from fnn.core import Variables
from fnn.dtypes import all_finite
from fnn.optimizers import eval_params
from fnn.training.compiled.descent import Carry
from fnn.training.compiled.meshes import shares
from fnn.training.early_stopping import EarlyStopping, StoppingState
from fnn.training.evaluation import averages, begin_measuring
from fnn.training.run.health import measure_health
from fnn.training.run.history import Record
from fnn.training.run.interrupt import deferred_interrupt
from fnn.training.run.nonfinite import Nonfinite
from fnn.training.run.spec import Job
from fnn.training.run.streams import Batches
from fnn.training.run.train_epoch import Trained, train_epoch

__all__ = [
    "Progress",
    "evaluated",
    "run_epochs",
    "to_host",
]


class Pending(NamedTuple):
    """An evaluation that has begun: of these variables, for this record."""

    record: Record
    variables: Variables
    values: dict[str, Array]


class Progress(NamedTuple):
    """What does not: `epoch` is the number of epochs done.

    `position` is where a source of batches is that goes on from epoch to epoch.
    `pending` are evaluations that have begun and are not yet known, in their order;
    without a device of their own there are none between two epochs.
    """

    epoch: int
    carry: Carry
    records: list[Record]
    best: Variables | None
    stopping: StoppingState | None
    pending: tuple[Pending, ...] = ()
    nonfinite: Nonfinite | None = None
    position: Any = None


def run_epochs(
    job: Job,
    progress: Progress,
    epochs: int,
    on_epoch: Callable | None,
    save: Callable[..., None] | None = None,
) -> tuple[Progress, str]:
    """Epoch after epoch, until there is a reason to stop: that reason, too.

    `save` is called with the progress after every epoch, and once more at the end.
    """
    job = _with_its_numbers_on_the_device(job)
    tell = _Teller(on_epoch, told=len(progress.records))
    ended = None
    with deferred_interrupt() as interrupted:
        while ended is None:
            if _is_enough(progress):
                ended = "patience"
            elif _diverged(job, progress):
                ended = "diverged"
            elif progress.epoch >= epochs:
                ended = "epochs"
            else:
                progress = _one_epoch(job, progress)
                alone = job.validation_device is not None and save is None
                progress = _settle(job, progress, AHEAD if alone else 0)
                if save is not None:
                    save(progress)
                if not tell(progress) or interrupted():
                    ended = "interrupted"
        progress = _settle(job, progress, 0)
        if not tell(progress):
            ended = "interrupted"
        if save is not None:
            save(progress, at_the_end=True)
    if ended != "interrupted" and _is_enough(progress):
        ended = "patience"  # as it would have been, had the evaluations been awaited
    return progress, ended


def _with_its_numbers_on_the_device(job: Job) -> Job:
    """Rates, λ and dropout rates moved once, which each epoch would move anew.

    On a mesh they stay the host's numbers, which belong to every device.
    """
    if job.mesh is not None:
        return job
    net, loss, optimizer, l2 = jax.device_put(
        (job.net, job.loss, job.optimizer, job.l2)
    )
    return job._replace(net=net, loss=loss, optimizer=optimizer, l2=l2)


def _is_enough(progress: Progress) -> bool:
    return progress.stopping is not None and bool(progress.stopping.stop)


class _Teller:
    """Calls `on_epoch` with each record, in their order, once it is complete."""

    def __init__(self, on_epoch: Callable | None, told: int) -> None:
        if on_epoch is not None and not callable(on_epoch):
            raise TypeError(f"on_epoch must be a function, got {on_epoch!r}")
        self.on_epoch, self.told = on_epoch, told

    def __call__(self, progress: Progress) -> bool:
        """False where that ended in a Ctrl-C."""
        waiting = [pending.record["epoch"] for pending in progress.pending]
        while self.told < len(progress.records):
            record = progress.records[self.told]
            if record["epoch"] in waiting:
                break
            self.told += 1
            try:
                if self.on_epoch is not None:
                    self.on_epoch(dict(record))
            except KeyboardInterrupt:
                return False
        return True


def _one_epoch(job: Job, progress: Progress) -> Progress:
    """Train for an epoch, and begin the evaluation where one is due."""
    epoch = progress.epoch + 1
    started = time.perf_counter()
    done = train_epoch(job, progress.carry, epoch, progress.nonfinite is None)
    record: Record = {"epoch": epoch, "train_loss": _mean(job, done)}
    record["seconds"] = time.perf_counter() - started  # the losses have arrived
    if job.on_nonfinite == "skip":
        record["skipped"] = done.skipped
    if job.health:
        record["health"] = measure_health(job, done.carry, epoch)
    progress = progress._replace(
        epoch=epoch,
        carry=done.carry,
        records=[*progress.records, record],
        nonfinite=progress.nonfinite or done.said,
        position=job.train.position() if isinstance(job.train, Batches) else None,
    )
    every = 1 if job.rule is None else job.rule.every
    if job.validation is None or epoch % every:
        return progress
    return _begin_validation(job, job.validation, progress)


# ---- Validation ------------------------------------------------------------------


def _begin_validation(
    job: Job, data: tuple[Array, Array], progress: Progress
) -> Progress:
    """Evaluate the variables as they are now; nothing waits for the result here."""
    variables = evaluated(job.optimizer, progress.carry)
    mesh = job.mesh
    if job.validation_device is not None:
        # A copy: the next epoch overwrites what it trains.
        variables, mesh = jax.device_put(variables, job.validation_device), None
    values = begin_measuring(
        *(job.net, job.loss, variables, data, _batch_size(job), job.metrics), mesh
    )
    begun = Pending(progress.records[-1], variables, values)
    return progress._replace(pending=(*progress.pending, begun))


def _settle(job: Job, progress: Progress, ahead: int) -> Progress:
    """Take in what is known, in order, and wait until at most `ahead` are not.

    The decisions are those of a run that waits for each: early stopping sees the same
    numbers in the same order, and what was begun after the last of them is dropped.
    """
    while progress.pending and not _is_enough(progress):
        first, *others = progress.pending
        if len(progress.pending) <= ahead and not _known(first):
            return progress
        progress = _take_in(job, first, progress._replace(pending=tuple(others)))
    return progress._replace(pending=())


def _take_in(job: Job, begun: Pending, progress: Progress) -> Progress:
    assert job.validation is not None
    n = len(job.validation[0])
    measured = averages(begun.values, n, _batch_size(job))
    begun.record.update({f"validation_{name}": v for name, v in measured.items()})
    if job.rule is None:
        return progress
    epoch = begun.record["epoch"]
    stopping = _update(job.rule, progress.stopping, measured[job.rule.monitor], epoch)
    if int(stopping.best_epoch) == epoch:
        progress = progress._replace(best=to_host(begun.variables))
    return progress._replace(stopping=stopping)


def _known(begun: Pending) -> bool:
    arrays: Any = begun.values.values()  # the type Array does not name is_ready
    return all(array.is_ready() for array in arrays)


#: Evaluations on another device that may be unfinished before training waits. Each
#: keeps a copy of the variables there.
AHEAD = 8

#: Examples that go through the network at once in validation.
VALIDATION_BATCH = 1000


def _batch_size(job: Job) -> int:
    """About that many: as many as the devices of a mesh can share."""
    count = shares(job.mesh)
    return max(VALIDATION_BATCH // count, 1) * count


_update = jax.jit(EarlyStopping.update)


def evaluated(optimizer: Any, carry: Carry) -> Variables:
    """The variables to validate and to keep: θ, also where θ̂ is stored."""
    params, state = carry.variables
    find = getattr(optimizer, "eval_params", eval_params)
    return Variables(find(carry.optimizer_state, params), state)


def to_host(variables: Variables) -> Variables:
    """Copies in the host's memory, which is slower and larger.

    Copies, because on the CPU a plain conversion would share memory with arrays that
    the next epoch overwrites.
    """

    def copy(leaf: Any) -> Any:
        if is_key(leaf):
            return jnp.copy(leaf)  # NumPy has no keys
        return np.array(leaf)

    return jax.tree.map(copy, variables)


def _mean(job: Job, done: Trained) -> float:
    """The mean of J over the examples; of the steps that were not skipped."""
    losses, sizes = done.losses, done.sizes
    if job.on_nonfinite == "skip":
        losses, sizes = (a[np.isfinite(done.losses)] for a in (losses, sizes))
    return float(np.average(losses, weights=sizes)) if len(losses) else math.nan


def _diverged(job: Job, progress: Progress) -> bool:
    """Whether the run has come to where it cannot, or shall not, go on."""
    if job.on_nonfinite == "stop":
        return progress.nonfinite is not None
    records = progress.records
    if not records or np.isfinite(records[-1]["train_loss"]):
        return False
    return not bool(all_finite(progress.carry.variables.params))
