"""The specification of a run: everything that stays the same from epoch to epoch."""

from typing import Any, NamedTuple

from jax.sharding import Mesh

from fnn.augmentations import Augmentation
from fnn.core import Layer
from fnn.gradients.engines import Engine
from fnn.losses import Loss
from fnn.passes.per_example.private import Private
from fnn.training.early_stopping import EarlyStopping
from fnn.training.metrics import NamedMetric
from fnn.training.run.observed import Observer
from fnn.training.run.streams import Batches
from fnn.typing import Array, Batch, InShape

__all__ = ["RunSpec"]


class RunSpec(NamedTuple):
    """The specification of a run, checked and ready to be trained.

    net, plain_net: the network that is trained, and the one that it was planned from,
        layer by layer.
    train: x (N, ...) and y (N, ...) on the device, or batches that are read anew.
    sample: one minibatch of `train`.
    out_shape: the shape of the network's output for one example.
    n: the number of training examples, None if it is not known.
    key: the key that the epochs' keys are made of.
    validation: x and y on `validation_device`.
    validation_device: None for the device that trains.
    """

    net: Layer
    plain_net: Layer
    loss: Loss
    optimizer: Any
    train: Batch | Batches
    sample: Batch
    out_shape: InShape
    n: int | None
    key: Array
    l2: float | None
    augment: Augmentation | None
    engine: Engine
    batch_size: int
    mesh: Mesh | None
    validation: Batch | None
    validation_device: Any
    on_nonfinite: str | None
    health: bool
    metrics: tuple[NamedMetric, ...]
    train_metrics: tuple[NamedMetric, ...]
    early_stopping: EarlyStopping | None
    private: Private | None = None
    observer: Observer | None = None
