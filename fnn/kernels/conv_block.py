"""Convolution, bias, ReLU and pooling in one kernel, without images between them.

    forward     z = x ⋆ W + b in planes,  y = ReLU(max of the planes of each window),
                k* the number of the first plane that attains the maximum
    backward    dm = dy where y > 0;  dz: dm to plane k*;
                db = Σ dm;  dx, dW from dz as in the convolution's own kernel

The ReLU is applied after the maximum, to a quarter of the elements, in whichever order
the network has the two: they commute, and so do their gradients, since a window whose
maximum is not positive passes nothing on. The bias is added before the maximum: after
it, two sums that round to the same number may change which is the first.

Any of the parts may be absent: without pooling and ReLU it is a convolution.

Legend: images x (I, H, W, N) and y (O, Hy, Wy, N), the batch last; templates of
Kh × Kw; planes (C, h, w, N) and groups as in `planes`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn.kernels.im2col import Im2col
from fnn.kernels.layout import ALL_BUT_CHANNELS, per_channel
from fnn.kernels.planes import (
    Group,
    materialize,
    pad_or_crop,
    planes_to_space,
    sizes_only,
    space_to_planes,
    split_planes,
)
from fnn.kernels.pooling import argmax_of_planes, max_of_planes, scatter_to_argmax
from fnn.kernels.winograd import Winograd
from fnn.typing import Array, Float, PyTree

__all__ = ["ConvBlock", "ConvBlockSaved"]


class ConvBlockSaved(NamedTuple):
    """The arrays that the backward needs.

    `convolution` is what the convolution's own kernel saves, `argmax` are the planes
    of k*, () without pooling; `plane_sizes` (0, h, w) keeps the sizes of z's planes.
    """

    convolution: PyTree
    argmax: tuple[Array, ...]
    y: Array
    plane_sizes: Array


@dataclass(frozen=True)
class ConvBlock:
    """A convolution block: y = ReLU(max over windows of x ⋆ W + b).

    The windows tile the image. `pool` is their size; along each axis it divides the
    convolution's group, or the group divides it. Rounding is that of the convolution,
    and of one addition.
    """

    convolution: Im2col | Winograd
    relu: bool = False
    pool: Group = (1, 1)

    def forward(
        self,
        x: Float[Array, "I H W N"],
        weight: Float[Array, "Kh Kw I O"],
        bias: Float[Array, "O"] | tuple[()],
    ) -> tuple[Float[Array, "O Hy Wy N"], ConvBlockSaved]:
        """Compute y, and keep what the backward needs."""
        sizes = self.convolution.output_sizes(weight.shape, x.shape[1:3])
        planes, saved = self.convolution.forward(x, weight)
        maxima, argmax = planes, ()
        if self.pool != (1, 1):
            split = self._split(_add_bias(planes, bias), sizes)
            maxima = max_of_planes(split, self._split_group, self.pool)
            argmax = argmax_of_planes(split, self._split_group, self.pool)
        counts = sizes[0] // self.pool[0], sizes[1] // self.pool[1]
        y = planes_to_space(maxima, self._pooled_group, counts)
        if self.pool == (1, 1):
            (y,) = _add_bias((y,), bias)
        y = jax.nn.relu(y) if self.relu else y
        return y, ConvBlockSaved(saved, argmax, y, sizes_only(planes[0]))

    def backward(
        self,
        weight: Float[Array, "Kh Kw I O"],
        bias: Float[Array, "O"] | tuple[()],
        saved: ConvBlockSaved,
        dy: Float[Array, "O Hy Wy N"],
    ) -> tuple[
        Float[Array, "I H W N"],
        Float[Array, "Kh Kw I O"],
        Float[Array, "O"] | tuple[()],
    ]:
        """Compute dx, dW and db; db is () without a bias."""
        dm = jnp.where(saved.y > 0, dy, 0) if self.relu else dy
        dbias = () if isinstance(bias, tuple) else dm.sum(ALL_BUT_CHANNELS)
        if self.pool == (1, 1):
            dz = space_to_planes(materialize(dm), self.convolution.group)
        else:
            sizes = saved.argmax[0].shape[1:3]
            dmaxima = space_to_planes(dm, self._pooled_group, sizes)
            split = scatter_to_argmax(
                saved.argmax, dmaxima, self._split_group, self.pool
            )
            dz = self._merge(split, saved.plane_sizes.shape[1:])
        dx, dweight = self.convolution.backward(weight, saved.convolution, dz)
        return dx, dweight, dbias

    # Planes of the convolution's group are split further, until each position of a
    # window is a plane of its own: their group is `_split_group`, that of the maxima
    # `_pooled_group`.

    @property
    def _split_factor(self) -> Group:
        g, p = self.convolution.group, self.pool
        return max(p[0] // g[0], 1), max(p[1] // g[1], 1)

    @property
    def _split_group(self) -> Group:
        g, r = self.convolution.group, self._split_factor
        return g[0] * r[0], g[1] * r[1]

    @property
    def _pooled_group(self) -> Group:
        t, p = self._split_group, self.pool
        return t[0] // p[0], t[1] // p[1]

    def _split(
        self, planes: tuple[Array, ...], sizes: Sequence[int]
    ) -> tuple[Array, ...]:
        """Split planes of y of these sizes; incomplete windows are left out."""
        shape, factor = planes[0].shape[1:3], self._split_factor
        rows, columns = (
            size if r == 1 else total // p
            for size, r, total, p in zip(shape, factor, sizes, self.pool, strict=True)
        )
        return split_planes(planes, self.convolution.group, factor, (rows, columns))

    def _merge(
        self, split: tuple[Array, ...], sizes: Sequence[int]
    ) -> tuple[Array, ...]:
        """Merge split planes to planes of these sizes: the transpose of `_split`."""
        (g, k), (r, q) = self.convolution.group, self._split_factor
        _, width = self._split_group
        rows, columns = split[0].shape[1:3]

        def plane(a: int, b: int) -> Array:
            parts = [
                split[(a + i * g) * width + b + j * k]
                for i, j in product(range(r), range(q))
            ]
            whole = planes_to_space(tuple(parts), (r, q), (rows * r, columns * q))
            return pad_or_crop(whole, (0, 0), sizes)

        return tuple(plane(a, b) for a, b in product(range(g), range(k)))


def _add_bias(planes: tuple[Array, ...], bias: Array | tuple[()]) -> tuple[Array, ...]:
    """Add the bias to every plane, if there is one."""
    if isinstance(bias, tuple):
        return planes
    return tuple(plane + per_channel(bias) for plane in planes)
