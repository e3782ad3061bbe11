"""An epoch of training, from arrays on the device or from batches that are read."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from fnn.passes.per_example.private import Private
from fnn.shapes import count_examples, example_shape, format_shapes, map_shapes
from fnn.training.compiled.descent import Carry
from fnn.training.compiled.epoch import BadSteps, epoch_program, steps_program
from fnn.training.compiled.meshes import on_mesh, put_numbers
from fnn.training.compiled.order import (
    batch_sizes,
    epoch_keys,
    epoch_order,
    minibatch,
)
from fnn.training.compiled.private import run_private_epoch
from fnn.training.planned import remainder_network
from fnn.training.run.nonfinite import Nonfinite, run_guarded
from fnn.training.run.spec import RunSpec
from fnn.training.run.streams import Batches, Chunk
from fnn.transfers import own_numbers_may_move
from fnn.typing import Array, Batch, KeyArray

__all__ = ["TrainedEpoch", "train_epoch"]


class TrainedEpoch(NamedTuple):
    """The result of an epoch, on the host but for its carry.

    carry: the state after the last step.
    losses: J (S,) of each minibatch.
    sizes: (S,), the number of examples of each.
    skipped: the number of steps that were left out.
    first_bad: the first bad step, if there is one and it was looked for.
    """

    carry: Carry
    losses: np.ndarray
    sizes: np.ndarray
    skipped: int
    first_bad: Nonfinite | None


def train_epoch(spec: RunSpec, carry: Carry, epoch: int, locate: bool) -> TrainedEpoch:
    """Train for one epoch.

    Args:
        spec: the specification of the run.
        carry: the state before the first step.
        epoch: the number of the epoch.
        locate: whether to find out where the first bad step goes bad.

    Returns:
        The new carry, and the losses.
    """
    if spec.private is not None:
        return _privately(spec, spec.private, carry, epoch)
    train = _from_batches if isinstance(spec.train, Batches) else _from_arrays
    return train(spec, carry, epoch, locate)


def _from_arrays(spec: RunSpec, carry: Carry, epoch: int, locate: bool) -> TrainedEpoch:
    """Train in one program for the whole epoch."""
    data: Any = spec.train
    n = count_examples(data)
    run = partial(
        epoch_program(spec.mesh, carry),
        *(spec.net, spec.loss, spec.optimizer),
        data=data,
        key=spec.key,
        number=put_numbers(epoch, spec.mesh),
        l2=spec.l2,
        rest_net=remainder_network(spec.net, spec.plain_net, n, spec.batch_size),
        augment=spec.augment,
        engine=spec.engine,
        batch_size=spec.batch_size,
        mesh=spec.mesh,
    )

    def read_batch(t: int) -> tuple[Batch, KeyArray]:
        full, rest, step_key = epoch_order(spec.key, epoch, n, spec.batch_size)
        indices = full[t] if t < len(full) else rest
        return minibatch(data, indices, t, step_key, spec.augment, spec.mesh)

    out, first_bad = run_guarded(
        spec, run, carry, epoch, read_batch if locate else None
    )
    losses, skipped = jax.device_get((out.losses, out.bad_steps.count))  # one wait
    sizes = batch_sizes(n, spec.batch_size)
    losses = losses.astype(np.float64)
    return TrainedEpoch(out.carry, losses, sizes, int(skipped), first_bad)


def _privately(
    spec: RunSpec, private: Private, carry: Carry, epoch: int
) -> TrainedEpoch:
    """Train in one program, whose batches are drawn at random."""
    with own_numbers_may_move():
        out = run_private_epoch(
            *(spec.net, spec.loss, spec.optimizer, private, carry, spec.train),
            *(spec.key, epoch, spec.l2),
            augment=spec.augment,
            precision=getattr(spec.engine, "precision", None),
            batch_size=spec.batch_size,
        )
    losses = np.asarray(jax.device_get(out.losses), np.float64)
    sizes = np.full(len(losses), spec.batch_size)
    return TrainedEpoch(out.carry, losses, sizes, 0, None)


def _from_batches(
    spec: RunSpec, carry: Carry, epoch: int, locate: bool
) -> TrainedEpoch:
    """Train on batches that are read; the reading thread ends with the epoch."""
    assert isinstance(spec.train, Batches)
    with closing(spec.train.chunks()) as chunks:
        return _from_chunks(spec, chunks, carry, epoch, locate)


def _from_chunks(
    spec: RunSpec, chunks: Iterator[Chunk], carry: Carry, epoch: int, locate: bool
) -> TrainedEpoch:
    """Train in a program for each chunk; while one runs, the next one is read."""
    _, step_key = epoch_keys(spec.key, put_numbers(epoch, spec.mesh))
    done: list[tuple[Array, BadSteps]] = []
    sizes: list[int] = []
    first_bad = None
    for chunk in chunks:
        _check_chunk(spec, chunk)
        _check_labels(spec, chunk, epoch)
        data = on_mesh(jax.device_put((chunk.x, chunk.y)), spec.mesh)
        run = partial(
            steps_program(spec.mesh, carry),
            *(spec.net, spec.loss, spec.optimizer),
            data=data,
            first=jax.device_put(chunk.first),
            key=step_key,
            l2=spec.l2,
            n=spec.n,
            augment=spec.augment,
            engine=spec.engine,
            mesh=spec.mesh,
        )

        def read_batch(
            t: int, data: Batch = data, first: int = chunk.first
        ) -> tuple[Batch, KeyArray]:
            batch = jax.tree.map(lambda part: part[t], data)
            return minibatch(batch, None, first + t, step_key, spec.augment, spec.mesh)

        locates = locate and first_bad is None
        out, found = run_guarded(
            spec, run, carry, epoch, read_batch if locates else None
        )
        if found is not None:
            first_bad = found._replace(step=found.step + chunk.first)
        carry = out.carry
        done.append((out.losses, out.bad_steps))
        steps, size = jax.tree.leaves(chunk.x)[0].shape[:2]
        sizes += [size] * steps
        if spec.on_nonfinite == "stop" and first_bad is not None:
            break
        if len(done) > 1:  # no more than two chunks wait for the device
            jax.block_until_ready(done[-2])
    if not done:
        raise ValueError(f"train has no batches in epoch {epoch}: its source is empty")
    on_host = jax.device_get([(part, bad_steps.count) for part, bad_steps in done])
    losses = np.concatenate([part.astype(np.float64) for part, _ in on_host])
    skipped = sum(int(count) for _, count in on_host)
    return TrainedEpoch(carry, losses, np.array(sizes), skipped, first_bad)


def _check_chunk(spec: RunSpec, chunk: Chunk) -> None:
    """Raise unless the batches are like the sample, except for their size."""
    for name, part, sample in zip("xy", (chunk.x, chunk.y), spec.sample, strict=True):
        got = jax.tree.map(lambda a: tuple(a.shape[1:]), part)
        if map_shapes(lambda s: s[1:], got) != example_shape(sample):
            raise ValueError(
                f"train yields {name} of shape {got} at step {chunk.first}, "
                f"after one of shape {format_shapes(sample)}"
            )


def _check_labels(spec: RunSpec, chunk: Chunk, epoch: int) -> None:
    """Raise unless the labels of every batch fit the outputs."""
    leaves, structure = jax.tree.flatten(chunk.y)
    for t, labels in enumerate(zip(*leaves, strict=True)):
        try:
            spec.loss.check(spec.out_shape, jax.tree.unflatten(structure, labels))
        except Exception as error:
            error.add_note(f"in the batch of step {chunk.first + t}, epoch {epoch}")
            raise
