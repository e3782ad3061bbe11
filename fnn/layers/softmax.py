"""The softmax over the last axis, and its logarithm.

Both save y, from which the derivative is cheap.
"""

import jax
import jax.numpy as jnp

from fnn.checks import as_inputs
from fnn.core import Backward, Forward, layer
from fnn.layers.activations import Saturating
from fnn.typing import Array, KeyArray, PyTree

__all__ = ["LogSoftmax", "Softmax"]


@layer
class Softmax(Saturating):
    """The softmax over the last axis: y_k = e^(x_k) / Σ_j e^(x_j).

        backward    dx = y (dy − Σ_j dy_j y_j)

    For classification leave it out: `SoftmaxCrossEntropy` works on the logits, where
    nothing saturates. A score of −∞ gets y = 0 and dx = 0. Scores with a NaN, a +∞ or
    nothing but −∞ have no softmax: y and dx are NaN in all of them.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> x = jnp.array([[-1.0, 0.0, 1.0]])
        >>> print(fnn.Softmax().forward((), (), x).y.round(2))
        [[0.09       0.24       0.66999996]]
    """

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        x = as_inputs(x)
        y = jax.nn.softmax(x, axis=-1)
        return Forward(y, saved=y, state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        y = saved
        dx = y * (dy - (dy * y).sum(-1, keepdims=True))
        return Backward(dx=dx, dparams=())


@layer
class LogSoftmax(Saturating):
    """The logarithm of the softmax over the last axis: y_k = x_k − log Σ_j e^(x_j).

        backward    dx_k = dy_k − e^(y_k) Σ_j dy_j

    `SoftmaxCrossEntropy` needs neither this nor `Softmax` before it.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> fnn.LogSoftmax().forward((), (), jnp.array([[0.0, 1000.0]])).y
        Array([[-1000.,     0.]], dtype=float32)
    """

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        y = jax.nn.log_softmax(as_inputs(x), axis=-1)
        return Forward(y, saved=y, state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        y = saved
        dx = dy - jnp.exp(y) * dy.sum(-1, keepdims=True)
        return Backward(dx=dx, dparams=())
