"""Convolution and max-pooling with the handwritten gradient, for any JAX program.

Inside a loop (`lax.scan`, `fori_loop`) XLA's CPU backend has no fast path for the
convolutions that `jax.grad` makes of a convolution, and visits one place after the
other for a max-pool: both can be a hundred times slower there than outside. These two
functions give the same numbers, and their gradients are fnn's (`fnn.layers.convolve`,
`fnn.layers.pooling`), which keep their speed.

They are for programs in Flax, Equinox, Haiku or plain JAX. fnn's own engines never use
them: a `custom_vjp` would make `jax.grad` repeat what it is to referee. For the same
reason they can be differentiated backwards only, once.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array, lax

from fnn.layers.convolve import convolve, convolve_dw, convolve_dx
from fnn.layers.pooling import MaxPool
from fnn.layers.windows import Window

__all__ = ["conv", "max_pool"]


def conv(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Array:
    """`jax.lax.conv_general_dilated` with the handwritten gradient.

    The arguments are those of the original, so that it fits wherever that one does:
    `flax.nnx.Conv(..., conv_general_dilated=fnn.ops.conv)`.

    Args:
        lhs: x, images in one, two or three dimensions.
        rhs: W, the weight.
        window_strides: s of each spatial axis.
        padding: "SAME", "VALID", or a pair (lo, hi) for each spatial axis.
        lhs_dilation: must be 1: a transposed convolution is another function.
        rhs_dilation: d of each spatial axis.
        dimension_numbers: layouts of x, W and y, ("NHWC", "HWIO", "NHWC") for images
            with the features last; JAX's default (NCHW, OIHW, NCHW) if None.
        feature_group_count: G.
        batch_group_count: must be 1.
        precision: must be None; set it by `jax.default_matmul_precision`, which holds
            for the gradient too.
        preferred_element_type: None, or the dtype of x.
        out_sharding: must be None.

    Returns:
        y.

    Raises:
        ValueError: an argument that is not supported.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> x, w = jnp.ones((8, 28, 28, 1)), jnp.ones((5, 5, 1, 20))
        >>> layout = ("NHWC", "HWIO", "NHWC")
        >>> def cost(w):
        ...     y = fnn.ops.conv(x, w, (1, 1), "VALID", dimension_numbers=layout)
        ...     return y.sum()
        >>> jax.grad(cost)(w).shape
        (5, 5, 1, 20)
    """
    axes = lhs.ndim - 2
    for name, value, only in (
        ("lhs_dilation", lhs_dilation, (None, 1, (1,) * axes)),
        ("batch_group_count", batch_group_count, (1,)),
        ("precision", precision, (None,)),
        ("preferred_element_type", preferred_element_type, (lhs.dtype, None)),
        ("out_sharding", out_sharding, (None,)),
    ):
        value = tuple(value) if isinstance(value, list) else value
        if not any(value is one or value == one for one in only):
            raise ValueError(
                f"fnn.ops.conv: {name} must be {only[-1]}, got {value}. Use "
                "jax.lax.conv_general_dilated for it, or for a precision "
                "jax.default_matmul_precision(...)."
            )
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    # Each lists the batch (or output) axis, the feature (or input) axis, the others.
    n, c, *places = numbers.lhs_spec
    o, i, *kernel = numbers.rhs_spec
    x, weight = lhs.transpose(n, *places, c), rhs.transpose(*kernel, i, o)
    stride = _entries(window_strides, axes)
    dilation = _entries(1 if rhs_dilation is None else rhs_dilation, axes)
    slides = Window(weight.shape[:axes], stride, ((0, 0),) * axes, dilation)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:-1], slides.extent, stride, padding)
    pairs = tuple((int(lo), int(hi)) for lo, hi in padding)
    y = _conv(x, weight, slides._replace(padding=pairs), feature_group_count)
    n, c, *places = numbers.out_spec
    return y.transpose(np.argsort([n, *places, c]))


def max_pool(
    x: Array,
    window_shape: Sequence[int],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> Array:
    """`jax.lax.reduce_window` with `max`, with the handwritten gradient.

    Of several equal maxima the first in row-major order gets the gradient, as in JAX.

    Args:
        x: (N, H, ..., C), features last, with one to three spatial axes.
        window_shape: places along each spatial axis.
        strides: s of each spatial axis.
        padding: "SAME", "VALID", or a pair (lo, hi) for each spatial axis.

    Returns:
        y (N, P, ..., C).

    Raises:
        ValueError: the window does not fit.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> x = jnp.array([1.0, 3.0, 2.0, 2.0]).reshape(1, 4, 1)
        >>> jax.grad(lambda x: fnn.ops.max_pool(x, (2,), (2,)).sum())(x).ravel()
        Array([0., 1., 1., 0.], dtype=float32)
    """
    if not isinstance(padding, str):
        padding = tuple((int(lo), int(hi)) for lo, hi in padding)
    return _pool(x, MaxPool(tuple(window_shape), tuple(strides), padding))


# ---- The gradients ---------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: Array, weight: Array, slides: Window, groups: int) -> Array:
    return convolve(x, weight, slides, groups)


def _conv_forward(x, weight, slides, groups):
    return _conv(x, weight, slides, groups), (x, weight)


def _conv_backward(slides, groups, saved, dy):
    x, weight = saved
    # Under jit, XLA drops the one of the two that nobody asks for.
    dx = convolve_dx(dy, weight, slides, x.shape[1:-1], groups)
    return dx, convolve_dw(x, dy, slides, groups)


_conv.defvjp(_conv_forward, _conv_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _pool(x: Array, layer: MaxPool) -> Array:
    return layer.forward((), (), x).y


def _pool_forward(x, layer):
    out = layer.forward((), (), x)
    return out.y, out.saved


def _pool_backward(layer, saved, dy):
    return (layer.backward((), saved, dy).dx,)


_pool.defvjp(_pool_forward, _pool_backward)


def _entries(value: Any, axes: int) -> tuple[int, ...]:
    return (int(value),) * axes if np.ndim(value) == 0 else tuple(map(int, value))
