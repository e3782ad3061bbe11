"""Normalisation: x̂ = (x − μ) / σ, then a scale γ and a bias β for each feature.

BatchNorm takes μ and σ over the batch, LayerNorm over the features of one example; the
calculus is the same. Over the m elements that share one μ and σ,

    x̂_i = (x_i − μ) / √(σ² + ε),    y_i = γ x̂_i + β,    ĝ_i = γ dy_i
    dx_i = (ĝ_i − mean(ĝ) − x̂_i mean(ĝ x̂)) / √(σ² + ε)

The two means are the parts of ĝ along the directions in which x̂ cannot move: a shift of
all x_i, and a stretch of them. (Ioffe and Szegedy, arXiv:1502.03167, section 3, with
the sums over ∂ℓ/∂σ² and ∂ℓ/∂μ carried out.)

Legend: N examples, C features (the last axis), m elements that share their statistics.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from fnn.checks import expect_params, expect_shape
from fnn.core import Backward, Forward, Layer, Variables, layer, leaf

__all__ = ["BatchNorm", "BatchNormState", "LayerNorm", "NormParams"]


class NormParams(NamedTuple):
    """`scale` γ and `bias` β, each of shape (C,). Neither is penalised."""

    scale: Array
    bias: Array


class BatchNormState(NamedTuple):
    """Running `mean` and `var` of the features, each of shape (C,)."""

    mean: Array
    var: Array


class Train(NamedTuple):
    """Saved in training, when μ and σ depend on x."""

    normalized: Array
    inverse_std: Array


class Eval(NamedTuple):
    """Saved in evaluation, when μ and σ are constants."""

    normalized: Array
    inverse_std: Array


def _init_params(norm: Layer, in_shape: tuple[int, ...]) -> NormParams:
    if not in_shape:
        raise ValueError(f"{norm!r} expected examples of shape (..., C), got ()")
    features = in_shape[-1:]
    return NormParams(scale=jnp.ones(features), bias=jnp.zeros(features))


def _check_eps(norm: "BatchNorm | LayerNorm") -> None:
    if isinstance(norm.eps, float) and norm.eps < 0:
        raise ValueError(f"{norm!r}: eps is added to a variance and must be ≥ 0")


def _check_input(norm: Layer, params: NormParams, x: Array) -> None:
    expect_params(norm, params, NormParams)
    expect_shape(norm, x, ("N", ..., params.scale.shape[0]))


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and variance, in at least float32: half precision would lose the sums."""
    x = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
    mean = x.mean(axes, keepdims=True)
    return mean, jnp.square(x - mean).mean(axes, keepdims=True)


def _inverse_std(var: Array, eps: float) -> Array:
    return lax.rsqrt(var + jnp.asarray(eps, var.dtype))


def _dparams(dy: Array, normalized: Array) -> NormParams:
    batch = tuple(range(dy.ndim - 1))
    return NormParams(scale=(dy * normalized).sum(batch), bias=dy.sum(batch))


def _dx(grad: Array, normalized: Array, inverse_std: Array, axes: tuple) -> Array:
    """The module's equation for dx, from ĝ = γ dy."""
    shift = grad.mean(axes, keepdims=True)
    stretch = (grad * normalized).mean(axes, keepdims=True)
    return inverse_std * (grad - shift - normalized * stretch)


