"""Batch normalisation: statistics of the batch, and running ones for evaluation.

The calculus is in `normalization`, with m the examples (times their pixels).

Legend: N examples, C features (the last axis).
"""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp

from fnn.checks import as_inputs, is_integer
from fnn.core import NO_INPUT_FEATURES, Backward, Forward, Layer, Variables, layer, leaf
from fnn.layers.features import per_feature
from fnn.layers.normalization import (
    NormParams,
    check_eps,
    check_input,
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
    the unbiased estimate σ² m/(m − 1), as in the paper's algorithm 2.

    Args:
        momentum: the share of the running statistics that each step keeps (one minus
            PyTorch's momentum). It does not affect gradients.
        eps: ε, added to the variance.

    Raises:
        ValueError: the last axis of x is not C; momentum or eps is out of range.

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
            mean, var = moments(x, axes=tuple(range(x.ndim - 1)))
            m = x.size // x.shape[-1]
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

    def update_running(
        self, state: BatchNormState, mean: Array, var: Array, m: int
    ) -> BatchNormState:
        """Return the running statistics after a batch of m elements per feature."""
        # One element has no unbiased variance. (`jax.export` may leave m open.)
        rest = max(m - 1, 1) if is_integer(m) else jnp.maximum(m - 1, 1)
        unbiased = var * jnp.asarray(m / rest, var.dtype)

        def update(running: Array, batch: Array) -> Array:
            keep = jnp.asarray(self.momentum, running.dtype)
            batch = batch.reshape(running.shape).astype(running.dtype)
            return keep * running + (1 - keep) * batch

        return BatchNormState(update(state.mean, mean), update(state.var, unbiased))
