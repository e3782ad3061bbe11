"""The loop over epochs: train, validate, remember the best, ask whether to stop."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fnn.augmentations import Augmentation
from fnn.core import Layer, Variables
from fnn.gradients.engines import Engine
from fnn.losses import Loss
from fnn.optimizers import eval_params
from fnn.training.batches import batch_sizes
from fnn.training.early_stopping import EarlyStopping, StoppingState
from fnn.training.epoch import Carry, run_epoch
from fnn.training.evaluation import measure
from fnn.training.interrupt import deferred_interrupt
from fnn.training.metrics import Metric

__all__ = [
    "Job",
    "Progress",
    "Record",
    "evaluated",
    "history_of",
    "run_epochs",
    "to_host",
]

Record = dict[str, Any]


class Job(NamedTuple):
    """What stays the same from epoch to epoch."""

    net: Layer
    loss: Loss
    optimizer: Any
    train: tuple[Array, Array]
    key: Array
    l2: float | None
    augment: Augmentation | None
    engine: Engine
    batch_size: int
    validation: tuple[Array, Array] | None
    metrics: tuple[tuple[str, Metric], ...]
    rule: EarlyStopping | None


class Progress(NamedTuple):
    """What does not: `epoch` is the number of epochs done."""

    epoch: int
    carry: Carry
    records: list[Record]
    best: Variables | None
    stopping: StoppingState | None


def run_epochs(
    job: Job, progress: Progress, epochs: int, on_epoch: Callable | None
) -> tuple[Progress, str]:
    """Epoch after epoch, until there is a reason to stop: that reason, too."""
    with deferred_interrupt() as interrupted:
        while True:
            if progress.stopping is not None and progress.stopping.stop:
                return progress, "patience"
            if progress.epoch >= epochs:
                return progress, "epochs"
            progress = _one_epoch(job, progress)
            record = progress.records[-1]
            try:
                if on_epoch is not None:
                    on_epoch(dict(record))
            except KeyboardInterrupt:
                return progress, "interrupted"
            if interrupted():
                return progress, "interrupted"
            if not np.isfinite(record["train_loss"]) and _diverged(progress.carry):
                return progress, "diverged"


def _one_epoch(job: Job, progress: Progress) -> Progress:
    epoch = progress.epoch + 1
    started = time.perf_counter()
    carry, losses = run_epoch(
        job.net,
        job.loss,
        job.optimizer,
        progress.carry,
        job.train,
        jax.random.fold_in(job.key, epoch),
        job.l2,
        augment=job.augment,
        engine=job.engine,
        batch_size=job.batch_size,
    )
    weights = batch_sizes(len(job.train[0]), job.batch_size)
    mean = np.average(np.asarray(losses, np.float64), weights=weights)
    seconds = time.perf_counter() - started  # the losses have arrived: all is done
    record = {"epoch": epoch, "train_loss": float(mean), "seconds": seconds}
    progress = progress._replace(epoch=epoch, carry=carry)
    every = 1 if job.rule is None else job.rule.every
    if job.validation is not None and epoch % every == 0:
        record, progress = _validate(job, job.validation, progress, record)
    return progress._replace(records=[*progress.records, record])


def _validate(
    job: Job, data: tuple[Array, Array], progress: Progress, record: Record
) -> tuple[Record, Progress]:
    variables = evaluated(job.optimizer, progress.carry)
    measured = measure(
        job.net, job.loss, variables, data, VALIDATION_BATCH, job.metrics
    )
    record |= {f"validation_{name}": value for name, value in measured.items()}
    if job.rule is not None:
        metric, epoch = measured[job.rule.monitor], progress.epoch
        stopping = _update(job.rule, progress.stopping, metric, epoch)
        if int(stopping.best_epoch) == epoch:
            progress = progress._replace(best=to_host(variables))
        progress = progress._replace(stopping=stopping)
    return record, progress


#: Examples that go through the network at once in validation.
VALIDATION_BATCH = 1000

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
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.copy(leaf)  # NumPy has no keys
        return np.array(leaf)

    return jax.tree.map(copy, variables)


def _diverged(carry: Carry) -> bool:
    leaves = jax.tree.leaves(carry.variables.params)
    return not all(bool(jnp.isfinite(leaf).all()) for leaf in leaves)


def history_of(job: Job, records: list[Record]) -> dict[str, np.ndarray]:
    """The records as columns: an entry an epoch, or an evaluation."""

    def column(name: str, rows: list[Record], dtype: type = float) -> np.ndarray:
        return np.array([row[name] for row in rows], dtype)

    history = {
        "epoch": column("epoch", records, int),
        "train_loss": column("train_loss", records),
        "seconds": column("seconds", records),
    }
    if job.validation is not None:
        rows = [record for record in records if "validation_loss" in record]
        history["validation_epoch"] = column("epoch", rows, int)
        for name in ("loss", *(name for name, _ in job.metrics)):
            history[f"validation_{name}"] = column(f"validation_{name}", rows)
    return history
