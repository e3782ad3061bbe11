"""Train a network on handwritten digits by the recipe, gradient check first.

The terminal shows the recipe step by step: initialise, forward, cost, handwritten
backpropagation, gradient check, check switched off, training with early stopping, test.
All results are in one run folder.

    python -m experiments.train_digits
    python -m experiments.train_digits --dataset mnist --seeds 2

The test set is the same for every seed, and is used once, at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import fnn
from experiments.shared import problem, recipe
from experiments.shared.problem import CLASSES, Problem, TrainingConfig

__all__ = ["main"]


@dataclass(frozen=True)
class Config(TrainingConfig):
    """The options of a run.

    Attributes:
        layers: sizes of the hidden layers; none at all is softmax regression.
        activation: after each hidden layer.
        visible_dropout: probability of dropping a pixel.
    """

    layers: tuple[int, ...] = (256, 256)
    activation: Literal[
        "relu", "tanh", "sigmoid", "leaky_relu", "elu", "gelu", "silu", "softplus"
    ] = "relu"
    visible_dropout: float = 0.1


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the recipe; the exit status is 1 if the gradient check fails."""
    return recipe.run_recipe("train_digits", __doc__, PRESETS, build, argv)


def build(config: Config) -> Problem:
    """Build everything that the config names."""
    return problem.build(config, network(config))


def network(config: Config) -> fnn.Layer:
    """Build dropout of the pixels; dense, activation, dropout for each hidden layer."""
    name = config.activation.title().replace("_", "")  # leaky_relu is fnn.LeakyRelu
    layers = [fnn.Flatten()]
    if config.visible_dropout:
        layers += [fnn.Dropout(config.visible_dropout)]
    for features in config.layers:
        layers += [fnn.Dense(features), getattr(fnn, name)()]
        if config.dropout:
            layers += [fnn.Dropout(config.dropout)]
    return fnn.serial(*layers, fnn.Dense(len(CLASSES[config.dataset])))


if __name__ == "__main__":
    raise SystemExit(main())
