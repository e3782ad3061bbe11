"""The dense layer.

Legend: N examples, I input features, O output features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from fnn.checks import describe, expect_params, expect_shape, positive_integer
from fnn.core import Backward, Forward, Layer, Variables, layer
from fnn.typing import Float
from fnn.layers.initializers import Initializer, LecunNormal, Zeros

__all__ = ["FEW", "Dense", "DenseParams", "dweight"]


class DenseParams(NamedTuple):
    """`weight` of shape (I, O); `bias` of shape (O,), or () without a bias."""

    weight: Array
    bias: Array | tuple[()]


@layer
class Dense(Layer):
    """The affine map y = x W + b.

    Equation (z = Θ a of the lecture, with Θ = [b  Wᵀ]):

        forward     y_no = Σ_i x_ni W_io + b_o
        backward    dx = dy Wᵀ      dW = xᵀ dy      db = Σ_n dy_n

    Args:
        features: O, the number of output features.
        bias: whether to add b.
        weight_init: draws W. By default it suits the activation that follows in
            `serial`: He for the ReLU family, Glorot for the saturating ones, LeCun
            where none follows (see `fnn.layers.initializers`).
        bias_init: draws b; zeros by default.

    Raises:
        ValueError: x is not of shape (N, I).

    Example:
        >>> import jax, fnn
        >>> layer = fnn.Dense(3)
        >>> variables = layer.init(jax.random.key(0), (5,))
        >>> layer.forward(*variables, jax.numpy.ones((2, 5))).y.shape
        (2, 3)

    Source: Rumelhart, Hinton and Williams, Nature 323 (1986), eqs. 1, 6 and 7.
    """

    features: int
    bias: bool = True
    weight_init: Initializer | None = None
    bias_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        features = positive_integer("Dense: features", self.features)
        object.__setattr__(self, "features", features)

    def init(self, key, in_shape):
        if len(in_shape) != 1:
            raise ValueError(
                f"{self!r} expected examples of shape (features,), got {in_shape}. "
                "Put fnn.Flatten() before it; in_shape has no batch axis."
            )
        draw_weight = self.weight_init or LecunNormal()
        weight_key, bias_key = jax.random.split(key)
        weight = draw_weight(weight_key, (*in_shape, self.features))
        bias = self.bias_init(bias_key, (self.features,)) if self.bias else ()
        return Variables(DenseParams(weight, bias), ())

    def forward(self, params, state, x, *, key=None, train=False):
        self._check(params, x)
        y = x @ params.weight
        return Forward(y + params.bias if self.bias else y, saved=x, state=state)

    def backward(self, params, saved, dy):
        x = saved
        dbias = dy.sum(0) if self.bias else ()
        dparams = DenseParams(weight=dweight(x, dy), bias=dbias)
        return Backward(dx=dy @ params.weight.T, dparams=dparams)

    def reach(self, in_shape):
        return None  # at everything

    def _check(self, params: DenseParams, x: Array) -> None:
        expect_params(self, params, DenseParams)
        inputs, outputs = params.weight.shape[0], self.features
        shapes = jax.tree.map(jnp.shape, tuple(params))
        if shapes != ((inputs, outputs), (outputs,) if self.bias else ()):
            raise ValueError(
                f"{self!r} got {describe(params)}, which belongs to another network. "
                "Make its parameters with net.init(key, in_shape)."
            )
        expect_shape(self, x, ("N", inputs), f" (its weight is {inputs}×{outputs})")


#: Up to so many outputs, dy is transposed rather than x.
FEW = 32


def dweight(
    x: Float[Array, "N I"], dy: Float[Array, "N O"]
) -> Float[Array, "I O"]:
    """Return dW = xᵀ dy; for few outputs as (dyᵀ x)ᵀ, the same sums.

    XLA's CPU backend transposes the left factor before it multiplies, which for few
    outputs takes ten times as long as the product: 0.3 ms against 0.03 for x of
    128×1024 and 10 outputs. The barrier keeps it from undoing the difference.
    """
    if dy.shape[-1] > FEW:
        return x.T @ dy
    return lax.optimization_barrier(dy.T @ x).T
