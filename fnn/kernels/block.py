"""Convolution, bias, ReLU and pooling as one: what is between them is never an image.

    forward     z = x ⋆ W + b in planes,  y = ReLU(max of the planes of each window),
                k* the number of the first plane that attains the maximum
    backward    dm = dy where y > 0;  dz: dm to plane k*;
                db = Σ dm;  dx, dW from dz as in the convolution's own kernel

The ReLU follows the maximum, on a quarter of the elements, whichever of the two the
network writes first: they commute, and so do their gradients, since a window whose
maximum is not positive passes nothing on. The bias is added before the maximum: after
it, two sums that round to the same number would have another winner.

Any of the parts may be absent: without pooling and ReLU it is a convolution.

Legend: images (C, H, W, N); planes and groups as in `planes`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from fnn.kernels.im2col import Im2col
from fnn.kernels.planes import Group, Planes, apart, deal, place, together, written
from fnn.kernels.pooling import given_to_winners, max_of_planes, winners_of_planes
from fnn.kernels.winograd import Winograd

__all__ = ["Block"]


@dataclass(frozen=True)
class Block:
    """y = ReLU(max over windows of x ⋆ W + b), the windows tiling the image.

    `pool` is the window; along each axis it divides the convolution's group, or the
    group divides it. Rounding is that of the convolution, and of one addition.
    """

    convolution: Im2col | Winograd
    relu: bool = False
    pool: Group = (1, 1)

    def forward(self, x: Array, weight: Array, bias: Any) -> tuple[Array, Any]:
        """The output y (O, H', W', N) from x (I, H, W, N), W (K, K', I, O) and b."""
        sizes = self.convolution.outputs(weight.shape, x.shape[1:3])
        planes, saved = self.convolution.forward(x, weight)
        tops, winners = planes, ()
        if self.pool != (1, 1):
            dealt = self._deal(_shifted(planes, bias), sizes)
            tops = max_of_planes(dealt, self._dealt, self.pool)
            winners = winners_of_planes(dealt, self._dealt, self.pool)
        counts = sizes[0] // self.pool[0], sizes[1] // self.pool[1]
        y = together(tops, self._pooled, counts)
        if self.pool == (1, 1):
            (y,) = _shifted((y,), bias)
        y = jax.nn.relu(y) if self.relu else y
        return y, (saved, winners, y, jnp.zeros((0, *planes[0].shape[1:3])))

    def backward(
        self, weight: Array, bias: Any, saved: Any, dy: Array
    ) -> tuple[Array, Array, Any]:
        """The gradients dx, dW and db."""
        saved, winners, y, like = saved
        dm = jnp.where(y > 0, dy, 0) if self.relu else dy
        dbias = () if isinstance(bias, tuple) else dm.sum((1, 2, 3))
        if self.pool == (1, 1):
            dz = apart(written(dm), self.convolution.group)
        else:
            given = apart(dm, self._pooled, winners[0].shape[1:3])
            dz = given_to_winners(winners, given, self._dealt, self.pool)
            dz = self._gather(dz, like.shape[1:])
        dx, dweight = self.convolution.backward(weight, saved, dz)
        return dx, dweight, dbias

    # Planes of the convolution's group are dealt out further, until a window's places
    # are planes of their own: `_dealt` is the group then, `_pooled` that of the maxima.

    @property
    def _by(self) -> Group:
        g, p = self.convolution.group, self.pool
        return max(p[0] // g[0], 1), max(p[1] // g[1], 1)

    @property
    def _dealt(self) -> Group:
        g, by = self.convolution.group, self._by
        return g[0] * by[0], g[1] * by[1]

    @property
    def _pooled(self) -> Group:
        t, p = self._dealt, self.pool
        return t[0] // p[0], t[1] // p[1]

    def _deal(self, planes: Planes, sizes: Sequence[int]) -> Planes:
        """Windows that are not complete are left out."""
        shape, by, pool = planes[0].shape[1:3], self._by, self.pool
        rows, columns = (
            size if b == 1 else total // p
            for size, b, total, p in zip(shape, by, sizes, pool, strict=True)
        )
        return deal(planes, self.convolution.group, by, (rows, columns))

    def _gather(self, dealt: Planes, sizes: Sequence[int]) -> Planes:
        """The transpose of `_deal`: planes of these sizes."""
        (g, k), (r, q), (_, width) = self.convolution.group, self._by, self._dealt
        rows, columns = dealt[0].shape[1:3]

        def plane(a: int, b: int) -> Array:
            parts = [dealt[(a + i * g) * width + b + j * k]
                     for i in range(r) for j in range(q)]  # fmt: skip
            whole = together(tuple(parts), (r, q), (rows * r, columns * q))
            return place(whole, (0, 0), sizes)

        return tuple(plane(a, b) for a in range(g) for b in range(k))


def _shifted(planes: Planes, bias: Any) -> Planes:
    """Every plane with the bias added, if there is one."""
    if isinstance(bias, tuple):
        return planes
    return tuple(plane + bias[:, None, None, None] for plane in planes)
