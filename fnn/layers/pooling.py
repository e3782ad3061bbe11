"""Pooling: the maximum or the mean of each feature over windows.

    max         y_pc = max_k x_(sp+k−lo),c       dx: dy goes to the position of the max
    average     y_pc = mean_k x_(sp+k−lo),c      dx: every position gets dy / K

Of several equal maxima the first in row-major order gets dy. A maximum that is −∞ or
NaN has no position, and passes nothing on: its window adds 0 to dx, in both engines.

Where windows do not overlap, no position is in two of them: dx is written window by
window, in one pass. Where they do, offset k of all windows is one strided part of dx,
and K such parts are added. Autodiff uses `select_and_scatter` instead, which visits one
position after the other.

Legend: N examples (left out above), H and P positions along each spatial axis of x and
y, C features, K positions in a window, s the stride, lo and hi the padding, as in
`fnn.layers.windows`.
"""

import math
from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnn.argmax import first_argmax
from fnn.checks import as_inputs, positive_integer
from fnn.core import Backward, Forward, Layer, Reach, Variables, layer
from fnn.layers.shape import shape_only
from fnn.layers.windows import (
    Padding,
    Window,
    check_image,
    check_padding,
    make_window,
    padding_pairs,
    positive_integers,
)
from fnn.typing import Array, InShape, Int, KeyArray, PyTree, Shaped

__all__ = ["AvgPool", "MaxPool", "keep_gradient_of_positions"]


@layer
class _Pool(Layer):
    """A base class for `MaxPool` and `AvgPool`: fields, checks, the window."""

    window: int | tuple[int, ...]
    stride: int | tuple[int, ...] | None = None
    padding: Padding = "VALID"
    ceil_mode: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        name = type(self).__name__
        size = positive_integers(f"{name}: window", self.window)
        object.__setattr__(self, "window", size)
        if self.stride is not None:
            stride = positive_integers(f"{name}: stride", self.stride)
            object.__setattr__(self, "stride", stride)
        padding = check_padding(f"{name}: padding", self.padding)
        object.__setattr__(self, "padding", padding)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        check_image(self, in_shape)
        self.window_for(in_shape[:-1])
        return Variables((), ())

    def reach(self, in_shape: InShape) -> tuple[Reach, ...]:
        return self.window_for(tuple(in_shape[:-1])).reach

    def window_for(self, sizes: tuple[int, ...]) -> Window:
        """Return the window on images of these sizes."""
        stride = self.window if self.stride is None else self.stride
        window = make_window(
            self, sizes, self.window, stride, self.padding, ceil_mode=self.ceil_mode
        )
        given = padding_pairs(self, self.padding, sizes, window)
        for size, amounts in zip(window.size, given, strict=True):
            if max(amounts) >= size:
                raise ValueError(
                    f"{self!r}: a window of {size} with padding {max(amounts)} would "
                    "see nothing but padding. Pad less than the window."
                )
        return window


@layer
class MaxPool(_Pool):
    """A max-pooling layer: the largest number in each window.

        forward     y_p = max_k x_(sp+k−lo),    k*_p the first k that attains it
        backward    dx_q = Σ_{p: s p + k*_p − lo = q} dy_p

    Args:
        window: positions along each spatial axis, one number or a tuple.
        stride: s; by default the window, so that windows tile the image.
        padding: "VALID", "SAME", a number, or an entry for each axis. It is less than
            the window, and its values are −∞, which is never the maximum.
        ceil_mode: whether the last positions, where s leaves them over, get a window of
            their own that reaches beyond the image.

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

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        window = self.window_for(check_image(self, x.shape[1:])[:-1])
        x = as_inputs(x)  # integers have no −∞
        # A NumPy number: from it JAX recognises the maximum and can differentiate it.
        low = np.asarray(-np.inf, x.dtype)
        y = _reduce_window(x, low, lax.max, window)
        y = keep_gradient_of_positions(y)
        return Forward(y, saved=x, state=state)  # the layer before saves it anyway

    def backward(
        self, params: PyTree, saved: Array, dy: Shaped[Array, "N *P C"]
    ) -> Backward:
        x = saved
        return self.scatter(self.argmax(x), dy, x.shape[1:-1])

    def scatter(
        self, argmax: Int[Array, "N *P C"], dy: Array, sizes: tuple[int, ...]
    ) -> Backward:
        """Return dx, of these sizes, from the numbers of the maxima."""

        def share(k: Any, argmax: Array, dy: Array) -> Array:
            return jnp.where(argmax == k.astype(argmax.dtype), dy, 0)

        return Backward(_dx(share, (argmax, dy), self.window_for(sizes), sizes), ())

    # A program of its own outside `jit`, so that −∞ is in no result: `jax_debug_infs`
    # would stop there.
    @partial(jax.jit, static_argnums=0, inline=True)
    def argmax(self, x: Array) -> Int[Array, "N *P C"]:
        """Return k*, the row-major number of the maximum in every window."""
        window = self.window_for(x.shape[1:-1])
        low = np.asarray(-np.inf, x.dtype)
        ends = [(0, 0), *window.padding, (0, 0)]
        padded = lax.pad(x, low, [(lo, hi, 0) for lo, hi in ends])
        output_sizes = window.output_sizes(x.shape[1:-1])
        return first_argmax(
            window.values_at(offset, padded, output_sizes)
            for offset in window.offsets()
        )


@layer
class AvgPool(_Pool):
    """An average-pooling layer: the mean of each window.

        forward     y_p = 1/K_p Σ_k x_(sp+k−lo)
        backward    dx_q = Σ_{p,k: s p + k − lo = q} dy_p / K_p

    Args:
        window: positions along each spatial axis, one number or a tuple.
        stride: s; by default the window, so that windows tile the image.
        padding: "VALID", "SAME", a number, or an entry for each axis. It is less than
            the window, and its values are zeros.
        count_include_pad: whether K_p includes the padding, so that it is K everywhere
            (but not what `ceil_mode` adds).
        divisor_override: K_p, the same for all windows, whatever they hold.
        ceil_mode: whether the last positions, where s leaves them over, get a window of
            their own that reaches beyond the image.

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
    divisor_override: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.divisor_override is not None:
            name = "AvgPool: divisor_override"
            divisor = positive_integer(name, self.divisor_override)
            object.__setattr__(self, "divisor_override", divisor)

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        sizes = check_image(self, x.shape[1:])[:-1]
        window, x = self.window_for(sizes), as_inputs(x)
        total = _reduce_window(x, np.zeros((), x.dtype), lax.add, window)
        y = total / self._counts(window, sizes, x.dtype)
        return Forward(y, saved=shape_only(x), state=state)

    def backward(
        self, params: PyTree, saved: Array, dy: Shaped[Array, "N *P C"]
    ) -> Backward:
        sizes = saved.shape[2:-1]
        window = self.window_for(sizes)
        dy = dy / self._counts(window, sizes, dy.dtype)

        def share(k: Any, dy: Array) -> Array:
            return jnp.where(k >= 0, dy, 0)

        return Backward(_dx(share, (dy,), window, sizes), ())

    def _counts(self, window: Window, sizes: tuple[int, ...], dtype: Any) -> Array:
        """Return K_p, of shape (1, P, ..., 1), or one number for all windows."""
        if self.divisor_override is not None:
            return jnp.asarray(self.divisor_override, dtype)
        if self.count_include_pad and not self.ceil_mode:
            return jnp.asarray(math.prod(window.size), dtype)
        ones = np.ones((1, *sizes, 1), np.float32)
        if self.count_include_pad:
            given = padding_pairs(self, self.padding, sizes, window)
            ones = np.pad(ones, [(0, 0), *given, (0, 0)], constant_values=1)
            beyond = zip(window.padding, given, strict=True)
            rest = tuple((lo - a, hi - b) for (lo, hi), (a, b) in beyond)
            window = window._replace(padding=rest)
        return _reduce_window(ones, np.float32(0), lax.add, window).astype(dtype)


