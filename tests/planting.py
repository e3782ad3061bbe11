"""Planting a wrong backward, and auditing the network around it.

A bug is a name, a network, and the path that the audit must report as the first
divergence. The dimensions are pairwise different, except where a square weight is
needed to hide a missing transpose.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import fnn
from fnn import Backward
from fnn.gradients.audit.layerwise import structural_faults
from fnn.gradients.audit.subject import Subject
from fnn.losses import (
    AbsoluteError,
    Huber,
    KullbackLeibler,
    Poisson,
    SoftmaxCrossEntropy,
    SquaredError,
)

N, INPUTS, HIDDEN, CLASSES = 6, 5, 7, 3


class Bug(NamedTuple):
    """A planted bug: the audit of `net` must report `found`."""

    name: str
    net: fnn.Layer
    loss: Any
    found: str
    train: bool = True


def plant(parent: type, **methods: Callable) -> type:
    """Make a layer (or loss) class: `parent` with some methods replaced.

    A method that `parent` does not have would replace nothing, and plant no bug.
    """
    for name in methods:
        getattr(parent, name)
    return fnn.layer(type(parent.__name__, (parent,), dict(methods)))


def around(layer: fnn.Layer, outputs: int = CLASSES) -> fnn.Layer:
    """Put a layer in the middle of a network, as its layer 1."""
    return fnn.serial(fnn.Dense(HIDDEN), layer, fnn.Tanh(), fnn.Dense(outputs))


def images(layer: fnn.Layer, shape: tuple[int, ...] = (4, 6)) -> fnn.Layer:
    """Put a layer for images of this shape in a network for vectors, as its layer 2."""
    pixels = fnn.Dense(math.prod(shape))
    return fnn.serial(pixels, fnn.Reshape(shape), layer, fnn.Flatten())


def elementwise(parent: type, dx: Callable) -> Any:
    """Make an activation whose dx is dx(self, saved, dy)."""
    return plant(
        parent,
        backward=lambda self, params, saved, dy: Backward(dx(self, saved, dy), ()),
    )


def planted(name: str, layer: fnn.Layer, found: str, train: bool = True) -> Bug:
    """Make a bug of a layer in the middle of a network."""
    return Bug(name, around(layer), SoftmaxCrossEntropy(), found, train)


def arguments(bug: Bug) -> tuple[Any, ...]:
    """Return the network with a planted bug, its loss, variables and a random batch."""
    draw = np.random.default_rng(1)
    x = draw.normal(size=(N, INPUTS)).astype(np.float32)
    y = draw.integers(0, CLASSES, size=N).astype(np.int32)
    if isinstance(bug.loss, SquaredError | Huber | AbsoluteError):
        y = draw.normal(size=(N, CLASSES)).astype(np.float32)
    if isinstance(bug.loss, KullbackLeibler | Poisson):
        y = draw.dirichlet(np.ones(CLASSES), N).astype(np.float32)
    variables = bug.net.init(jax.random.key(0), (INPUTS,))
    # Away from the fresh values, at which scales and biases hide mistakes.
    moved = [0.3 * draw.normal(size=a.shape) for a in jax.tree.leaves(variables.params)]
    params = jax.tree.map(
        lambda a, m: (a + m).astype(a.dtype),
        variables.params,
        jax.tree.unflatten(jax.tree.structure(variables.params), moved),
    )
    return bug.net, bug.loss, fnn.Variables(params, variables.state), (x, y)


def audit(bug: Bug, **options: Any) -> fnn.Report:
    """Audit a network with a planted bug on a random batch."""
    return fnn.compare_gradients(
        *arguments(bug), key=jax.random.key(1), train=bug.train, max_coordinates=4,
        **options,
    )  # fmt: skip


def backward_faults(bug: Bug) -> list[str]:
    """Return whose backward raises, or returns wrong shapes, the innermost first."""
    subject = Subject.of(
        *arguments(bug), jax.random.key(1), train=bug.train, l2=0.0, n=N,
        precision="float32",
    )  # fmt: skip
    return [fault.path for fault in structural_faults(subject)]
