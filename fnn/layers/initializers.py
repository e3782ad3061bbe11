"""Initialisers: `jax.nn.initializers`, as values that compare, hash and print.

JAX's own are closures: two of them are never equal, so a network that held them would
compile again each time it is built. An initialiser here is a small frozen dataclass
that draws the same numbers as JAX's, but compiles less (see `fnn.layers.draws`):
`initializer(key, shape) -> Array`. Any function of that signature can take its place.

The default of a layer depends on the activation that follows it, because the variance
of the activations must neither grow nor shrink from layer to layer:

| activation that follows      | default         | Var W       | source              |
| ---------------------------- | --------------- | ----------- | ------------------- |
| Relu, LeakyRelu, Elu, Gelu, Silu, Softplus | `HeNormal` | 2 / I | He et al. 2015   |
| Sigmoid, Tanh, Softmax       | `GlorotUniform` | 2 / (I + O) | Glorot, Bengio 2010 |
| none                         | `LecunNormal`   | 1 / I       | LeCun et al. 1998   |
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

from jax.nn import initializers as jax_initializers

from fnn.checks import check_key
from fnn.layers import draws
from fnn.typing import Array, KeyArray

__all__ = [
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Initializer",
    "LecunNormal",
    "Normal",
    "Ones",
    "Orthogonal",
    "Zeros",
]

#: A function (key, shape) -> Array.
Initializer = Callable[[KeyArray, tuple[int, ...]], Array]
"""The type of an initializer: a function of a key and of the shape to draw."""


@dataclass(frozen=True, repr=False)
class _PasteableRepr:
    """A base class whose repr can be pasted: `initializers.Normal(stddev=0.1)`."""

    def __repr__(self) -> str:
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        inside = ", ".join(f"{name}={value!r}" for name, value in values)
        return f"initializers.{type(self).__name__}({inside})"


@dataclass(frozen=True, repr=False)
class Zeros(_PasteableRepr):
    """An initialiser with 0 in all entries, for biases; for weights dx would be 0."""

    def __call__(self, key: KeyArray, shape: tuple[int, ...]) -> Array:
        return draws.filled(check_key(key), shape, 0.0)


@dataclass(frozen=True, repr=False)
class Ones(_PasteableRepr):
    """An initialiser with 1 in all entries, for scales."""

    def __call__(self, key: KeyArray, shape: tuple[int, ...]) -> Array:
        return draws.filled(check_key(key), shape, 1.0)


@dataclass(frozen=True, repr=False)
class Constant(_PasteableRepr):
    """An initialiser with the same `value` in all entries."""

    value: float

    def __call__(self, key: KeyArray, shape: tuple[int, ...]) -> Array:
        return draws.filled(check_key(key), shape, self.value)


@dataclass(frozen=True, repr=False)
class Normal(_PasteableRepr):
    """A normal distribution N(0, `stddev`²), for any shape."""

    stddev: float = 1.0

    def __call__(self, key: KeyArray, shape: tuple[int, ...]) -> Array:
        return draws.normal(check_key(key), shape, self.stddev)


@dataclass(frozen=True, repr=False)
class HeNormal(_PasteableRepr):
    """A truncated normal of variance 2/I. He et al., arXiv:1502.01852, eq. 10."""

    def __call__(self, key: KeyArray, shape: tuple[int, ...]) -> Array:
        return draws.truncated_normal(check_key(key), shape, 2 / _fans(shape)[0])


@dataclass(frozen=True, repr=False)
class HeUniform(_PasteableRepr):
    """A uniform distribution of variance 2/I. He et al., arXiv:1502.01852, eq. 10."""

    def __call__(self, key: KeyArray, shape: tuple[int, ...]) -> Array:
        return draws.uniform(check_key(key), shape, 2 / _fans(shape)[0])


@dataclass(frozen=True, repr=False)
class GlorotNormal(_PasteableRepr):
    """A truncated normal of variance 2/(I + O). Glorot and Bengio 2010, eq. 12."""

    def __call__(self, key: KeyArray, shape: tuple[int, ...]) -> Array:
        return draws.truncated_normal(check_key(key), shape, 2 / sum(_fans(shape)))


@dataclass(frozen=True, repr=False)
class GlorotUniform(_PasteableRepr):
    """A uniform distribution of variance 2/(I + O). Glorot and Bengio 2010, eq. 16."""

    def __call__(self, key: KeyArray, shape: tuple[int, ...]) -> Array:
        return draws.uniform(check_key(key), shape, 2 / sum(_fans(shape)))


@dataclass(frozen=True, repr=False)
class LecunNormal(_PasteableRepr):
    """A truncated normal of variance 1/I. LeCun et al. 1998, "Efficient BackProp"."""

    def __call__(self, key: KeyArray, shape: tuple[int, ...]) -> Array:
        return draws.truncated_normal(check_key(key), shape, 1 / _fans(shape)[0])


@dataclass(frozen=True, repr=False)
class Orthogonal(_PasteableRepr):
    """A random orthogonal matrix times `scale`. Saxe et al., arXiv:1312.6120."""

    scale: float = 1.0

    def __call__(self, key: KeyArray, shape: tuple[int, ...]) -> Array:
        return jax_initializers.orthogonal(self.scale)(check_key(key), shape)


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return I and O: the numbers of inputs of an output, and of outputs of an input.

    Of a convolution with k positions and weights (..., i, o) they are k i and k o.
    """
    if len(shape) < 2:
        raise ValueError(
            f"an array of shape {shape} has no inputs and outputs to draw it by: use "
            "an initialiser that knows its variance, such as initializers.Normal(0.01)"
        )
    *positions, inputs, outputs = shape
    return math.prod(positions) * inputs, math.prod(positions) * outputs
