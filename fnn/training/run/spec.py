"""A training: everything that stays the same from epoch to epoch."""

from typing import Any, NamedTuple

from jax import Array
from jax.sharding import Mesh

from fnn.augmentations import Augmentation
from fnn.core import Layer
from fnn.gradients.engines import Engine
from fnn.losses import Loss
from fnn.training.early_stopping import EarlyStopping
from fnn.training.metrics import Metric
from fnn.training.run.streams import Batches

__all__ = ["Job"]


class Job(NamedTuple):
    """What stays the same from epoch to epoch.

    `net` is trained, and `written` is what it was planned from, layer by layer. `train`
    is x (N, ...) and y (N, ...) on the device, or batches that are read anew; `sample`
    is one minibatch of it, and n the number of examples (None where nobody knows).
    `validation` lies on `validation_device`; None is the device of the training.
    """

    net: Layer
    written: Layer
    loss: Loss
    optimizer: Any
    train: tuple[Array, Array] | Batches
    sample: tuple[Array, Array]
    n: int | None
    key: Array
    l2: float | None
    augment: Augmentation | None
    engine: Engine
    batch_size: int
    mesh: Mesh | None
    validation: tuple[Array, Array] | None
    validation_device: Any
    on_nonfinite: str | None
    health: bool
    metrics: tuple[tuple[str, Metric], ...]
    rule: EarlyStopping | None
