"""A run of a published setting: its images and optimizer, training, what is measured.

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
from experiments.published import Setting

__all__ = ["Parts", "optimizer", "parts", "run"]

CLASSES, IMAGES = 10, 60_000


class Parts(NamedTuple):
    """The images: to train on, to watch while training or None, and to measure with."""

    train: tuple[np.ndarray, np.ndarray]
    watched: tuple[np.ndarray, np.ndarray] | None
    test: tuple[np.ndarray, np.ndarray]


def parts(setting: Setting, images: fnn.data.Dataset, validate: bool) -> Parts:
    """The setting's first images to train on; the last sixth is for validation."""
    (x, y), test = images
    if isinstance(setting.loss, fnn.losses.SquaredError):
        y, test = one_hot(y), (test[0], one_hot(test[1]))
    count, rest = round(len(x) * setting.examples / IMAGES), len(x) - len(x) // 6
    held_out = x[rest:], y[rest:]
    if validate:
        count, test = min(count, rest), held_out
    watched = {"best": test, "validated": held_out, "last": None}[setting.measured]
    return Parts((x[:count], y[:count]), watched, test)


def one_hot(y: np.ndarray) -> np.ndarray:
    """Targets of a squared error: 1 for the class, 0 for all others."""
    return np.eye(CLASSES, dtype=np.float32)[y]


def run(
    setting: Setting, made: Any, data: Parts, seed: int, show: Callable
) -> dict[str, Any]:
    """Train once with the optimizer made, and measure as the source does."""
    started = time.perf_counter()
    net, loss, metrics = setting.net, setting.loss, {"accuracy": fnn.accuracy}
    # It never stops: as many evaluations without a better one there cannot be.
    keep = fnn.EarlyStopping(setting.epochs, mode="max", monitor="accuracy")
    result = fnn.fit(
        *(net, loss, made),
        train=data.train,
        validation=data.watched,
        key=jax.random.key(seed),
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        early_stopping=None if data.watched is None else keep,
        metrics=metrics,
        l2=setting.l2,
        on_epoch=show,
    )
    kept, last = (
        fnn.evaluate(net, loss, variables, data.test, metrics=metrics)["accuracy"]
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


def optimizer(setting: Setting, examples: int) -> Any:
    """Gradient descent, with what the setting adds to it."""
    rate: Any = setting.learning_rate
    if setting.decays:
        steps = setting.epochs * math.ceil(examples / setting.batch_size)
        rate = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 20, steps)
    made: Any = fnn.optimizers.sgd(rate)
    if setting.momentum:
        made = fnn.optimizers.momentum(rate, setting.momentum)
    if setting.max_norm is None:
        return made
    return optax.chain(made, fnn.optimizers.max_norm(setting.max_norm))
