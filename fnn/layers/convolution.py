"""Convolutional layers in one, two or three dimensions.

Legend: N examples, H places along each spatial axis, I input and O output features
(channels), G groups, each of I/G inputs and O/G outputs; K, s, d, E, lo and hi as in
`fnn.layers.windows`.
"""

from fractions import Fraction
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fnn.checks import describe, expect_params, expect_shape
from fnn.core import Backward, Forward, Layer, Reach, Variables, layer
from fnn.layers.convolve import convolve, convolve_dw, convolve_dx, transpose
from fnn.layers.initializers import Initializer, LecunNormal, Zeros
from fnn.layers.padding import EDGES, check_room, fold, pad
from fnn.layers.windows import (
    Padding,
    Window,
    check_image,
    check_padding,
    check_places,
    grown,
    times,
    window,
)

__all__ = ["Conv", "ConvParams", "ConvTranspose"]


class ConvParams(NamedTuple):
    """`weight` of shape (K, ..., I/G, O); `bias` (O,), or () without a bias.

    In a `ConvTranspose`, which runs a convolution backwards: (K, ..., O/G, I).
    """

    weight: Array
    bias: Array | tuple[()]


@layer
class _Convolution(Layer):
    """What both share: the fields, their checks, and the parameters."""

    features: int
    kernel_size: int | tuple[int, ...]
    stride: int | tuple[int, ...] = 1
    padding: Padding = "SAME"
    dilation: int | tuple[int, ...] = 1
    groups: int = 1
    bias: bool = True
    weight_init: Initializer | None = None
    bias_init: Initializer = Zeros()

    modes: ClassVar[tuple[str, ...]] = ("SAME", "VALID")

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field in ("features", "groups", "kernel_size", "stride", "dilation"):
            value = check_places(f"{name}: {field}", getattr(self, field))
            if field in ("features", "groups") and isinstance(value, tuple):
                raise ValueError(f"{name}: {field} must be one number, got {value}")
            object.__setattr__(self, field, value)
        padding = check_padding(f"{name}: padding", self.padding, self.modes)
        object.__setattr__(self, "padding", padding)
        if self.features % self.groups:
            raise ValueError(
                f"{name}: groups={self.groups} does not divide "
                f"features={self.features}: each group makes as many as any other"
            )

    def init(self, key, in_shape):
        *sizes, inputs = check_image(self, in_shape)
        if inputs % self.groups:
            raise ValueError(
                f"{self!r}: groups={self.groups} does not divide the {inputs} features "
                f"of examples of shape {tuple(in_shape)}"
            )
        kernel = self.window(tuple(sizes)).size
        draw_weight = self.weight_init or LecunNormal()
        weight_key, bias_key = jax.random.split(key)
        shape = (*kernel, inputs // self.groups, self.features)
        bias = self.bias_init(bias_key, (self.features,)) if self.bias else ()
        weight = draw_weight(weight_key, shape)
        return Variables(ConvParams(weight, bias), ())

    def window(self, sizes: tuple[int, ...]) -> Window:
        """How the template slides, for x of these spatial sizes."""
        raise NotImplementedError

    def _check(self, params: ConvParams, x: Array, inputs: int, *ends: int) -> None:
        """That x has `inputs` features, and the weight ends in these axes."""
        axes = params.weight.ndim - 2
        kernel = self.kernel_size
        kernel = kernel if isinstance(kernel, tuple) else (kernel,) * axes
        shapes = jax.tree.map(jnp.shape, tuple(params))
        if shapes != ((*kernel, *ends), (self.features,) if self.bias else ()):
            raise ValueError(
                f"{self!r} got {describe(params)}, which belongs to another network. "
                "Make its parameters with net.init(key, in_shape)."
            )
        why = f" (its weight is {times(params.weight.shape)})"
        expect_shape(self, x, ("N", *"DHW"[3 - axes :], inputs), why)

    def _dbias(self, dy: Array) -> Array | tuple[()]:
        return dy.sum(tuple(range(dy.ndim - 1))) if self.bias else ()


@layer
class Conv(_Convolution):
    """A template of weights slides over the image: y = x ⋆ W + b.

        forward     y = x ⋆ W + b
        backward    dx and dW as in `fnn.layers.convolve`, db_o = Σ_n Σ_p dy_npo

    Args:
        features: O.
        kernel_size: K, one number for all spatial axes or a tuple with one for each.
        stride: s, likewise.
        padding: "SAME", "VALID", a number, or an entry for each axis, a number or a
            pair (before, after): zeros, as `fnn.layers.windows` says. "CIRCULAR" and
            "REFLECT" fill the places of "SAME" with the image's own.
        dilation: d, likewise one number or a tuple.
        groups: G. Each group of outputs looks at one group of inputs; as many groups as
            inputs is a depthwise convolution.
        bias: whether to add b.
        weight_init: draws W; by default what suits the activation that follows, see
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

    modes = ("SAME", "VALID", *EDGES)

    def forward(self, params, state, x, *, key=None, train=False):
        expect_params(self, params, ConvParams)
        inputs = params.weight.shape[-2]
        self._check(params, x, inputs * self.groups, inputs, self.features)
        padded, slides = self._padded(x)
        y = convolve(padded, params.weight, slides, self.groups)
        return Forward(y + params.bias if self.bias else y, saved=x, state=state)

    def backward(self, params, saved, dy):
        x, slides = self._padded(saved)
        dx = convolve_dx(dy, params.weight, slides, x.shape[1:-1], self.groups)
        if self.padding in EDGES:
            dx = fold(dx, self.padding, self.window(saved.shape[1:-1]).padding)
        dweight = convolve_dw(x, dy, slides, self.groups)
        return Backward(dx, ConvParams(dweight, self._dbias(dy)))

    def window(self, sizes: tuple[int, ...]) -> Window:
        """How the template slides over images of these sizes."""
        slides = window(
            self, sizes, self.kernel_size, self.stride, self.padding, self.dilation
        )
        if self.padding in EDGES:
            check_room(self, self.padding, sizes, slides.padding)
        return slides

    def reach(self, in_shape):
        return self.window(tuple(in_shape[:-1])).reach

    def _padded(self, x: Array) -> tuple[Array, Window]:
        """Copies at the edges of x where those are asked for; zeros XLA adds."""
        slides = self.window(x.shape[1:-1])
        if self.padding not in EDGES:
            return x, slides
        return pad(x, self.padding, slides.padding), slides._replace(
            padding=((0, 0),) * len(slides.size)
        )


@layer
class ConvTranspose(_Convolution):
    """A convolution run backwards: from what it gave to what it was given.

    Take the `Conv` with the same window that turns images of O features and H' places
    into images of I features and H places. Then

        forward     y = that convolution's dx at dy = x, plus b
        backward    dx = its forward at dy,    dW = its dW at x = dy and dy = x

    so that every place of x puts its weighted template into y. The places
    of y: H' = s H for "SAME", the fewest that fit otherwise, s (H − 1) + E − lo − hi.

    Args:
        features: O.
        kernel_size: K, one number for all spatial axes or a tuple with one for each.
        stride: s, by which the image grows.
        padding: that of the convolution run backwards: "SAME", "VALID", a number, or an
            entry for each axis; it makes y smaller.
        dilation: d.
        groups: G.
        bias: whether to add b.
        weight_init: draws W; by default what suits the activation that follows.
        bias_init: draws b; zeros by default.

    Raises:
        ValueError: no place of y would be left, groups do not divide I and O, or the
            input is not of shape (N, H, ..., I).

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

    def init(self, key, in_shape):
        # Drawn as the weight of a convolution from I to O, for the right fan-in.
        params, state = super().init(key, in_shape)
        weight = transpose(params.weight, self.groups)
        return Variables(params._replace(weight=weight), state)

    def forward(self, params, state, x, *, key=None, train=False):
        expect_params(self, params, ConvParams)
        inputs = params.weight.shape[-1]
        self._check(params, x, inputs, self.features // self.groups, inputs)
        sizes = x.shape[1:-1]
        y = convolve_dx(
            x, params.weight, self.window(sizes), self.outputs(sizes), self.groups
        )
        return Forward(y + params.bias if self.bias else y, saved=x, state=state)

    def backward(self, params, saved, dy):
        x, slides = saved, self.window(saved.shape[1:-1])
        dx = convolve(dy, params.weight, slides, self.groups)
        dweight = convolve_dw(dy, x, slides, self.groups)
        return Backward(dx, ConvParams(dweight, self._dbias(dy)))

    def window(self, sizes: tuple[int, ...]) -> Window:
        """The window of the convolution run backwards, which gives these sizes."""
        return window(
            self, self.outputs(sizes), self.kernel_size, self.stride, self.padding,
            self.dilation,
        )  # fmt: skip

    def outputs(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """H' of every axis."""
        return grown(
            self, sizes, self.kernel_size, self.stride, self.padding, self.dilation
        )

    def reach(self, in_shape):
        slides = self.window(tuple(in_shape[:-1]))
        axes = zip(slides.extent, slides.stride, strict=True)
        return tuple(Reach(-(-e // s), Fraction(1, s)) for e, s in axes)
