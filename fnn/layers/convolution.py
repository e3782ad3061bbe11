"""Convolutional layers in one, two or three dimensions.

Legend: N examples, H and P positions along each spatial axis of x and y, I input and O
output features (channels), G groups, each of I/G inputs and O/G outputs; K, s, d, E, lo
and hi as in `fnn.layers.windows`.
"""

from abc import abstractmethod
from dataclasses import KW_ONLY, field
from fractions import Fraction
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from fnn.checks import expect_params, expect_shape
from fnn.core import (
    NO_INPUT_FEATURES,
    Backward,
    Forward,
    Layer,
    Reach,
    Variables,
    layer,
)
from fnn.describe import describe
from fnn.layers.convolve import convolve, convolve_dw, convolve_dx, transpose
from fnn.layers.features import per_feature, sum_per_feature
from fnn.layers.initializers import Initializer, LecunNormal, Zeros
from fnn.layers.padding import COPY_MODES, check_copies, pad, pad_backward
from fnn.layers.windows import (
    Padding,
    Window,
    check_amounts,
    check_image,
    check_padding,
    format_sizes,
    make_window,
    per_axis,
    positive_integers,
    transposed_output_sizes,
)
from fnn.pytree import exportable
from fnn.typing import Array, Float, InShape, KeyArray, PyTree

__all__ = ["Conv", "ConvParams", "ConvTranspose"]


@exportable
class ConvParams(NamedTuple):
    """The parameters: `weight` (K, ..., I/G, O); `bias` (O,), or () without a bias.

    In a `ConvTranspose`, `weight` is (K, ..., O/G, I).
    """

    weight: Array
    bias: PyTree


