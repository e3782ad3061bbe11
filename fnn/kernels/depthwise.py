"""Depthwise convolution: each channel has a template of its own, and meets no other.

There is no sum over channels, so there is nothing for a product of matrices to do. What
is left of the convolution is one multiply-add of whole images for each tap:

    y_p  = Σ_k x_(sp+dk−lo) w_k                          forward
    dx_q = Σ_{p,k: sp+dk−lo = q} dy_p w_k                backward
    dw_k = Σ_n Σ_p x_(sp+dk−lo) dy_p

for every channel by itself. All three read images shifted by k. For dx, position q
belongs to the remainder r = q mod s, q = s m + r, and tap k reaches it from

    p = m + t,    t = (r + lo − dk)/s,    where that is an integer

so that dx at all positions of one remainder is again a sum of shifted images of dy, and
dx is these s sums, interleaved (with s = 1 there is one). XLA merges the sum over the
taps into one loop, which reads and writes each image about once.

Half precision is summed in float32, as XLA's convolutions are.

Legend: images are (N, H, ..., C), the channels last, or (C, H, ..., N), as in `layout`:
in both, the spatial axes are those between the first and the last. H positions of x
along each of them, P of y; K taps, w is (K, ..., C); s, d, lo, hi: stride, dilation,
padding before and after.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from fnn.typing import Array, Float

__all__ = ["Depthwise"]


@dataclass(frozen=True)
class Depthwise:
    """A depthwise convolution by shifted multiply-adds.

        forward     y = Σ_k x shifted by k, times w_k
        backward    dx = Σ_k dy shifted back by k, times w_k
                    dw_k = Σ x shifted by k, times dy

    Rounding is that of a sum in another order: |error of y| ≤ n ε Σ|w||x| with n = K
    terms, and N P terms for dw.

    Args:
        stride: s of each spatial axis.
        padding: the pair (lo, hi) of each spatial axis; negative ones cut off.
        dilation: d of each spatial axis.
        channels: the axis of the channels, −1 or 0.
    """

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    channels: int = -1

    def forward(
        self, x: Float[Array, "_ *H _"], weight: Float[Array, "*K C"]
    ) -> Float[Array, "_ *P _"]:
        """Compute y."""
        dtype, (x, weight) = x.dtype, _widened(x, weight)
        sizes = self._output_sizes(weight.shape[:-1], x.shape[1:-1])
        x = _pad(x, self.padding)
        y: Any = 0
        for k in product(*map(range, weight.shape[:-1])):
            y += self._shifted(x, k, sizes) * self._per_channel(weight[k], x)
        return y.astype(dtype)

    def backward_dx(
        self, dy: Float[Array, "_ *P _"], weight: Float[Array, "*K C"],
        sizes: Sequence[int],
    ) -> Float[Array, "_ *H _"]:  # fmt: skip
        """Compute dx, for x of these spatial sizes."""
        dtype, (dy, weight) = dy.dtype, _widened(dy, weight)
        axes = [
            _Axis(*axis)
            for axis in zip(
                *(weight.shape[:-1], self.stride, self.padding, self.dilation),
                *(sizes, dy.shape[1:-1]),
                strict=True,
            )
        ]
        dy = _pad(dy, [axis.ends for axis in axes])
        counts = [axis.count for axis in axes]
        first, *_, last = dy.shape
        parts = []
        for taps in product(*(axis.taps() for axis in axes)):
            part: Any = jnp.zeros((first, *counts, last), dy.dtype)
            for number, pairs in enumerate(product(*taps)):
                k, starts = zip(*pairs, strict=True)
                shifted = _slice(dy, starts, counts, (1,) * len(axes))
                term = shifted * self._per_channel(weight[k], dy)
                part = part + term if number else term
            parts.append(part)
        return _interleave(parts, self.stride, sizes).astype(dtype)

    def backward_dw(
        self, x: Float[Array, "_ *H _"], dy: Float[Array, "_ *P _"],
        template: Sequence[int],
    ) -> Float[Array, "*K C"]:  # fmt: skip
        """Compute dw, for a template of these sizes."""
        dtype, (x, dy) = x.dtype, _widened(x, dy)
        axes = tuple(axis for axis in range(x.ndim) if axis != self.channels % x.ndim)
        x, sizes = _pad(x, self.padding), dy.shape[1:-1]
        parts = [
            (self._shifted(x, k, sizes) * dy).sum(axes)
            for k in product(*map(range, template))
        ]
        return jnp.stack(parts).reshape(*template, -1).astype(dtype)

    def _output_sizes(
        self, template: Sequence[int], sizes: Sequence[int]
    ) -> tuple[int, ...]:
        axes = zip(
            *(template, sizes, self.stride, self.padding, self.dilation), strict=True
        )
        return tuple(
            (lo + h + hi - d * (taps - 1) - 1) // s + 1
            for taps, h, s, (lo, hi), d in axes
        )

    def _shifted(self, padded: Array, k: Sequence[int], sizes: Sequence[int]) -> Array:
        """Return what tap k meets at every position of y."""
        starts = [d * i for d, i in zip(self.dilation, k, strict=True)]
        return _slice(padded, starts, sizes, self.stride)

    def _per_channel(self, numbers: Float[Array, "C"], image: Array) -> Array:
        shape = [1] * image.ndim
        shape[self.channels] = -1
        return numbers.reshape(shape)


class _Axis(NamedTuple):
    """One axis of dx: how its positions, remainder by remainder, are read from dy."""

    template: int
    stride: int
    padding: tuple[int, int]
    dilation: int
    size: int
    outputs: int

    @property
    def count(self) -> int:
        """Return the number of positions of each remainder, the last ones beyond H."""
        return -(-self.size // self.stride)

    @property
    def ends(self) -> tuple[int, int]:
        """Return how far dy is padded, so that it has a value wherever one is read."""
        shifts = [shift for pairs in self._shifts() for _, shift in pairs]
        return max(0, -min(shifts)), max(0, max(shifts) + self.count - self.outputs)

    def taps(self) -> list[list[tuple[int, int]]]:
        """Return, for each remainder, pairs of a tap and where in dy it begins."""
        lo, _ = self.ends
        return [[(k, shift + lo) for k, shift in pairs] for pairs in self._shifts()]

    def _shifts(self) -> list[list[tuple[int, int]]]:
        """Return, for each remainder r, the taps k that reach it, each with its t."""
        lo = self.padding[0]
        found = [
            [
                (k, divmod(r + lo - self.dilation * k, self.stride))
                for k in range(self.template)
            ]
            for r in range(self.stride)
        ]
        return [[(k, t) for k, (t, rest) in pairs if rest == 0] for pairs in found]


def _pad(x: Array, ends: Sequence[tuple[int, int]]) -> Array:
    amounts = [(lo, hi, 0) for lo, hi in [(0, 0), *ends, (0, 0)]]
    return lax.pad(x, jnp.zeros((), x.dtype), amounts)


def _slice(
    x: Array, starts: Sequence[int], counts: Sequence[int], strides: Sequence[int]
) -> Array:
    """Return `counts` positions of each spatial axis, `strides` apart."""
    axes = zip(starts, counts, strides, strict=True)
    ends = [start + (count - 1) * stride + 1 for start, count, stride in axes]
    first, *_, last = x.shape
    return lax.slice(x, (0, *starts, 0), (first, *ends, last), (1, *strides, 1))


def _interleave(
    parts: list[Array], strides: Sequence[int], sizes: Sequence[int]
) -> Array:
    """Join the parts of each remainder, in row-major order; crop to these sizes."""
    for axis in range(len(strides), 0, -1):
        s = strides[axis - 1]
        if s > 1:
            shape = list(parts[0].shape)
            shape[axis] *= s
            parts = [
                jnp.stack(parts[i : i + s], axis + 1).reshape(shape)
                for i in range(0, len(parts), s)
            ]
    return parts[0][:, *map(slice, sizes)]


def _widened(*arrays: Array) -> list[Array]:
    """Return half precision as float32, all else as it is."""
    return [
        a.astype(jnp.float32)
        if jnp.issubdtype(a.dtype, jnp.floating) and a.dtype.itemsize < 4
        else a
        for a in arrays
    ]
