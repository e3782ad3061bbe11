"""The dense layer.

Legend: N examples, ... positions (often none), I input features, O output features.
"""

from dataclasses import KW_ONLY
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fnn.checks import expect_params, expect_shape, positive_integer
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
from fnn.layers.features import per_feature, sum_per_feature
from fnn.layers.initializers import Initializer, LecunNormal, Zeros
from fnn.pytree import exportable
from fnn.typing import Array, Float, InShape, KeyArray, PyTree
from fnn.versions import transposes_mapped_products

__all__ = ["FEW_OUTPUTS", "Dense", "DenseParams", "DenseTranspose", "dweight"]


@exportable
class DenseParams(NamedTuple):
    """The parameters: `weight` (I, O); `bias` (O,), or () without a bias."""

    weight: Array
    bias: PyTree


@layer
class Dense(Layer):
    """A dense layer: y = x W + b, on the last axis of x.

    Equations (z = Θ a of the lecture, with Θ = [b  Wᵀ]):

        forward     y_no = Σ_i x_ni W_io + b_o
        backward    dx = dy Wᵀ      dW = xᵀ dy      db = Σ_n dy_n

    Where x has positions, (N, ..., I), the same layer is applied at each of them, and n
    counts all N × positions: the sums of the backward run over all axes but the last.

    Args:
        features: O, the number of output features.
        bias: whether to add b.
        weight_init: draws W. By default it suits the activation that follows in
            `serial`: He for the ReLU family, Glorot for the saturating ones, LeCun
            where none follows (see `fnn.layers.initializers`).
        bias_init: draws b; zeros by default.

    Raises:
        ValueError: x is not of shape (N, ..., I).

    Example:
        >>> import jax, fnn
        >>> layer = fnn.Dense(3)
        >>> variables = layer.init(jax.random.key(0), (5,))
        >>> layer.forward(*variables, jax.numpy.ones((2, 5))).y.shape
        (2, 3)
        >>> layer.forward(*variables, jax.numpy.ones((2, 7, 4, 5))).y.shape
        (2, 7, 4, 3)

    Source: Rumelhart, Hinton and Williams, Nature 323 (1986), eqs. 1, 6 and 7.
    """

    features: int
    _: KW_ONLY
    bias: bool = True
    weight_init: Initializer | None = None
    bias_init: Initializer = Zeros()

    positional_hint: ClassVar[str] = NO_INPUT_FEATURES

    def __post_init__(self) -> None:
        features = positive_integer("Dense: features", self.features)
        object.__setattr__(self, "features", features)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        if not in_shape:
            raise ValueError(
                f"{self!r} expected examples of shape (features,) or (..., features), "
                "got (): in_shape has no batch axis."
            )
        draw_weight = self.weight_init or LecunNormal()
        weight_key, bias_key = jax.random.split(key)
        weight = draw_weight(weight_key, (in_shape[-1], self.features))
        bias = self.bias_init(bias_key, (self.features,)) if self.bias else ()
        return Variables(DenseParams(weight, bias), ())

    def forward(
        self, params: DenseParams, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        self._check(params, x)
        y = x @ params.weight
        y = y + per_feature(params.bias, y) if self.bias else y
        return Forward(y, saved=x, state=state)

    def backward(
        self,
        params: DenseParams,
        saved: Float[Array, "N *P I"],
        dy: Float[Array, "N *P O"],
    ) -> Backward:
        x = saved
        dbias = sum_per_feature(dy) if self.bias else ()
        dparams = DenseParams(weight=dweight(x, dy), bias=dbias)
        return Backward(dx=dy @ params.weight.T, dparams=dparams)

    def reach(self, in_shape: InShape) -> tuple[Reach, ...] | None:
        # Of a vector it is all; of one position among others, this position alone.
        return super().reach(in_shape) if len(in_shape) > 1 else None

    def _check(self, params: DenseParams, x: Array) -> None:
        expect_params(self, params, DenseParams)
        inputs, outputs = params.weight.shape[0], self.features
        shapes = jax.tree.map(jnp.shape, tuple(params))
        if shapes != ((inputs, outputs), (outputs,) if self.bias else ()):
            raise ValueError(
                f"{self!r} got {describe(params)}, which belongs to another network. "
                "Make its parameters with net.init(key, in_shape)."
            )
        why = f" (its weight is {inputs}×{outputs})"
        expect_shape(self, x, ("N", ..., inputs), why)


@layer
class DenseTranspose(Layer):
    """A dense layer with the transposed weight: y = x Wᵀ + b, on the last axis of x.

        forward     y_no = Σ_i x_ni W_oi + b_o
        backward    dx = dy W       dW = dyᵀ x      db = Σ_n dy_n

    It maps from where a `Dense` of the same weight maps to: with `fnn.tied`, an encoder
    and a decoder share W.

    Args:
        features: O, the number of output features.
        bias: whether to add b.
        weight_init: draws W (O, I), as that of a dense layer from O features to I; by
            default as `Dense`.
        bias_init: draws b; zeros by default.

    Raises:
        ValueError: x is not of shape (N, ..., I).

    Example:
        >>> import jax, fnn
        >>> layer = fnn.DenseTranspose(3)
        >>> layer.init(jax.random.key(0), (5,)).params.weight.shape
        (3, 5)
    """

    features: int
    _: KW_ONLY
    bias: bool = True
    weight_init: Initializer | None = None
    bias_init: Initializer = Zeros()

    positional_hint: ClassVar[str] = NO_INPUT_FEATURES

    def __post_init__(self) -> None:
        features = positive_integer("DenseTranspose: features", self.features)
        object.__setattr__(self, "features", features)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        params, state = self._dense.init(key, in_shape)
        # Drawn as (I, O), so that its variance is that of a dense layer's.
        return Variables(DenseParams(params.weight.T, params.bias), state)

    def forward(
        self, params: DenseParams, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        expect_params(self, params, DenseParams)
        transposed = DenseParams(params.weight.T, params.bias)
        self._dense._check(transposed, x)
        y = x @ params.weight.T
        y = y + per_feature(params.bias, y) if self.bias else y
        return Forward(y, saved=x, state=state)

    def backward(
        self,
        params: DenseParams,
        saved: Float[Array, "N *P I"],
        dy: Float[Array, "N *P O"],
    ) -> Backward:
        x = saved
        dbias = sum_per_feature(dy) if self.bias else ()
        dparams = DenseParams(weight=dweight(dy, x), bias=dbias)
        return Backward(dx=dy @ params.weight, dparams=dparams)

    def reach(self, in_shape: InShape) -> tuple[Reach, ...] | None:
        return self._dense.reach(in_shape)

    @property
    def _dense(self) -> Dense:
        """The dense layer of the same shapes, with W transposed."""
        return Dense(
            self.features,
            bias=self.bias,
            weight_init=self.weight_init,
            bias_init=self.bias_init,
        )


#: Up to this many outputs, `dweight` transposes dy rather than x.
FEW_OUTPUTS = 32 if transposes_mapped_products() else 0


def dweight(
    x: Float[Array, "N *P I"], dy: Float[Array, "N *P O"]
) -> Float[Array, "I O"]:
    """Compute dW = xᵀ dy; for few outputs as (dyᵀ x)ᵀ, which has the same sums.

    All axes but the last are summed over, as one long axis.

    XLA's CPU backend transposes the left factor before it multiplies, which for few
    outputs takes ten times as long as the product: 0.3 ms against 0.03 for x of
    128×1024 and 10 outputs. The barrier keeps XLA from simplifying it to xᵀ dy.
    """
    x, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    if dy.shape[-1] > FEW_OUTPUTS:
        return x.T @ dy
    return lax.optimization_barrier(dy.T @ x).T
