"""Batch normalisation and ReLU as one, in the inner layout.

With x a row of m = H W N numbers for each channel, x̂ = (x − μ)/√(σ² + ε):

    forward     y = ReLU(γ x̂ + β)
    backward    g = dy where y > 0;   dβ = Σ g;   dγ = Σ g x̂ = (Σ g x − μ dβ)/√(σ² + ε)
                dx = γ/√(σ² + ε) (g − dβ/m − x̂ dγ/m)

What the two means in the layer's own equation take away is here dγ and dβ, which are
wanted anyway: two sums instead of four. x̂ is not kept but computed again from x, which
is kept by whoever made it: a multiplication costs less than a pass over memory. For dγ
it would have to be written out, since XLA sums products of arrays that exist.

Rounding: as in `fnn.layers.BatchNorm`, with sums in another order, but for dγ. With x
off by ε |x| it would be off by as much, for a few ε,

    |error of dγ| ≤ ε (Σ |g x| + |μ| Σ |g|)/√(σ² + ε)

which is more than the layer's where |μ| is many times σ.

Legend: images (C, H, W, N); γ, β, μ, σ² (C,).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

__all__ = ["batch_norm_backward", "batch_norm_forward"]

ROW = (1, 2, 3)


def batch_norm_forward(
    x: Array, scale: Array, bias: Array, mean: Array, var: Array, eps: Any, relu: bool
) -> tuple[Array, Any]:
    """y, and what the backward needs, with these μ and σ²."""
    inverse_std = lax.rsqrt(var + jnp.asarray(eps, var.dtype)).astype(x.dtype)
    mean = mean.astype(x.dtype)
    normalized = (x - _column(mean)) * _column(inverse_std)
    y = normalized * _column(scale) + _column(bias)
    y = jax.nn.relu(y) if relu else y
    return y, (x, mean, inverse_std, y if relu else ())


def batch_norm_backward(
    scale: Array, saved: Any, dy: Array, train: bool
) -> tuple[Array, Array, Array]:
    """dx, dγ and dβ; in training μ and σ depend on x."""
    x, mean, inverse_std, y = saved
    g = dy if isinstance(y, tuple) else jnp.where(y > 0, dy, 0)
    dbias = g.sum(ROW)
    dscale = ((g * x).sum(ROW) - mean * dbias) * inverse_std
    factor = _column(scale * inverse_std)
    if not train:
        return g * factor, dscale, dbias
    m = x.size // len(x)
    normalized = (x - _column(mean)) * _column(inverse_std)
    dx = factor * (g - _column(dbias / m) - normalized * _column(dscale / m))
    return dx, dscale, dbias


def _column(row: Array) -> Array:
    return row[:, None, None, None]
