"""Batch normalisation: statistics of the batch, and running ones for evaluation.

The calculus is in `normalization`, with m the examples (times their pixels).

Legend: N examples, C features (the last axis).
"""

import math
from typing import ClassVar, NamedTuple

import jax.numpy as jnp

from fnn.checks import as_inputs, is_integer
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
from fnn.pytree import exportable
from fnn.typing import Array, InShape, KeyArray, PyTree

__all__ = ["BatchNorm", "BatchNormState", "Eval", "Train"]


@exportable
class BatchNormState(NamedTuple):
    """The running `mean` and `var` of the features, each of shape (C,)."""

    mean: Array
    var: Array


class Train(NamedTuple):
    """The arrays saved in training, when μ and σ depend on x."""

    arrays: PyTree


class Eval(NamedTuple):
    """The arrays saved in evaluation, when μ and σ are constants."""

    arrays: PyTree


@layer
class BatchNorm(Layer):
    """A layer that normalises each feature over the batch (and its pixels).

        train   μ, σ² are those of this batch, and update the running statistics:
                running ← momentum running + (1 − momentum) batch
        eval    μ, σ² are the running statistics, and dx = γ dy / √(σ² + ε)

    The batch is normalised by its own (biased) variance; the running variance averages
    the unbiased estimate σ² m/(m − 1), as in the paper's algorithm 2. So training needs
    m > 1: a batch of one vector, or none, is refused, and never reaches the state.

    Args:
        momentum: the share of the running statistics that each step keeps (one minus
            PyTorch's momentum). It does not affect gradients.
        eps: ε, added to the variance.

    Raises:
        ValueError: the last axis of x is not C; momentum or eps is out of range; in
            training a feature has a single element, or none.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> norm, x = fnn.BatchNorm(momentum=0.5), jnp.array([[1.0, 5.0], [3.0, 9.0]])
        >>> params, state = norm.init(jax.random.key(0), (2,))
        >>> norm.forward(params, state, x, train=True).state.mean
        Array([1. , 3.5], dtype=float32)

    Source: Ioffe and Szegedy, arXiv:1502.03167, algorithms 1 and 2.
    """

    momentum: float = leaf(0.9, kw_only=True)
    eps: float = leaf(1e-5, kw_only=True)

    positional_hint: ClassVar[str] = NO_INPUT_FEATURES

    def __post_init__(self) -> None:
        check_eps(self, self.eps)
        if isinstance(self.momentum, float) and not 0 <= self.momentum <= 1:
            raise ValueError(
                "BatchNorm: momentum is the share of the running statistics that is "
                f"kept and must be in [0, 1], got {self.momentum}"
            )

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        features = in_shape[-1:]
        state = BatchNormState(mean=jnp.zeros(features), var=jnp.ones(features))
        return Variables(init_norm(self, in_shape), state)

    def forward(
        self, params: NormParams, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        check_input(self, params, NormParams, x)
        x = as_inputs(x)
        if train:
            m = math.prod(x.shape[:-1])
            if is_integer(m):  # `jax.export` may leave it open
                self.expect_batch(m)
            mean, var = moments(x, axes=tuple(range(x.ndim - 1)))
            state = self.update_running(state, mean, var, m)
        else:
            mean, var = (per_feature(running, x) for running in state)
        normalized, inverse_std = normalize(x, mean, var, self.eps)
        saved = (Train if train else Eval)((normalized, inverse_std))
        y = scale_and_shift(normalized, params)
        return Forward(y, saved=saved, state=state)

    def backward(self, params: NormParams, saved: Train | Eval, dy: Array) -> Backward:
        normalized, inverse_std = saved.arrays
        grad = dy * per_feature(params.scale, dy)
        if isinstance(saved, Train):
            axes = tuple(range(dy.ndim - 1))
            dx = norm_dx(grad, normalized, inverse_std, axes)
        else:
            dx = grad * inverse_std
        return Backward(dx=dx, dparams=norm_dparams(dy, normalized))

    def expect_batch(self, m: int) -> None:
        """Raise unless a training batch has at least two elements per feature."""
        instead = (
            "In training pass batches of two examples or more: choose a batch_size "
            "that does not leave one for the last batch (N % batch_size is not 1). Or "
            "use fnn.LayerNorm(), which does not look at other examples."
        )
        expect_several(self, m, "each feature, over a batch and its pixels", instead)

    def update_running(
        self, state: BatchNormState, mean: Array, var: Array, m: int
    ) -> BatchNormState:
        """Return the running statistics after a batch of m elements per feature."""
        unbiased = var * jnp.asarray(m / (m - 1), var.dtype)

        def update(running: Array, batch: Array) -> Array:
            keep = jnp.asarray(self.momentum, running.dtype)
            batch = batch.reshape(running.shape).astype(running.dtype)
            return keep * running + (1 - keep) * batch

        return BatchNormState(update(state.mean, mean), update(state.var, unbiased))
