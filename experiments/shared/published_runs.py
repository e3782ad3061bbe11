"""A run of a published setting: its images, its optimizer, training and measuring.

The sources measure in three ways, which `setting` lists.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import fnn
from experiments.shared.setting import Setting

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
    (x, y), test = ((prepared(setting, x), y) for x, y in data)
    if isinstance(setting.loss, fnn.losses.SquaredError):
        y, test = one_hot(y), (test[0], one_hot(test[1]))
    count, last = (
        round(len(x) * part / IMAGES) for part in (setting.examples, setting.held_out)
    )
    held_out = x[len(x) - last :], y[len(x) - last :]
    if validate:
        rest = len(x) - len(x) // 6
        count, test = min(count, rest), (x[rest:], y[rest:])
        held_out = test
    choices = {"best": test, "validated": held_out, "last": None}
    return Images((x[:count], y[:count]), choices[setting.measured], test)


def prepared(setting: Setting, x: np.ndarray) -> np.ndarray:
    """Return the images, enlarged and standardised as the setting says."""
    if x.shape[1] != setting.side:
        rows = enlargement(x.shape[1], setting.side)
        x = (rows @ x[..., 0] @ rows.T)[..., None]
    mean, deviation = setting.pixels
    return x if (mean, deviation) == (0, 1) else (x - mean) / np.float32(deviation)


def enlargement(old: int, new: int) -> np.ndarray:
    """Return the matrix (new, old) of linear interpolation between pixel centres.

    Pixel i of the new ones has its centre at c = (i + ½) old/new, and the weight of an
    old pixel falls linearly from 1 at its centre to 0 at that of the next one.
    """
    centres = (np.arange(new) + 0.5) * old / new
    weights = np.maximum(0, 1 - abs(np.arange(old) + 0.5 - centres[:, None]))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


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
    key = jax.random.key(seed)
    net, loss, metrics = setting.net, setting.loss, {"accuracy": fnn.accuracy}
    if setting.rule is not None:
        net = setting.rule(net, jax.random.fold_in(key, 1))
    # A patience of all epochs never stops the training, but keeps the best epoch.
    keep_best = fnn.EarlyStopping(setting.epochs, mode="max", monitor="accuracy")
    result = fnn.fit(
        *(net, loss, optimizer),
        train=images.train,
        validation=images.validation,
        key=key,
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        early_stopping=None if images.validation is None else keep_best,
        metrics=metrics,
        l2=setting.l2,
        engine=setting.engine,
        augment=shifts(setting) if setting.shift else None,
        private=setting.private,
        on_epoch=on_epoch,
    )
    kept, last = (
        fnn.evaluate(net, loss, variables, images.test, metrics=metrics)["accuracy"]
        for variables in (result.variables, result.last_variables)
    )
    private = {} if setting.private is None else epsilons(setting, images)
    return {
        "seed": seed,
        "test_accuracy": kept,
        "best_epoch": result.best_epoch,
        "stopped": result.stopped,  # "epochs", or "diverged"
        "last_test_accuracy": last,
        "train_loss": float(result.history["train_loss"][-1]),
        "seconds": time.perf_counter() - started,
        "training_seconds": float(result.history["seconds"].sum()),
        **private,
    }


def shifts(setting: Setting) -> Callable:
    """Return the random shifts of the training images, which bring in black pixels."""
    crop = fnn.augmentations.RandomCrop(setting.shift)
    mean, deviation = setting.pixels
    black = -mean / deviation
    return lambda key, x: crop(key, x - black) + black


def epsilons(setting: Setting, images: Images) -> dict[str, float]:
    """Return ε of the whole training, by both accountants."""
    private, n = setting.private, len(images.train[0])
    assert private is not None
    return {
        f"epsilon_{accountant}": replace(private, accountant=accountant).epsilon(
            n, setting.batch_size, setting.epochs
        )
        for accountant in ("rdp", "pld")
    }


def make_optimizer(setting: Setting, examples: int) -> Any:
    """Return the setting's optimizer, with its schedule, its decay and its bound."""
    rate: Any = setting.learning_rate
    steps = math.ceil(examples / setting.batch_size)
    if setting.cosine_decay:
        total = setting.epochs * steps
        rate = optax.warmup_cosine_decay_schedule(0.0, rate, total // 20, total)
    if setting.milestones:
        factors: dict[int, float] = {}
        for epoch in setting.milestones:  # of a short run, two may coincide
            step = steps * epoch
            factors[step] = factors.get(step, 1.0) * setting.factor
        rate = optax.piecewise_constant_schedule(rate, factors)
    optimizer: Any = fnn.optimizers.sgd(rate)
    if setting.optimizer == "adam":
        optimizer = fnn.optimizers.adam(rate)
    elif setting.milestones:  # PyTorch's form: the rate scales the velocity
        optimizer = fnn.optimizers.sgd(rate, setting.momentum)
    elif setting.momentum:
        optimizer = fnn.optimizers.momentum(rate, setting.momentum)
    if setting.weight_decay:
        decay = optax.add_decayed_weights(setting.weight_decay)
        optimizer = optax.chain(decay, optimizer)
    if setting.max_norm is None:
        return optimizer
    return optax.chain(optimizer, fnn.optimizers.max_norm(setting.max_norm))
