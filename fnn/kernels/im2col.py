"""Convolution as one matrix product: im2col, and its transpose col2im.

Every patch of the image that the template covers becomes a column:

    P_(ki),(pn) = x_i,(sp+dk−lo),n          im2col; zeros outside the image
    y  = Wᵀ P,    dW = P dyᵀ,    dP = W dy
    dx_i,q,n = Σ_{p,k: sp+dk−lo = q} dP_(ki),(pn)       col2im

One product of a large matrix runs near the machine's peak, if it has enough rows and
columns to share out; the price is P, which holds every pixel up to K times.

Grouped outputs (see `planes`) share patches. The g × g' outputs of a group use one
larger patch, of K + s(g − 1) positions along an axis, each with the template shifted to
its own position and zeros around it. For g = g' = 2, s = 1:

    P has (K + 1)² rows for four outputs, where it had 4 K²
    W has four times the columns; the product ((K + 1)/K)² times the multiplications

This pays with few channels, where the product is small and P large: for the first layer
of LeNet P shrinks from 100 rows to 36, and W grows from 20 columns to 80.

Legend: images (C, H, W, N), the batch last, and planes (C, h, w, N); k a position in
the template (two indices, Kh × Kw), p one of the output, i and o channels, of I and O;
s, d, lo: stride, dilation, padding before. P is (KI, PN), rows ki and columns pn.

Source: Chellapilla, Puri and Simard, IWFHR 2006.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import jax.numpy as jnp

from fnn.kernels.planes import (
    Group,
    materialize,
    pad_or_crop,
    planes_to_space,
    sizes_only,
)
from fnn.typing import Array, Float

__all__ = ["Im2col", "PatchAxis", "col2im", "im2col", "output_sizes"]

#: Padding along rows and along columns, each (before, after).
Padding = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Im2col:
    """A convolution by im2col, a `group` of outputs at a time.

        forward     P = im2col(x),   y_g = W_gᵀ P for every plane g
        backward    dW = Σ_g P dy_gᵀ where template g lies,   dx = col2im(Σ_g W_g dy_g)

    Rounding is that of a sum of products in another order: |error of y| ≤ n ε Σ|W||x|
    with n = K I terms (Higham 2002, section 3.1); the same holds for dW and dx. A
    group of more than one output needs dilation 1. Without `keep_patches` the backward
    computes the patches again from x: less memory, more time.
    """

    stride: tuple[int, int] = (1, 1)
    padding: Padding = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)
    group: Group = (1, 1)
    keep_patches: bool = True

    def forward(
        self, x: Float[Array, "I H W N"], weight: Float[Array, "Kh Kw I O"]
    ) -> tuple[tuple[Float[Array, "O h w N"], ...], tuple[Array, Array]]:
        """Compute the planes of y, and keep what the backward needs."""
        rows, columns = self.patch_axes(weight.shape, x.shape[1:3])
        patches = im2col(x, rows, columns)
        y = jnp.matmul(_shifted_templates(weight, rows, columns).T, patches)
        shape = (-1, weight.shape[-1], rows.count, columns.count, x.shape[-1])
        return tuple(y.reshape(shape)), (
            patches if self.keep_patches else x,
            sizes_only(x),
        )

    def backward(
        self,
        weight: Float[Array, "Kh Kw I O"],
        saved: tuple[Array, Array],
        dy: tuple[Float[Array, "O h w N"], ...],
    ) -> tuple[Float[Array, "I H W N"], Float[Array, "Kh Kw I O"]]:
        """Compute dx and dW from the planes of dy."""
        patches, sizes = saved
        rows, columns = self.patch_axes(weight.shape, sizes.shape[1:])
        if not self.keep_patches:
            patches = im2col(materialize(patches, after=dy[0]), rows, columns)
        flat = [plane.reshape(len(plane), -1) for plane in dy]
        # A product for each plane, and not one for all: they run side by side.
        dtemplates = jnp.stack([plane @ patches.T for plane in flat])
        dweight = _sum_of_templates(dtemplates, rows, columns, weight.shape)
        dpatches = _shifted_templates(weight, rows, columns) @ jnp.concatenate(flat)
        return col2im(dpatches, rows, columns, dy[0].shape[-1]), dweight

    def output_sizes(self, template: Sequence[int], sizes: Sequence[int]) -> Group:
        """Return the rows and columns of y; see the function `output_sizes`."""
        return output_sizes(template, sizes, self.padding, self.stride, self.dilation)

    def patch_axes(
        self, template: Sequence[int], sizes: Sequence[int]
    ) -> list["PatchAxis"]:
        """Return how patches follow one another along rows and along columns."""
        outputs = self.output_sizes(template, sizes)
        window = self.stride, self.padding, self.dilation, self.group
        return [
            PatchAxis(
                size=size,
                lo=lo,
                stride=s * g,
                offsets=tuple(
                    [d * k for k in range(taps)]
                    if g == 1
                    else range(taps + s * (g - 1))
                ),
                shifts=tuple(s * a for a in range(g)),
                count=-(-count // g),
            )
            for size, taps, count, s, (lo, _), d, g in zip(
                sizes, template[:2], outputs, *window, strict=True
            )
        ]


def output_sizes(
    template: Sequence[int],
    sizes: Sequence[int],
    padding: Padding,
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> Group:
    """Return the rows and columns of y.

    Args:
        template: the shape of the template, of which the first two sizes count.
        sizes: H and W of the image.
        padding: a pair (before, after) for each axis.
        stride: s of each axis.
        dilation: d of each axis.
    """
    rows, columns = (
        (lo + size + hi - d * (k - 1) - 1) // s + 1
        for size, k, s, (lo, hi), d in zip(
            sizes, template[:2], stride, padding, dilation, strict=True
        )
    )
    return rows, columns


class PatchAxis(NamedTuple):
    """The patches along one axis of an image of `size` positions.

    Patch p, of `count`, starts at position p · `stride` − `lo` and holds the positions
    at `offsets` from there. The templates of a group start at `shifts`.
    """

    size: int
    lo: int
    stride: int
    offsets: tuple[int, ...]
    shifts: tuple[int, ...]
    count: int

    def slice(self, offset: int) -> slice:
        """Return the positions at one offset of all patches, in the padded image."""
        return slice(offset, offset + (self.count - 1) * self.stride + 1, self.stride)

    def contributions(self, remainder: int) -> list[tuple[int, int]]:
        """Return which offsets are at image positions of this remainder mod stride.

        Each is a pair (i, shift): offset i of patch p is at the image's position
        remainder + (p + shift) stride.
        """
        pairs = [
            (i, divmod(k - self.lo - remainder, self.stride))
            for i, k in enumerate(self.offsets)
        ]
        return [(i, shift) for i, (shift, rest) in pairs if rest == 0]


def im2col(
    x: Float[Array, "I H W N"], rows: PatchAxis, columns: PatchAxis
) -> Float[Array, "KI PN"]:
    """Copy the patches of x to the columns of a matrix."""
    ends = [axis.slice(axis.offsets[-1]).stop for axis in (rows, columns)]
    x = pad_or_crop(x, (rows.lo, columns.lo), ends)
    offsets = product(rows.offsets, columns.offsets)
    parts = [x[:, rows.slice(k), columns.slice(j)] for k, j in offsets]
    return jnp.concatenate(parts).reshape(len(parts) * len(x), -1)


def col2im(
    patches: Float[Array, "KI PN"], rows: PatchAxis, columns: PatchAxis, n: int
) -> Float[Array, "I H W N"]:
    """Add up all patches at their positions in an image of n examples.

    Patches that start s positions apart meet only at positions of the same remainder
    mod s: the image is made remainder by remainder, each a sum of shifted arrays.
    """
    taps = len(rows.offsets), len(columns.offsets)
    patches = patches.reshape(*taps, -1, rows.count, columns.count, n)
    group = rows.stride, columns.stride
    sizes = -(-rows.size // group[0]), -(-columns.size // group[1])
    planes = []
    for a, b in product(*map(range, group)):
        total = jnp.zeros((patches.shape[2], *sizes, n), patches.dtype)
        for (i, down), (j, right) in product(
            rows.contributions(a), columns.contributions(b)
        ):
            total += pad_or_crop(patches[i, j], (down, right), sizes)
        planes.append(total)
    return planes_to_space(tuple(planes), group, (rows.size, columns.size))


def _shifted_templates(
    weight: Float[Array, "Kh Kw I O"], rows: PatchAxis, columns: PatchAxis
) -> Float[Array, "KI gO"]:
    """Put the template at each shift of a group, with zeros around: (K I, g g' O)."""
    height, width, _, features = weight.shape
    spare = len(rows.offsets) - height, len(columns.offsets) - width
    shifted = [
        jnp.pad(weight, ((a, spare[0] - a), (b, spare[1] - b), (0, 0), (0, 0)))
        for a, b in product(rows.shifts, columns.shifts)
    ]
    return jnp.stack(shifted, 3).reshape(-1, len(shifted) * features)


def _sum_of_templates(
    parts: Float[Array, "g O KI"],
    rows: PatchAxis,
    columns: PatchAxis,
    shape: tuple[int, ...],
) -> Float[Array, "Kh Kw I O"]:
    """Add up the templates of a group: the transpose of `_shifted_templates`."""
    height, width, inputs, features = shape
    sizes = len(rows.offsets), len(columns.offsets)
    parts = parts.reshape(-1, features, *sizes, inputs)
    shifts = product(rows.shifts, columns.shifts)
    total: Any = sum(
        part[:, a : a + height, b : b + width]
        for part, (a, b) in zip(parts, shifts, strict=True)
    )
    return jnp.moveaxis(total, 0, -1)
