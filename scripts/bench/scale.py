"""How cost grows: with depth, width, batch, parameters, and examples.

Each row makes one of them larger while all else stays, and trains with `fnn.fit` on
made-up numbers. What must not happen is that time grows faster than the work: the
multiply-adds of an epoch, of which three are needed for each weight and example
(forward, dx, dW), at every place of an image. Compiling may grow with the number of
layers, and with nothing else.
"""

import resource
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnn

__all__ = ["ROWS", "measure"]

LOSS = fnn.losses.SoftmaxCrossEntropy()

#: Multiply-adds of an epoch, so that a short step is repeated: a second, or less.
WORK = 1e10


class Point(NamedTuple):
    """A network to train, and how: `places` at which each weight is used."""

    net: fnn.Layer
    in_shape: tuple[int, ...]
    batch_size: int = 64
    examples: int | None = None
    places: int = 1
    streamed: bool = False


def dense(width: int, depth: int = 1, inputs: int = 64, **options: int) -> Point:
    """Return hidden layers of one width."""
    hidden = [fnn.Dense(width), fnn.Relu()] * depth
    return Point(fnn.serial(*hidden, fnn.Dense(10)), (inputs,), **options)


def convolutions(depth: int, side: int = 14) -> Point:
    """Return 3 × 3 convolutions of 16 features, one after the other."""
    layers = [fnn.Conv(16, 3), fnn.Relu()] * depth
    net = fnn.serial(*layers, fnn.GlobalAvgPool(), fnn.Dense(10))
    return Point(net, (side, side, 1), places=side * side)


def streamed(examples: int) -> Point:
    """Return a small network, and so many examples that are handed over in batches."""
    point = dense(128, batch_size=1024, examples=examples)
    return point._replace(streamed=True)


#: What grows: its values, and the network for each.
ROWS = {
    "dense layers of 128": ((1, 4, 16, 64), lambda n: dense(128, depth=n)),
    "convolutions of 16 features": ((1, 4, 16, 64), convolutions),
    "width of 3 hidden layers": (
        (8, 32, 128, 512, 2048),
        lambda n: dense(n, depth=3),
    ),
    "batch": ((1, 4, 16, 64, 256, 1024), lambda n: dense(512, depth=3, batch_size=n)),
    "parameters": (  # two hidden layers: about 2 n² in all
        (10**4, 10**5, 10**6, 10**7, 10**8),
        lambda n: dense(round(n**0.5), depth=2),
    ),
    "examples, streamed": ((10**4, 10**5, 10**6, 10**7), streamed),
}


def measure(row: tuple, rounds: int = 3) -> dict:
    """Measure every value of a row: the least seconds of `rounds` epochs.

    `first` is how much longer a first epoch takes, planning and compiling included.
    """
    sizes, build = row
    return {"points": {str(n): _measure_point(build(n), rounds) for n in sizes}}


def _measure_point(point: Point, rounds: int) -> dict:
    jax.clear_caches()  # two rows may share a point
    variables = point.net.init(jax.random.key(0), point.in_shape)
    weights = [p for p in jax.tree.leaves(variables.params) if p.ndim > 1]
    places = [point.places if p.ndim > 2 else 1 for p in weights]
    per_example = 3 * sum(p.size * n for p, n in zip(weights, places, strict=True))
    steps = max(2, round(WORK / per_example / point.batch_size))
    examples = point.examples or point.batch_size * min(steps, 1000)
    epochs: list[float] = []
    for _ in range(2):  # the second one is compiled
        result = fnn.fit(
            *(point.net, LOSS, fnn.optimizers.adam(1e-3)),
            train=_data(point, examples),
            key=jax.random.key(0),
            epochs=rounds,
            batch_size=point.batch_size,
            variables=variables,
        )
        epochs += result.history["seconds"].tolist()
    seconds = min(epochs[rounds:])
    return {
        "parameters": int(sum(p.size for p in jax.tree.leaves(variables.params))),
        "multiply_adds": per_example * examples,
        "examples": examples,
        "seconds": seconds,
        "first": epochs[0] - seconds,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def _data(point: Point, examples: int) -> object:
    rng = np.random.default_rng(0)
    count = point.batch_size if point.streamed else examples
    x = rng.standard_normal((count, *point.in_shape), np.float32)
    y = rng.integers(0, 10, count).astype(np.int32)
    if not point.streamed:
        return jnp.asarray(x), jnp.asarray(y)

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for _ in range(examples // count):
            yield x.copy(), y.copy()  # as if they were read from a file

    return fnn.Batches(batches, n=examples // count * count)
