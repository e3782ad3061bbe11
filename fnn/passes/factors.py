"""Gradients of single examples, as factors, and what follows without forming them.

The gradient of a weight that multiplies is a sum of outer products: for each example n,

    G_n = Σ_t a_nt b_ntᵀ        a what the weight multiplies, b the δ of the result

with one place t for a dense layer, and as many as the output has positions for a
convolution. From the factors follow, mostly at the price of one product,

    ‖G_n‖² = Σ_ts ⟨a_nt, a_ns⟩ ⟨b_nt, b_ns⟩     with one place, ‖a_n‖² ‖b_n‖²
    ⟨G_n, G_m⟩ = Σ_ts ⟨a_nt, a_ms⟩ ⟨b_nt, b_ms⟩
    Σ_n G_n²  (entry by entry)                  with one place, Σ_n a_n² (b_n²)ᵀ

The gradient of a table whose rows are looked up by ids is such a sum, with rows of the
identity for a. Then ⟨a_nt, a_ms⟩ is 1 where the ids are equal, and the rows of the
identity are never formed.

Of a parameter that is no such weight, a bias or a scale, the gradients themselves are
kept: an array (N, ...).

Legend: N, M examples, T, S places, G groups, I inputs and O outputs of a group; a entry
of the weight is (i, g, o), which is the order of a convolution's axes.

Source: Goodfellow, arXiv:1510.01799, for dense layers; Rochette, Manoel and Tramel,
arXiv:1912.06015, and Bu, Mao and Xu, arXiv:2205.10683, for convolutions.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from fnn.dtypes import widen
from fnn.typing import Array, Float, Int

__all__ = [
    "Factor",
    "Outer",
    "Rows",
    "formed",
    "inner_products",
    "is_factor",
    "nothing",
    "squared_norms",
    "sum_of_squares",
    "sum_of_two",
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


class Rows(NamedTuple):
    """The gradients of a table (V, F), an example each: row ids_nt of G_n gets b_nt.

    Args:
        ids: the numbers of the rows, (N,) or (N, T). Those from V on are no rows.
        b: what is added to them, (N, F) or (N, T, F); 0 where there is no row.
    """

    ids: Int[Array, "N *T"]
    b: Array

    def with_places(self) -> tuple[Int[Array, "N T"], Float[Array, "N T F"]]:
        """Return ids and b with an axis of places, b in at least float32."""
        if self.ids.ndim == 1:
            return self.ids[:, None], widen(self.b)[:, None]
        return self.ids, widen(self.b)


#: The gradients of one parameter, an example each: factors, or an array (N, ...).
Factor = Outer | Rows | Array


def is_factor(tree: object) -> bool:
    """Return whether this part of a tree is factors, which JAX would look into."""
    return isinstance(tree, Outer | Rows)


def nothing(n: int, param: Array) -> Outer:
    """Return factors of N gradients of zero, of a parameter: sums over no places."""
    a = jnp.zeros((n, 0, 1, param.size), param.dtype)
    return Outer(a, jnp.zeros((n, 0, 1, 1), param.dtype))


def sum_of_two(left: Factor, right: Factor, shape: tuple[int, ...]) -> Factor:
    """Return the factors of the sums of two gradients of each example.

    The places of one are added to the places of the other.
    """
    if isinstance(left, Outer) and isinstance(right, Outer):
        if 0 in (left.a.shape[1], right.a.shape[1]):  # one of them is `nothing`
            return right if left.a.shape[1] == 0 else left
        parts = zip(left.with_all_axes(), right.with_all_axes(), strict=True)
        return Outer(*(jnp.concatenate(pair, axis=1) for pair in parts))
    if isinstance(left, Rows) and isinstance(right, Rows):
        parts = zip(left.with_places(), right.with_places(), strict=True)
        return Rows(*(jnp.concatenate(pair, axis=1) for pair in parts))
    return formed(left, shape) + formed(right, shape)


def formed(factor: Factor, shape: tuple[int, ...]) -> Float[Array, "N ..."]:
    """Return the gradients themselves, (N, *shape) for a parameter of this shape."""
    if isinstance(factor, Rows):
        ids, b = factor.with_places()
        table = jnp.zeros((len(ids), *shape), b.dtype)
        examples = jnp.arange(len(ids))[:, None]
        return table.at[examples, ids].add(b, mode="drop")
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
    if isinstance(factor, Rows):
        ids, b = factor.with_places()
        same = ids[:, :, None] == ids[:, None]
        products = jnp.where(same, jnp.einsum("ntf,nsf->nts", b, b), 0)
        return jnp.maximum(products.sum((1, 2)), 0)  # a sum that cancels may be < 0
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
    if isinstance(left, Rows) and isinstance(right, Rows):
        (ids, b), (others, d) = left.with_places(), right.with_places()
        same = ids[:, :, None, None] == others[None, None]
        products = jnp.where(same, jnp.einsum("ntf,msf->ntms", b, d), 0)
        return products.sum((1, 3))
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


def _rows(factor: Any) -> Float[Array, "N P"]:
    """Return the gradients as rows of a matrix."""
    if isinstance(factor, Outer):
        factor = jnp.einsum("ntgi,ntgo->nigo", *factor.with_all_axes())
    return widen(factor).reshape(len(factor), -1)


def sum_of_squares(factor: Factor, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """Compute Σ_n G_n², entry by entry, for a parameter of this shape."""
    if isinstance(factor, Rows):
        return _sum_of_squared_rows(factor, shape)
    if not isinstance(factor, Outer):
        return jnp.square(widen(factor)).sum(0)
    a, b = factor.with_all_axes()
    if a.shape[1] <= 1:
        squares = jnp.einsum("ntgi,ntgo->igo", jnp.square(a), jnp.square(b))
    else:
        squares = jnp.square(jnp.einsum("ntgi,ntgo->nigo", a, b)).sum(0)
    return squares.reshape(shape)


def _sum_of_squared_rows(factor: Rows, shape: tuple[int, ...]) -> Float[Array, "V F"]:
    """Compute Σ_n G_n² of a table: Σ_nts b_nt b_ns over places of the same row.

    Each place adds b_nt times the sum of all b_ns of its row and example.
    """
    ids, b = factor.with_places()
    same = (ids[:, :, None] == ids[:, None]).astype(b.dtype)
    squares = b * jnp.einsum("nts,nsf->ntf", same, b)
    return jnp.zeros(shape, b.dtype).at[ids].add(squares, mode="drop")
