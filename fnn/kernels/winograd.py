"""Convolution by Winograd's algorithm along one axis: fewer multiplications.

m neighbouring outputs of a template of r taps are a product of polynomials in disguise.
A product of degree n − 1 = m + r − 2 is known from its values at n points, so that n
multiplications do the work of m r. For one row d of n places and one template g,

    y_i = Σ_k d_(i+k) g_k,  i < m        y = Aᵀ ((G g) ⊙ (Bᵀ d))            F(m, r)

with points a_0 ... a_(n−2) and ∞ (Toom and Cook; transposed, as correlation wants it):

    Aᵀ_ij = a_j^i                       G_jk = a_j^k / Π_(l≠j) (a_j − a_l)
    Bᵀ_j  = the coefficients of Π_(l≠j) (x − a_l)
    and for ∞:  Aᵀ_i∞ = [i = m − 1],  G_∞k = [k = r − 1],  Bᵀ_∞ those of Π_l (x − a_l)

An image is cut into tiles of m columns. Rows of the template and channels are summed as
always, so that each of the n points costs one product of matrices, as in `im2col` of a
template of one column:

    V_b = Bᵀ_b d for all tiles;   P_b = im2col(V_b);   U_b = G_b g
    M_b = U_bᵀ P_b;               y_i = Σ_b Aᵀ_ib M_b

and since all of this is linear in d and in g, the backward is the transpose of each:

    Q_b = Σ_i Aᵀ_ib dy_i;   dU_b = P_b Q_bᵀ;   dg = Gᵀ dU
    dP_b = U_b Q_b;   dV_b = col2im(dP_b);   dd_j = Σ_b Bᵀ_bj dV_b, tiles overlapping

Multiplications of an output and a channel: K n/m instead of K r. Additions grow, and
so may rounding: with γ = (2n + K I) ε and |g|, |d| the largest entries of a row of the
template and of a tile,

    |error of y| ≤ γ κ Σ |g| |d|,    κ = max_i Σ_b |Aᵀ_ib| Σ_k |G_bk| Σ_j |Bᵀ_bj|

summed over rows and channels; `Toom.growth` is κ. Errors that happen are far below
that: some ε of the largest output.

On a constant row all of Bᵀ d vanishes but the value at 1, and all y_i are equal. Here
they are so exactly, because every other Bᵀ_b is applied to the differences of d (its
polynomial has the factor x − 1): in the background of an image the first maximum of a
window is the first here too. Equal outputs of rows that are not constant may differ in
the last digit. (To take for equal what is so to within some ε is worse: on MNIST it
changes many more winners than rounding does.)

Legend: images (C, H, W, N), the batch last; T tiles of m columns; b one of n points.

Sources: Winograd, "Arithmetic Complexity of Computations" (1980); Lavin and Gray,
arXiv:1509.09308; Barabasz et al., arXiv:1803.10986, for the points and the error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, reduce
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from fnn.kernels.planes import Group, Planes, place, together, written

__all__ = ["Toom", "Winograd", "toom_cook"]

#: In the order in which they are taken: small numbers whose powers stay small.
POINTS = tuple(map(Fraction, ("0", "1", "-1", "2", "-2", "1/2", "-1/2", "4", "-4")))

Matrix = tuple[tuple[Fraction, ...], ...]


class Toom(NamedTuple):
    """The matrices of F(m, r), exact; `points` are finite, ∞ is the last row."""

    at: Matrix
    g: Matrix
    bt: Matrix
    points: tuple[Fraction, ...]

    @property
    def growth(self) -> float:
        """κ: by how much what is added up may exceed the largest product |g| |d|."""
        norms = [sum(map(abs, row)) for row in self.g]
        sums = [sum(map(abs, row)) for row in self.bt]
        return float(
            max(
                sum(abs(a) * n * s for a, n, s in zip(row, norms, sums, strict=True))
                for row in self.at
            )
        )


@cache
def toom_cook(m: int, r: int) -> Toom:
    """F(m, r): m outputs of a template of r taps from m + r − 1 products.

    Example:
        >>> for row in toom_cook(2, 3).bt:
        ...     print(*row)
        -1 0 1 0
        0 1 1 0
        0 -1 1 0
        0 -1 0 1
    """
    points = POINTS[: m + r - 2]
    others = [[a for a in points if a != here] for here in points]
    at = tuple((*(a**i for a in points), Fraction(i == m - 1)) for i in range(m))
    g = tuple(
        tuple(a**k / _product(a - b for b in rest) for k in range(r))
        for a, rest in zip(points, others, strict=True)
    )
    bt = tuple((*_coefficients(rest), Fraction(0)) for rest in others)
    infinity = tuple(Fraction(k == r - 1) for k in range(r))
    return Toom(at, (*g, infinity), (*bt, tuple(_coefficients(points))), points)


def _product(factors: Any) -> Fraction:
    total = Fraction(1)
    for factor in factors:
        total *= factor
    return total


def _coefficients(roots: Sequence[Fraction]) -> list[Fraction]:
    """Of Π (x − root), the constant first."""
    made = [Fraction(1)]
    for root in roots:
        made = [
            low - root * high
            for low, high in zip(
                [Fraction(0), *made], [*made, Fraction(0)], strict=True
            )
        ]
    return made


@dataclass(frozen=True)
class Winograd:
    """Convolution of stride 1 by F(m, r) along the width, m outputs at a time.

    The last tile is filled up with zeros where m does not divide the outputs. Without
    `keep` the patches are not kept for the backward but made again from x: less memory,
    more time.
    """

    m: int
    padding: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))
    keep: bool = True

    @property
    def group(self) -> Group:
        """Of the planes that come and go: one for each column of a tile."""
        return 1, self.m

    def outputs(self, kernel: Sequence[int], sizes: Sequence[int]) -> Group:
        """Rows and columns of y, for a template and an image of these sizes."""
        axes = zip(sizes, kernel, self.padding, strict=False)
        rows, columns = (lo + size + hi - k + 1 for size, k, (lo, hi) in axes)
        return rows, columns

    def forward(self, x: Array, weight: Array) -> tuple[Planes, Any]:
        """The planes of y (O, H', W', N), from x (I, H, W, N) and W (K, r, I, O)."""
        _, r, _, outputs = weight.shape
        toom = toom_cook(self.m, r)
        p = self._patches(x, weight)
        u = _weighted("bk,ikco->bico", toom.g, weight).reshape(len(p), -1, outputs)
        rows, columns = self.outputs(weight.shape, x.shape[1:3])
        shape = (outputs, rows, -(-columns // self.m), x.shape[-1])
        products = [(ub.T @ pb).reshape(shape) for ub, pb in zip(u, p, strict=True)]
        y = tuple(_sum(row, products) for row in toom.at)
        return y, (u, p if self.keep else x, jnp.zeros((0, *x.shape[1:3])))

    def backward(self, weight: Array, saved: Any, dy: Planes) -> tuple[Array, Array]:
        """The gradients dx and dW, from the planes of dy."""
        taps, r, inputs, outputs = weight.shape
        u, p, like = saved
        toom = toom_cook(self.m, r)
        if not self.keep:
            p = self._patches(written(p, after=dy[0]), weight)
        q = [_sum_as_matrix(column, dy) for column in zip(*toom.at, strict=True)]
        du = jnp.stack([pb @ qb.T for pb, qb in zip(p, q, strict=True)])
        du = du.reshape(-1, taps, inputs, outputs)
        shape = (taps, inputs, *dy[0].shape[1:])
        dp = [(ub @ qb).reshape(shape) for ub, qb in zip(u, q, strict=True)]
        dv = [_add_rows(part) for part in dp]
        dd = [_sum(column, dv) for column in zip(*toom.bt, strict=True)]
        return self._overlap(dd, like.shape[1:]), _weighted("bk,bico->ikco", toom.g, du)

    def _patches(self, x: Array, weight: Array) -> list[Array]:
        """P_b for each of the n points: (K I, H' T N)."""
        taps, r, *_ = weight.shape
        toom = toom_cook(self.m, r)
        rows, columns = self.outputs(weight.shape, x.shape[1:3])
        tiles = -(-columns // self.m)
        (top, _), (left, _) = self.padding
        padded = place(x, (top, left), (rows + taps - 1, tiles * self.m + r - 1))
        last = (tiles - 1) * self.m + 1
        d = [padded[:, :, j : j + last : self.m] for j in range(len(toom.g))]
        return [_stack_rows(part, taps) for part in _analyse(toom, d)]

    def _overlap(self, dd: list[Array], sizes: Sequence[int]) -> Array:
        """The gradient dx from that of every tile's n columns: tiles share r − 1."""
        (top, _), (left, _) = self.padding
        rows, tiles = dd[0].shape[1:3]
        count = tiles + (len(dd) - 1) // self.m  # m columns at a time
        columns: list[Any] = []
        for j in range(self.m):
            parts = enumerate(dd[j :: self.m])
            moved = [place(part, (0, shift), (rows, count)) for shift, part in parts]
            columns.append(reduce(jnp.add, moved))
        width = tiles * self.m + len(dd) - self.m
        dx = together(tuple(columns), self.group, (rows, width))
        return place(dx, (-top, -left), sizes)


def _analyse(toom: Toom, d: list[Array]) -> list[Array]:
    """Bᵀ d, by differences where the polynomial has the root 1."""
    steps = [b - a for a, b in pairwise(d)]
    made = []
    for row, here in zip(toom.bt, (*toom.points, None), strict=True):
        if here == 1 or 1 not in toom.points:
            made.append(_sum(row, d))
        else:
            # Σ b_j d_j = Σ_j (−Σ_(l≤j) b_l) (d_(j+1) − d_j), since Σ b_j = 0.
            made.append(_sum([-total for total in accumulate(row)][:-1], steps))
    return made


def _sum(weights: Sequence[Fraction], parts: Sequence[Array]) -> Array:
    """Σ weight · part, written out: XLA makes one loop of it."""
    pairs = zip(weights, parts, strict=True)
    total: Any = sum(float(w) * part if w != 1 else part for w, part in pairs if w)
    return total


def _sum_as_matrix(weights: Sequence[Fraction], images: Planes) -> Array:
    """The sum of images (C, H, W, N) as a matrix (C, H W N), in two parts of its rows.

    XLA fuses a sum with the change of its shape; the loop then runs over the matrix and
    divides, number by number, to find where each comes from: five times as long. Over
    the parts of a concatenation it runs as it does over images.
    """
    half = images[0].shape[1] // 2
    upper = _sum(weights, [image[:, :half] for image in images])
    lower = _sum(weights, [image[:, half:] for image in images])
    return jnp.concatenate([upper, lower], axis=1).reshape(len(upper), -1)


def _weighted(equation: str, matrix: Matrix, tensor: Array) -> Array:
    a = jnp.asarray([[float(entry) for entry in row] for row in matrix], tensor.dtype)
    return jnp.einsum(equation, a, tensor, precision="highest")


def _stack_rows(v: Array, taps: int) -> Array:
    """Patches of `taps` rows as columns: (K I, P T N)."""
    rows = v.shape[1] - taps + 1
    parts = [v[:, k : k + rows] for k in range(taps)]
    return jnp.concatenate(parts).reshape(taps * len(v), -1)


def _add_rows(dp: Array) -> Array:
    """The transpose of `_stack_rows`, from (K, I, P, T, N)."""
    taps, inputs, rows, *rest = dp.shape
    total = jnp.zeros((inputs, rows + taps - 1, *rest), dp.dtype)
    for k, part in enumerate(dp):
        here = lax.slice_in_dim(total, k, k + rows, axis=1)
        total = lax.dynamic_update_slice_in_dim(total, here + part, k, axis=1)
    return total
