"""Batch normalisation: the one whose statistics are the batch's, and are remembered.

The calculus is that of `normalization`, with m the examples (times their pixels).

Legend: N examples, C features (the last axis).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from fnn.checks import as_inputs
from fnn.core import Backward, Forward, Layer, Variables, layer, leaf
from fnn.layers.normalization import (
    NormParams,
    check_eps,
    check_input,
    init_norm,
    moments,
    norm_dparams,
    norm_dx,
    normalize,
)

__all__ = ["BatchNorm", "BatchNormState"]


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
        check_eps(self, self.eps)
        if isinstance(self.momentum, float) and not 0 <= self.momentum <= 1:
            raise ValueError(
                "BatchNorm: momentum is the share of the running statistics that is "
                f"kept and must be in [0, 1], got {self.momentum}"
            )

    def init(self, key, in_shape):
        features = in_shape[-1:]
        state = BatchNormState(mean=jnp.zeros(features), var=jnp.ones(features))
        return Variables(init_norm(self, in_shape), state)

    def forward(self, params, state, x, *, key=None, train=False):
        check_input(self, params, NormParams, x)
        x = as_inputs(x)
        if train:
            mean, var = moments(x, axes=tuple(range(x.ndim - 1)))
            state = self.track(state, mean, var, m=x.size // x.shape[-1])
        else:
            mean, var = state
        normalized, inverse_std = normalize(x, mean, var, self.eps)
        saved = (Train if train else Eval)(normalized, inverse_std)
        y = normalized * params.scale + params.bias
        return Forward(y, saved=saved, state=state)

    def backward(self, params, saved, dy):
        normalized, inverse_std = saved
        grad = dy * params.scale
        if isinstance(saved, Train):
            axes = tuple(range(dy.ndim - 1))
            dx = norm_dx(grad, normalized, inverse_std, axes)
        else:
            dx = grad * inverse_std
        return Backward(dx=dx, dparams=norm_dparams(dy, normalized))

    def track(self, state: BatchNormState, mean: Array, var: Array, m: int):
        """The running statistics after a batch with these, of m elements a feature."""
        unbiased = var * (m / max(m - 1, 1))  # a batch of one has no spread to tell

        def step(running: Array, batch: Array) -> Array:
            keep = jnp.asarray(self.momentum, running.dtype)
            batch = batch.reshape(running.shape).astype(running.dtype)
            return keep * running + (1 - keep) * batch

        return BatchNormState(step(state.mean, mean), step(state.var, unbiased))
