"""Pooling: each feature summarised over windows of places.

    max         y_pc = max_k x_(sp+k−lo),c       dx: dy goes to the place that won
    average     y_pc = mean_k x_(sp+k−lo),c      dx: every place gets dy / K

Of several equal maxima the first in row-major order wins.

Where windows do not overlap, no place gets anything from two of them: dx is laid out
window by window, in one pass. Where they do, place k of all windows is one strided
layer of dx, and K of them are added. Autodiff turns to `select_and_scatter` instead,
which visits one place after the other.

Legend: N examples (left out above), H and P places along each spatial axis of x and y,
C features, K places in a window, s the stride, lo and hi the padding, as in
`fnn.layers.windows`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fnn.argmax import first_winner
from fnn.checks import as_inputs
from fnn.core import Backward, Forward, Layer, Variables, layer
from fnn.layers.shape import shape_only
from fnn.layers.windows import (
    Padding,
    Window,
    check_image,
    check_padding,
    check_places,
    window,
)

__all__ = ["AvgPool", "MaxPool"]


@layer
class _Pool(Layer):
    """What both share: the fields, their checks, and the window."""

    window: int | tuple[int, ...]
    stride: int | tuple[int, ...] | None = None
    padding: Padding = "VALID"

    def __post_init__(self) -> None:
        name = type(self).__name__
        object.__setattr__(self, "window", check_places(f"{name}: window", self.window))
        if self.stride is not None:
            stride = check_places(f"{name}: stride", self.stride)
            object.__setattr__(self, "stride", stride)
        padding = check_padding(f"{name}: padding", self.padding)
        object.__setattr__(self, "padding", padding)

    def init(self, key, in_shape):
        check_image(self, in_shape)
        self.slides(in_shape[:-1])
        return Variables((), ())

    def reach(self, in_shape):
        return self.slides(tuple(in_shape[:-1])).reach

    def slides(self, sizes: tuple[int, ...]) -> Window:
        """How the window slides over images of these sizes."""
        stride = self.window if self.stride is None else self.stride
        slides = window(self, sizes, self.window, stride, self.padding)
        for size, amounts in zip(slides.size, slides.padding, strict=True):
            if max(amounts) >= size:
                raise ValueError(
                    f"{self!r}: a window of {size} with padding {max(amounts)} would "
                    "see nothing but padding. Pad less than the window."
                )
        return slides


@layer
class MaxPool(_Pool):
    """The largest number in each window; of equal ones the first wins the gradient.

        forward     y_p = max_k x_(sp+k−lo),    k*_p the first k that attains it
        backward    dx_q = Σ_{p: s p + k*_p − lo = q} dy_p

    Args:
        window: places along each spatial axis, one number or a tuple.
        stride: s; the window by default, so that windows tile the image.
        padding: "VALID", "SAME", a number, or an entry for each axis: of −∞, which
            never wins. Less than the window.

    Raises:
        ValueError: the window does not fit the image.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> x = jnp.array([[1.0, 5.0, 2.0, 2.0]]).reshape(1, 4, 1)
        >>> y, saved, _ = fnn.MaxPool(2).forward((), (), x)
        >>> y.ravel()
        Array([5., 2.], dtype=float32)
        >>> fnn.MaxPool(2).backward((), saved, jnp.ones_like(y)).dx.ravel()
        Array([0., 1., 1., 0.], dtype=float32)

    Source: Ranzato, Huang, Boureau and LeCun, CVPR 2007.
    """

    def forward(self, params, state, x, *, key=None, train=False):
        slides = self.slides(check_image(self, x.shape[1:])[:-1])
        x = as_inputs(x)  # integers have no −∞
        # A NumPy number: by it JAX knows the maximum, whose gradient it has.
        low = np.asarray(-np.inf, x.dtype)
        y = lax.reduce_window(x, low, lax.max, **_reduction(slides))
        return Forward(y, saved=x, state=state)  # the layer before keeps it anyway

    def backward(self, params, saved, dy):
        x, sizes = saved, saved.shape[1:-1]
        slides = self.slides(sizes)

        def give(number: Any, winner: Array, dy: Array) -> Array:
            return jnp.where(winner == number.astype(winner.dtype), dy, 0)

        dx = _collect(give, (self._winner(x, slides), dy), slides, sizes)
        return Backward(dx, ())

    def _winner(self, x: Array, slides: Window) -> Array:
        """k*: the number of the place that won, for every window and feature."""
        low = jnp.asarray(-jnp.inf, x.dtype)
        counts = slides.outputs(x.shape[1:-1])
        ends = [(0, 0), *slides.padding, (0, 0)]
        x = lax.pad(x, low, [(lo, hi, 0) for lo, hi in ends])
        return first_winner(slides.look(x, place, counts) for place in slides.places())


@layer
class AvgPool(_Pool):
    """The mean of each window.

        forward     y_p = 1/K_p Σ_k x_(sp+k−lo)
        backward    dx_q = Σ_{p,k: s p + k − lo = q} dy_p / K_p

    Args:
        window: places along each spatial axis, one number or a tuple.
        stride: s; the window by default, so that windows tile the image.
        padding: "VALID", "SAME", a number, or an entry for each axis: of zeros. Less
            than the window.
        count_include_pad: whether K_p counts padding too, and so is K everywhere.

    Raises:
        ValueError: the window does not fit the image.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> x = jnp.array([[1.0, 5.0, 2.0, 2.0]]).reshape(1, 4, 1)
        >>> fnn.AvgPool(2).forward((), (), x).y.ravel()
        Array([3., 2.], dtype=float32)

    Source: LeCun et al., Proc. IEEE 86 (1998), section II ("sub-sampling").
    """

    count_include_pad: bool = True

    def forward(self, params, state, x, *, key=None, train=False):
        sizes = check_image(self, x.shape[1:])[:-1]
        slides, x = self.slides(sizes), as_inputs(x)
        zero = np.zeros((), x.dtype)
        total = lax.reduce_window(x, zero, lax.add, **_reduction(slides))
        y = total / self._counts(slides, sizes, x.dtype)
        return Forward(y, saved=shape_only(x), state=state)

    def backward(self, params, saved, dy):
        sizes = saved.shape[2:-1]
        slides = self.slides(sizes)
        share = dy / self._counts(slides, sizes, dy.dtype)

        def give(number: Any, share: Array) -> Array:
            return jnp.where(number >= 0, share, 0)

        return Backward(_collect(give, (share,), slides, sizes), ())

    def _counts(self, slides: Window, sizes: tuple[int, ...], dtype: Any) -> Array:
        """K_p, of shape (P, ..., 1), or one number for all."""
        if self.count_include_pad:
            return jnp.asarray(math.prod(slides.size), dtype)
        ones = np.ones((1, *sizes, 1), np.float32)
        counts = lax.reduce_window(ones, np.float32(0), lax.add, **_reduction(slides))
        return counts[0].astype(dtype)


# ---- From the windows back to the places -----------------------------------------


def _reduction(slides: Window) -> dict[str, tuple]:
    """The arguments of `reduce_window` for batch-first images."""
    return dict(
        window_dimensions=(1, *slides.size, 1),
        window_strides=(1, *slides.stride, 1),
        padding=((0, 0), *slides.padding, (0, 0)),
    )


def _collect(
    give: Callable[..., Array],
    arrays: tuple[Array, ...],
    slides: Window,
    sizes: tuple[int, ...],
) -> Array:
    """Add up what the windows give to every place: dx (N, H, ..., C).

    `give(number, *arrays)` is what all windows give to their place of that row-major
    number; −1 stands for places between two windows, which get nothing.
    """
    if slides.overlaps:
        return _add_up(give, arrays, slides, sizes)
    return _lay_out(give, arrays, slides, sizes)


def _add_up(give, arrays, slides, sizes) -> Array:
    total: Any = 0
    for number, place in enumerate(slides.places()):
        part = give(np.int32(number), *arrays)
        ends = []
        for k, (lo, _), h, p, s in zip(
            place, slides.padding, sizes, part.shape[1:-1], slides.stride, strict=True
        ):
            ends.append((k - lo, h - (k - lo) - (p - 1) * s - 1, s - 1))
        total += lax.pad(part, jnp.zeros((), part.dtype), [(0, 0, 0), *ends, (0, 0, 0)])
    return total


def _lay_out(give, arrays, slides, sizes) -> Array:
    """(N, P, s, P', s', ..., C): a block of s × s' places for every window."""
    n, *counts, features = arrays[0].shape
    numbers = np.full(slides.stride, -1, np.int32)
    inside = tuple(map(slice, slides.size))
    numbers[inside] = np.arange(math.prod(slides.size)).reshape(slides.size)
    numbers = numbers.reshape([a for s in slides.stride for a in (s, 1)])
    single = [n, *(a for p in counts for a in (p, 1)), features]
    blocks = [
        n, *(a for p, s in zip(counts, slides.stride, strict=True) for a in (p, s)),
        features,
    ]  # fmt: skip
    parts = give(numbers, *(a.reshape(single) for a in arrays))
    spans = [p * s for p, s in zip(counts, slides.stride, strict=True)]
    dx = jnp.broadcast_to(parts, blocks).reshape(n, *spans, features)
    ends = [
        (-lo, h + lo - span, 0)
        for (lo, _), h, span in zip(slides.padding, sizes, spans, strict=True)
    ]
    return lax.pad(dx, jnp.zeros((), dx.dtype), [(0, 0, 0), *ends, (0, 0, 0)])