@layer
class _Convolution(Layer):
    """A base class for `Conv` and `ConvTranspose`: fields, checks, parameters."""

    features: int
    kernel_size: int | tuple[int, ...]
    _: KW_ONLY
    stride: int | tuple[int, ...] = 1
    padding: Padding = "SAME"
    dilation: int | tuple[int, ...] = 1
    groups: int = 1
    bias: bool = True
    weight_init: Initializer | None = None
    bias_init: Initializer = Zeros()

    padding_modes: ClassVar[tuple[str, ...]] = ("SAME", "VALID")
    positional_hint: ClassVar[str] = NO_INPUT_FEATURES

    def __post_init__(self) -> None:
        name = type(self).__name__
        for part in ("features", "groups", "kernel_size", "stride", "dilation"):
            value = positive_integers(f"{name}: {part}", getattr(self, part))
            if part in ("features", "groups") and isinstance(value, tuple):
                raise ValueError(f"{name}: {part} must be one number, got {value}")
            object.__setattr__(self, part, value)
        padding = check_padding(f"{name}: padding", self.padding, self.padding_modes)
        object.__setattr__(self, "padding", padding)
        if self.features % self.groups:
            raise ValueError(
                f"{name}: groups={self.groups} does not divide "
                f"features={self.features}: each group makes as many as any other"
            )

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        *sizes, inputs = check_image(self, in_shape)
        if inputs % self.groups:
            raise ValueError(
                f"{self!r}: groups={self.groups} does not divide the {inputs} features "
                f"of examples of shape {tuple(in_shape)}"
            )
        kernel = self.window_for(tuple(sizes)).size
        draw_weight = self.weight_init or LecunNormal()
        weight_key, bias_key = jax.random.split(key)
        shape = (*kernel, inputs // self.groups, self.features)
        bias = self.bias_init(bias_key, (self.features,)) if self.bias else ()
        weight = draw_weight(weight_key, shape)
        return Variables(ConvParams(weight, bias), ())

    @abstractmethod
    def window_for(self, sizes: tuple[int, ...]) -> Window:
        """Return the window of the convolution, for x of these spatial sizes."""

    def _check(self, params: ConvParams, x: Array, inputs: int, *ends: int) -> None:
        """Raise unless x has `inputs` features and the weight ends in these axes."""
        axes = params.weight.ndim - 2
        kernel = self.kernel_size
        kernel = kernel if isinstance(kernel, tuple) else (kernel,) * axes
        shapes = jax.tree.map(jnp.shape, tuple(params))
        if shapes != ((*kernel, *ends), (self.features,) if self.bias else ()):
            raise ValueError(
                f"{self!r} got {describe(params)}, which belongs to another network. "
                "Make its parameters with net.init(key, in_shape)."
            )
        why = f" (its weight is {format_sizes(params.weight.shape)})"
        expect_shape(self, x, ("N", *"DHW"[3 - axes :], inputs), why)

    def _add_bias(self, y: Array, params: ConvParams) -> Array:
        return y + per_feature(params.bias, y) if self.bias else y

    def _dbias(self, dy: Array) -> Array | tuple[()]:
        return sum_per_feature(dy) if self.bias else ()


@layer
class Conv(_Convolution):
    """A convolutional layer: y = x ⋆ W + b, where the template W slides over x.

        forward     y = x ⋆ W + b
        backward    dx and dW as in `fnn.layers.convolve`, db_o = Σ_n Σ_p dy_npo

    Args:
        features: O.
        kernel_size: K, one number for all spatial axes or a tuple with one for each.
        stride: s, one number or a tuple.
        padding: "SAME", "VALID", a number, or an entry for each axis, a number or a
            pair (before, after): zeros, as `fnn.layers.windows` says. "CIRCULAR",
            "REFLECT" and "REPLICATE" pad as much as "SAME", with copies of the image's
            own positions (see `fnn.layers.padding`).
        dilation: d, one number or a tuple.
        groups: G. Each group of outputs depends on one group of inputs; with as many
            groups as inputs it is a depthwise convolution.
        bias: whether to add b.
        weight_init: draws W; by default it suits the activation that follows, see
            `fnn.layers.initializers`.
        bias_init: draws b; zeros by default.

    Raises:
        ValueError: the window does not fit the image, groups do not divide I and O, or
            the input is not of shape (N, H, ..., I).

    Example:
        >>> import jax, fnn
        >>> conv = fnn.Conv(16, 3, stride=2)
        >>> variables = conv.init(jax.random.key(0), (28, 28, 1))
        >>> variables.params.weight.shape
        (3, 3, 1, 16)
        >>> conv.forward(*variables, jax.numpy.ones((5, 28, 28, 1))).y.shape
        (5, 14, 14, 16)

    Source: LeCun et al., "Gradient-based learning applied to document recognition",
    Proc. IEEE 86 (1998), section II; Dumoulin and Visin, arXiv:1603.07285.
    """

    padding_modes = ("SAME", "VALID", *COPY_MODES)

    def forward(
        self, params: ConvParams, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        expect_params(self, params, ConvParams)
        inputs = params.weight.shape[-2]
        self._check(params, x, inputs * self.groups, inputs, self.features)
        padded, window = self._pad(x)
        y = convolve(padded, params.weight, window, self.groups)
        return Forward(self._add_bias(y, params), saved=x, state=state)

    def backward(
        self, params: ConvParams, saved: Array, dy: Float[Array, "N *P O"]
    ) -> Backward:
        x, window = self._pad(saved)
        dx = convolve_dx(dy, params.weight, window, x.shape[1:-1], self.groups)
        if self.padding in COPY_MODES:
            padding = self.window_for(saved.shape[1:-1]).padding
            dx = pad_backward(dx, self.padding, padding)
        dweight = convolve_dw(x, dy, window, self.groups)
        return Backward(dx, ConvParams(dweight, self._dbias(dy)))

    def window_for(self, sizes: tuple[int, ...]) -> Window:
        """Return the window on images of these sizes."""
        window = make_window(
            self, sizes, self.kernel_size, self.stride, self.padding, self.dilation
        )
        if self.padding in COPY_MODES:
            check_copies(self, self.padding, sizes, window.padding)
        return window

    def reach(self, in_shape: InShape) -> tuple[Reach, ...]:
        return self.window_for(tuple(in_shape[:-1])).reach

    def _pad(self, x: Array) -> tuple[Array, Window]:
        """Return x and its window; where copies pad x, padded already.

        Zeros are left to the convolution, which adds them faster.
        """
        window = self.window_for(x.shape[1:-1])
        if self.padding not in COPY_MODES:
            return x, window
        unpadded = window._replace(padding=((0, 0),) * len(window.size))
        return pad(x, self.padding, window.padding), unpadded


@layer
class ConvTranspose(_Convolution):
    """A transposed convolution: the adjoint of a convolution, plus a bias.

    Take the `Conv` with the same window from images of O features and P positions to
    images of I features and H positions. Then

        forward     y = that convolution's dx at dy = x, plus b
        backward    dx = its forward at dy,    dW = its dW at x = dy and dy = x

    so that each position of x adds its weighted template to y. The size of y is
    P = s H for "SAME", and the smallest otherwise, s (H − 1) + E − lo − hi. That
    convolution has as many outputs for a few positions more, which it leaves out:
    `output_padding` says how many.

    Args:
        features: O.
        kernel_size: K, one number for all spatial axes or a tuple with one for each.
        stride: s, by which the image grows.
        padding: the padding of that convolution: "SAME", "VALID", a number, or an entry
            for each axis; it makes y smaller.
        dilation: d.
        groups: G.
        bias: whether to add b.
        weight_init: draws W; by default it suits the activation that follows.
        bias_init: draws b; zeros by default.
        output_padding: positions that are added to y at the end of each axis, one
            number or a tuple; fewer than the larger of s and d.

    Raises:
        ValueError: no position of y would be left, groups do not divide I and O, or the
            input is not of shape (N, H, ..., I); `output_padding` is too large, or the
            padding is "SAME", which fixes the size of y.

    Example:
        >>> import jax, fnn
        >>> up = fnn.ConvTranspose(8, 4, stride=2)
        >>> variables = up.init(jax.random.key(0), (7, 7, 16))
        >>> variables.params.weight.shape
        (4, 4, 8, 16)
        >>> up.forward(*variables, jax.numpy.ones((5, 7, 7, 16))).y.shape
        (5, 14, 14, 8)

    Source: Dumoulin and Visin, arXiv:1603.07285, chapter 4.
    """

    output_padding: int | tuple[int, ...] = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        name = "ConvTranspose: output_padding"
        added = check_amounts(name, self.output_padding)
        object.__setattr__(self, "output_padding", added)
        if self.padding == "SAME" and added != 0:
            raise ValueError(
                f"{name}={added} adds to the smallest size of y, and padding="
                '"SAME" makes it stride times that of x: give the padding in numbers'
            )

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        # Drawn as the weight of a convolution from I to O, for the right fan-in.
        params, state = super().init(key, in_shape)
        weight = transpose(params.weight, self.groups)
        return Variables(params._replace(weight=weight), state)

    def forward(
        self, params: ConvParams, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        expect_params(self, params, ConvParams)
        inputs = params.weight.shape[-1]
        self._check(params, x, inputs, self.features // self.groups, inputs)
        sizes = x.shape[1:-1]
        window, output_sizes = self.window_for(sizes), self.output_sizes(sizes)
        y = convolve_dx(x, params.weight, window, output_sizes, self.groups)
        return Forward(self._add_bias(y, params), saved=x, state=state)

    def backward(
        self, params: ConvParams, saved: Array, dy: Float[Array, "N *P O"]
    ) -> Backward:
        x, window = saved, self.window_for(saved.shape[1:-1])
        dx = convolve(dy, params.weight, window, self.groups)
        dweight = convolve_dw(dy, x, window, self.groups)
        return Backward(dx, ConvParams(dweight, self._dbias(dy)))

    def window_for(self, sizes: tuple[int, ...]) -> Window:
        """Return the window of the convolution whose outputs have these sizes."""
        window = make_window(
            self, self.output_sizes(sizes), self.kernel_size, self.stride, self.padding,
            self.dilation,
        )  # fmt: skip
        # What output_padding added is cut off again, so that it makes no window more.
        added = per_axis(self, "output_padding", self.output_padding, len(sizes))
        ends = zip(window.padding, added, strict=True)
        return window._replace(padding=tuple((lo, hi - a) for (lo, hi), a in ends))

    def output_sizes(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Return P of each axis, for x of these spatial sizes."""
        return transposed_output_sizes(
            self, sizes, self.kernel_size, self.stride, self.padding, self.dilation,
            self.output_padding,
        )  # fmt: skip

    def reach(self, in_shape: InShape) -> tuple[Reach, ...]:
        window = self.window_for(tuple(in_shape[:-1]))
        axes = zip(window.extent, window.stride, strict=True)
        return tuple(Reach(-(-e // s), Fraction(1, s)) for e, s in axes)
