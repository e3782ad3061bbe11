"""Optimizers, each tuned on a problem: losses over learning rates, what the best gets.

On a surface in the plane the learning rate is chosen on half of the starts, and what it
reaches is measured on the others; on digits, on validation images and on test images.
By that the optimizers are ranked.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments.few_digits import error_on_test
from fnn import optimizers

__all__ = [
    "OPTIMIZERS",
    "SOLVED",
    "Tuned",
    "among_the_best",
    "descend",
    "on_digits",
    "on_surface",
    "ranked",
]

#: A loss of so small a share of that at the start counts as 0.
SOLVED = 1e-10
LOSS = fnn.losses.SoftmaxCrossEntropy()
_rmsprop = partial(optimizers.rmsprop, eps=1e-6)
#: From a learning rate to an optimizer, whose other numbers are the lecture's.
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


class Tuned(NamedTuple):
    """What one optimizer does on one problem.

    losses (R, S): log10 of the loss with each of R learning rates, by which one is
        chosen: that with the least mean over the S starts or seeds.
    best: the place of the chosen one.
    scores: with it, log10 of the loss from other starts, or test errors in percent.
    """

    losses: np.ndarray
    best: int
    scores: list[float]


def on_surface(
    target: fnn.data.Target,
    optimizer: Callable,
    rates: list[float],
    *,
    steps: int,
    starts: int,
) -> Tuned:
    """Descend from all starts with all learning rates, in one compiled program."""

    def loss(rate: jax.Array, key: jax.Array) -> jax.Array:
        return descend(target, optimizer(rate), key, steps)

    keys = jax.random.split(jax.random.key(0), 2 * starts)
    everywhere = jax.jit(jax.vmap(jax.vmap(loss, (None, 0)), (0, None)))
    both = np.log10(everywhere(jnp.array(rates), keys))
    losses, others = both[:, :starts], both[:, starts:]
    best = int(losses.mean(1).argmin())
    return Tuned(losses, best, others[best].tolist())


def descend(
    target: fnn.data.Target,
    optimizer: optimizers.Optimizer,
    key: jax.Array,
    steps: int,
) -> jax.Array:
    """The loss after so many steps, as a share of that at the start, SOLVED to 1.

    The key moves the start, and turns the coordinates: a valley along one of them would
    favour a step size for each coordinate.
    """
    turn_key, start_key = jax.random.split(key)
    turn = jax.random.orthogonal(turn_key, 2)

    def f(theta: jax.Array) -> jax.Array:
        return target.f(turn @ theta)

    def step(carry: tuple, _: None) -> tuple:
        theta, state = carry
        update, state = optimizer.update(jax.grad(f)(theta), state, theta)
        return (theta + update, state), None

    moved = jnp.asarray(target.start, float)
    moved += 0.3 * jax.random.normal(start_key, (2,))
    start = turn.T @ moved
    carry = start, optimizer.init(start)
    (theta, state), _ = jax.lax.scan(step, carry, length=steps)
    share = f(optimizer.eval_params(state, theta)) / f(start)
    return jnp.where(share < 1, jnp.maximum(share, SOLVED), 1)  # 1 where it is NaN


def on_digits(
    optimizer: Callable, rates: list[float], *, epochs: int, seeds: int
) -> Tuned:
    """Train with all seeds and all learning rates, in one compiled program."""
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
        100 * error_on_test(net, swept.variables, best, seed) for seed in range(seeds)
    ]
    return Tuned(np.log10(swept.at_best("loss")), best, errors)


def ranked(tuned: dict[str, Tuned]) -> list[str]:
    """The optimizers on one problem, the best first."""
    return sorted(tuned, key=lambda name: np.mean(tuned[name].scores))


def among_the_best(tuned: dict[str, Tuned]) -> list[str]:
    """The best optimizer on one problem, and those level with it."""
    first, *others = ranked(tuned)
    best = [first]
    for name in others:
        behind = np.subtract(tuned[name].scores, tuned[first].scores)
        if behind.mean() <= 2 * behind.std(ddof=1) / np.sqrt(len(behind)):
            best.append(name)
    return best
