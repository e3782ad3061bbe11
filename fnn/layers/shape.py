"""Layers that only rearrange, repeat, pad or crop: dx is dy, back in x's shape.

The shape of x is all that the backward needs. Where it does not follow from dy's shape,
it is saved as the shape of an array without elements, because `jit` passes only arrays.
"""

import math
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
from jax import lax

from fnn.core import Backward, Forward, Layer, Reach, Variables, layer, leaf
from fnn.layers.windows import (
    Padding,
    PaddingPairs,
    check_image,
    check_padding,
    per_axis,
    positive_integers,
)
from fnn.typing import Array, InShape, KeyArray, PyTree

__all__ = ["Crop", "Flatten", "Pad", "Reshape", "Upsample", "shape_only"]


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


@layer
class Pad(Layer):
    """A layer that puts a border of one number around an image.

        forward     y is x with lo and hi positions of `value` before and after it
        backward    dx is dy without these positions

    Args:
        padding: the width of the border in positions: a number for all sides, or a
            tuple with one entry for each spatial axis, a number or a pair (lo, hi).
        value: the number in the border.

    Raises:
        ValueError: a width is negative; x has other spatial axes.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> fnn.Pad((1, (0, 2))).forward((), (), jnp.ones((1, 1, 1, 1))).y[0, :, :, 0]
        Array([[0., 0., 0.],
               [1., 0., 0.],
               [0., 0., 0.]], dtype=float32)
    """

    padding: Padding
    value: float = leaf(0.0)

    def __post_init__(self) -> None:
        padding = check_padding("Pad: padding", self.padding, modes=())
        object.__setattr__(self, "padding", padding)

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        value = jnp.asarray(self.value, x.dtype)
        pairs = _border(self, "padding", self.padding, x.shape[1:])
        widths = [(0, 0, 0), *((lo, hi, 0) for lo, hi in pairs), (0, 0, 0)]
        return Forward(lax.pad(x, value, widths), saved=(), state=state)

    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        pairs = _border(self, "padding", self.padding, dy.shape[1:])
        return Backward(dx=_without_border(dy, pairs), dparams=())


@layer
class Crop(Layer):
    """A layer that takes a border off an image: the counterpart of `Pad`.

        forward     y is x without lo and hi positions before and after it
        backward    dx is dy with these positions, where it is 0

    Args:
        cropping: the width of the border, as that of `Pad`.

    Raises:
        ValueError: a width is negative, or nothing is left; x has other spatial axes.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> fnn.Crop(((1, 0), 2)).forward((), (), jnp.ones((1, 8, 8, 3))).y.shape
        (1, 7, 4, 3)
    """

    cropping: Padding

    def __post_init__(self) -> None:
        cropping = check_padding("Crop: cropping", self.cropping, modes=())
        object.__setattr__(self, "cropping", cropping)

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        pairs = _border(self, "cropping", self.cropping, x.shape[1:])
        for size, (lo, hi) in zip(x.shape[1:-1], pairs, strict=True):
            if lo + hi >= size:
                raise ValueError(
                    f"{self!r} takes {lo + hi} of {size} positions off an image of "
                    f"shape {x.shape[1:]}: nothing would be left"
                )
        return Forward(_without_border(x, pairs), saved=(), state=state)

    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        pairs = _border(self, "cropping", self.cropping, dy.shape[1:])
        widths = [(0, 0, 0), *((lo, hi, 0) for lo, hi in pairs), (0, 0, 0)]
        dx = lax.pad(dy, jnp.zeros((), dy.dtype), widths)
        return Backward(dx=dx, dparams=())


def _border(
    layer: Layer, name: str, border: Padding, in_shape: InShape
) -> PaddingPairs:
    """Return the pair (lo, hi) of each spatial axis."""
    axes = len(check_image(layer, in_shape)) - 1
    entries = border if isinstance(border, tuple) else (border,) * axes
    if len(entries) != axes:
        raise ValueError(
            f"{layer!r}: {name} has {len(entries)} entries, and images of shape "
            f"{tuple(in_shape)} have {axes} spatial axes: pass a number, or one for "
            "each axis."
        )
    pairs: Any = [(e, e) if isinstance(e, int) else e for e in entries]
    return tuple(pairs)


def _without_border(x: Array, pairs: PaddingPairs) -> Array:
    starts = (0, *(lo for lo, _ in pairs), 0)
    ends = [size - hi for size, (_, hi) in zip(x.shape[1:-1], pairs, strict=True)]
    return lax.slice(x, starts, (x.shape[0], *ends, x.shape[-1]))
