"""Batch normalisation and ReLU in one kernel, in the inner layout.

With x a row of m = H W N numbers for each channel, x̂ = (x − μ)/√(σ² + ε):

    forward     y = ReLU(γ x̂ + β)
    backward    g = dy where y > 0;   dβ = Σ g;   dγ = Σ g x̂ = (Σ g x − μ dβ)/√(σ² + ε)
                dx = γ/√(σ² + ε) (g − dβ/m − x̂ dγ/m)

The two means that the layer's own equation subtracts are here dγ and dβ, which are
needed anyway: two sums instead of four. x̂ is not kept but computed again from x, which
the layer before keeps anyway: a multiplication costs less than a pass over memory. For
dγ it would have to be written out, since XLA sums products of arrays that exist.

Rounding is that of `fnn.layers.BatchNorm`, with sums in another order, except for dγ.
Its error is as large as if x were off by ε |x|, for a few ε:

    |error of dγ| ≤ ε (Σ |g x| + |μ| Σ |g|)/√(σ² + ε)

which is more than the layer's where |μ| is many times σ.

Legend: images (C, H, W, N); γ, β, μ, σ² (C,).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fnn.kernels.layout import ALL_BUT_CHANNELS, per_channel
from fnn.typing import Array, Float, Number

__all__ = ["BatchNormSaved", "batch_norm_backward", "batch_norm_forward"]


class BatchNormSaved(NamedTuple):
    """The arrays that the backward needs; `y` is () without a ReLU."""

    x: Array
    mean: Array
    inverse_std: Array
    y: Array | tuple[()]


def batch_norm_forward(
    x: Float[Array, "C H W N"],
    scale: Float[Array, "C"],
    bias: Float[Array, "C"],
    mean: Float[Array, "C"],
    var: Float[Array, "C"],
    eps: Number,
    relu: bool,
) -> tuple[Float[Array, "C H W N"], BatchNormSaved]:
    """Compute y with these μ and σ², and keep what the backward needs.

    A variance beyond the largest number makes y and the gradients NaN.
    """
    inverse_std = lax.rsqrt(var + jnp.asarray(eps, var.dtype))
    inverse_std = jnp.where(jnp.isinf(var), jnp.nan, inverse_std).astype(x.dtype)
    mean = mean.astype(x.dtype)
    normalized = (x - per_channel(mean)) * per_channel(inverse_std)
    y = normalized * per_channel(scale) + per_channel(bias)
    y = jax.nn.relu(y) if relu else y
    return y, BatchNormSaved(x, mean, inverse_std, y if relu else ())


def batch_norm_backward(
    scale: Float[Array, "C"],
    saved: BatchNormSaved,
    dy: Float[Array, "C H W N"],
    train: bool,
) -> tuple[Float[Array, "C H W N"], Float[Array, "C"], Float[Array, "C"]]:
    """Compute dx, dγ and dβ; in training, μ and σ depend on x."""
    x, mean, inverse_std, y = saved
    g = dy if isinstance(y, tuple) else jnp.where(y > 0, dy, 0)
    dbias = g.sum(ALL_BUT_CHANNELS)
    dscale = ((g * x).sum(ALL_BUT_CHANNELS) - mean * dbias) * inverse_std
    factor = per_channel(scale * inverse_std)
    if not train:
        return g * factor, dscale, dbias
    m = x.size // len(x)
    normalized = (x - per_channel(mean)) * per_channel(inverse_std)
    dx = factor * (g - per_channel(dbias / m) - normalized * per_channel(dscale / m))
    return dx, dscale, dbias
