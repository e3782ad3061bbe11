"""The start of a run: its data, its variables, and the progress that it begins with."""

from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from fnn.checks import check_flag, check_l2
from fnn.core import Layer, Variables
from fnn.losses import Loss, expect_loss
from fnn.shapes import count_examples, example_shape
from fnn.training.checks import check_batch_size
from fnn.training.compiled.meshes import check_shards, on_mesh
from fnn.training.data import check_data, check_fits, check_last_batch, with_weights
from fnn.training.evaluation import metrics_of
from fnn.training.metrics import Metric, NamedMetric
from fnn.training.run.loop import Progress
from fnn.training.run.result import FitResult, recheck_patience
from fnn.training.run.spec import RunSpec
from fnn.training.run.streams import Batches, as_batches
from fnn.training.store.checkpoints import Checkpoints, CheckpointStore
from fnn.transfers import own_numbers_may_move
from fnn.typing import Batch, KeyArray

__all__ = [
    "TrainingData",
    "check_training_data",
    "initial_variables",
    "restored_progress",
    "result_to_resume",
    "training_metrics",
]


@own_numbers_may_move()
def restored_progress(
    store: CheckpointStore, spec: RunSpec, initial: Progress, resume: bool | FitResult
) -> Progress:
    """Return the progress of the last checkpoint, or the initial one of a new run."""
    if resume is not True:
        store.check_is_new()
        return initial
    progress = recheck_patience(spec, store.restore(initial))
    if isinstance(spec.train, Batches):
        spec.train.seek(progress.position)
    return progress


class TrainingData(NamedTuple):
    """The data of a run, checked.

    loss: the loss; that of examples with weights, where there are some.
    train: arrays, or batches that are read.
    sample: the first minibatch.
    known: its x, with all labels that are known.
    n: the number of examples, None if it is not known.
    validation: data that fit the loss, or None.
    weighted: whether the examples have weights.
    """

    loss: Loss
    train: Batches | Batch
    sample: Batch
    known: Batch
    n: int | None
    validation: Any
    weighted: bool


def check_training_data(
    loss: Loss,
    train: Any,
    validation: Any,
    batch_size: int,
    l2: Any,
    mesh: Mesh | None,
) -> TrainingData:
    """Check the training data: all examples of arrays, the first ones of batches."""
    expect_loss(loss)
    batches = as_batches(train)
    first = None if batches is None else batches.first()
    given = loss
    loss, train, validation = with_weights(loss, batches or train, validation)
    weighted = loss is not given
    if batches is None:
        x, y = check_data("train", train)
        train, n = on_mesh((x, y), mesh), count_examples(x)
        size = check_batch_size(batch_size, n)
        check_shards(mesh, size)
        sample = jax.tree.map(lambda part: part[:size], train)
        known = sample[0], y
        return TrainingData(loss, train, sample, known, n, validation, weighted)
    if check_l2(l2) and batches.n is None:
        raise ValueError(
            "l2 needs the number of training examples, which is not known of batches: "
            "pass train=fnn.Batches(source, n=...)"
        )
    sample = check_data("train", first)
    check_shards(mesh, count_examples(sample))
    shown = batches, sample, sample, batches.n
    return TrainingData(loss, *shown, validation, weighted)


def initial_variables(
    net: Layer,
    data: TrainingData,
    given: Any,
    earlier: FitResult | None,
    key: KeyArray,
    mesh: Mesh | None,
) -> Variables:
    """Return the variables to start from, which fit the network and its data."""
    given = given if earlier is None else earlier.carry.variables
    x, size = data.sample[0], count_examples(data.sample)
    given = net.init(key, example_shape(x)) if given is None else given
    variables = check_fits(net, data.loss, on_mesh(given, mesh), data.known, "train")
    check_last_batch(net, variables, x, data.n or size, size)
    return variables


def training_metrics(
    wanted: Any,
    net: Layer,
    data: TrainingData,
    variables: Variables,
    chosen: tuple[tuple[str, Metric], ...],
) -> tuple[NamedMetric, ...]:
    """Return the metrics of the training data, where they are wanted."""
    if not check_flag("train_metrics", wanted):
        return ()
    if isinstance(data.train, Batches):
        raise ValueError(
            "train_metrics=True needs all training examples in arrays, and train is "
            "read in batches: evaluate some of them in on_epoch, by fnn.evaluate"
        )
    if not chosen:
        raise ValueError(
            "train_metrics=True, but there are none: pass metrics={name: function}"
        )
    return metrics_of(net, data.loss, variables, data.train, chosen)


def result_to_resume(
    resume: Any, variables: Any, checkpoints: Checkpoints | None
) -> FitResult | None:
    """Return the result to continue from, if any."""
    if not isinstance(resume, FitResult | bool):
        raise TypeError(
            f"resume must be True, False or a FitResult, got {type(resume).__name__}"
        )
    if resume is True and checkpoints is None:
        raise ValueError("resume=True goes on from a checkpoint: pass checkpoint_dir")
    if isinstance(resume, bool):
        return None
    if variables is not None:
        raise ValueError("resume goes on from its own variables: pass no others")
    return resume
