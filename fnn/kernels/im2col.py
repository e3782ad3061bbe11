"""Convolution as one matrix product: im2col, and its transpose col2im.

Every patch of the image that the template looks at becomes a column:

    P_(ki),(pn) = x_i,(sp+dk−lo),n          im2col; zeros outside the image
    y  = Wᵀ P,    dW = P dyᵀ,    dP = W dy
    dx_i,q,n = Σ_{p,k: sp+dk−lo = q} dP_(ki),(pn)       col2im

One product of a large matrix runs near the machine's peak, if it has enough rows and
columns to share out; the price is P, which holds every pixel up to K times.

Grouped outputs (see `planes`) share patches. The g × g' outputs of a group look at one
larger patch, of K + s(g − 1) places along an axis, each with the template shifted to
its own place and zeros around it. For g = g' = 2, s = 1:

    P has (K + 1)² rows for four outputs, where it had 4 K²
    W has four times the columns; the product ((K + 1)/K)² times the multiplications

With few channels, where the product is small and P large, that is a bargain: for the
first layer of LeNet P shrinks from 100 rows to 36, and W grows from 20 columns to 80.

Legend: images (C, H, W, N), the batch last; k a place of the template (two indices), p
one of the output, i and o channels; s, d, lo: stride, dilation, padding before.

Source: Chellapilla, Puri and Simard, IWFHR 2006.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from fnn.kernels.planes import Group, Planes, place, together, written

__all__ = ["Im2col", "Steps", "col2im", "im2col"]


@dataclass(frozen=True)
class Im2col:
    """Convolution by im2col, a `group` of outputs at a time.

        forward     P = im2col(x),   y_g = W_gᵀ P for every plane g
        backward    dW = Σ_g P dy_gᵀ where template g lies,   dx = col2im(Σ_g W_g dy_g)

    Rounding is that of a sum of products in another order: |error of y| ≤ n ε Σ|W||x|
    with n = K I terms (Higham 2002, section 3.1), and likewise for dW and dx. A group
    of more than one output wants dilation 1. Without `keep` the patches are not kept
    for the backward but made again from x: less memory, more time.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)
    group: Group = (1, 1)
    keep: bool = True

    def forward(self, x: Array, weight: Array) -> tuple[Planes, Any]:
        """The planes of y (O, H', W', N), from x (I, H, W, N) and W (K, K', I, O)."""
        _, *sizes, n = x.shape
        rows, columns = self.steps(weight.shape, sizes)
        patches = im2col(x, rows, columns)
        y = jnp.matmul(_templates(weight, rows, columns).T, patches)
        shape = (-1, weight.shape[-1], rows.count, columns.count, n)
        kept = patches if self.keep else x
        return tuple(y.reshape(shape)), (kept, jnp.zeros((0, *sizes)))

    def backward(self, weight: Array, saved: Any, dy: Planes) -> tuple[Array, Array]:
        """The gradients dx and dW, from the planes of dy."""
        patches, like = saved
        rows, columns = self.steps(weight.shape, like.shape[1:])
        if not self.keep:
            patches = im2col(written(patches, after=dy[0]), rows, columns)
        flat = [plane.reshape(len(plane), -1) for plane in dy]
        # A product for each plane, and not one for all: they run side by side.
        dtemplates = jnp.stack([plane @ patches.T for plane in flat])
        dweight = _template(dtemplates, rows, columns, weight.shape)
        dpatches = _templates(weight, rows, columns) @ jnp.concatenate(flat)
        return col2im(dpatches, rows, columns, dy[0].shape[-1]), dweight

    def outputs(self, kernel: Sequence[int], sizes: Sequence[int]) -> Group:
        """Rows and columns of y, for a template and an image of these sizes."""
        axes = zip(
            sizes, kernel, self.stride, self.padding, self.dilation, strict=False
        )
        rows, columns = (
            (lo + size + hi - d * (k - 1) - 1) // s + 1
            for size, k, s, (lo, hi), d in axes
        )
        return rows, columns

    def steps(self, kernel: Sequence[int], sizes: Sequence[int]) -> list["Steps"]:
        """How patches follow one another along both axes."""
        how = self.stride, self.padding, self.dilation, self.group
        found = []
        for size, taps, outputs, s, (lo, _), d, g in zip(
            sizes, kernel, self.outputs(kernel, sizes), *how, strict=False
        ):
            places = (
                [d * k for k in range(taps)] if g == 1 else range(taps + s * (g - 1))
            )
            shifts = tuple(s * a for a in range(g))
            found.append(
                Steps(size, lo, s * g, tuple(places), shifts, -(-outputs // g))
            )
        return found


class Steps(NamedTuple):
    """How patches follow one another along an axis of `size` places.

    Patch p, of `count`, starts at place p · `stride` − `lo` and looks at `places` from
    there on; the templates of a group begin at `shifts`.
    """

    size: int
    lo: int
    stride: int
    places: tuple[int, ...]
    shifts: tuple[int, ...]
    count: int

    def slice(self, place: int) -> slice:
        """What all patches have at one of their places, in the padded image."""
        return slice(place, place + (self.count - 1) * self.stride + 1, self.stride)

    def meeting(self, remainder: int) -> list[tuple[int, int]]:
        """Which places meet image places of this remainder mod stride: (i, shift).

        Place i of patch p lies at the image's place remainder + (p + shift) stride.
        """
        pairs = [
            (i, divmod(k - self.lo - remainder, self.stride))
            for i, k in enumerate(self.places)
        ]
        return [(i, shift) for i, (shift, rest) in pairs if rest == 0]


def im2col(x: Array, rows: Steps, columns: Steps) -> Array:
    """The patches of x (I, H, W, N) as columns: (K I, P N)."""
    last = [s.slice(s.places[-1]).stop for s in (rows, columns)]
    x = place(x, (rows.lo, columns.lo), tuple(last))
    places = product(rows.places, columns.places)
    parts = [x[:, rows.slice(k), columns.slice(j)] for k, j in places]
    return jnp.concatenate(parts).reshape(len(parts) * len(x), -1)


def col2im(patches: Array, rows: Steps, columns: Steps, n: int) -> Array:
    """What each place of an image of N examples is given by all patches together.

    Patches that start s places apart meet only at places of the same remainder mod s:
    the image is made remainder by remainder, each a sum of shifted arrays.
    """
    taps = len(rows.places), len(columns.places)
    patches = patches.reshape(*taps, -1, rows.count, columns.count, n)
    group = rows.stride, columns.stride
    ends = -(-rows.size // group[0]), -(-columns.size // group[1])
    planes = []
    for a, b in product(*map(range, group)):
        total = jnp.zeros((patches.shape[2], *ends, n), patches.dtype)
        for (i, down), (j, right) in product(rows.meeting(a), columns.meeting(b)):
            total += place(patches[i, j], (down, right), ends)
        planes.append(total)
    return together(tuple(planes), group, (rows.size, columns.size))


def _templates(weight: Array, rows: Steps, columns: Steps) -> Array:
    """The templates of a group, each in its place of the patch: (K I, g g' O)."""
    taps, width, _, outputs = weight.shape
    spare = len(rows.places) - taps, len(columns.places) - width
    shifted = [
        jnp.pad(weight, ((a, spare[0] - a), (b, spare[1] - b), (0, 0), (0, 0)))
        for a, b in product(rows.shifts, columns.shifts)
    ]
    return jnp.stack(shifted, 3).reshape(-1, len(shifted) * outputs)


def _template(parts: Array, rows: Steps, columns: Steps, shape: tuple) -> Array:
    """The transpose of `_templates`: from (g g', O, K I) the sum of what lies there."""
    taps, width, inputs, outputs = shape
    places = len(rows.places), len(columns.places)
    parts = parts.reshape(-1, outputs, *places, inputs)
    shifts = product(rows.shifts, columns.shifts)
    total: Any = sum(
        part[:, a : a + taps, b : b + width]
        for part, (a, b) in zip(parts, shifts, strict=True)
    )
    return jnp.moveaxis(total, 0, -1)