def keep_gradient_of_positions(y: Array) -> Array:
    """Return maxima y as they are, without a gradient where they are −∞ or NaN."""
    return jnp.where(y > -jnp.inf, y, lax.stop_gradient(y))


def _reduce_window(
    x: Any, start: Any, combine: Callable[..., Any], window: Window
) -> Array:
    """Combine the numbers in each window, for batch-first images."""
    return lax.reduce_window(
        x, start, combine,
        window_dimensions=(1, *window.size, 1),
        window_strides=(1, *window.stride, 1),
        padding=((0, 0), *window.padding, (0, 0)),
    )  # fmt: skip


# ---- dx of both layers -----------------------------------------------------------


def _dx(
    share: Callable[..., Array],
    arrays: tuple[Array, ...],
    window: Window,
    sizes: tuple[int, ...],
) -> Shaped[Array, "N *H C"]:
    """Add up, at each position of x, its shares of dy.

    `share(k, *arrays)` returns the part of dy that goes to position k of each window,
    in row-major order; k = −1 stands for positions between windows, which get 0. Each
    array is (N, P, ..., C).
    """
    if window.overlaps:
        return _dx_of_overlapping_windows(share, arrays, window, sizes)
    return _dx_of_separate_windows(share, arrays, window, sizes)


def _dx_of_overlapping_windows(
    share: Callable[..., Array],
    arrays: tuple[Array, ...],
    window: Window,
    sizes: tuple[int, ...],
) -> Array:
    total: Any = 0
    for number, offset in enumerate(window.offsets()):
        part = share(np.int32(number), *arrays)
        ends = []
        for k, (lo, _), h, p, s in zip(
            offset, window.padding, sizes, part.shape[1:-1], window.stride, strict=True
        ):
            ends.append((k - lo, h - (k - lo) - (p - 1) * s - 1, s - 1))
        total += lax.pad(part, jnp.zeros((), part.dtype), [(0, 0, 0), *ends, (0, 0, 0)])
    return total


def _dx_of_separate_windows(
    share: Callable[..., Array],
    arrays: tuple[Array, ...],
    window: Window,
    sizes: tuple[int, ...],
) -> Array:
    """Compute dx as blocks (N, P, s, P', s', ..., C): s × s' positions per window."""
    n, *output_sizes, features = arrays[0].shape
    numbers = np.full(window.stride, -1, np.int32)
    inside = tuple(map(slice, window.size))
    numbers[inside] = np.arange(math.prod(window.size)).reshape(window.size)
    numbers = numbers.reshape([1, *(a for s in window.stride for a in (1, s)), 1])
    single = [n, *(a for p in output_sizes for a in (p, 1)), features]
    axes = list(zip(output_sizes, window.stride, strict=True))
    blocks = [n, *(a for p, s in axes for a in (p, s)), features]
    parts = share(numbers, *(a.reshape(single) for a in arrays))
    spans = [p * s for p, s in axes]
    dx = jnp.broadcast_to(parts, blocks).reshape(n, *spans, features)
    ends = [
        (-lo, h + lo - span, 0)
        for (lo, _), h, span in zip(window.padding, sizes, spans, strict=True)
    ]
    return lax.pad(dx, jnp.zeros((), dx.dtype), [(0, 0, 0), *ends, (0, 0, 0)])
