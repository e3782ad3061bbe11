"""Depthwise convolution: each channel has a template of its own, and meets no other.

There is no sum over channels, so there is nothing for a product of matrices to do. What
is left of the convolution is one multiply-add of whole images for each tap k, and for
each channel by itself:

    y_p  = Σ_k x_(sp+dk−lo) w_k                     forward
    dx_q = Σ_{p,k: sp+dk−lo = q} dy_p w_k           backward
    dw_k = Σ_n Σ_p x_(sp+dk−lo) dy_p

All three read images that are shifted by k. For dx, take positions of one remainder
r = q mod s, q = s m + r. Tap k reaches them from

    p = m + t,    t = (r + lo − dk)/s,    where that is an integer

so that dx there is again a sum of shifted images of dy. There are s such sums, and dx
is made of them by turns.

XLA makes one loop of a sum over taps. But it computes the sum again for each of its
readers, it pads all images before, and of the sums for dw each is a loop of its own:
where the images do not fit into the cache, all this waits for memory. So one example is
computed after the other, which does fit; in the inner layout, one channel.

With L outputs for each channel, x is repeated L times before, and dx is summed over
them afterwards.

Half precision is summed in float32, as in XLA's convolutions.

Legend: images (N, H, ..., C) and (N, P, ..., O) with one to three spatial axes, or in
the inner layout (C, H, ..., N); O = C L, and output o is of channel ⌊o/L⌋; a template
of K taps, w (K, ..., 1, O); s, d, lo, hi: stride, dilation, padding before and after.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import add
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from fnn.typing import Array, Float

__all__ = ["Depthwise"]

#: dw is added up in this many blocks of rows at most: more make longer programs, fewer
#: larger sums to keep.
MOST_BLOCKS = 8


@dataclass(frozen=True)
class Depthwise:
    """A depthwise convolution by shifted multiply-adds.

        forward         y = Σ_k (x shifted by k) w_k
        backward_dx     dx = Σ_k (dy shifted back by k) w_k
        backward_dw     dw_k = Σ (x shifted by k) dy

    Rounding is that of a sum in another order: |error of y| ≤ n ε Σ|w||x| with n = K
    terms; the same holds for dx, and for dw with n = N P.

    Args:
        stride: s of each spatial axis.
        padding: the pair (lo, hi) of each spatial axis; a negative one cuts off.
        dilation: d of each spatial axis.
        channels_first: whether images are (C, H, ..., N), as in `layout`.
    """

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    channels_first: bool = False

    def forward(
        self, x: Float[Array, "_ *H _"], weight: Float[Array, "*K 1 O"]
    ) -> Float[Array, "_ *P _"]:
        """Compute y."""
        dtype, (x, weight) = x.dtype, _widened(x, weight[..., 0, :])
        *template, outputs = weight.shape
        places = self._output_sizes(template, x.shape[1:-1])

        def multiply_add(x: Array, weight: Array) -> Array:
            x = _pad(x, self.padding)
            terms = [
                _scaled(self._shifted(x, k, places), weight[k]) for k in _taps(template)
            ]
            return reduce(add, terms)

        x = self._repeat(x, outputs)
        return self._slice_by_slice(multiply_add, x, weight).astype(dtype)

    def backward_dx(
        self, dy: Float[Array, "_ *P _"], weight: Float[Array, "*K 1 O"],
        sizes: Sequence[int], channels: int,
    ) -> Float[Array, "_ *H _"]:  # fmt: skip
        """Compute dx, for x of these spatial sizes and C channels."""
        dtype, (dy, weight) = dy.dtype, _widened(dy, weight[..., 0, :])
        geometry = self.stride, self.padding, self.dilation
        axes = [
            _Axis(*axis)
            for axis in zip(
                *(weight.shape[:-1], *geometry, sizes, dy.shape[1:-1]), strict=True
            )
        ]
        counts = [axis.positions for axis in axes]

        def multiply_add(dy: Array, weight: Array) -> Array:
            dy = _pad(dy, [axis.ends for axis in axes])
            parts: list[Array] = []
            for reached in product(*(axis.reached() for axis in axes)):
                taps = [zip(*pairs, strict=True) for pairs in product(*reached)]
                terms = [
                    _scaled(_slice(dy, starts, counts), weight[k]) for k, starts in taps
                ]
                between = jnp.zeros((1, *counts, dy.shape[-1]), dy.dtype)
                parts.append(reduce(add, terms) if terms else between)
            return _interleave(parts, self.stride, sizes)

        dx = self._slice_by_slice(multiply_add, dy, weight)
        return self._sum_outputs(dx, channels).astype(dtype)

    def backward_dw(
        self, x: Float[Array, "_ *H _"], dy: Float[Array, "_ *P _"],
        template: Sequence[int],
    ) -> Float[Array, "*K 1 O"]:  # fmt: skip
        """Compute dw, for a template of these sizes."""
        dtype, (x, dy) = x.dtype, _widened(x, dy)
        x = self._repeat(x, dy.shape[self._axis])
        taps, (rows, *others) = _taps(template), dy.shape[1:-1]
        # The rows are cut into blocks, which are added in one loop.
        most = 1 if self.channels_first else MOST_BLOCKS
        blocks = max(n for n in range(1, most + 1) if rows % n == 0)
        places = rows // blocks, *others

        def sum_blocks(x: Array, dy: Array) -> list[Array]:
            """Sum the products of each tap over the blocks."""
            x, starts = _pad(x, self.padding), range(0, rows, places[0])
            parts = [(row, dy[:, row : row + places[0]]) for row in starts]
            return [
                reduce(
                    add, [self._shifted(x, k, places, r) * part for r, part in parts]
                )
                for k in taps
            ]

        def one_more(sums: list[Array], pair: tuple[Array, Array]) -> tuple[Any, Any]:
            if self.channels_first:
                return sums, [_sum_places(a) for a in sum_blocks(*pair)]
            return list(map(add, sums, sum_blocks(*pair))), ()

        # Zeros that vary over the same devices as the sums, inside `shard_map`.
        start = [jnp.where(False, a, 0) for a in sum_blocks(x[:1], dy[:1])]
        start = [] if self.channels_first else start
        sums, rows_of_channels = lax.scan(one_more, start, (x[:, None], dy[:, None]))
        if self.channels_first:
            dweight = jnp.stack(rows_of_channels).sum(-1)
        else:
            dweight = jnp.stack([_sum_places(a) for a in sums])
        return dweight.reshape(*template, 1, -1).astype(dtype)

    def _slice_by_slice(
        self, f: Callable[[Array, Array], Array], images: Array, weight: Array
    ) -> Array:
        """Return f of each example, or of each channel with its own template."""
        if self.channels_first:
            pairs = images[:, None], jnp.moveaxis(weight, -1, 0)
            return lax.map(lambda pair: f(*pair)[0], pairs)
        return lax.map(lambda image: f(image, weight)[0], images[:, None])

    @property
    def _axis(self) -> int:
        return 0 if self.channels_first else -1

    def _repeat(self, x: Array, outputs: int) -> Array:
        """Repeat each channel for each of its outputs."""
        return jnp.repeat(x, outputs // x.shape[self._axis], axis=self._axis)

    def _sum_outputs(self, dx: Array, channels: int) -> Array:
        """Sum over the outputs of each channel: the transpose of `_repeat`."""
        if self.channels_first:
            return dx.reshape(channels, -1, *dx.shape[1:]).sum(1)
        return dx.reshape(*dx.shape[:-1], channels, -1).sum(-1)

    def _output_sizes(
        self, template: Sequence[int], sizes: Sequence[int]
    ) -> tuple[int, ...]:
        geometry = self.stride, self.padding, self.dilation
        return tuple(
            (lo + h + hi - d * (taps - 1) - 1) // s + 1
            for taps, h, s, (lo, hi), d in zip(template, sizes, *geometry, strict=True)
        )

    def _shifted(
        self, padded: Array, k: Sequence[int], places: Sequence[int], row: int = 0
    ) -> Array:
        """Return what tap k meets at these places of y, from some row on."""
        first, *others = (d * i for d, i in zip(self.dilation, k, strict=True))
        starts = first + self.stride[0] * row, *others
        return _slice(padded, starts, places, self.stride)


class _Axis(NamedTuple):
    """One axis of dx: how its positions, remainder by remainder, are read from dy."""

    template: int
    stride: int
    padding: tuple[int, int]
    dilation: int
    size: int
    places: int

    @property
    def positions(self) -> int:
        """Return the number of positions of each remainder, beyond H included."""
        return -(-self.size // self.stride)

    @property
    def ends(self) -> tuple[int, int]:
        """Return how far dy is padded, so that all that is read exists."""
        shifts = [t for pairs in self._shifts() for _, t in pairs]
        return max(0, -min(shifts)), max(0, max(shifts) + self.positions - self.places)

    def reached(self) -> list[list[tuple[int, int]]]:
        """Return, for each remainder, taps and where in the padded dy each begins."""
        lo, _ = self.ends
        return [[(k, t + lo) for k, t in pairs] for pairs in self._shifts()]

    def _shifts(self) -> list[list[tuple[int, int]]]:
        """Return, for each remainder, the taps k that reach it, each with its t."""
        lo, _ = self.padding
        found = [
            [(k, divmod(r + lo - self.dilation * k, self.stride))
             for k in range(self.template)]
            for r in range(self.stride)
        ]  # fmt: skip
        return [[(k, t) for k, (t, rest) in pairs if rest == 0] for pairs in found]


def _taps(template: Sequence[int]) -> list[tuple[int, ...]]:
    return list(product(*map(range, template)))


def _scaled(images: Array, factors: Array) -> Array:
    """Multiply each channel by its factor, or all by one; ranks are not promoted."""
    return images * factors.reshape((1,) * (images.ndim - 1) + (-1,))


def _sum_places(image: Array) -> Array:
    """Sum over all axes but the last."""
    return image.reshape(-1, image.shape[-1]).sum(0)


def _pad(x: Array, ends: Sequence[tuple[int, int]]) -> Array:
    amounts = [(lo, hi, 0) for lo, hi in [(0, 0), *ends, (0, 0)]]
    return lax.pad(x, jnp.zeros((), x.dtype), amounts)


def _slice(
    x: Array, starts: Sequence[int], counts: Sequence[int],
    strides: Sequence[int] | None = None,
) -> Array:  # fmt: skip
    """Return `counts` positions of each spatial axis, `strides` apart."""
    strides = strides or (1,) * len(counts)
    axes = zip(starts, counts, strides, strict=True)
    ends = [start + (count - 1) * stride + 1 for start, count, stride in axes]
    n, *_, channels = x.shape
    return lax.slice(x, (0, *starts, 0), (n, *ends, channels), (1, *strides, 1))


def _interleave(
    parts: list[Array], strides: Sequence[int], sizes: Sequence[int]
) -> Array:
    """Join the parts of all remainders, in row-major order, and crop to these sizes."""
    for axis, s in reversed(list(enumerate(strides, 1))):
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
