"""Convolution by Winograd's algorithm along one axis: fewer multiplications.

m neighbouring outputs of a template of r taps are a product of polynomials in disguise.
A product of degree n − 1 = m + r − 2 is known from its values at n points, so that n
multiplications do the work of m r. For one row d of n pixels and one template g,

    y_i = Σ_k d_(i+k) g_k,  i < m        y = Aᵀ ((G g) ⊙ (Bᵀ d))            F(m, r)

with points a_0 ... a_(n−2) and ∞ (Toom and Cook; transposed, as correlation needs it):

    Aᵀ_ij = a_j^i                       G_jk = a_j^k / Π_(l≠j) (a_j − a_l)
    Bᵀ_j  = the coefficients of Π_(l≠j) (x − a_l)
    and for ∞:  Aᵀ_i∞ = [i = m − 1],  G_∞k = [k = r − 1],  Bᵀ_∞ those of Π_l (x − a_l)

An image is cut into tiles of m columns. Rows of the template and channels are summed as
usual, so that each of the n points costs one product of matrices, as in `im2col` of a
template of one column:

    V_b = Bᵀ_b d for all tiles;   P_b = im2col(V_b);   U_b = G_b g
    M_b = U_bᵀ P_b;               y_i = Σ_b Aᵀ_ib M_b

and since all of this is linear in d and in g, the backward is the transpose of each:

    Q_b = Σ_i Aᵀ_ib dy_i;   dU_b = P_b Q_bᵀ;   dg = Gᵀ dU
    dP_b = U_b Q_b;   dV_b = col2im(dP_b);   dd_j = Σ_b Bᵀ_bj dV_b, tiles overlapping

An output and a channel take K n/m multiplications instead of K r. Additions grow, and
so may rounding: with γ = (2n + K I) ε and |g|, |d| the largest entries of a row of the
template and of a tile,

    |error of y| ≤ γ κ Σ |g| |d|,    κ = max_i Σ_b |Aᵀ_ib| Σ_k |G_bk| Σ_j |Bᵀ_bj|

summed over rows and channels; `Transforms.growth` is κ. Real errors are far smaller:
some ε of the largest output.

On a constant row all of Bᵀ d is zero except the value at 1, and all y_i are equal. Here
they are equal to the bit, because every other Bᵀ_b is applied to the differences of d
(its polynomial has the factor x − 1): in the background of an image the first maximum
of a window is the first here too. Equal outputs of rows that are not constant may
differ in the last digit. (To compare with a tolerance of some ε is worse: on MNIST it
changes the first maximum far more often than rounding does.)

Legend: images (C, H, W, N), the batch last, of I channels in x and O in y, which
has Hy = H' rows; templates of K rows and r columns; T tiles of m columns; b one of n
points.

Sources: Winograd, "Arithmetic Complexity of Computations" (1980); Lavin and Gray,
arXiv:1509.09308; Barabasz et al., arXiv:1803.10986, for the points and the error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, reduce
from itertools import accumulate, pairwise
from math import prod
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from fnn.kernels.im2col import Padding, output_sizes
from fnn.kernels.planes import (
    Group,
    materialize,
    pad_or_crop,
    planes_to_space,
    sizes_only,
)
from fnn.typing import Array, Float

__all__ = ["Transforms", "Winograd", "toom_cook"]

#: The finite points, in the order of use: small numbers whose powers stay small.
POINTS = tuple(map(Fraction, ("0", "1", "-1", "2", "-2", "1/2", "-1/2", "4", "-4")))

Matrix = tuple[tuple[Fraction, ...], ...]


class Transforms(NamedTuple):
    """The matrices Aᵀ, G and Bᵀ of F(m, r), exact.

    `points` are the finite ones; ∞ belongs to the last row of G and Bᵀ.
    """

    at: Matrix
    g: Matrix
    bt: Matrix
    points: tuple[Fraction, ...]

    @property
    def growth(self) -> float:
        """Return κ: a bound on intermediate sums, over the largest product |g| |d|."""
        norms = [sum(map(abs, row)) for row in self.g]
        sums = [sum(map(abs, row)) for row in self.bt]
        return float(
            max(
                sum(abs(a) * n * s for a, n, s in zip(row, norms, sums, strict=True))
                for row in self.at
            )
        )


@cache
def toom_cook(m: int, r: int) -> Transforms:
    """Return F(m, r): m outputs of a template of r taps from m + r − 1 products.

    Example:
        >>> for row in toom_cook(2, 3).bt:
        ...     print(*row)
        -1 0 1 0
        0 1 1 0
        0 -1 1 0
        0 -1 0 1
    """
    points = POINTS[: m + r - 2]
    others = [[a for a in points if a != point] for point in points]
    at = tuple((*(a**i for a in points), Fraction(i == m - 1)) for i in range(m))
    g = tuple(
        tuple(a**k / prod(a - b for b in rest) for k in range(r))
        for a, rest in zip(points, others, strict=True)
    )
    bt = tuple((*_coefficients(rest), Fraction(0)) for rest in others)
    infinity = tuple(Fraction(k == r - 1) for k in range(r))
    return Transforms(at, (*g, infinity), (*bt, tuple(_coefficients(points))), points)


def _coefficients(roots: Sequence[Fraction]) -> list[Fraction]:
    """Return the coefficients of Π (x − root), the constant first."""
    coefficients = [Fraction(1)]
    for root in roots:
        coefficients = [
            low - root * high
            for low, high in zip(
                [Fraction(0), *coefficients], [*coefficients, Fraction(0)], strict=True
            )
        ]
    return coefficients


@dataclass(frozen=True)
class Winograd:
    """A convolution of stride 1 by F(m, r) along the width, m outputs at a time.

    The last tile is filled up with zeros where m does not divide the outputs. Without
    `keep_patches` the backward computes the patches again from x: less memory, more
    time.
    """

    m: int
    padding: Padding = ((0, 0), (0, 0))
    keep_patches: bool = True

    @property
    def group(self) -> Group:
        """The group of y's planes: one plane for each column of a tile."""
        return 1, self.m

    def output_sizes(self, template: Sequence[int], sizes: Sequence[int]) -> Group:
        """Return the rows and columns of y; see `im2col.output_sizes`."""
        return output_sizes(template, sizes, self.padding)

    def forward(
        self, x: Float[Array, "I H W N"], weight: Float[Array, "K r I O"]
    ) -> tuple[tuple[Float[Array, "O Hy T N"], ...], tuple[Any, Array, Array]]:
        """Compute the planes of y, and keep what the backward needs."""
        _, r, _, features = weight.shape
        matrices = toom_cook(self.m, r)
        p = self._patches(x, weight)
        u = _contract("bk,ikco->bico", matrices.g, weight)
        u = u.reshape(len(p), -1, features)
        rows, columns = self.output_sizes(weight.shape, x.shape[1:3])
        shape = (features, rows, -(-columns // self.m), x.shape[-1])
        products = [(ub.T @ pb).reshape(shape) for ub, pb in zip(u, p, strict=True)]
        y = tuple(_weighted_sum(row, products) for row in matrices.at)
        return y, (p if self.keep_patches else x, u, sizes_only(x))

    def backward(
        self,
        weight: Float[Array, "K r I O"],
        saved: tuple[Any, Array, Array],
        dy: tuple[Float[Array, "O Hy T N"], ...],
    ) -> tuple[Float[Array, "I H W N"], Float[Array, "K r I O"]]:
        """Compute dx and dW from the planes of dy."""
        taps, r, inputs, features = weight.shape
        p, u, sizes = saved
        matrices = toom_cook(self.m, r)
        if not self.keep_patches:
            p = self._patches(materialize(p, after=dy[0]), weight)
        columns = zip(*matrices.at, strict=True)
        q = [_weighted_sum_as_matrix(column, dy) for column in columns]
        du = jnp.stack([pb @ qb.T for pb, qb in zip(p, q, strict=True)])
        du = du.reshape(-1, taps, inputs, features)
        shape = (taps, inputs, *dy[0].shape[1:])
        dp = [(ub @ qb).reshape(shape) for ub, qb in zip(u, q, strict=True)]
        dv = [_add_rows(part) for part in dp]
        columns = zip(*matrices.bt, strict=True)
        dd = [_weighted_sum(column, dv) for column in columns]
        dx = self._overlap_add(dd, sizes.shape[1:])
        return dx, _contract("bk,bico->ikco", matrices.g, du)

    def _patches(
        self, x: Float[Array, "I H W N"], weight: Float[Array, "K r I O"]
    ) -> list[Float[Array, "KI HyTN"]]:
        """Compute P_b for each of the n points."""
        taps, r, *_ = weight.shape
        matrices = toom_cook(self.m, r)
        rows, columns = self.output_sizes(weight.shape, x.shape[1:3])
        tiles = -(-columns // self.m)
        (top, _), (left, _) = self.padding
        padded = pad_or_crop(x, (top, left), (rows + taps - 1, tiles * self.m + r - 1))
        last = (tiles - 1) * self.m + 1
        d = [padded[:, :, j : j + last : self.m] for j in range(len(matrices.g))]
        return [_stack_rows(part, taps) for part in _transform_inputs(matrices, d)]

    def _overlap_add(
        self, dd: list[Float[Array, "I _ T N"]], sizes: Sequence[int]
    ) -> Float[Array, "I H W N"]:
        """Compute dx from the gradient of every tile's n columns; tiles share r − 1."""
        (top, _), (left, _) = self.padding
        rows, tiles = dd[0].shape[1:3]
        count = tiles + (len(dd) - 1) // self.m  # m columns at a time
        columns: list[Any] = []
        for j in range(self.m):
            moved = [
                pad_or_crop(part, (0, shift), (rows, count))
                for shift, part in enumerate(dd[j :: self.m])
            ]
            columns.append(reduce(jnp.add, moved))
        width = tiles * self.m + len(dd) - self.m
        dx = planes_to_space(tuple(columns), self.group, (rows, width))
        return pad_or_crop(dx, (-top, -left), sizes)


def _transform_inputs(matrices: Transforms, d: list[Array]) -> list[Array]:
    """Compute Bᵀ d, by differences where the polynomial has the root 1."""
    differences = [b - a for a, b in pairwise(d)]
    transformed = []
    for row, point in zip(matrices.bt, (*matrices.points, None), strict=True):
        if point == 1 or 1 not in matrices.points:
            transformed.append(_weighted_sum(row, d))
        else:
            # Σ b_j d_j = Σ_j (−Σ_(l≤j) b_l) (d_(j+1) − d_j), since Σ b_j = 0.
            weights = [-total for total in accumulate(row)][:-1]
            transformed.append(_weighted_sum(weights, differences))
    return transformed


def _weighted_sum(
    weights: Sequence[Fraction], parts: Sequence[Float[Array, "*S"]]
) -> Float[Array, "*S"]:
    """Compute Σ weight · part, written out: XLA makes one loop of it."""
    pairs = zip(weights, parts, strict=True)
    total: Any = sum(float(w) * part if w != 1 else part for w, part in pairs if w)
    return total


def _weighted_sum_as_matrix(
    weights: Sequence[Fraction], images: tuple[Float[Array, "C h w N"], ...]
) -> Float[Array, "C hwN"]:
    """Compute a sum of images as a matrix (C, h w N), in two parts of its rows.

    XLA fuses a sum with the change of its shape; the loop then runs over the matrix and
    divides, number by number, to find where each comes from: five times as long. Over
    the parts of a concatenation it runs as it does over images.
    """
    half = images[0].shape[1] // 2
    upper = _weighted_sum(weights, [image[:, :half] for image in images])
    lower = _weighted_sum(weights, [image[:, half:] for image in images])
    return jnp.concatenate([upper, lower], axis=1).reshape(len(upper), -1)


def _contract(equation: str, matrix: Matrix, tensor: Array) -> Array:
    """Multiply exact and rounded numbers by `einsum`, in full precision."""
    a = jnp.asarray([[float(entry) for entry in row] for row in matrix], tensor.dtype)
    return jnp.einsum(equation, a, tensor, precision="highest")


def _stack_rows(v: Float[Array, "I _ T N"], taps: int) -> Float[Array, "KI HyTN"]:
    """Copy patches of K = `taps` rows to the columns of a matrix: (K I, H' T N)."""
    rows = v.shape[1] - taps + 1
    parts = [v[:, k : k + rows] for k in range(taps)]
    return jnp.concatenate(parts).reshape(taps * len(v), -1)


def _add_rows(dp: Float[Array, "K I Hy T N"]) -> Float[Array, "I _ T N"]:
    """Add up the rows of patches: the transpose of `_stack_rows`."""
    taps, inputs, rows, *rest = dp.shape
    total = jnp.zeros((inputs, rows + taps - 1, *rest), dp.dtype)
    for k, part in enumerate(dp):
        here = lax.slice_in_dim(total, k, k + rows, axis=1)
        total = lax.dynamic_update_slice_in_dim(total, here + part, k, axis=1)
    return total
