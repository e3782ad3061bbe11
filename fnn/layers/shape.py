"""Layers that only rearrange or repeat: the backward returns dy to x's shape.

The shape of x is all that the backward needs. Where it does not follow from dy's shape,
it is saved as the shape of an array without elements, because `jit` passes only arrays.
"""

import math
from fractions import Fraction

import jax.numpy as jnp

from fnn.core import Backward, Forward, Layer, Reach, Variables, layer
from fnn.layers.windows import check_image, per_axis, positive_integers
from fnn.typing import Array, InShape, KeyArray, PyTree

__all__ = ["Flatten", "Reshape", "Upsample", "shape_only"]


def shape_only(x: Array) -> Array:
    """Return an array without elements that carries x's shape: (0, *x.shape)."""
    return jnp.zeros((0, *x.shape), x.dtype)


@layer
class Flatten(Layer):
    """A layer that makes each example a vector: (N, ...) becomes (N, features).

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> fnn.Flatten().forward((), (), jnp.ones((2, 3, 4, 1))).y.shape
        (2, 12)
    """

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        if x.ndim < 2:
            raise ValueError(
                f"Flatten() expected a batch (N, ...), got shape {x.shape}: the batch "
                "axis is missing. One example alone is x[None]."
            )
        y = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        return Forward(y, saved=shape_only(x), state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        return Backward(dx=dy.reshape(saved.shape[1:]), dparams=())


@layer
class Reshape(Layer):
    """A layer that reshapes each example: (N, ...) becomes (N, *shape).

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

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        if math.prod(x.shape[1:]) != math.prod(self.shape):
            raise ValueError(
                f"{self!r} needs {math.prod(self.shape)} elements an example, got "
                f"{math.prod(x.shape[1:])} in a batch of shape {x.shape}"
            )
        y = x.reshape(x.shape[0], *self.shape)
        return Forward(y, saved=shape_only(x), state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        return Backward(dx=dy.reshape(saved.shape[1:]), dparams=())

    def reach(self, in_shape: InShape) -> None:
        return None  # a pixel may move anywhere


@layer
class Upsample(Layer):
    """A layer that enlarges an image: each pixel `factor` times along each axis.

    It is nearest-neighbour interpolation. With the factors r and s of an image's axes:

        forward     y_nijc = x_n⌊i/r⌋⌊j/s⌋c
        backward    dx_nhwc = Σ_{a<r} Σ_{b<s} dy_n(rh+a)(sw+b)c

    A pixel's gradient is the sum of the gradients of its copies.

    Args:
        factor: a positive integer for all spatial axes, or a tuple with one for each.
            There may be 1 to 3 of them.

    Raises:
        ValueError: a factor is not a positive integer; x has other spatial axes.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> x = jnp.arange(4.0).reshape(1, 2, 2, 1)
        >>> fnn.Upsample((1, 2)).forward((), (), x).y[0, :, :, 0]
        Array([[0., 0., 1., 1.],
               [2., 2., 3., 3.]], dtype=float32)

    Source: Odena, Dumoulin and Olah, Distill (2016), doi:10.23915/distill.00003, where
    it precedes a convolution in place of a transposed one.
    """

    factor: int | tuple[int, ...]

    def __post_init__(self) -> None:
        factor = positive_integers("Upsample: factor", self.factor)
        object.__setattr__(self, "factor", factor)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        self._factors(in_shape)
        return Variables((), ())

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        y = x
        for axis, factor in enumerate(self._factors(x.shape[1:]), start=1):
            y = jnp.repeat(y, factor, axis)
        return Forward(y, saved=(), state=state)

    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        shape = [dy.shape[0]]
        factors = self._factors(dy.shape[1:])
        for size, factor in zip(dy.shape[1:-1], factors, strict=True):
            shape += [size // factor, factor]
        blocks = dy.reshape(*shape, dy.shape[-1])  # (N, H, r, W, s, C)
        dx = blocks.sum(tuple(range(2, blocks.ndim, 2)))
        return Backward(dx=dx, dparams=())

    def reach(self, in_shape: InShape) -> tuple[Reach, ...]:
        return tuple(Reach(1, Fraction(1, f)) for f in self._factors(in_shape))

    def _factors(self, in_shape: InShape) -> tuple[int, ...]:
        """Return the factor of each spatial axis."""
        axes = len(check_image(self, in_shape)) - 1
        return per_axis(self, "factor", self.factor, axes)
