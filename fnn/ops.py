"""Convolution and max-pooling with the handwritten gradient, for any JAX program.

Inside a loop (`lax.scan`, `fori_loop`) XLA's CPU backend has no fast path for the
gradient that `jax.grad` derives from a convolution, and computes that of a max-pool one
position after the other: both can be a hundred times slower there than outside. These
two functions return the same numbers, and their gradients are fnn's
(`fnn.layers.convolve`, `fnn.layers.pooling`), which stay fast.

They are for programs in Flax, Equinox, Haiku or plain JAX. fnn's own engines never use
them: with a `custom_vjp`, `jax.grad` would only repeat the gradient that it should
check. They can be differentiated once, in reverse mode: a `custom_vjp` has no more.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnn.layers.convolve import convolve, convolve_dw, convolve_dx
from fnn.layers.pooling import MaxPool
from fnn.layers.windows import PaddingPairs, Window
from fnn.placement import explicit_mesh, on_automatic_axes, specs_like, sum_like
from fnn.typing import Array

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
    """Compute `jax.lax.conv_general_dilated`, with the handwritten gradient.

    The arguments are those of the original, so that it can replace it anywhere:
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
        precision: as in the original; it applies to the gradient too.
        preferred_element_type: None, or the dtype of x.
        out_sharding: must be None.

    Returns:
        y, of the layout and dtype that the original returns.

    Raises:
        ValueError: an argument is not supported.

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
        ("preferred_element_type", preferred_element_type, (lhs.dtype, None)),
        ("out_sharding", out_sharding, (None,)),
    ):
        value = tuple(value) if isinstance(value, list) else value
        if not any(value is one or value == one for one in only):
            raise ValueError(
                f"fnn.ops.conv: {name} must be {only[-1]}, got {value}. Use "
                "jax.lax.conv_general_dilated for it."
            )
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    # Each lists the batch (or output) axis, the feature (or input) axis, the others.
    n, c, *spatial = numbers.lhs_spec
    o, i, *kernel = numbers.rhs_spec
    x, weight = lhs.transpose(n, *spatial, c), rhs.transpose(*kernel, i, o)
    stride = _per_axis(window_strides, axes)
    dilation = _per_axis(1 if rhs_dilation is None else rhs_dilation, axes)
    window = Window(weight.shape[:axes], stride, ((0, 0),) * axes, dilation)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:-1], window.extent, stride, padding)
    window = window._replace(padding=_pairs(padding))
    y = _conv(x, weight, window, feature_group_count, precision)
    n, c, *spatial = numbers.out_spec
    return y.transpose(np.argsort([n, *spatial, c]))


def max_pool(
    x: Array,
    window_shape: Sequence[int],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> Array:
    """Compute `jax.lax.reduce_window` of `max`, with the handwritten gradient.

    Of several equal maxima the first in row-major order gets the gradient, as in JAX.
    A maximum that is −∞ or NaN passes none on.

    Args:
        x: (N, H, ..., C), features last, with one to three spatial axes.
        window_shape: positions along each spatial axis.
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
    pads = padding if isinstance(padding, str) else _pairs(padding)
    layer = MaxPool(tuple(window_shape), stride=tuple(strides), padding=pads)
    return _pool(x, layer)


# ---- The gradients ---------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv(
    x: Array, weight: Array, window: Window, groups: int, precision: Any
) -> Array:
    return convolve(x, weight, window, groups, precision)


def _conv_forward(
    x: Array, weight: Array, window: Window, groups: int, precision: Any
) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, weight, window, groups, precision), (x, weight)


def _conv_backward(
    window: Window, groups: int, precision: Any, saved: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    def gradients(x: Array, weight: Array, dy: Array) -> tuple[Array, Array]:
        if dy.size == 0:  # no window fits, or there is no example
            return jnp.zeros_like(x), jnp.zeros_like(weight)
        # Under `jit`, XLA does not compute the one that is not used.
        dx = convolve_dx(dy, weight, window, x.shape[1:-1], groups, precision)
        dweight = convolve_dw(x, dy, window, groups, precision)
        return dx.astype(x.dtype), dweight.astype(weight.dtype)

    return _like(saved, gradients, *saved, dy)


_conv.defvjp(_conv_forward, _conv_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _pool(x: Array, layer: MaxPool) -> Array:
    return layer.forward((), (), x).y


def _pool_forward(x: Array, layer: MaxPool) -> tuple[Array, Array]:
    out = layer.forward((), (), x)
    return out.y, out.saved


def _pool_backward(layer: MaxPool, saved: Array, dy: Array) -> tuple[Array]:
    def gradients(x: Array, dy: Array) -> tuple[Array]:
        return (layer.backward((), x, dy).dx,)

    return _like((saved,), gradients, saved, dy)


_pool.defvjp(_pool_forward, _pool_backward)


def _like(
    arguments: tuple[Array, ...], gradients: Callable[..., Any], *args: Array
) -> Any:
    """Return `gradients(*args)`, placed and summed as the function's arguments are."""
    if mesh := explicit_mesh(args):
        specs = partial(specs_like, like=arguments)
        return on_automatic_axes(mesh, gradients, args, specs)
    return sum_like(gradients(*args), arguments)


def _pairs(padding: Iterable[tuple[Any, Any]]) -> PaddingPairs:
    return tuple((int(lo), int(hi)) for lo, hi in padding)


def _per_axis(value: Any, axes: int) -> tuple[int, ...]:
    return (int(value),) * axes if np.ndim(value) == 0 else tuple(map(int, value))
