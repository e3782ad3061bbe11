"""Hessians of losses with respect to the network's outputs, by hand, beside each δ.

With H_n = ∂²L(z_n, y_n)/∂z_n² (K, K), the Hessian of the loss of one example, which is
not divided by N:

    loss            N δ_n               H_n                         root S_n
    sigmoid CE      a − t               diag(a (1 − a))             its square root
    softmax CE      a − t               diag(a) − a aᵀ              (I − a 1ᵀ) diag(√a)
    squared error   z − t               I                           I
    Huber           z − t within ±d     diag(1 where |z − t| ≤ d)   the same

The product is H_n u; the root has S_n S_nᵀ = H_n. Of any other loss, and of these with
weights or with labels at several positions, both follow from δ: H_n u is the derivative
of N δ_n along u, and S_n comes from the eigenvectors of H_n.

Legend: N examples, K outputs of an example; z, u of shape (N, ...); S (N, K, R).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.dtypes import widen
from fnn.losses import (
    Huber,
    Loss,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
)
from fnn.typing import Array, Float

__all__ = ["LossHessian", "hessian_product", "hessian_root", "register"]


class LossHessian(NamedTuple):
    """The Hessian of a loss, for each example by itself.

    Args:
        product: `(loss, z, y, u) -> H_n u_n` of all examples, of z's shape.
        root: `(loss, z, y) -> S` of shape (N, K, R), or None: from eigenvectors.
    """

    product: Callable[[Any, Array, Array, Array], Array]
    root: Callable[[Any, Array, Array], Array] | None = None


_HESSIANS: dict[type, LossHessian] = {}


def register(*losses: type) -> Callable[[LossHessian], LossHessian]:
    """Register the Hessian of a loss of your own.

    Without it, the Hessian is the derivative of `delta`, by JAX.

    Args:
        *losses: classes of losses.

    Returns:
        A function of a `LossHessian`, which registers and returns it.

    Raises:
        TypeError: an argument is not a class.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> @fnn.layer
        ... class LogCosh:
        ...     def value(self, z, y):
        ...         return jnp.log(jnp.cosh(z - y)).sum() / len(z)
        ...     def delta(self, z, y):
        ...         return jnp.tanh(z - y) / len(z)
        ...     def check(self, out_shape, y):
        ...         pass
        >>> hessian = fnn.curvature.LossHessian(
        ...     product=lambda loss, z, y, u: u / jnp.cosh(z - y) ** 2,
        ... )
        >>> fnn.curvature.register(LogCosh)(hessian) is hessian
        True
    """
    for loss in losses:
        if not isinstance(loss, type):
            raise TypeError(f"register expected classes of losses, got {loss!r}")

    def add(hessian: LossHessian) -> LossHessian:
        for loss in losses:
            _HESSIANS[loss] = hessian
        return hessian

    return add


def hessian_product(loss: Loss, z: Array, y: Array, u: Array) -> Array:
    """Compute H_n u_n of all examples, of z's shape and dtype."""
    return _hessian_of(loss, z).product(loss, z, y, u).astype(z.dtype)


def hessian_root(loss: Loss, z: Array, y: Array) -> Float[Array, "N K R"]:
    """Compute S_n, with S_n S_nᵀ = H_n, of all examples."""
    hessian = _hessian_of(loss, z)
    if hessian.root is not None:
        return hessian.root(loss, z, y)
    k = math.prod(z.shape[1:])

    def column(direction: Array) -> Array:
        u = jnp.broadcast_to(direction.reshape(1, *z.shape[1:]), z.shape)
        return hessian.product(loss, z, y, u).reshape(len(z), k)

    matrices = jax.vmap(column, out_axes=2)(jnp.eye(k, dtype=z.dtype))
    values, vectors = jnp.linalg.eigh(widen(matrices))
    return vectors * jnp.sqrt(jnp.maximum(values, 0))[:, None]


# ---- By δ ------------------------------------------------------------------------


def _by_delta(loss: Loss, z: Array, y: Array, u: Array) -> Array:
    """Differentiate N δ along u."""
    wide = widen(z)
    _, du = jax.jvp(lambda z: loss.delta(z, y), (wide,), (u.astype(wide.dtype),))
    return len(z) * du


_BY_DELTA = LossHessian(_by_delta)


def _hessian_of(loss: Loss, z: Array) -> LossHessian:
    """Return the Hessian that was registered, where it is that of this loss."""
    options = ("class_weights", "ignore")
    if any(getattr(loss, name, None) is not None for name in options):
        return _BY_DELTA
    if type(loss) in (SigmoidCrossEntropy, SoftmaxCrossEntropy) and z.ndim != 2:
        return _BY_DELTA
    return _HESSIANS.get(type(loss), _BY_DELTA)


# ---- By hand ---------------------------------------------------------------------


def _sigmoid_slope(z: Array) -> Array:
    """Compute a (1 − a) as σ(z) σ(−z), which loses no digits where a is near 1."""
    return jax.nn.sigmoid(widen(z)) * jax.nn.sigmoid(-widen(z))


def _sigmoid_product(loss: SigmoidCrossEntropy, z: Array, y: Array, u: Array) -> Array:
    return _sigmoid_slope(z) * widen(u)


def _sigmoid_root(loss: SigmoidCrossEntropy, z: Array, y: Array) -> Array:
    return _diagonal_matrices(jnp.sqrt(_sigmoid_slope(z)))


def _softmax_product(loss: SoftmaxCrossEntropy, z: Array, y: Array, u: Array) -> Array:
    """Compute a ∘ u − a ⟨a, u⟩; smoothing changes the targets, and not H."""
    a, u = jax.nn.softmax(widen(z)), widen(u)
    return a * (u - (a * u).sum(-1, keepdims=True))


def _softmax_root(loss: SoftmaxCrossEntropy, z: Array, y: Array) -> Array:
    """Return the columns √a_k (e_k − a)."""
    a = jax.nn.softmax(widen(z))
    roots = jnp.sqrt(a)[:, None]
    return (jnp.eye(a.shape[-1], dtype=a.dtype) - a[..., None]) * roots


def _squared_product(loss: SquaredError, z: Array, y: Array, u: Array) -> Array:
    return u


def _squared_root(loss: SquaredError, z: Array, y: Array) -> Array:
    return _diagonal_matrices(jnp.ones_like(widen(z)))


def _is_quadratic(loss: Huber, z: Array, y: Array) -> Array:
    """Return 1 where the loss is squared, and 0 where it is absolute."""
    error = widen(z) - y.reshape(z.shape).astype(widen(z).dtype)
    inside = jnp.abs(error) <= jnp.asarray(loss.threshold, error.dtype)
    return inside.astype(error.dtype)


def _huber_product(loss: Huber, z: Array, y: Array, u: Array) -> Array:
    return _is_quadratic(loss, z, y) * widen(u)


def _huber_root(loss: Huber, z: Array, y: Array) -> Array:
    return _diagonal_matrices(_is_quadratic(loss, z, y))


def _diagonal_matrices(entries: Array) -> Float[Array, "N K K"]:
    rows = entries.reshape(len(entries), math.prod(entries.shape[1:]))
    return rows[..., None] * jnp.eye(rows.shape[1], dtype=rows.dtype)


register(SigmoidCrossEntropy)(LossHessian(_sigmoid_product, _sigmoid_root))
register(SoftmaxCrossEntropy)(LossHessian(_softmax_product, _softmax_root))
register(SquaredError)(LossHessian(_squared_product, _squared_root))
register(Huber)(LossHessian(_huber_product, _huber_root))
