"""Initialisers: `jax.nn.initializers`, as values that compare, hash and print.

JAX's own are closures; two equal ones compare unequal, and a network that held them
would compile again each time it is built. An initialiser here is a small frozen
dataclass that calls JAX's: `initializer(key, shape) -> Array`. Any function of that
signature will do in its place.

Which one suits a layer depends on the activation that follows it, because the variance
of the activations must neither grow nor shrink from layer to layer:

| activation that follows      | default         | Var W       | source              |
| ---------------------------- | --------------- | ----------- | ------------------- |
| Relu, LeakyRelu, Elu, Gelu, Silu, Softplus | `HeNormal` | 2 / I | He et al. 2015   |
| Sigmoid, Tanh, Softmax       | `GlorotUniform` | 2 / (I + O) | Glorot, Bengio 2010 |
| none                         | `LecunNormal`   | 1 / I       | LeCun et al. 1998   |
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

from jax import Array
from jax.nn import initializers as jax_initializers

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

Initializer = Callable[[Array, tuple[int, ...]], Array]


@dataclass(frozen=True, repr=False)
class _Pasteable:
    """Prints as what one would write: `initializers.Normal(stddev=0.1)`."""

    def __repr__(self) -> str:
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        inside = ", ".join(f"{name}={value!r}" for name, value in values)
        return f"initializers.{type(self).__name__}({inside})"


@dataclass(frozen=True, repr=False)
class Zeros(_Pasteable):
    """All zeros: for biases. Never for the weights of two layers in a row."""

    def __call__(self, key: Array, shape: tuple[int, ...]) -> Array:
        return jax_initializers.zeros(key, shape)


@dataclass(frozen=True, repr=False)
class Ones(_Pasteable):
    """All ones: for scales."""

    def __call__(self, key: Array, shape: tuple[int, ...]) -> Array:
        return jax_initializers.ones(key, shape)


@dataclass(frozen=True, repr=False)
class Constant(_Pasteable):
    """Every entry the same `value`."""

    value: float

    def __call__(self, key: Array, shape: tuple[int, ...]) -> Array:
        return jax_initializers.constant(self.value)(key, shape)


@dataclass(frozen=True, repr=False)
class Normal(_Pasteable):
    """N(0, `stddev`²), whatever the shape."""

    stddev: float = 1.0

    def __call__(self, key: Array, shape: tuple[int, ...]) -> Array:
        return jax_initializers.normal(self.stddev)(key, shape)


@dataclass(frozen=True, repr=False)
class HeNormal(_Pasteable):
    """Truncated normal of variance 2/I. He et al., arXiv:1502.01852, eq. 10."""

    def __call__(self, key: Array, shape: tuple[int, ...]) -> Array:
        return jax_initializers.he_normal()(key, shape)


@dataclass(frozen=True, repr=False)
class HeUniform(_Pasteable):
    """Uniform of variance 2/I. He et al., arXiv:1502.01852, eq. 10."""

    def __call__(self, key: Array, shape: tuple[int, ...]) -> Array:
        return jax_initializers.he_uniform()(key, shape)


@dataclass(frozen=True, repr=False)
class GlorotNormal(_Pasteable):
    """Truncated normal of variance 2/(I + O). Glorot and Bengio 2010, eq. 12."""

    def __call__(self, key: Array, shape: tuple[int, ...]) -> Array:
        return jax_initializers.glorot_normal()(key, shape)


@dataclass(frozen=True, repr=False)
class GlorotUniform(_Pasteable):
    """Uniform of variance 2/(I + O). Glorot and Bengio 2010, eq. 16."""

    def __call__(self, key: Array, shape: tuple[int, ...]) -> Array:
        return jax_initializers.glorot_uniform()(key, shape)


@dataclass(frozen=True, repr=False)
class LecunNormal(_Pasteable):
    """Truncated normal of variance 1/I. LeCun et al. 1998, "Efficient BackProp"."""

    def __call__(self, key: Array, shape: tuple[int, ...]) -> Array:
        return jax_initializers.lecun_normal()(key, shape)


@dataclass(frozen=True, repr=False)
class Orthogonal(_Pasteable):
    """A random orthogonal matrix times `scale`. Saxe et al., arXiv:1312.6120."""

    scale: float = 1.0

    def __call__(self, key: Array, shape: tuple[int, ...]) -> Array:
        return jax_initializers.orthogonal(self.scale)(key, shape)
