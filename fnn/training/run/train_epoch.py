"""An epoch of training, from arrays on the device or from batches that are read."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fnn.training.compiled.descent import Carry
from fnn.training.compiled.epoch import (
    Bad,
    augmented,
    keys_of,
    minibatch,
    run_epoch_on,
    run_steps_on,
    schedule,
)
from fnn.training.compiled.meshes import on_mesh
from fnn.training.compiled.order import batch_sizes
from fnn.training.run.nonfinite import Nonfinite, guarded
from fnn.training.run.spec import Job
from fnn.training.run.streams import Batches, Chunk
from fnn.typing import Batch

__all__ = ["Trained", "train_epoch"]


class Trained(NamedTuple):
    """What an epoch leaves.

    `losses` (S,) are J of each minibatch and `sizes` (S,) its examples; `skipped`
    counts steps that were left out, `said` is the first bad step if it was looked for.
    """

    carry: Carry
    losses: np.ndarray
    sizes: np.ndarray
    skipped: int
    said: Nonfinite | None


def train_epoch(job: Job, carry: Carry, epoch: int, locate: bool) -> Trained:
    """Train for one epoch; the first bad step is located where that is asked."""
    train = _from_batches if isinstance(job.train, Batches) else _from_arrays
    return train(job, carry, epoch, locate)


def _from_arrays(job: Job, carry: Carry, epoch: int, locate: bool) -> Trained:
    """One program for the whole epoch."""
    data: Any = job.train
    run = partial(
        run_epoch_on(job.mesh, carry),
        *(job.net, job.loss, job.optimizer),
        data=data,
        key=job.key,
        number=epoch,
        l2=job.l2,
        augment=job.augment,
        engine=job.engine,
        batch_size=job.batch_size,
        mesh=job.mesh,
    )
    n = len(data[0])

    def step(t: int) -> tuple[Batch, Array]:
        (full, _), rest, step_key = schedule(job.key, epoch, n, job.batch_size)
        step_t = jax.random.fold_in(step_key, t)
        indices = full[t] if t < len(full) else rest
        return minibatch(data, indices, step_t, job.augment, job.mesh), step_t

    done, said = guarded(job, run, carry, epoch, step if locate else None)
    losses, skipped = jax.device_get((done.losses, done.bad.count))  # one wait
    sizes = batch_sizes(n, job.batch_size)
    return Trained(done.carry, losses.astype(np.float64), sizes, int(skipped), said)


def _from_batches(job: Job, carry: Carry, epoch: int, locate: bool) -> Trained:
    """A program for each chunk; while one runs, the next is read."""
    assert isinstance(job.train, Batches)
    _, step_key = keys_of(job.key, epoch)
    done: list[tuple[Array, Bad]] = []
    sizes: list[int] = []
    said = None
    for chunk in job.train.chunks():
        _check_chunk(job, chunk)
        data = on_mesh((jnp.asarray(chunk.x), jnp.asarray(chunk.y)), job.mesh)
        run = partial(
            run_steps_on(job.mesh, carry),
            *(job.net, job.loss, job.optimizer),
            data=data,
            first=jnp.asarray(chunk.first),
            key=step_key,
            l2=job.l2,
            n=job.n,
            augment=job.augment,
            engine=job.engine,
            mesh=job.mesh,
        )

        def step(t: int, data: Batch = data, first: int = chunk.first) -> tuple:
            step_t = jax.random.fold_in(step_key, first + t)
            x, y = (part[t] for part in data)
            return (augmented(job.augment, step_t, x), y), step_t

        look = locate and said is None
        out, found = guarded(job, run, carry, epoch, step if look else None)
        if found is not None:
            said = found._replace(step=found.step + chunk.first)
        carry = out.carry
        done.append((out.losses, out.bad))
        sizes += [chunk.x.shape[1]] * len(chunk.x)
        if job.on_nonfinite == "stop" and said is not None:
            break
        if len(done) > 1:  # no more than two chunks wait for the device
            jax.block_until_ready(done[-2])
    if not done:
        raise ValueError(f"train has no batches in epoch {epoch}: its source is empty")
    losses = np.concatenate([np.asarray(part, np.float64) for part, _ in done])
    skipped = sum(int(bad.count) for _, bad in done)
    return Trained(carry, losses, np.array(sizes), skipped, said)


def _check_chunk(job: Job, chunk: Chunk) -> None:
    """Batches that are like the first one that was seen, but for their size."""
    for name, part, seen in zip("xy", (chunk.x, chunk.y), job.sample, strict=True):
        if part.shape[2:] != seen.shape[1:]:
            raise ValueError(
                f"train yields {name} of shape {part.shape[1:]} at step {chunk.first}, "
                f"after one of shape {seen.shape}"
            )
