"""The three convolutions of a convolutional layer: y, dx and dW.

What deep learning calls convolution is cross-correlation: the template is not flipped.
In the letters of `fnn.layers.windows`, with p, q, k standing for one index an axis,

    y_npo  = Σ_k Σ_i  x_n,(sp+dk−lo),i  W_kio
    dx_nqi = Σ_o Σ_{p,k: sp+dk−lo = q}  dy_npo  W_kio
    dW_kio = Σ_n Σ_p  x_n,(sp+dk−lo),i  dy_npo

All three are convolutions again (Dumoulin and Visin, arXiv:1603.07285, chapter 4):

    dx    of dy with s − 1 zeros between its places, and W flipped, its I and O swapped
    dW    of x, its N and I swapped, with dy as a template, spread out by s

Each is written in one layout, NHWC images and HWIO weights, with the transposes in the
open. Autodiff leaves them to dimension numbers for which XLA's CPU backend has no fast
path inside a loop: up to a hundred times slower there (jax issue 12868).

Legend: N examples, H and W places along the spatial axes, I input and O output features
(channels), G groups, each of I/G inputs and O/G outputs.
"""

import jax.numpy as jnp
from jax import Array, lax

from fnn.layers.windows import Window

__all__ = ["convolve", "convolve_dw", "convolve_dx", "transpose"]


def convolve(x: Array, weight: Array, slides: Window, groups: int = 1) -> Array:
    """y, from x (N, H, ..., I) and W (K, ..., I/G, O)."""
    return lax.conv_general_dilated(
        x, weight, slides.stride, slides.padding, rhs_dilation=slides.dilation,
        dimension_numbers=_layout(x.ndim), feature_group_count=groups,
    )  # fmt: skip


def convolve_dx(
    dy: Array, weight: Array, slides: Window, sizes: tuple[int, ...], groups: int = 1
) -> Array:
    """dx, for x with these spatial sizes, from dy (N, P, ..., O) and W."""
    padding = [
        (extent - 1 - lo, size + lo - (places - 1) * stride - 1)
        for extent, stride, (lo, _), size, places in zip(
            slides.extent, slides.stride, slides.padding, sizes, dy.shape[1:-1],
            strict=True,
        )
    ]  # fmt: skip
    return lax.conv_general_dilated(
        dy, transpose(weight, groups), (1,) * len(sizes), padding,
        lhs_dilation=slides.stride, rhs_dilation=slides.dilation,
        dimension_numbers=_layout(dy.ndim), feature_group_count=groups,
    )  # fmt: skip


def convolve_dw(x: Array, dy: Array, slides: Window, groups: int = 1) -> Array:
    """dW, from x and dy."""
    sizes, places = x.shape[1:-1], dy.shape[1:-1]
    # Just enough places for K positions of the template: where the stride leaves
    # some of x unseen, a negative number of them, which cuts those off.
    padding = [
        (lo, (count - 1) * stride + extent - size - lo)
        for extent, stride, (lo, _), size, count in zip(
            slides.extent, slides.stride, slides.padding, sizes, places, strict=True
        )
    ]
    n, inputs = len(x), x.shape[-1]
    # x (N, H, ..., G I/G) becomes (I/G, H, ..., G N), and dy (P, ..., N, O).
    x = jnp.moveaxis(x.reshape(n, *sizes, groups, inputs // groups), (0, -1), (-1, 0))
    dweight = lax.conv_general_dilated(
        x.reshape(inputs // groups, *sizes, groups * n), jnp.moveaxis(dy, 0, -2),
        slides.dilation, padding, rhs_dilation=slides.stride,
        dimension_numbers=_layout(dy.ndim), feature_group_count=groups,
    )  # fmt: skip
    return jnp.moveaxis(dweight, 0, -2)


def transpose(weight: Array, groups: int = 1) -> Array:
    """W flipped, with I and O swapped within each group: (K, ..., O/G, I)."""
    *kernel, inputs, outputs = weight.shape
    axes = tuple(range(len(kernel)))
    grouped = jnp.flip(weight, axes).reshape(*kernel, inputs, groups, outputs // groups)
    swapped = jnp.moveaxis(grouped, -1, -3)  # (K, ..., O/G, I/G, G)
    swapped = jnp.swapaxes(swapped, -1, -2)  # (K, ..., O/G, G, I/G)
    return swapped.reshape(*kernel, outputs // groups, groups * inputs)


def _layout(ndim: int) -> tuple[str, str, str]:
    axes = "DHW"[5 - ndim :]
    return f"N{axes}C", f"{axes}IO", f"N{axes}C"
