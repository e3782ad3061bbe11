"""Images to classify: from the options of a run to network, loss, optimizer and data.

Each function makes one part and lets fnn judge the numbers, so that a mistake is named
before any work is done.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

import fnn

__all__ = [
    "CLASSES",
    "PRESETS",
    "Config",
    "Problem",
    "Start",
    "build",
    "fit",
    "seeded",
]


@dataclass(frozen=True)
class Config:
    """What a run depends on.

    Attributes:
        dataset: the images; all other defaults are those for this dataset.
        data_dir: where MNIST's files lie; else FNN_DATA_DIR, or the user's cache.
        engine: who computes gradients: the handwritten backward, or JAX.
        optimizer: a name in fnn.optimizers, such as adam, sgd, nesterov, rmsprop.
        learning_rate: α, the size of a step.
        layers: sizes of the hidden layers; none at all is softmax regression.
        activation: after each hidden layer.
        dropout: probability of dropping a hidden unit.
        visible_dropout: probability of dropping a pixel.
        l2: λ of the penalty λ/(2n) Σ Θ² on the weights, n training examples.
        label_smoothing: share of the target that is spread over all classes.
        batch_size: examples in a minibatch.
        epochs: how many, at most.
        patience: epochs without a better validation loss after which to stop.
        validation: share of the training examples set aside for early stopping.
        seed: of the parameters, the validation set, the minibatches, the masks.
        seeds: how many seeds to run, from that one on; their mean is reported.
        check: check the gradients before training.
        out: a new folder for the results; else the next free one below runs/.
    """

    dataset: Literal["digits", "mnist", "fashion_mnist"] = "digits"
    data_dir: Path | None = None
    engine: Literal["manual", "autodiff"] = "manual"
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    layers: tuple[int, ...] = (256, 256)
    activation: Literal[
        "relu", "tanh", "sigmoid", "leaky_relu", "elu", "gelu", "silu", "softplus"
    ] = "relu"
    dropout: float = 0.5
    visible_dropout: float = 0.1
    l2: float = 0.0
    label_smoothing: float = 0.0
    batch_size: int = 32
    epochs: int = 200
    patience: int = 20
    validation: float = 0.15
    seed: int = 0
    seeds: int = 1
    check: bool = True
    out: Path | None = None


DIGITS = Config()
MNIST = Config(
    dataset="mnist",
    learning_rate=5e-4,
    layers=(512, 512),
    visible_dropout=0.2,
    batch_size=256,
    epochs=60,
    patience=10,
    validation=0.1,
)
FASHION_MNIST = replace(MNIST, dataset="fashion_mnist")

#: The defaults for each dataset.
PRESETS = {config.dataset: config for config in (DIGITS, MNIST, FASHION_MNIST)}

#: What the labels 0, 1, ... are called.
CLASSES = {
    "digits": tuple("0123456789"),
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        *("T-shirt", "trousers", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "boot"),
    ),
}


class Problem(NamedTuple):
    """What is the same for every seed; `test` is for the last measurement only."""

    net: fnn.Layer
    loss: fnn.losses.Loss
    optimizer: Any
    stopping: fnn.EarlyStopping
    data: fnn.data.Dataset


class Start(NamedTuple):
    """What the seed decides."""

    data: fnn.data.Split
    variables: fnn.Variables
    check_key: jax.Array
    fit_key: jax.Array


def build(config: Config) -> Problem:
    """Everything that the config names.

    Raises:
        ValueError, TypeError: a value that fnn does not take, in its own words.
        OSError: the dataset's files are missing.
    """
    for name in ("epochs", "seeds"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    problem = Problem(
        net=network(config),
        loss=fnn.losses.SoftmaxCrossEntropy(config.label_smoothing),
        optimizer=optimizer(config),
        stopping=fnn.EarlyStopping(patience=config.patience),
        data=load(config),
    )
    # No epoch at all: trains nothing, and checks all that training will be given.
    fit(problem, replace(config, epochs=0), seeded(problem, config, config.seed))
    return problem


def network(config: Config) -> fnn.Layer:
    """Dropout on the pixels; dense, activation and dropout for each hidden layer."""
    name = config.activation.title().replace("_", "")  # leaky_relu is fnn.LeakyRelu
    layers = [fnn.Flatten()]
    if config.visible_dropout:
        layers += [fnn.Dropout(config.visible_dropout)]
    for features in config.layers:
        layers += [fnn.Dense(features), getattr(fnn, name)()]
        if config.dropout:
            layers += [fnn.Dropout(config.dropout)]
    return fnn.serial(*layers, fnn.Dense(len(CLASSES[config.dataset])))


def optimizer(config: Config) -> Any:
    """The optimizer of that name, with that learning rate."""
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


def load(config: Config) -> fnn.data.Dataset:
    """The dataset; `data_dir` holds its files, or a folder of its name that does."""
    if config.dataset == "digits":
        return fnn.data.digits()
    folder = config.data_dir
    if folder is not None:
        if not folder.is_dir():
            raise NotADirectoryError(f"data_dir={folder} is not a folder")
        inside = folder / config.dataset.replace("_", "-")
        folder = inside if inside.is_dir() else folder
    return getattr(fnn.data, config.dataset)(folder)


def seeded(problem: Problem, config: Config, seed: int) -> Start:
    """The validation set, the initial parameters, and the keys for what follows."""
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
    config: Config,
    start: Start,
    on_epoch: Callable[[dict], Any] | None = None,
) -> fnn.FitResult:
    """`fnn.fit`, with what the config says."""
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
        on_epoch=on_epoch,
    )
