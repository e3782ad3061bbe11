"""Train a convolutional network on images by the recipe, gradient check first.

The steps are those of `train_digits`. New are the networks (see `shared/networks.py`),
the augmentation of the training images, and a learning rate that falls to zero.

    python -m experiments.train_images
    python -m experiments.train_images --dataset mnist --seeds 2
    python -m experiments.train_images --network resnet --no-augment
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import optax

import fnn
from experiments.shared import networks, problem, recipe
from experiments.shared.problem import (
    CLASSES,
    Problem,
    TrainingConfig,
    make_start,
)
from fnn.augmentations import Augmentation, Flip, RandomCrop, Shift, compose

__all__ = ["main"]


@dataclass(frozen=True)
class Config(TrainingConfig):
    """The options of a run.

    Attributes:
        dropout: probability of dropping a hidden unit; the resnet has no dropout.
        network: which one, see `experiments/shared/networks.py`.
        blocks: of the resnet, in each of its three stages.
        schedule: of the learning rate: constant, or down to 0 along half a cosine.
        augment: change the training images at random, see `augmentation`.
    """

    dataset: Literal["digits", "mnist", "fashion_mnist", "cifar10"] = "digits"
    epochs: int = 60
    network: Literal["lenet", "all_convolutional", "resnet"] = "lenet"
    blocks: int = 1
    schedule: Literal["cosine", "constant"] = "cosine"
    augment: bool = True


DIGITS = Config(augment=False)  # they fill their images: a shift would cut them
MNIST = Config(dataset="mnist", batch_size=64, epochs=20, validation=0.1)
FASHION_MNIST = replace(MNIST, dataset="fashion_mnist", epochs=40, patience=40)
CIFAR10 = Config(
    dataset="cifar10",
    network="resnet",
    blocks=3,
    batch_size=128,
    epochs=100,
    patience=100,
    validation=0.1,
)

#: The defaults for each dataset.
PRESETS = {config.dataset: config for config in (DIGITS, MNIST, FASHION_MNIST, CIFAR10)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the recipe; the exit status is 1 if the gradient check fails."""
    return recipe.run_recipe("train_images", __doc__, PRESETS, build, argv)


def build(config: Config) -> Problem:
    """Build everything that the config names."""
    augment = augmentation(config) if config.augment else None
    built = problem.build(config, network(config), augment)
    if config.schedule == "constant":
        return built
    examples = len(make_start(built, config, config.seed).data.train[0])
    steps = config.epochs * -(-examples // config.batch_size)
    falling = optax.cosine_decay_schedule(config.learning_rate, steps)
    return built._replace(optimizer=replace(built.optimizer, learning_rate=falling))


def network(config: Config) -> fnn.Layer:
    """Build the network of that name, at a size that suits the images."""
    classes, small = len(CLASSES[config.dataset]), config.dataset == "digits"
    if config.network == "resnet":
        return networks.resnet(classes, blocks=config.blocks)
    if config.network == "all_convolutional":
        return networks.all_convolutional(classes, dropout=config.dropout)
    # 5×5 pixels would be nearly all of 8×8.
    size = dict(kernel_size=3, padding="SAME", hidden=128) if small else {}
    return networks.lenet(classes, dropout=config.dropout, **size)


def augmentation(config: Config) -> Augmentation:
    """Return an augmentation that keeps the classes: a mirrored 3 is no digit."""
    return {
        "digits": Shift(1),
        "mnist": Shift(2),
        "fashion_mnist": compose(Shift(2), Flip()),
        "cifar10": compose(RandomCrop(4), Flip()),
    }[config.dataset]


if __name__ == "__main__":
    raise SystemExit(main())
