"""Statistics of single examples against one plain gradient: time and memory.

Each is a function of the variables and a batch, and is timed as the body of a compiled
loop, all side by side: the handwritten gradient of the batch, the norms of all
gradients, the mean of the clipped gradients, and `vmap` of `jax.grad`, which forms all
of them. The networks are an MLP, LeNet, a ResNet with GroupNorm, and one of
convolutions alone. Images are random.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from timing import (
    interleave,
    loop,
    ratio,
    rounds_within,
    temporary_bytes,
)

__all__ = ["ROWS", "Case", "measure", "nudged"]

LOSS = fnn.losses.SoftmaxCrossEntropy()
BUDGET = 90.0  # seconds for the rounds of one network
CLIP = 1.0
PADDING = ((1, 1), (1, 1))


class Case(NamedTuple):
    """A network, the shape of an example, and a batch size."""

    net: fnn.Layer
    in_shape: tuple[int, ...]
    batch_size: int

    def data(self) -> tuple[fnn.Variables, tuple[jax.Array, jax.Array]]:
        """Draw the network's variables and a batch."""
        rng, n = np.random.default_rng(0), self.batch_size
        x = jnp.asarray(rng.standard_normal((n, *self.in_shape)), jnp.float32)
        y = jnp.asarray(rng.integers(0, 10, n), jnp.int32)
        return self.net.init(jax.random.key(0), self.in_shape), (x, y)


def _mlp() -> fnn.Layer:
    hidden = [layer for _ in range(4) for layer in (fnn.Dense(512), fnn.Relu())]
    return fnn.serial(*hidden, fnn.Dense(10))


def _lenet() -> fnn.Layer:
    return fnn.serial(
        *(fnn.Conv(20, 5, padding="VALID"), fnn.Relu(), fnn.MaxPool(2)),
        *(fnn.Conv(40, 5, padding="VALID"), fnn.Relu(), fnn.MaxPool(2)),
        *(fnn.Flatten(), fnn.Dense(100), fnn.Relu(), fnn.Dense(10)),
    )


def _resnet() -> fnn.Layer:
    """Build three pre-activation blocks, with GroupNorm in place of BatchNorm."""

    def conv(features: int, stride: int = 1) -> fnn.Layer:
        return fnn.Conv(features, 3, stride=stride, padding=PADDING, bias=False)

    def block(inputs: int, features: int, stride: int) -> fnn.Layer:
        body = fnn.serial(
            *(fnn.GroupNorm(4), fnn.Relu(), conv(features, stride)),
            *(fnn.GroupNorm(4), fnn.Relu(), conv(features)),
        )
        if (inputs, stride) == (features, 1):
            return fnn.residual(body)
        shortcut = fnn.Conv(features, 1, stride=stride, padding="VALID", bias=False)
        return fnn.residual(body, shortcut)

    return fnn.serial(
        conv(16), block(16, 16, 1), block(16, 32, 2), block(32, 64, 2),
        fnn.GroupNorm(4), fnn.Relu(), fnn.GlobalAvgPool(), fnn.Dense(10),
    )  # fmt: skip


def _all_convolutional() -> fnn.Layer:
    layers: list[fnn.Layer] = []
    for features, stride in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        conv = fnn.Conv(features, 3, stride=stride, padding=PADDING)
        layers += [conv, fnn.GroupNorm(4), fnn.Relu()]
    return fnn.serial(*layers, fnn.GlobalAvgPool(), fnn.Dense(10))


IMAGE = (28, 28, 1)
ROWS = {
    "MLP 4×512, batch 256": Case(_mlp(), (784,), 256),
    "LeNet, batch 64": Case(_lenet(), IMAGE, 64),
    "ResNet with GroupNorm, batch 64": Case(_resnet(), IMAGE, 64),
    "all-convolutional, batch 64": Case(_all_convolutional(), IMAGE, 64),
}


def passes(net: fnn.Layer) -> dict[str, Callable[..., Any]]:
    """Return the functions (variables, batch) -> a tree that are compared."""

    def gradient(variables, batch):
        return fnn.value_and_grad(net, LOSS)(variables, batch).grads

    def vmap_grad(variables, batch):
        def loss(params, x, y):
            z = net.forward(params, variables.state, x[None], train=True).y
            return LOSS.value(z, y[None])

        def norm(x, y):
            grads = jax.grad(loss)(variables.params, x, y)
            return sum(jnp.square(g).sum() for g in jax.tree.leaves(grads))

        return jax.vmap(norm)(*batch)

    return {
        "gradient": gradient,
        "norms": fnn.per_example.norms(net, LOSS),
        "clipped sum": fnn.per_example.clipped_grad(net, LOSS, CLIP),
        "vmap(grad)": vmap_grad,
    }


def nudged(f: Callable[..., Any]) -> Callable[[Any, jax.Array], Any]:
    """Make the body of a loop in which all of a result enters the next parameters."""

    def body(carry, zero):
        variables, batch = carry
        leaves = jax.tree.leaves(f(variables, batch))
        by = zero * sum(leaf.sum() for leaf in leaves)
        params = jax.tree.map(lambda a: a + by, variables.params)
        return variables._replace(params=params), batch

    return body


def measure(case: Case, rounds: int = 20) -> dict:
    """Measure each pass: milliseconds, the ratio to the gradient, temporary memory."""
    given, functions = case.data(), passes(case.net)
    runs = {name: loop(nudged(f), given) for name, f in functions.items()}
    times = interleave(runs, rounds_within(BUDGET, runs, rounds))
    memory = {name: temporary_bytes(f, *given) for name, f in functions.items()}
    return {
        "ms": {name: float(np.median(t)) * 1e3 for name, t in times.items()},
        "to_gradient": {
            name: ratio(t, times["gradient"])._asdict() for name, t in times.items()
        },
        "memory_bytes": memory,
        "memory_to_gradient": {n: m / memory["gradient"] for n, m in memory.items()},
    }
