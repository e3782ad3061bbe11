"""Hessians of losses with respect to the network's outputs, by hand, beside each δ.

With H_n = ∂²L(z_n, y_n)/∂z_n² (K, K), the Hessian of the loss of one example, which is
not divided by N:

    loss            N δ_n               H_n                         root S_n
    sigmoid CE      a − t               diag(a (1 − a))             its square root
    softmax CE      a − t               diag(a) − a aᵀ              (I − a 1ᵀ) diag(√a)
    KL divergence   a − t               as the softmax CE           as the softmax CE
    squared error   z − t               I                           I
    Huber           z − t within ±d     diag(1 where |z − t| ≤ d)   the same
    with weights    w_n times these     w_n H_n                     √w_n S_n

With labels at P positions of an example, the first three are divided by P, and H_n has
a block for each position. The product is H_n u; the root has S_n S_nᵀ = H_n. Of any
other loss, and of cross-entropies with class weights or ignored labels, both follow
from δ: H_n u is the derivative of N δ_n along u, and S_n comes from the eigenvectors of
H_n. Then the outputs of different examples must not be in one term of the loss.

Legend: N examples, K outputs of an example, in all positions and arrays of the tree z,
P positions; z, u (N, ...) or trees; S (N, K, R).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fnn.describe import shown
from fnn.dtypes import widen
from fnn.losses import (
    Huber,
    KullbackLeibler,
    Loss,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
    Weighted,
)
from fnn.shapes import count_examples
from fnn.typing import Array, Float, PyTree

__all__ = [
    "LossHessian",
    "hessian_product",
    "hessian_root",
    "register",
    "unflattened",
]


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
            raise TypeError(f"register expected classes of losses, got {shown(loss)}")

    def add(hessian: LossHessian) -> LossHessian:
        for loss in losses:
            _HESSIANS[loss] = hessian
        return hessian

    return add


def hessian_product(loss: Loss, z: PyTree, y: PyTree, u: PyTree) -> PyTree:
    """Compute H_n u_n of all examples, of z's shapes and dtypes."""
    product = _hessian_of(loss).product(loss, z, y, u)
    return jax.tree.map(lambda h, part: h.astype(part.dtype), product, z)


def hessian_root(loss: Loss, z: PyTree, y: PyTree) -> Float[Array, "N K R"]:
    """Compute S_n, with S_n S_nᵀ = H_n, of all examples."""
    hessian = _hessian_of(loss)
    if hessian.root is not None:
        return hessian.root(loss, z, y)
    n = count_examples(z)
    one, _ = ravel_pytree(jax.tree.map(lambda part: widen(part[0]), z))

    def column(direction: Array) -> Float[Array, "N K"]:
        u = unflattened(jnp.broadcast_to(direction, (n, *direction.shape)), z)
        product = jax.tree.leaves(hessian.product(loss, z, y, u))
        return jnp.concatenate([widen(h).reshape(n, -1) for h in product], axis=1)

    matrices = jax.vmap(column, out_axes=2)(jnp.eye(one.size, dtype=one.dtype))
    values, vectors = jnp.linalg.eigh(matrices)
    return vectors * jnp.sqrt(jnp.maximum(values, 0))[:, None]


def unflattened(rows: Float[Array, "N K"], z: PyTree) -> PyTree:
    """Return rows of K numbers as a tree like z, of its shapes and dtypes."""
    _, unravel = ravel_pytree(jax.tree.map(lambda part: widen(part[0]), z))
    tree = jax.vmap(unravel)(rows)
    return jax.tree.map(lambda part, like: part.astype(like.dtype), tree, z)


# ---- By δ ------------------------------------------------------------------------


def _by_delta(loss: Loss, z: PyTree, y: PyTree, u: PyTree) -> PyTree:
    """Differentiate N δ along u."""
    wide = jax.tree.map(widen, z)
    direction = jax.tree.map(lambda d, part: d.astype(part.dtype), u, wide)
    _, du = jax.jvp(lambda z: loss.delta(z, y), (wide,), (direction,))
    n = count_examples(z)
    return jax.tree.map(lambda d: n * d, du)


_BY_DELTA = LossHessian(_by_delta)


def _hessian_of(loss: Loss) -> LossHessian:
    """Return the Hessian that was registered, where it is that of this loss."""
    inner = loss.loss if isinstance(loss, Weighted) else loss
    options = ("class_weights", "ignore")
    if any(getattr(inner, name, None) is not None for name in options):
        return _BY_DELTA
    found = _HESSIANS.get(type(inner), _BY_DELTA)
    if inner is loss or found is _BY_DELTA:
        return found
    return LossHessian(_weighted_product, _weighted_root if found.root else None)


def _weighted_product(loss: Weighted, z: PyTree, y: PyTree, u: PyTree) -> PyTree:
    """Compute w_n H_n u_n of a loss whose H_n is by hand."""
    labels, w = y
    product = _hessian_of(loss.loss).product(loss.loss, z, labels, u)
    return jax.tree.map(lambda h: _along(w, h) * h, product)


def _weighted_root(loss: Weighted, z: PyTree, y: PyTree) -> Float[Array, "N K R"]:
    labels, w = y
    root = hessian_root(loss.loss, z, labels)
    return jnp.sqrt(_along(w, root)) * root


def _along(w: Float[Array, "N"], a: Array) -> Float[Array, "N ..."]:
    """Return the weights with as many axes as a has, of its dtype."""
    return w.reshape(-1, *[1] * (a.ndim - 1)).astype(a.dtype)


# ---- By hand ---------------------------------------------------------------------


def _sigmoid_slope(z: Array) -> Array:
    """Compute a (1 − a)/P as σ(z) σ(−z), which loses no digits where a is near 1."""
    slope = jax.nn.sigmoid(widen(z)) * jax.nn.sigmoid(-widen(z))
    return slope / _positions(z)


def _sigmoid_product(loss: SigmoidCrossEntropy, z: Array, y: Array, u: Array) -> Array:
    return _sigmoid_slope(z) * widen(u)


def _sigmoid_root(loss: SigmoidCrossEntropy, z: Array, y: Array) -> Array:
    return _diagonal_matrices(jnp.sqrt(_sigmoid_slope(z)))


def _softmax_product(loss: Loss, z: Array, y: Array, u: Array) -> Array:
    """Compute (a ∘ u − a ⟨a, u⟩)/P; smoothing changes the targets, and not H."""
    a, u = jax.nn.softmax(widen(z)), widen(u)
    return a * (u - (a * u).sum(-1, keepdims=True)) / _positions(z)


def _softmax_root(loss: Loss, z: Array, y: Array) -> Array:
    """Return the columns √a_k (e_k − a)/√P of each position."""
    p, k = _positions(z), z.shape[-1]
    a = jax.nn.softmax(widen(z)).reshape(len(z), p, k)
    roots = (jnp.eye(k, dtype=a.dtype) - a[..., None]) * jnp.sqrt(a / p)[..., None, :]
    blocks = jnp.einsum("npkr,pq->npkqr", roots, jnp.eye(p, dtype=a.dtype))
    return blocks.reshape(len(z), p * k, p * k)


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


def _positions(z: Array) -> int:
    """Return P, the number of positions of an example."""
    return math.prod(z.shape[1:-1])


register(SigmoidCrossEntropy)(LossHessian(_sigmoid_product, _sigmoid_root))
register(SoftmaxCrossEntropy, KullbackLeibler)(
    LossHessian(_softmax_product, _softmax_root)
)
register(SquaredError)(LossHessian(_squared_product, _squared_root))
register(Huber)(LossHessian(_huber_product, _huber_root))
