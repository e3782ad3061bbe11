"""Pooling to a fixed number of positions, whatever the size of the image.

Legend: N examples, H and P positions along each spatial axis of x and y, C features.
"""

import math
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np

from fnn.checks import as_inputs
from fnn.core import Backward, Forward, Layer, Reach, Variables, layer
from fnn.layers.pooling import keep_gradient_of_positions
from fnn.layers.shape import shape_only
from fnn.layers.windows import check_image, per_axis, positive_integers
from fnn.typing import Array, Float, InShape, KeyArray, PyTree, Shaped

__all__ = ["AdaptiveAvgPool", "GlobalAvgPool", "GlobalMaxPool"]


class _Global(Layer):
    """A base class for pooling over all positions of an image of any size."""

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        check_image(self, in_shape)
        return Variables((), ())

    def reach(self, in_shape: InShape) -> None:
        return None  # an output depends on all positions


@layer
class GlobalAvgPool(_Global):
    """A layer that takes the mean of each feature: (N, H, ..., C) becomes (N, C).

        forward     y_nc = 1/M Σ_q x_nqc        M the number of positions
        backward    dx_nqc = dy_nc / M

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> fnn.GlobalAvgPool().forward((), (), jnp.ones((2, 7, 7, 3))).y.shape
        (2, 3)

    Source: Lin, Chen and Yan, arXiv:1312.4400, section 3.2.
    """

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        check_image(self, x.shape[1:])
        y = x.mean(tuple(range(1, x.ndim - 1)))
        return Forward(y, saved=shape_only(x), state=state)

    def backward(
        self, params: PyTree, saved: Array, dy: Shaped[Array, "N C"]
    ) -> Backward:
        n, *sizes, features = saved.shape[1:]
        share = (dy / math.prod(sizes)).reshape(n, *(1 for _ in sizes), features)
        return Backward(jnp.broadcast_to(share, (n, *sizes, features)), ())


@layer
class GlobalMaxPool(_Global):
    """A layer that takes the maximum of each feature: (N, H, ..., C) becomes (N, C).

        forward     y_nc = max_q x_nqc,    q*_nc the first q that attains it
        backward    dx_nqc = dy_nc where q = q*_nc, else 0

    A maximum that is −∞ or NaN has no position, and dx = 0.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> x = jnp.array([1.0, 3.0, 3.0]).reshape(1, 3, 1)
        >>> y, saved, _ = fnn.GlobalMaxPool().forward((), (), x)
        >>> fnn.GlobalMaxPool().backward((), saved, jnp.ones_like(y)).dx.ravel()
        Array([0., 1., 0.], dtype=float32)
    """

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        check_image(self, x.shape[1:])
        n, *sizes, features = x.shape
        pixels = as_inputs(x).reshape(n, math.prod(sizes), features)
        # Not `max`, whose gradient autodiff would divide among equal maxima.
        argmax = pixels.argmax(1, keepdims=True)
        y = jnp.take_along_axis(pixels, argmax, 1)
        argmax = jnp.where(y > -jnp.inf, argmax, pixels.shape[1])
        y = keep_gradient_of_positions(y[:, 0])
        return Forward(y, saved=(argmax, shape_only(x)), state=state)

    def backward(
        self, params: PyTree, saved: PyTree, dy: Shaped[Array, "N C"]
    ) -> Backward:
        argmax, x_shape = saved
        n, *sizes, features = x_shape.shape[1:]
        pixel = jnp.arange(math.prod(sizes))[None, :, None]
        dx = jnp.where(pixel == argmax, dy[:, None], 0)
        return Backward(dx.reshape(n, *sizes, features), ())


@layer
class AdaptiveAvgPool(Layer):
    """An average-pooling layer with P windows of nearly equal size along each axis.

    Window p holds the positions from ⌊p H/P⌋ to ⌈(p + 1) H/P⌉ − 1: for P > H, positions
    are in several windows, and some outputs are equal. A mean over a
    rectangle is a mean over its rows of means over its columns, so that each axis is
    pooled by itself, by a matrix A (P, H) with entries 1/(size of the window):

        forward     y = A x A'ᵀ         backward    dx = Aᵀ dy A'

    Args:
        output_size: P, one number for all spatial axes or a tuple with one for each.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> x = jnp.arange(5.0).reshape(1, 5, 1)
        >>> fnn.AdaptiveAvgPool(2).forward((), (), x).y.ravel()
        Array([1., 3.], dtype=float32)

    Source: PyTorch's `AdaptiveAvgPool2d`, whose windows these are.
    """

    output_size: int | tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = positive_integers("AdaptiveAvgPool: output_size", self.output_size)
        object.__setattr__(self, "output_size", sizes)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        self._matrices(check_image(self, in_shape)[:-1], jnp.float32)
        return Variables((), ())

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        sizes = check_image(self, x.shape[1:])[:-1]
        y = x = as_inputs(x)
        for axis, a in enumerate(self._matrices(sizes, x.dtype), start=1):
            y = _apply_along(axis, a, y)
        return Forward(y, saved=shape_only(x), state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        dx = dy
        for axis, a in enumerate(self._matrices(saved.shape[2:-1], dy.dtype), start=1):
            dx = _apply_along(axis, a.T, dx)
        return Backward(dx, ())

    def reach(self, in_shape: InShape) -> tuple[Reach, ...]:
        matrices = self._matrices(tuple(in_shape[:-1]), np.float32)
        return tuple(
            Reach(int((a != 0).sum(1).max()), Fraction(a.shape[1], a.shape[0]))
            for a in matrices
        )

    def _matrices(self, sizes: tuple[int, ...], dtype: Any) -> list[Array]:
        """Return A for each axis."""
        outputs = per_axis(self, "output_size", self.output_size, len(sizes))
        matrices = []
        for p, h in zip(outputs, sizes, strict=True):
            a = np.zeros((p, h))
            for i in range(p):
                start, end = i * h // p, -(-(i + 1) * h // p)
                a[i, start:end] = 1 / (end - start)
            matrices.append(jnp.asarray(a, dtype))
        return matrices


def _apply_along(axis: int, a: Float[Array, "P H"], x: Array) -> Array:
    """Multiply one axis of x by the matrix a."""
    return jnp.moveaxis(jnp.tensordot(a, x, (1, axis)), 0, axis)
