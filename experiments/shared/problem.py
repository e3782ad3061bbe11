"""Image classification: from the options to network, loss, optimizer and data.

fnn itself checks the numbers, before any work is done.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

import fnn
from experiments.shared.command_line import require_at_least

__all__ = [
    "CLASSES",
    "Problem",
    "Start",
    "TrainingConfig",
    "build",
    "fit",
    "load_dataset",
    "make_optimizer",
    "make_start",
]


@dataclass(frozen=True)
class TrainingConfig:
    """The options of a training, for any network.

    Attributes:
        dataset: the images; all other defaults are those for this dataset.
        data_dir: folder of the dataset's files; else FNN_DATA_DIR, or the user's cache.
        engine: computes the gradients: the handwritten backward, or JAX.
        optimizer: a name in fnn.optimizers, such as adam, sgd, nesterov, rmsprop.
        learning_rate: α, the size of a step.
        dropout: probability of dropping a hidden unit.
        l2: λ of the penalty λ/(2n) Σ Θ² on the weights, n training examples.
        label_smoothing: share of the target that is spread over all classes.
        batch_size: examples in a minibatch.
        epochs: how many, at most.
        patience: epochs without a better validation loss after which to stop.
        validation: share of the training examples set aside for early stopping.
        seed: of the parameters, the validation set, the minibatches, the masks.
        seeds: how many seeds to run, from that one on; their mean is reported.
        check: check the gradients before training.
        checkpoint_every: epochs from one checkpoint to the next; 0 for none.
        health: record the size of activations, δ and updates in every layer.
        resume: the folder of a run to continue; its options are then the defaults.
        out: a new folder for the results; else the next free one below runs/.
    """

    dataset: Literal["digits", "mnist", "fashion_mnist"] = "digits"
    data_dir: Path | None = None
    engine: Literal["manual", "autodiff"] = "manual"
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    dropout: float = 0.5
    l2: float = 0.0
    label_smoothing: float = 0.0
    batch_size: int = 32
    epochs: int = 200
    patience: int = 20
    validation: float = 0.15
    seed: int = 0
    seeds: int = 1
    check: bool = True
    checkpoint_every: int = 10
    health: bool = False
    resume: Path | None = None
    out: Path | None = None


#: The names of the labels 0, 1, ...
CLASSES = {
    "digits": tuple("0123456789"),
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        *("T-shirt", "trousers", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "boot"),
    ),
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
}


class Problem(NamedTuple):
    """The parts that are the same for every seed; `data.test` is used once, at the end.

    `stopping` ends a training early, and `augment` changes the training images.
    """

    net: fnn.Layer
    loss: fnn.losses.Loss
    optimizer: Any
    stopping: fnn.EarlyStopping
    data: fnn.data.Dataset
    augment: fnn.augmentations.Augmentation | None = None


class Start(NamedTuple):
    """The start of one training: the parts that depend on the seed."""

    data: fnn.data.Split
    variables: fnn.Variables
    check_key: jax.Array
    fit_key: jax.Array


def build(
    config: TrainingConfig,
    net: fnn.Layer,
    augment: fnn.augmentations.Augmentation | None = None,
) -> Problem:
    """Build everything that the config names, around a network.

    Args:
        config: the options.
        net: the network.
        augment: for the training images.

    Raises:
        ValueError, TypeError: fnn refuses a value; the text is fnn's.
        OSError: the dataset's files are missing.
    """
    require_at_least(config, epochs=1, seeds=1)
    problem = Problem(
        net=net,
        loss=fnn.losses.SoftmaxCrossEntropy(config.label_smoothing),
        optimizer=make_optimizer(config),
        stopping=fnn.EarlyStopping(patience=config.patience),
        data=load_dataset(config),
        augment=augment,
    )
    # No epoch at all: this trains nothing, and checks all arguments of the training.
    fit(problem, replace(config, epochs=0), make_start(problem, config, config.seed))
    return problem


def make_optimizer(config: TrainingConfig) -> Any:
    """Return the optimizer of that name, with that learning rate."""
    factories = {}
    for name in filter(str.islower, fnn.optimizers.__all__):  # not the classes
        function = getattr(fnn.optimizers, name)
        if "learning_rate" in inspect.signature(function).parameters:
            factories[name] = function
    if config.optimizer not in factories:
        raise ValueError(
            f"unknown optimizer {config.optimizer!r}: expected one of "
            f"{', '.join(factories)}"
        )
    return factories[config.optimizer](config.learning_rate)


def load_dataset(config: TrainingConfig) -> fnn.data.Dataset:
    """Load the dataset from `data_dir`, or from a folder of its name in there."""
    if config.dataset == "digits":
        return fnn.data.digits()
    folder = config.data_dir
    if folder is not None:
        if not folder.is_dir():
            raise NotADirectoryError(f"data_dir={folder} is not a folder")
        names = {"cifar10": "cifar-10-batches-bin", "fashion_mnist": "fashion-mnist"}
        inside = folder / names.get(config.dataset, config.dataset)
        folder = inside if inside.is_dir() else folder
    return getattr(fnn.data, config.dataset)(folder)


def make_start(problem: Problem, config: TrainingConfig, seed: int) -> Start:
    """Draw the validation set, the initial parameters and all keys from the seed."""
    keys = jax.random.split(jax.random.key(seed), 4)
    x, y = problem.data.train
    return Start(
        data=fnn.data.split(x, y, config.validation, keys[0], stratify=True),
        variables=problem.net.init(keys[1], x.shape[1:]),
        check_key=keys[2],
        fit_key=keys[3],
    )


def fit(
    problem: Problem,
    config: TrainingConfig,
    start: Start,
    on_epoch: Callable[[dict], Any] | None = None,
    folder: Path | None = None,
) -> fnn.FitResult:
    """Call `fnn.fit` with the options of the config; checkpoints go into the folder."""
    checkpoints = None
    if folder is not None and config.checkpoint_every:
        every = config.checkpoint_every
        checkpoints = fnn.Checkpoints(folder / "checkpoints", every=every, keep=2)
    return fnn.fit(
        problem.net,
        problem.loss,
        problem.optimizer,
        train=start.data.train,
        validation=start.data.validation,
        variables=start.variables,
        key=start.fit_key,
        epochs=config.epochs,
        batch_size=config.batch_size,
        engine=config.engine,
        early_stopping=problem.stopping,
        l2=config.l2,
        augment=problem.augment,
        health=config.health,
        on_epoch=on_epoch,
        checkpoint_dir=checkpoints,
        resume=config.resume is not None and checkpoints is not None,
    )
