"""The best learning rate of an optimizer on a problem, and a ranking of optimizers.

On a surface in the plane the learning rate is chosen on half of the starts, and its
result is measured on the others. On digits it is chosen on validation images, and
measured on test images. The results rank the optimizers.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments.shared.digits_subset import error_on_test_images
from fnn import optimizers

__all__ = [
    "OPTIMIZERS",
    "SOLVED",
    "Tuning",
    "among_the_best",
    "descend",
    "rank",
    "tune_on_digits",
    "tune_on_surface",
]

#: A loss of this share of the loss at the start, or less, counts as 0.
SOLVED = 1e-10
LOSS = fnn.losses.SoftmaxCrossEntropy()
_rmsprop = partial(optimizers.rmsprop, eps=1e-6)
#: From a learning rate to an optimizer; its other numbers are the lecture's.
OPTIMIZERS: dict[str, Callable] = {
    "sgd": optimizers.sgd,
    "momentum": optimizers.momentum,
    "nesterov": optimizers.nesterov,
    "adagrad": partial(
        optimizers.adagrad, initial_accumulator_value=0.0, eps_in_sqrt=False
    ),
    "adadelta": partial(optimizers.adadelta, rho=0.95),
    "rmsprop": _rmsprop,
    "rmsprop+momentum": partial(_rmsprop, momentum=0.9),
    "rmsprop+nesterov": partial(_rmsprop, momentum=0.9, nesterov="lookahead"),
    "adam": optimizers.adam,
    "nadam": optimizers.nadam,
    "amsgrad": optimizers.amsgrad,
}


class Tuning(NamedTuple):
    """The results of one optimizer on one problem.

    losses (R, S): log10 of the loss with each of R learning rates; the one with the
        least mean over the S starts or seeds is chosen.
    best: index of the chosen one.
    scores: with it, log10 of the loss from other starts, or test errors in percent.
    """

    losses: np.ndarray
    best: int
    scores: list[float]


def tune_on_surface(
    target: fnn.data.Target,
    optimizer: Callable,
    rates: list[float],
    *,
    steps: int,
    starts: int,
) -> Tuning:
    """Tune an optimizer on a surface, in one compiled program.

    Args:
        target: the surface and its customary start.
        optimizer: from a learning rate to an optimizer.
        rates: the learning rates.
        steps: of each descent.
        starts: to choose the learning rate by; as many others are for the scores.
    """

    def loss(rate: jax.Array, key: jax.Array) -> jax.Array:
        return descend(target, optimizer(rate), key, steps)

    keys = jax.random.split(jax.random.key(0), 2 * starts)
    everywhere = jax.jit(jax.vmap(jax.vmap(loss, (None, 0)), (0, None)))
    both = np.log10(everywhere(jnp.array(rates), keys))
    losses, others = both[:, :starts], both[:, starts:]
    best = int(losses.mean(1).argmin())
    return Tuning(losses, best, others[best].tolist())


def descend(
    target: fnn.data.Target,
    optimizer: optimizers.Optimizer,
    key: jax.Array,
    steps: int,
) -> jax.Array:
    """Return the loss after `steps` steps, divided by that at the start: SOLVED to 1.

    The key moves the start and rotates the coordinates: a valley along an axis would
    favour optimizers with a step size for each coordinate.
    """
    rotation_key, start_key = jax.random.split(key)
    rotation = jax.random.orthogonal(rotation_key, 2)

    def f(theta: jax.Array) -> jax.Array:
        return target.f(rotation @ theta)

    def step(carry: tuple, _: None) -> tuple:
        theta, state = carry
        update, state = optimizer.update(jax.grad(f)(theta), state, theta)
        return (theta + update, state), None

    moved = jnp.asarray(target.start, float)
    moved += 0.3 * jax.random.normal(start_key, (2,))
    start = rotation.T @ moved
    carry = start, optimizer.init(start)
    (theta, state), _ = jax.lax.scan(step, carry, length=steps)
    share = f(optimizer.eval_params(state, theta)) / f(start)
    return jnp.where(share < 1, jnp.maximum(share, SOLVED), 1)  # 1 where it is NaN


def tune_on_digits(
    optimizer: Callable, rates: list[float], *, epochs: int, seeds: int
) -> Tuning:
    """Tune an optimizer on digits, in one compiled program.

    Args:
        optimizer: from a learning rate to an optimizer.
        rates: the learning rates.
        epochs: at most; 10 without a better validation loss end a training.
        seeds: trainings with each learning rate.
    """
    x, y = fnn.data.digits().train
    data = fnn.data.split(x, y, 0.2, jax.random.key(0), stratify=True)
    net = fnn.serial(fnn.Flatten(), fnn.Dense(32), fnn.Relu(), fnn.Dense(10))
    swept = fnn.sweep(
        lambda learning_rate: (net, LOSS, optimizer(learning_rate)),
        {"learning_rate": rates},
        train=data.train,
        validation=data.validation,
        keys=jax.random.split(jax.random.key(1), seeds),
        epochs=epochs,
        batch_size=32,
        early_stopping=fnn.EarlyStopping(patience=10),
    )
    best = rates.index(swept.best()["learning_rate"])
    errors = [
        100 * error_on_test_images(net, swept.variables, best, seed)
        for seed in range(seeds)
    ]
    return Tuning(np.log10(swept.at_best("loss")), best, errors)


def rank(tunings: dict[str, Tuning]) -> list[str]:
    """Return the names of the optimizers on one problem, the best first."""
    return sorted(tunings, key=lambda name: np.mean(tunings[name].scores))


def among_the_best(tunings: dict[str, Tuning]) -> list[str]:
    """Return the best optimizer on one problem, and those level with it.

    Level is a mean difference of at most two standard errors, seed by seed.
    """
    first, *others = rank(tunings)
    best = [first]
    for name in others:
        behind = np.subtract(tunings[name].scores, tunings[first].scores)
        if behind.mean() <= 2 * behind.std(ddof=1) / np.sqrt(len(behind)):
            best.append(name)
    return best
