"""Normalisation of each example by itself, over all of its pixels.

The calculus is in `normalization`. No example depends on another one, so training and
evaluation are the same, and there are no running statistics.

Legend: N examples, C features (the last axis), G groups of C/G features.
"""

import math
from typing import ClassVar

from fnn.checks import as_inputs, positive_integer
from fnn.core import NO_INPUT_FEATURES, Backward, Forward, Layer, Variables, layer, leaf
from fnn.layers.features import per_feature
from fnn.layers.normalization import (
    NormParams,
    check_eps,
    check_input,
    expect_several,
    init_norm,
    moments,
    norm_dparams,
    norm_dx,
    normalize,
    scale_and_shift,
)
from fnn.typing import Array, InShape, KeyArray, PyTree

__all__ = ["GroupNorm", "InstanceNorm"]


@layer
class InstanceNorm(Layer):
    """A layer that normalises each feature of each example over its pixels.

    Args:
        eps: ε, added to the variance.

    Raises:
        ValueError: the examples have no pixels, or one; the last axis of x is not C.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> norm = fnn.InstanceNorm()
        >>> variables = norm.init(jax.random.key(0), (2, 1))
        >>> norm.forward(*variables, jnp.array([[[1.0], [5.0]]])).y[0, :, 0].round(3)
        Array([-1.,  1.], dtype=float32)

    Source: Ulyanov, Vedaldi and Lempitsky, arXiv:1607.08022, section 2.
    """

    eps: float = leaf(1e-5, kw_only=True)

    positional_hint: ClassVar[str] = NO_INPUT_FEATURES

    def __post_init__(self) -> None:
        check_eps(self, self.eps)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        self._check_pixels(in_shape)
        return Variables(init_norm(self, in_shape), ())

    def forward(
        self, params: NormParams, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        check_input(self, params, NormParams, x)
        x = as_inputs(x)
        self._check_pixels(x.shape[1:])
        pixels = tuple(range(1, x.ndim - 1))
        normalized, inverse_std = normalize(x, *moments(x, pixels), self.eps)
        y = scale_and_shift(normalized, params)
        return Forward(y, saved=(normalized, inverse_std), state=state)

    def backward(
        self, params: NormParams, saved: tuple[Array, Array], dy: Array
    ) -> Backward:
        normalized, inverse_std = saved
        pixels = tuple(range(1, dy.ndim - 1))
        grad = dy * per_feature(params.scale, dy)
        dx = norm_dx(grad, normalized, inverse_std, pixels)
        return Backward(dx=dx, dparams=norm_dparams(dy, normalized))

    def reach(self, in_shape: InShape) -> None:
        return None  # an output depends on all pixels, through μ and σ

    def _check_pixels(self, in_shape: InShape) -> None:
        if len(in_shape) < 2:
            raise ValueError(
                f"{self!r} normalises over pixels and expected examples of shape "
                f"(pixels, ..., C), such as (28, 28, 1), got {in_shape}. For vectors "
                "use fnn.LayerNorm() or fnn.BatchNorm()."
            )
        instead = "Use fnn.LayerNorm() or fnn.BatchNorm()."
        pixels = math.prod(in_shape[:-1])
        expect_several(self, pixels, "the pixels of each example", instead)


@layer
class GroupNorm(Layer):
    """A layer that normalises each group of C/G features of each example.

    The statistics of a group are over its features and all pixels. Group g holds the
    features g C/G ... (g + 1) C/G − 1; each feature has its own γ and β. With G = 1 all
    features share their statistics, with G = C it is InstanceNorm.

    Args:
        groups: G, a divisor of C.
        eps: ε, added to the variance.

    Raises:
        ValueError: G does not divide C; a group has a single element; the last axis of
            x is not C.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> norm = fnn.GroupNorm(2)
        >>> variables = norm.init(jax.random.key(0), (4,))
        >>> norm.forward(*variables, jnp.array([[1.0, 5.0, 30.0, 10.0]])).y.round(3)
        Array([[-1.,  1.,  1., -1.]], dtype=float32)

    Source: Wu and He, arXiv:1803.08494, eqs. 1, 2, 6 and 7.
    """

    groups: int
    eps: float = leaf(1e-5, kw_only=True)

    positional_hint: ClassVar[str] = NO_INPUT_FEATURES

    def __post_init__(self) -> None:
        groups = positive_integer("GroupNorm: groups", self.groups)
        object.__setattr__(self, "groups", groups)
        check_eps(self, self.eps)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        params = init_norm(self, in_shape)
        self._check_groups(in_shape)
        return Variables(params, ())

    def forward(
        self, params: NormParams, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        check_input(self, params, NormParams, x)
        x = as_inputs(x)
        self._check_groups(x.shape[1:])
        grouped, axes = self._grouped(x)
        normalized, inverse_std = normalize(grouped, *moments(grouped, axes), self.eps)
        normalized = normalized.reshape(x.shape)
        y = scale_and_shift(normalized, params)
        return Forward(y, saved=(normalized, inverse_std), state=state)

    def backward(
        self, params: NormParams, saved: tuple[Array, Array], dy: Array
    ) -> Backward:
        normalized, inverse_std = saved
        grad, axes = self._grouped(dy * per_feature(params.scale, dy))
        dx = norm_dx(grad, normalized.reshape(grad.shape), inverse_std, axes)
        return Backward(dx.reshape(dy.shape), dparams=norm_dparams(dy, normalized))

    def reach(self, in_shape: InShape) -> None:
        return None  # an output depends on all pixels, through μ and σ

    def _grouped(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Reshape (N, ..., C) to (N, ..., G, C/G); return also the axes of a group."""
        each = x.shape[-1] // self.groups  # not −1, which an empty batch cannot infer
        grouped = x.reshape(*x.shape[:-1], self.groups, each)
        return grouped, (*range(1, x.ndim - 1), x.ndim)

    def _check_groups(self, in_shape: InShape) -> None:
        *pixels, features = in_shape
        if features % self.groups:
            divisors = [g for g in range(1, features + 1) if features % g == 0]
            raise ValueError(
                f"{self!r} cannot split {features} features into {self.groups} groups "
                f"of one size: groups must be one of {', '.join(map(str, divisors))}"
            )
        elements = math.prod(pixels) * (features // self.groups)
        instead = "Use fewer groups, or fnn.BatchNorm()."
        expect_several(self, elements, "each group of features", instead)
