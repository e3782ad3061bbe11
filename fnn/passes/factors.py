"""Gradients of single examples, as factors, and what follows without forming them.

The gradient of a weight that multiplies is a sum of outer products: for each example n,

    G_n = Σ_t a_nt b_ntᵀ        a what the weight multiplies, b the δ of the result

with one place t for a dense layer, and as many as the output has positions for a
convolution. From the factors follow, mostly at the price of one product,

    ‖G_n‖² = Σ_ts ⟨a_nt, a_ns⟩ ⟨b_nt, b_ns⟩     with one place, ‖a_n‖² ‖b_n‖²
    ⟨G_n, G_m⟩ = Σ_ts ⟨a_nt, a_ms⟩ ⟨b_nt, b_ms⟩
    Σ_n G_n²  (entry by entry)                  with one place, Σ_n a_n² (b_n²)ᵀ

Of a parameter that is no such weight, a bias or a scale, the gradients themselves are
kept: an array (N, ...).

Legend: N, M examples, T, S places, G groups, I inputs and O outputs of a group; a entry
of the weight is (i, g, o), which is the order of a convolution's axes.

Source: Goodfellow, arXiv:1510.01799, for dense layers; Rochette, Manoel and Tramel,
arXiv:1912.06015, and Bu, Mao and Xu, arXiv:2205.10683, for convolutions.
"""

from typing import NamedTuple

import jax.numpy as jnp

from fnn.dtypes import widen
from fnn.typing import Array, Float

__all__ = [
    "Factor",
    "Outer",
    "formed",
    "inner_products",
    "is_factor",
    "squared_norms",
    "sum_of_squares",
]


class Outer(NamedTuple):
    """The gradients of one weight, an example each: G_n = Σ_t a_nt b_ntᵀ.

    Args:
        a: what the weight multiplies: (N, I), with places (N, T, I), with places and
            groups (N, T, G, I).
        b: δ of the result, of as many axes: (N, O), (N, T, O) or (N, T, G, O).

    Example:
        >>> import jax.numpy as jnp
        >>> outer = Outer(jnp.ones((5, 3)), 2 * jnp.ones((5, 4)))
        >>> squared_norms(outer)  # 3 × 4 entries of 2
        Array([48., 48., 48., 48., 48.], dtype=float32)
    """

    a: Array
    b: Array

    def with_all_axes(self) -> tuple[Array, Array]:
        """Return a (N, T, G, I) and b (N, T, G, O), in at least float32."""
        if self.a.ndim != self.b.ndim or not 2 <= self.a.ndim <= 4:
            raise ValueError(
                "Outer expected a and b of shapes (N, I) and (N, O), (N, T, I) and "
                "(N, T, O), or (N, T, G, I) and (N, T, G, O), got "
                f"{self.a.shape} and {self.b.shape}"
            )
        a, b = widen(self.a), widen(self.b)
        if a.ndim == 2:
            a, b = a[:, None], b[:, None]
        return (a[:, :, None], b[:, :, None]) if a.ndim == 3 else (a, b)


#: The gradients of one parameter, an example each: factors, or an array (N, ...).
Factor = Outer | Array


def is_factor(tree: object) -> bool:
    """Return whether this part of a tree is an `Outer`, which JAX would look into."""
    return isinstance(tree, Outer)


def formed(factor: Factor, shape: tuple[int, ...]) -> Float[Array, "N ..."]:
    """Return the gradients themselves, (N, *shape) for a parameter of this shape."""
    if not isinstance(factor, Outer):
        return factor
    grads = jnp.einsum("ntgi,ntgo->nigo", *factor.with_all_axes())
    return grads.reshape(len(grads), *shape)


def squared_norms(factor: Factor) -> Float[Array, "N"]:
    """Compute ‖G_n‖² of every example.

    With several places there are two ways: through products of places, T² (I + O)
    multiplications, or by forming G_n, T I O of them. The first one loses digits where
    the sum over places cancels, and is taken only where it is far cheaper.
    """
    if not isinstance(factor, Outer):
        grads = widen(factor)
        return jnp.square(grads).reshape(len(grads), -1).sum(1)
    a, b = factor.with_all_axes()
    _, t, _, i = a.shape
    o = b.shape[-1]
    if t == 1:
        return (jnp.square(a).sum(-1) * jnp.square(b).sum(-1)).sum((1, 2))
    if 4 * t * (i + o) < i * o:
        products = _products_of_places(a, a) * _products_of_places(b, b)
        return jnp.maximum(products.sum((1, 2, 3)), 0)  # a sum that cancels may be < 0
    return squared_norms(jnp.einsum("ntgi,ntgo->nigo", a, b))


def _products_of_places(
    a: Float[Array, "N T G I"], b: Float[Array, "N S G I"]
) -> Float[Array, "N G T S"]:
    return jnp.einsum("ntgi,nsgi->ngts", a, b)


def inner_products(left: Factor, right: Factor) -> Float[Array, "N M"]:
    """Compute ⟨G_n, G_m⟩ of all examples n of `left` and m of `right`."""
    if not isinstance(left, Outer) or not isinstance(right, Outer):
        rows, columns = (_rows(factor) for factor in (left, right))
        return rows @ columns.T
    (a, b), (c, d) = left.with_all_axes(), right.with_all_axes()
    n, t, _, i = a.shape
    m, s, _, _ = c.shape
    o = b.shape[-1]
    through_places = n * m * t * s * (i + o)
    through_entries = (n * t + m * s + n * m) * i * o
    if through_places < through_entries:
        products = _products_of_all(a, c) * _products_of_all(b, d)
        return products.sum((0, 2, 4))
    return _rows(left) @ _rows(right).T


def _products_of_all(
    a: Float[Array, "N T G I"], c: Float[Array, "M S G I"]
) -> Float[Array, "G N T M S"]:
    return jnp.einsum("ntgi,msgi->gntms", a, c)


def _rows(factor: Factor) -> Float[Array, "N P"]:
    """Return the gradients as rows of a matrix."""
    if isinstance(factor, Outer):
        factor = jnp.einsum("ntgi,ntgo->nigo", *factor.with_all_axes())
    return widen(factor).reshape(len(factor), -1)


def sum_of_squares(factor: Factor, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """Compute Σ_n G_n², entry by entry, for a parameter of this shape."""
    if not isinstance(factor, Outer):
        return jnp.square(widen(factor)).sum(0)
    a, b = factor.with_all_axes()
    if a.shape[1] == 1:
        squares = jnp.einsum("ntgi,ntgo->igo", jnp.square(a), jnp.square(b))
    else:
        squares = jnp.square(jnp.einsum("ntgi,ntgo->nigo", a, b)).sum(0)
    return squares.reshape(shape)
