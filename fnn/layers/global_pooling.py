"""Pooling to a fixed number of places, whatever the size of the image.

Legend: N examples, H and P places along each spatial axis of x and y, C features.
"""

import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
from jax import Array

from fnn.checks import as_inputs
from fnn.core import Backward, Forward, Layer, Reach, Variables, layer
from fnn.layers.shape import shape_only
from fnn.layers.windows import check_image, check_places, per_axis

__all__ = ["AdaptiveAvgPool", "GlobalAvgPool", "GlobalMaxPool"]


class _Global(Layer):
    """What both share: they take any image, and look at all of it."""

    def init(self, key, in_shape):
        check_image(self, in_shape)
        return Variables((), ())

    def reach(self, in_shape):
        return None  # at everything


@layer
class GlobalAvgPool(_Global):
    """The mean of each feature over all places: (N, H, ..., C) becomes (N, C).

        forward     y_nc = 1/M Σ_q x_nqc        M the number of places
        backward    dx_nqc = dy_nc / M

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> fnn.GlobalAvgPool().forward((), (), jnp.ones((2, 7, 7, 3))).y.shape
        (2, 3)

    Source: Lin, Chen and Yan, arXiv:1312.4400, section 3.2.
    """

    def forward(self, params, state, x, *, key=None, train=False):
        check_image(self, x.shape[1:])
        y = x.mean(tuple(range(1, x.ndim - 1)))
        return Forward(y, saved=shape_only(x), state=state)

    def backward(self, params, saved, dy):
        n, *sizes, features = saved.shape[1:]
        share = (dy / math.prod(sizes)).reshape(n, *(1 for _ in sizes), features)
        return Backward(jnp.broadcast_to(share, (n, *sizes, features)), ())


@layer
class GlobalMaxPool(_Global):
    """The largest number of each feature over all places: (N, H, ..., C) to (N, C).

        forward     y_nc = max_q x_nqc,    q*_nc the first q that attains it
        backward    dx_nqc = dy_nc where q = q*_nc, else 0

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> x = jnp.array([1.0, 3.0, 3.0]).reshape(1, 3, 1)
        >>> y, saved, _ = fnn.GlobalMaxPool().forward((), (), x)
        >>> fnn.GlobalMaxPool().backward((), saved, jnp.ones_like(y)).dx.ravel()
        Array([0., 1., 0.], dtype=float32)
    """

    def forward(self, params, state, x, *, key=None, train=False):
        check_image(self, x.shape[1:])
        places = x.reshape(x.shape[0], -1, x.shape[-1])
        # Taken at the index, and not `max`: autodiff would share dy among equals.
        winner = places.argmax(1, keepdims=True)
        y = jnp.take_along_axis(places, winner, 1)[:, 0]
        like = shape_only(x)
        return Forward(y, saved=(winner, like), state=state)

    def backward(self, params, saved, dy):
        winner, like = saved
        n, *sizes, features = like.shape[1:]
        place = jnp.arange(math.prod(sizes))[:, None]
        dx = jnp.where(place == winner, dy[:, None], 0)
        return Backward(dx.reshape(n, *sizes, features), ())


@layer
class AdaptiveAvgPool(Layer):
    """Means over P windows that cover the image as evenly as whole places allow.

    Window p holds the places from ⌊p H/P⌋ up to, not including, ⌈(p + 1) H/P⌉. A mean
    over a rectangle is a mean over its rows of means over its columns, so that each
    axis is pooled by itself, by a matrix A (P, H) of 1/(size of the window):

        forward     y = A x A'ᵀ         backward    dx = Aᵀ dy A'

    Args:
        output_size: P, one number for all spatial axes or a tuple with one for each.

    Raises:
        ValueError: P is larger than the image.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> x = jnp.arange(5.0).reshape(1, 5, 1)
        >>> fnn.AdaptiveAvgPool(2).forward((), (), x).y.ravel()
        Array([1., 3.], dtype=float32)

    Source: PyTorch's `AdaptiveAvgPool2d`, whose windows these are.
    """

    output_size: int | tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = check_places("AdaptiveAvgPool: output_size", self.output_size)
        object.__setattr__(self, "output_size", sizes)

    def init(self, key, in_shape):
        self._matrices(check_image(self, in_shape)[:-1], jnp.float32)
        return Variables((), ())

    def forward(self, params, state, x, *, key=None, train=False):
        sizes = check_image(self, x.shape[1:])[:-1]
        y = x = as_inputs(x)
        for axis, a in enumerate(self._matrices(sizes, x.dtype), start=1):
            y = _along(axis, y, a)
        return Forward(y, saved=shape_only(x), state=state)

    def backward(self, params, saved, dy):
        dx = dy
        for axis, a in enumerate(self._matrices(saved.shape[2:-1], dy.dtype), start=1):
            dx = _along(axis, dx, a.T)
        return Backward(dx, ())

    def reach(self, in_shape):
        matrices = self._matrices(tuple(in_shape[:-1]), np.float32)
        return tuple(
            Reach(int((a != 0).sum(1).max()), Fraction(a.shape[1], a.shape[0]))
            for a in matrices
        )

    def _matrices(self, sizes: tuple[int, ...], dtype) -> list[Array]:
        """A for every axis."""
        outputs = per_axis(self, "output_size", self.output_size, len(sizes))
        if any(p > h for p, h in zip(outputs, sizes, strict=True)):
            raise ValueError(
                f"{self!r} cannot make more places of an image than its {sizes}"
            )
        matrices = []
        for p, h in zip(outputs, sizes, strict=True):
            a = np.zeros((p, h))
            for i in range(p):
                start, end = i * h // p, -(-(i + 1) * h // p)
                a[i, start:end] = 1 / (end - start)
            matrices.append(jnp.asarray(a, dtype))
        return matrices


def _along(axis: int, x: Array, a: Array) -> Array:
    """The matrix a (P, H) applied along one axis of x."""
    return jnp.moveaxis(jnp.tensordot(a, x, (1, axis)), 0, axis)
