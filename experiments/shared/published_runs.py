"""A run of a published setting: its images, its optimizer, training and measuring.

The sources measure in three ways, which `published` lists.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import fnn
from experiments.shared.published import Setting

__all__ = ["Images", "make_optimizer", "split_images", "train_and_measure"]

CLASSES, IMAGES = 10, 60_000


class Images(NamedTuple):
    """The images of a run, each part with its labels.

    `validation` is evaluated after every epoch, and is None where nothing is chosen.
    """

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray] | None
    test: tuple[np.ndarray, np.ndarray]


def split_images(setting: Setting, data: fnn.data.Dataset, validate: bool) -> Images:
    """Split the data as the setting's source does.

    Args:
        setting: says how many images are for training, and how they are used.
        data: MNIST, or fewer images in the same proportion.
        validate: measure on the last sixth of the training images, train on the others.
    """
    (x, y), test = data
    if isinstance(setting.loss, fnn.losses.SquaredError):
        y, test = one_hot(y), (test[0], one_hot(test[1]))
    count, rest = round(len(x) * setting.examples / IMAGES), len(x) - len(x) // 6
    held_out = x[rest:], y[rest:]
    if validate:
        count, test = min(count, rest), held_out
    choices = {"best": test, "validated": held_out, "last": None}
    return Images((x[:count], y[:count]), choices[setting.measured], test)


def one_hot(y: np.ndarray) -> np.ndarray:
    """Return the targets of a squared error: 1 for the class, 0 for all others."""
    return np.eye(CLASSES, dtype=np.float32)[y]


def train_and_measure(
    setting: Setting, optimizer: Any, images: Images, seed: int, on_epoch: Callable
) -> dict[str, Any]:
    """Train once, and measure as the source does.

    Args:
        setting: the training.
        optimizer: see `make_optimizer`.
        images: see `split_images`.
        seed: of parameters, minibatches and masks.
        on_epoch: called with the record of every epoch.

    Returns:
        A line of numbers for the run folder.
    """
    started = time.perf_counter()
    net, loss, metrics = setting.net, setting.loss, {"accuracy": fnn.accuracy}
    # A patience of all epochs never stops the training, but keeps the best epoch.
    keep_best = fnn.EarlyStopping(setting.epochs, mode="max", monitor="accuracy")
    result = fnn.fit(
        *(net, loss, optimizer),
        train=images.train,
        validation=images.validation,
        key=jax.random.key(seed),
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        early_stopping=None if images.validation is None else keep_best,
        metrics=metrics,
        l2=setting.l2,
        on_epoch=on_epoch,
    )
    kept, last = (
        fnn.evaluate(net, loss, variables, images.test, metrics=metrics)["accuracy"]
        for variables in (result.variables, result.last_variables)
    )
    return {
        "seed": seed,
        "test_accuracy": kept,
        "best_epoch": result.best_epoch,
        "stopped": result.stopped,  # "epochs", or "diverged"
        "last_test_accuracy": last,
        "train_loss": float(result.history["train_loss"][-1]),
        "seconds": time.perf_counter() - started,
        "training_seconds": float(result.history["seconds"].sum()),
    }


def make_optimizer(setting: Setting, examples: int) -> Any:
    """Return gradient descent with the setting's momentum, schedule and bound."""
    rate: Any = setting.learning_rate
    if setting.cosine_decay:
        steps = setting.epochs * math.ceil(examples / setting.batch_size)
        rate = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 20, steps)
    optimizer: Any = fnn.optimizers.sgd(rate)
    if setting.momentum:
        optimizer = fnn.optimizers.momentum(rate, setting.momentum)
    if setting.max_norm is None:
        return optimizer
    return optax.chain(optimizer, fnn.optimizers.max_norm(setting.max_norm))
