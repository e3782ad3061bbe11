"""Layers that only rearrange: the backward puts dy back into x's shape.

The shape of x is all the backward needs; an array of no elements carries it, because
what crosses `jit` must be an array.
"""

import math

import jax.numpy as jnp
from jax import Array

from fnn.core import Backward, Forward, Layer, layer

__all__ = ["Flatten", "Reshape"]


def _shape_only(x: Array) -> Array:
    """An array without elements that remembers x's shape: (0, *x.shape)."""
    return jnp.zeros((0, *x.shape), x.dtype)


@layer
class Flatten(Layer):
    """(N, ...) becomes (N, features).

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> fnn.Flatten().forward((), (), jnp.ones((2, 3, 4, 1))).y.shape
        (2, 12)
    """

    def forward(self, params, state, x, *, key=None, train=False):
        if x.ndim < 2:
            raise ValueError(
                f"Flatten() expected a batch (N, ...), got shape {x.shape}: the batch "
                "axis is missing. One example alone is x[None]."
            )
        y = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        return Forward(y, saved=_shape_only(x), state=state)

    def backward(self, params, saved, dy):
        return Backward(dx=dy.reshape(saved.shape[1:]), dparams=())


@layer
class Reshape(Layer):
    """(N, ...) becomes (N, *shape).

    Args:
        shape: the shape of one example, without the batch axis.

    Raises:
        ValueError: an example has another number of elements.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> fnn.Reshape((2, 3)).forward((), (), jnp.ones((5, 6))).y.shape
        (5, 2, 3)
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.shape, tuple) or not all(
            isinstance(size, int) and size > 0 for size in self.shape
        ):
            raise ValueError(
                "Reshape: shape must be a tuple of positive integers, without the "
                f"batch axis, got {self.shape!r}"
            )

    def forward(self, params, state, x, *, key=None, train=False):
        if math.prod(x.shape[1:]) != math.prod(self.shape):
            raise ValueError(
                f"{self!r} needs {math.prod(self.shape)} elements an example, got "
                f"{math.prod(x.shape[1:])} in a batch of shape {x.shape}"
            )
        y = x.reshape(x.shape[0], *self.shape)
        return Forward(y, saved=_shape_only(x), state=state)

    def backward(self, params, saved, dy):
        return Backward(dx=dy.reshape(saved.shape[1:]), dparams=())
