"""The three convolutions of a convolutional layer: y, dx and dW.

What deep learning calls convolution is cross-correlation: the template is not flipped.
In the letters of `fnn.layers.windows`, with p, q, k standing for one index an axis,

    y_npo  = Σ_k Σ_i  x_n,(sp+dk−lo),i  W_kio
    dx_nqi = Σ_o Σ_{p,k: sp+dk−lo = q}  dy_npo  W_kio
    dW_kio = Σ_n Σ_p  x_n,(sp+dk−lo),i  dy_npo

All three are convolutions again (Dumoulin and Visin, arXiv:1603.07285, chapter 4):

    dx    of dy with s − 1 zeros between positions, and W flipped, its I and O swapped
    dW    of x, its N and I swapped, with dy as a template, spread out by s

Each is written in one layout, NHWC images and HWIO weights, with explicit transposes.
Autodiff leaves them to dimension numbers for which XLA's CPU backend has no fast path
inside a loop: up to a hundred times slower there (jax issue 12868).

On a CPU, three kinds are computed otherwise, because XLA is many times slower there:

    1 × 1        y_p = x_(sp−lo) W: a product of matrices, and so are dx and dW
    depthwise    J = 1, no sum over features: shifted multiply-adds
    groups       a few large ones: one convolution for each (jax issue 23713)

For the first two see `fnn.kernels.pointwise` and `fnn.kernels.depthwise`.

Legend: N examples, H and P positions along each spatial axis of x and y, K of the
template, I input and O output features (channels), G groups, each of J = I/G inputs and
L = O/G outputs.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnn.kernels.depthwise import Depthwise
from fnn.kernels.pointwise import Pointwise
from fnn.layers.windows import Window
from fnn.typing import Array, Float

__all__ = ["convolve", "convolve_dw", "convolve_dx", "is_written_out", "transpose"]

#: Groups of fewer features, and more groups, are left to XLA.
LEAST_FEATURES, MOST_GROUPS = 8, 16

#: Depthwise convolutions with larger templates are left to XLA: each tap is a part of
#: the program, and takes time to compile.
MOST_TAPS = 128


def convolve(
    x: Array, weight: Array, window: Window, groups: int = 1, precision: Any = None
) -> Float[Array, "N *P O"]:
    """Compute y = x ⋆ W from x (N, H, ..., I) and W (K, ..., J, O)."""
    x, weight = _of_one_dtype(x, weight)
    inputs = weight.shape[-2]
    if kernel := _kernel(x.shape[1:-1], window, groups, inputs, precision):
        return kernel.forward(x, weight)
    if _is_split(inputs, weight.shape[-1], groups):
        parts = zip(_split(x, groups), _split(weight, groups), strict=True)
        ys = [convolve(x, w, window, precision=precision) for x, w in parts]
        return jnp.concatenate(ys, -1)
    mistaken = _mistaken_axes(window, x.shape[1:-1])
    if any(mistaken):  # so that autodiff's dx is of another window
        ends = [
            (lo, hi, 0) if padded else (0, 0, 0)
            for (lo, hi), padded in zip(window.padding, mistaken, strict=True)
        ]
        x = lax.pad(x, np.zeros((), x.dtype), [(0, 0, 0), *ends, (0, 0, 0)])
        left = [
            (0, 0) if padded else pair
            for pair, padded in zip(window.padding, mistaken, strict=True)
        ]
        window = window._replace(padding=tuple(left))
    return lax.conv_general_dilated(
        x, weight, window.stride, window.padding, rhs_dilation=window.dilation,
        dimension_numbers=_layout(x.ndim), feature_group_count=groups,
        precision=precision,
    )  # fmt: skip


def convolve_dx(
    dy: Array,
    weight: Array,
    window: Window,
    sizes: tuple[int, ...],
    groups: int = 1,
    precision: Any = None,
) -> Float[Array, "N *H I"]:
    """Compute dx from dy (N, P, ..., O) and W, for x of these spatial sizes."""
    dy, weight = _of_one_dtype(dy, weight)
    inputs = weight.shape[-2]
    if kernel := _kernel(sizes, window, groups, inputs, precision):
        return kernel.backward_dx(dy, weight, sizes, groups * inputs)
    if _is_split(inputs, weight.shape[-1], groups):
        parts = zip(_split(dy, groups), _split(weight, groups), strict=True)
        options = window, sizes, 1, precision
        return jnp.concatenate([convolve_dx(d, w, *options) for d, w in parts], -1)
    padding = [
        (extent - 1 - lo, h + lo - (p - 1) * stride - 1)
        for extent, stride, (lo, _), h, p in zip(
            window.extent, window.stride, window.padding, sizes, dy.shape[1:-1],
            strict=True,
        )
    ]  # fmt: skip
    mistaken = _mistaken_axes(window, sizes)  # one position more, which is cut off
    padding = [
        (lo, hi + more) for (lo, hi), more in zip(padding, mistaken, strict=True)
    ]
    dx = lax.conv_general_dilated(
        dy, transpose(weight, groups), (1,) * len(sizes), padding,
        lhs_dilation=window.stride, rhs_dilation=window.dilation,
        dimension_numbers=_layout(dy.ndim), feature_group_count=groups,
        precision=precision,
    )  # fmt: skip
    return dx[:, *map(slice, sizes)] if any(mistaken) else dx


def convolve_dw(
    x: Array, dy: Array, window: Window, groups: int = 1, precision: Any = None
) -> Float[Array, "*K J O"]:
    """Compute dW from x and dy."""
    x, dy = _of_one_dtype(x, dy)
    n, *sizes, inputs = x.shape
    kernel = _kernel(sizes, window, groups, inputs // groups, precision)
    if kernel and n:
        return kernel.backward_dw(x, dy, window.size)
    if _is_split(inputs // groups, dy.shape[-1], groups):
        parts = zip(_split(x, groups), _split(dy, groups), strict=True)
        options = window, 1, precision
        return jnp.concatenate([convolve_dw(x, d, *options) for x, d in parts], -1)
    # Just enough padding for the K positions of the template. Where the stride leaves
    # positions of x out, it is negative, which cuts them off.
    padding = [
        (lo, (p - 1) * stride + extent - h - lo)
        for extent, stride, (lo, _), h, p in zip(
            window.extent, window.stride, window.padding, sizes, dy.shape[1:-1],
            strict=True,
        )
    ]  # fmt: skip
    # x (N, H, ..., G J) becomes (J, H, ..., G N), and dy (P, ..., N, O).
    x = jnp.moveaxis(x.reshape(n, *sizes, groups, inputs // groups), (0, -1), (-1, 0))
    dweight = lax.conv_general_dilated(
        x.reshape(inputs // groups, *sizes, groups * n), jnp.moveaxis(dy, 0, -2),
        window.dilation, padding, rhs_dilation=window.stride,
        dimension_numbers=_layout(dy.ndim), feature_group_count=groups,
        precision=precision,
    )  # fmt: skip
    return jnp.moveaxis(dweight, 0, -2)


def transpose(weight: Array, groups: int = 1) -> Float[Array, "*K L I"]:
    """Flip W (K, ..., J, O), and swap I and O within each group."""
    *kernel, inputs, outputs = weight.shape
    axes = tuple(range(len(kernel)))
    grouped = jnp.flip(weight, axes).reshape(*kernel, inputs, groups, outputs // groups)
    swapped = jnp.moveaxis(grouped, -1, -3)  # (K, ..., L, J, G)
    swapped = jnp.swapaxes(swapped, -1, -2)  # (K, ..., L, G, J)
    return swapped.reshape(*kernel, outputs // groups, groups * inputs)


def _kernel(
    sizes: Sequence[int], window: Window, groups: int, inputs: int, precision: Any
) -> Pointwise | Depthwise | None:
    """Return a kernel that is faster than XLA's convolution, if there is one.

    Args:
        sizes: H of each axis.
        window: the window.
        groups: G.
        inputs: J.
        precision: that of the products.
    """
    taps = math.prod(window.size)
    is_empty = min(*sizes, *window.output_sizes(tuple(sizes)), inputs) < 1
    if is_empty or jax.default_backend() != "cpu":
        return None
    if taps == groups == 1:
        return Pointwise(window.stride, window.padding, precision)
    if inputs == 1 < groups and is_written_out(window):
        return Depthwise(window.stride, window.padding, window.dilation)
    return None


def is_written_out(window: Window) -> bool:
    """Return whether a depthwise convolution has few enough taps to write them out."""
    return math.prod(window.size) <= MOST_TAPS


def _is_split(inputs: int, outputs: int, groups: int) -> bool:
    """Return whether each group becomes a convolution of its own; W is (..., J, O)."""
    large = min(inputs, outputs // groups) >= LEAST_FEATURES
    return large and 1 < groups <= MOST_GROUPS and jax.default_backend() == "cpu"


def _split(features: Array, groups: int) -> list[Array]:
    return jnp.split(features, groups, axis=-1)


def _mistaken_axes(window: Window, sizes: tuple[int, ...]) -> list[bool]:
    """Return the axes that XLA mistakes, in dx, for axes of groups.

    There K = s = 2, and dx needs no padding. If in the other axes K > P, XLA swaps the
    two factors, but not along that axis, and ends the process over the result (its
    `conv_operand_swapper.cc`, in jaxlib 0.10 to 0.12).
    """
    axes = zip(
        *(window.size, window.stride, window.dilation, window.padding),
        *(sizes, window.output_sizes(sizes)),
        strict=True,
    )
    return [
        (k, s, d, lo, h) == (2, 2, 1, 1, 2 * (p - 1)) for k, s, d, (lo, _), h, p in axes
    ]


def _of_one_dtype(a: Array, b: Array) -> tuple[Array, Array]:
    """Promote both as a product does: a convolution takes no two dtypes."""
    dtype = jnp.promote_types(a.dtype, b.dtype)
    return jnp.asarray(a).astype(dtype), jnp.asarray(b).astype(dtype)


def _layout(ndim: int) -> tuple[str, str, str]:
    axes = "DHW"[5 - ndim :]
    return f"N{axes}C", f"{axes}IO", f"N{axes}C"
