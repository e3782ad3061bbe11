"""Normalisation: x̂ = (x − μ) / σ, then a scale γ and a bias β for each feature.

The layers differ in the m elements that share one μ and one σ:

    LayerNorm      the features of one pixel (a vector counts as one)
    BatchNorm      a feature, in all pixels of all examples (see `batch_norm`)
    InstanceNorm   a feature, in all pixels of one example (see `group_norm`)
    GroupNorm      a group of features, in all pixels of one example

The calculus is the same:

    x̂_i = (x_i − μ) / √(σ² + ε),    y_i = γ x̂_i + β,    ĝ_i = γ dy_i
    dx_i = (ĝ_i − mean(ĝ) − x̂_i mean(ĝ x̂)) / √(σ² + ε)

The two means are the parts of ĝ along the directions in which x̂ cannot move: a shift of
all x_i, and a stretch of them. (Ioffe and Szegedy, arXiv:1502.03167, section 3, with
the sums over ∂ℓ/∂σ² and ∂ℓ/∂μ carried out.) RMSNorm sets μ = 0 for every x: then a
shift of x changes x̂, and mean(ĝ) is not subtracted.

At the edges:

    m = 1       x̂ would be 0 whatever x is, and dx too: refused. (RMSNorm of a single
                feature is its sign, and dx is nearly 0.)
    σ² = inf    Where x spreads over more than about 1e19 (float32), σ² is beyond the
                largest number, and x̂ would be 0: y and dx are NaN instead, which no
                later layer hides.

Legend: N examples, C features (the last axis), S the shape of x.
"""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jax import lax

from fnn.checks import as_inputs, expect_params, expect_shape
from fnn.core import NO_INPUT_FEATURES, Backward, Forward, Layer, Variables, layer, leaf
from fnn.dtypes import widen
from fnn.layers.features import per_feature, sum_per_feature
from fnn.pytree import exportable
from fnn.typing import Array, Float, InShape, KeyArray, PyTree

__all__ = [
    "LayerNorm",
    "NormParams",
    "RMSNorm",
    "RMSNormParams",
    "check_eps",
    "check_input",
    "expect_several",
    "init_norm",
    "moments",
    "norm_dparams",
    "norm_dx",
    "normalize",
    "scale_and_shift",
]


@exportable
class NormParams(NamedTuple):
    """The parameters `scale` γ and `bias` β, each (C,). Neither is penalised."""

    scale: Array
    bias: Array


@exportable
class RMSNormParams(NamedTuple):
    """The parameter `scale` γ of shape (C,). It is not penalised."""

    scale: Array


# ---- Shared by all normalisations ------------------------------------------------


def init_norm(norm: Layer, in_shape: InShape) -> NormParams:
    """Return γ = 1 and β = 0."""
    if not in_shape:
        raise ValueError(f"{norm!r} expected examples of shape (..., C), got ()")
    features = in_shape[-1:]
    return NormParams(scale=jnp.ones(features), bias=jnp.zeros(features))


def check_eps(norm: Layer, eps: float) -> None:
    """Raise where eps is negative: σ² + ε could be negative too."""
    if isinstance(eps, float) and not eps >= 0:
        raise ValueError(f"{norm!r}: eps is added under the root and must be ≥ 0")


def check_input(norm: Layer, params: PyTree, expected: type, x: Array) -> None:
    """Raise unless the params are of the expected type and fit x."""
    expect_params(norm, params, expected)
    expect_shape(norm, x, ("N", ..., params.scale.shape[0]))


def expect_several(norm: Layer, m: int, of: str, instead: str) -> None:
    """Raise unless there are at least two elements to take a mean and a variance of.

    Args:
        norm: the layer.
        m: the number of elements that share one μ and one σ.
        of: what these elements are.
        instead: what to do.
    """
    if m < 2:
        raise ValueError(
            f"{norm!r} takes the mean and the variance of {of}, and there "
            f"{'is one' if m else 'are none'}: x̂ = (x − μ)/σ would be 0 for every x, "
            f"and so would dx. {instead}"
        )


def moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Compute μ and σ² of the elements along `axes`, in at least float32."""
    x = widen(x)
    mean = x.mean(axes, keepdims=True)
    return mean, jnp.square(x - mean).mean(axes, keepdims=True)


def normalize(x: Array, mean: Array, var: Array, eps: float) -> tuple[Array, Array]:
    """Compute x̂ and 1/√(σ² + ε), in x's dtype."""
    inverse_std = _inverse_root(var, eps).astype(x.dtype)
    return (x - mean.astype(x.dtype)) * inverse_std, inverse_std


def scale_and_shift(normalized: Array, params: NormParams) -> Array:
    """Compute y = γ x̂ + β."""
    scale, bias = (per_feature(vector, normalized) for vector in params)
    return normalized * scale + bias