@layer
class BatchNorm(Layer):
    """Normalise each feature over the batch (and over the pixels of images).

        train   μ, σ² are those of this batch, and the running statistics follow them:
                running ← momentum running + (1 − momentum) batch
        eval    μ, σ² are the running statistics, and dx = γ dy / √(σ² + ε)

    The batch is normalised by its own (biased) variance; the running one collects the
    unbiased estimate σ² m/(m − 1), as in the paper's algorithm 2.

    Args:
        momentum: how much of the running statistics is kept at each step (one minus
            what PyTorch calls momentum). Irrelevant to gradients.
        eps: ε, added to the variance.

    Raises:
        ValueError: the last axis of x is not C.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> norm, x = fnn.BatchNorm(momentum=0.5), jnp.array([[1.0, 5.0], [3.0, 9.0]])
        >>> params, state = norm.init(jax.random.key(0), (2,))
        >>> norm.forward(params, state, x, train=True).state.mean
        Array([1. , 3.5], dtype=float32)

    Source: Ioffe and Szegedy, arXiv:1502.03167, algorithms 1 and 2.
    """

    momentum: float = leaf(0.9)
    eps: float = leaf(1e-5)

    def __post_init__(self) -> None:
        _check_eps(self)
        if isinstance(self.momentum, float) and not 0 <= self.momentum <= 1:
            raise ValueError(
                "BatchNorm: momentum is the share of the running statistics that is "
                f"kept and must be in [0, 1], got {self.momentum}"
            )

    def init(self, key, in_shape):
        features = in_shape[-1:]
        state = BatchNormState(mean=jnp.zeros(features), var=jnp.ones(features))
        return Variables(_init_params(self, in_shape), state)

    def forward(self, params, state, x, *, key=None, train=False):
        _check_input(self, params, x)
        if train:
            mean, var = _moments(x, tuple(range(x.ndim - 1)))
            state = self._track(state, mean, var, m=x.size // x.shape[-1])
        else:
            mean, var = state
        inverse_std = _inverse_std(var, self.eps).astype(x.dtype)
        normalized = (x - mean.astype(x.dtype)) * inverse_std
        saved = (Train if train else Eval)(normalized, inverse_std)
        y = normalized * params.scale + params.bias
        return Forward(y, saved=saved, state=state)

    def backward(self, params, saved, dy):
        normalized, inverse_std = saved
        grad = dy * params.scale
        if isinstance(saved, Train):
            dx = _dx(grad, normalized, inverse_std, axes=tuple(range(dy.ndim - 1)))
        else:
            dx = grad * inverse_std
        return Backward(dx=dx, dparams=_dparams(dy, normalized))

    def _track(self, state: BatchNormState, mean: Array, var: Array, m: int):
        unbiased = var * (m / max(m - 1, 1))  # a batch of one has no spread to tell

        def step(running: Array, batch: Array) -> Array:
            keep = jnp.asarray(self.momentum, running.dtype)
            batch = batch.reshape(running.shape).astype(running.dtype)
            return keep * running + (1 - keep) * batch

        return BatchNormState(step(state.mean, mean), step(state.var, unbiased))


@layer
class LayerNorm(Layer):
    """Normalise the features (the last axis) of each example by themselves.

    Args:
        eps: ε, added to the variance.

    Raises:
        ValueError: the last axis of x is not C.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> norm = fnn.LayerNorm()
        >>> variables = norm.init(jax.random.key(0), (2,))
        >>> norm.forward(*variables, jnp.array([[1.0, 5.0]])).y.round(3)
        Array([[-1.,  1.]], dtype=float32)

    Source: Ba, Kiros and Hinton, arXiv:1607.06450, eqs. 3 and 4.
    """

    eps: float = leaf(1e-5)

    def __post_init__(self) -> None:
        _check_eps(self)

    def init(self, key, in_shape):
        return Variables(_init_params(self, in_shape), ())

    def forward(self, params, state, x, *, key=None, train=False):
        _check_input(self, params, x)
        mean, var = _moments(x, (-1,))
        inverse_std = _inverse_std(var, self.eps).astype(x.dtype)
        normalized = (x - mean.astype(x.dtype)) * inverse_std
        y = normalized * params.scale + params.bias
        return Forward(y, saved=(normalized, inverse_std), state=state)

    def backward(self, params, saved, dy):
        normalized, inverse_std = saved
        dx = _dx(dy * params.scale, normalized, inverse_std, axes=(-1,))
        return Backward(dx=dx, dparams=_dparams(dy, normalized))
