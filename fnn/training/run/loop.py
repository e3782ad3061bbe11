"""The loop over epochs: train, validate, keep the best variables, stop in time."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks import is_key
from fnn.core import Variables
from fnn.dtypes import all_finite
from fnn.optimizers import eval_params, last_learning_rate
from fnn.training.compiled.descent import Carry
from fnn.training.compiled.meshes import put_numbers, shard_count
from fnn.training.early_stopping import EarlyStopping, StoppingState
from fnn.training.evaluation import (
    Evaluation,
    finish_evaluation,
    start_evaluation,
)
from fnn.training.run.callbacks import as_callbacks
from fnn.training.run.health import measure_health
from fnn.training.run.history import Record
from fnn.training.run.interrupt import deferred_interrupt
from fnn.training.run.nonfinite import Nonfinite
from fnn.training.run.observed import observe_epoch
from fnn.training.run.spec import RunSpec
from fnn.training.run.streams import Batches
from fnn.training.run.train_epoch import TrainedEpoch, train_epoch
from fnn.transfers import own_numbers_may_move
from fnn.typing import Batch

__all__ = [
    "VALIDATION_BATCH",
    "Progress",
    "eval_variables",
    "run_epochs",
    "to_host",
]


class PendingEvaluation(NamedTuple):
    """An evaluation that has started: of these variables, for this record."""

    record: Record
    variables: Variables
    values: Evaluation


class Progress(NamedTuple):
    """The state of a run, which changes from epoch to epoch.

    epoch: the number of epochs done.
    pending: evaluations that have started and are not recorded yet, in their order;
        without a device of their own there are none between two epochs.
    position: the position of a source of batches that continues from epoch to epoch.
    """

    epoch: int
    carry: Carry
    records: list[Record]
    best: Variables | None
    stopping: StoppingState | None
    pending: tuple[PendingEvaluation, ...] = ()
    nonfinite: Nonfinite | None = None
    position: Any = None


def run_epochs(
    spec: RunSpec,
    progress: Progress,
    epochs: int,
    on_epoch: Any,
    save: Callable[..., None] | None = None,
) -> tuple[Progress, str]:
    """Train epoch after epoch, until there is a reason to stop.

    Args:
        spec: the specification of the run.
        progress: the state to start from.
        epochs: how many, at most, counted from the beginning of the run.
        on_epoch: a function, or a list of functions, that is called after every epoch.
        save: called with the progress after every epoch, and once more at the end.

    Returns:
        The last progress, and the reason: `FitResult.stopped`.
    """
    spec = _numbers_on_device(spec)
    report = _Reporter(spec, on_epoch, reported=len(progress.records))
    in_parallel = spec.validation_device is not None and save is None
    # A callback that takes the variables gets those of the epoch of its record.
    waits = not in_parallel or report.callbacks.wants_variables
    stopped = None
    with deferred_interrupt() as interrupted:
        while stopped is None:
            if _out_of_patience(progress):
                stopped = "patience"
            elif _has_diverged(spec, progress):
                stopped = "diverged"
            elif progress.epoch >= epochs:
                stopped = "epochs"
            else:
                progress = _one_epoch(spec, progress)
                at_most = 0 if waits else MAX_PENDING
                progress = _finish_evaluations(spec, progress, at_most)
                if save is not None:
                    save(progress)
                stopped = report(progress)
                if interrupted():
                    stopped = "interrupted"
        progress = _finish_evaluations(spec, progress, 0)
        stopped = report(progress) or stopped
        if save is not None:
            save(progress, at_the_end=True)
    if stopped not in ("interrupted", "on_epoch") and _out_of_patience(progress):
        stopped = "patience"  # as in a run that waits for every evaluation
    return progress, stopped


def _numbers_on_device(spec: RunSpec) -> RunSpec:
    """Move rates, λ and dropout rates once, which otherwise every epoch would move."""
    names = ("net", "plain_net", "loss", "optimizer", "l2", "augment")
    numbers = put_numbers({name: getattr(spec, name) for name in names}, spec.mesh)
    return spec._replace(**numbers)


def _out_of_patience(progress: Progress) -> bool:
    stopping = progress.stopping
    return stopping is not None and bool(jax.device_get(stopping.stop))


class _Reporter:
    """A callable that passes each complete record to the callbacks, in order."""

    def __init__(self, spec: RunSpec, on_epoch: Any, reported: int) -> None:
        self.spec, self.reported = spec, reported
        self.callbacks = as_callbacks(on_epoch)

    def __call__(self, progress: Progress) -> str | None:
        """Report the records that are complete; return why the run ends, or None."""
        waiting = [pending.record["epoch"] for pending in progress.pending]
        variables = partial(eval_variables, self.spec.optimizer, progress.carry)
        while self.reported < len(progress.records):
            record = progress.records[self.reported]
            if record["epoch"] in waiting:
                break
            self.reported += 1
            try:
                if self.callbacks(record, variables, progress.carry):
                    return "on_epoch"
            except KeyboardInterrupt:
                return "interrupted"
        return None


def _one_epoch(spec: RunSpec, progress: Progress) -> Progress:
    """Train for an epoch, and start the evaluation where one is due."""
    epoch = progress.epoch + 1
    started = time.perf_counter()
    trained = train_epoch(spec, progress.carry, epoch, progress.nonfinite is None)
    record: Record = {"epoch": epoch, "train_loss": _mean_loss(spec, trained)}
    record["seconds"] = time.perf_counter() - started  # the losses have arrived
    record |= _learning_rate(spec, trained.carry) | _train_metrics(spec, trained.carry)
    if spec.on_nonfinite == "skip":
        record["skipped"] = trained.skipped
    if spec.health:
        record["health"] = measure_health(spec, trained.carry, epoch)
    if spec.observer is not None:
        key = jax.random.fold_in(spec.key, epoch)
        seen = spec.observer, trained.carry.variables, spec.sample, key
        record["observed"] = observe_epoch(*seen)
    if spec.private is not None and spec.n is not None:
        record["epsilon"] = spec.private.epsilon(spec.n, spec.batch_size, epoch)
    progress = progress._replace(
        epoch=epoch,
        carry=trained.carry,
        records=[*progress.records, record],
        nonfinite=progress.nonfinite or trained.first_bad,
        position=spec.train.position() if isinstance(spec.train, Batches) else None,
    )
    every = 1 if spec.early_stopping is None else spec.early_stopping.every
    if spec.validation is None or epoch % every:
        return progress
    return _start_validation(spec, spec.validation, progress)


def _learning_rate(spec: RunSpec, carry: Carry) -> Record:
    """Return the learning rate of the last step, where the optimizer tells it."""
    rate = last_learning_rate(spec.optimizer, carry.optimizer_state)
    return {} if rate is None else {"learning_rate": rate}


def _train_metrics(spec: RunSpec, carry: Carry) -> Record:
    """Return the metrics of all training examples, where they are asked for."""
    if not spec.train_metrics:
        return {}
    data: Any = spec.train
    variables = eval_variables(spec.optimizer, carry)
    size, metrics = _validation_batch_size(spec), spec.train_metrics
    started = start_evaluation(
        *(spec.net, spec.loss, variables, data, size, metrics, spec.mesh)
    )
    values = finish_evaluation(started, spec.loss, data[1], size, metrics)
    return {f"train_{name}": v for name, v in values.items() if name != "loss"}


# ---- Validation ------------------------------------------------------------------


def _start_validation(spec: RunSpec, data: Batch, progress: Progress) -> Progress:
    """Start to evaluate the variables as they are now, without waiting for it."""
    variables = eval_variables(spec.optimizer, progress.carry)
    net, loss, mesh = spec.net, spec.loss, spec.mesh
    if spec.validation_device is not None:
        # A copy: the next epoch overwrites the variables that it trains.
        numbers = net, loss, variables
        net, loss, variables = jax.device_put(numbers, spec.validation_device)
        mesh = None
    values = start_evaluation(
        *(net, loss, variables, data),
        *(_validation_batch_size(spec), spec.metrics, mesh),
    )
    pending = PendingEvaluation(progress.records[-1], variables, values)
    return progress._replace(pending=(*progress.pending, pending))


def _finish_evaluations(spec: RunSpec, progress: Progress, at_most: int) -> Progress:
    """Record finished evaluations in order; wait until at most `at_most` are left.

    The decisions are those of a run that waits for each evaluation: early stopping sees
    the same numbers in the same order, and evaluations after it has stopped the run are
    dropped.
    """
    while progress.pending and not _out_of_patience(progress):
        first, *others = progress.pending
        if len(progress.pending) <= at_most and not _is_finished(first):
            return progress
        progress = progress._replace(pending=tuple(others))
        progress = _record_evaluation(spec, first, progress)
    return progress._replace(pending=())


def _record_evaluation(
    spec: RunSpec, evaluation: PendingEvaluation, progress: Progress
) -> Progress:
    """Add the values to their record, and update early stopping and the best."""
    assert spec.validation is not None
    values = finish_evaluation(
        *(evaluation.values, spec.loss, spec.validation[1]),
        *(_validation_batch_size(spec), spec.metrics),
    )
    evaluation.record.update({f"validation_{name}": v for name, v in values.items()})
    if spec.early_stopping is None:
        return progress
    epoch, metric = evaluation.record["epoch"], values[spec.early_stopping.monitor]
    numbers = jax.device_put((spec.early_stopping, progress.stopping, metric, epoch))
    stopping = _update(*numbers)
    if int(jax.device_get(stopping.best_epoch)) == epoch:
        progress = progress._replace(best=to_host(evaluation.variables))
    return progress._replace(stopping=stopping)


def _is_finished(evaluation: PendingEvaluation) -> bool:
    arrays: Any = jax.tree.leaves(evaluation.values)  # Array does not name is_ready
    return all(array.is_ready() for array in arrays)


#: Evaluations on another device that may be unfinished before training waits. Each
#: keeps a copy of the variables there.
MAX_PENDING = 8

#: Examples that go through the network at once in validation.
VALIDATION_BATCH = 1000


def _validation_batch_size(spec: RunSpec) -> int:
    """Return about `VALIDATION_BATCH`: a multiple of the mesh's number of shards."""
    count = shard_count(spec.mesh)
    return max(VALIDATION_BATCH // count, 1) * count


_update = jax.jit(EarlyStopping.update)


def eval_variables(optimizer: Any, carry: Carry) -> Variables:
    """Return the variables to validate and to keep, which may not be those trained."""
    params, state = carry.variables
    find = getattr(optimizer, "eval_params", eval_params)
    with own_numbers_may_move():
        return Variables(find(carry.optimizer_state, params), state)


def to_host(variables: Variables) -> Variables:
    """Copy variables to the host's memory, which is slower and larger.

    They are copies, because on the CPU a plain conversion would share memory with
    arrays that the next epoch overwrites.
    """

    def copy(leaf: Any) -> Any:
        if is_key(leaf):
            return jnp.copy(leaf)  # NumPy has no keys
        return np.array(jax.device_get(leaf))

    return jax.tree.map(copy, variables)


def _mean_loss(spec: RunSpec, trained: TrainedEpoch) -> float:
    """Return the mean of J over the examples of the steps that were not skipped."""
    losses, sizes = trained.losses, trained.sizes
    if spec.on_nonfinite == "skip":
        losses, sizes = (a[np.isfinite(trained.losses)] for a in (losses, sizes))
    return float(np.average(losses, weights=sizes)) if len(losses) else math.nan


def _has_diverged(spec: RunSpec, progress: Progress) -> bool:
    """Return whether the run cannot go on, or must not by its policy."""
    if spec.on_nonfinite == "stop":
        return progress.nonfinite is not None
    records = progress.records
    if not records or np.isfinite(records[-1]["train_loss"]):
        return False
    return not bool(jax.device_get(all_finite(progress.carry.variables.params)))