def norm_dx(
    grad: Float[Array, "*S"],
    normalized: Float[Array, "*S"],
    inverse_std: Array,
    axes: tuple[int, ...],
) -> Float[Array, "*S"]:
    """Compute dx from ĝ = γ dy, by the equation of this file."""
    shift = grad.mean(axes, keepdims=True)
    stretch = (grad * normalized).mean(axes, keepdims=True)
    return inverse_std * (grad - shift - normalized * stretch)


def norm_dparams(
    dy: Float[Array, "*S C"], normalized: Float[Array, "*S C"]
) -> NormParams:
    """Compute dγ = Σ dy x̂ and dβ = Σ dy, over all axes but the features'."""
    return NormParams(scale=sum_per_feature(dy * normalized), bias=sum_per_feature(dy))


def _inverse_root(square: Array, eps: float) -> Array:
    inverse_root = lax.rsqrt(square + jnp.asarray(eps, square.dtype))
    return jnp.where(jnp.isinf(square), jnp.nan, inverse_root)  # 0 would hide it


# ---- The layers ------------------------------------------------------------------


@layer
class LayerNorm(Layer):
    """A layer that normalises the features (the last axis) of each pixel.

    Args:
        eps: ε, added to the variance.

    Raises:
        ValueError: the last axis of x is not C, or C is 1.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> norm = fnn.LayerNorm()
        >>> variables = norm.init(jax.random.key(0), (2,))
        >>> norm.forward(*variables, jnp.array([[1.0, 5.0]])).y.round(3)
        Array([[-1.,  1.]], dtype=float32)

    Source: Ba, Kiros and Hinton, arXiv:1607.06450, eqs. 3 and 4.
    """

    eps: float = leaf(1e-5, kw_only=True)

    positional_hint: ClassVar[str] = NO_INPUT_FEATURES

    def __post_init__(self) -> None:
        check_eps(self, self.eps)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        params = init_norm(self, in_shape)
        self._check_features(in_shape[-1])
        return Variables(params, ())

    def forward(
        self, params: NormParams, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        check_input(self, params, NormParams, x)
        x = as_inputs(x)
        self._check_features(x.shape[-1])
        normalized, inverse_std = normalize(x, *moments(x, (-1,)), self.eps)
        y = scale_and_shift(normalized, params)
        return Forward(y, saved=(normalized, inverse_std), state=state)

    def backward(
        self, params: NormParams, saved: tuple[Array, Array], dy: Array
    ) -> Backward:
        normalized, inverse_std = saved
        grad = dy * per_feature(params.scale, dy)
        dx = norm_dx(grad, normalized, inverse_std, (-1,))
        return Backward(dx=dx, dparams=norm_dparams(dy, normalized))

    def _check_features(self, features: int) -> None:
        instead = "Use fnn.BatchNorm(), or fnn.InstanceNorm() for images."
        expect_several(self, features, "the features of each pixel", instead)


@layer
class RMSNorm(Layer):
    """A layer that divides the features of each pixel by their root mean square.

        forward     x̂_i = x_i / r,  r = √(mean(x²) + ε),    y_i = γ x̂_i
        backward    ĝ_i = γ dy_i,   dx_i = (ĝ_i − x̂_i mean(ĝ x̂)) / r

    It is a LayerNorm without μ and β: x̂ keeps the mean of x, and the backward subtracts
    only the stretch from ĝ. Of a single feature only the sign is left.

    Args:
        eps: ε, added to the mean square. (The paper has none.)

    Raises:
        ValueError: the last axis of x is not C.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> norm = fnn.RMSNorm()
        >>> variables = norm.init(jax.random.key(0), (2,))
        >>> norm.forward(*variables, jnp.array([[3.0, 3.0]])).y.round(3)
        Array([[1., 1.]], dtype=float32)

    Source: Zhang and Sennrich, arXiv:1910.07467, eq. 4.
    """

    eps: float = leaf(1e-6, kw_only=True)

    positional_hint: ClassVar[str] = NO_INPUT_FEATURES

    def __post_init__(self) -> None:
        check_eps(self, self.eps)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        return Variables(RMSNormParams(init_norm(self, in_shape).scale), ())

    def forward(
        self, params: RMSNormParams, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        check_input(self, params, RMSNormParams, x)
        x = as_inputs(x)
        mean_square = jnp.square(widen(x)).mean(-1, keepdims=True)
        inverse_rms = _inverse_root(mean_square, self.eps).astype(x.dtype)
        normalized = x * inverse_rms
        y = normalized * per_feature(params.scale, normalized)
        return Forward(y, saved=(normalized, inverse_rms), state=state)

    def backward(
        self, params: RMSNormParams, saved: tuple[Array, Array], dy: Array
    ) -> Backward:
        normalized, inverse_rms = saved
        grad = dy * per_feature(params.scale, dy)
        stretch = (grad * normalized).mean(-1, keepdims=True)
        dx = inverse_rms * (grad - normalized * stretch)
        return Backward(dx=dx, dparams=RMSNormParams(sum_per_feature(dy * normalized)))
