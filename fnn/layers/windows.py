"""Windows that slide along the spatial axes: the geometry of convolution and pooling.

Along one axis of H positions, a window of K positions, d apart (the dilation), moves by
the stride s. Output position p reads the input positions

    q = s p + d k − lo,    k = 0 … K − 1,    p = 0 … P − 1
    P = ⌊(lo + H + hi − E) / s⌋ + 1,    E = d (K − 1) + 1, the window's extent

where lo and hi are the numbers of padded positions before and after. Where s does not
divide lo + H + hi − E, the last positions are in no window, and get no gradient. In
ceil mode they are: hi grows until s divides, unless that window would begin beyond the
image.

Padding is "VALID" (none), "SAME" (so much that P = ⌈H/s⌉; hi = lo or lo + 1), a number,
or one entry for each axis, a number or a pair (lo, hi).

Legend: N examples, C features; the other letters are those above.
"""

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any, NamedTuple

from jax import lax

from fnn.checks import LIMIT, is_integer
from fnn.core import Layer, Reach
from fnn.describe import shown
from fnn.typing import Array, InShape, Shaped

__all__ = [
    "Padding",
    "PaddingPairs",
    "PerAxis",
    "Window",
    "check_amounts",
    "check_image",
    "check_padding",
    "format_sizes",
    "make_window",
    "padding_pairs",
    "per_axis",
    "positive_integers",
    "transposed_output_sizes",
]

#: A mode, a number for all spatial axes, or one entry for each: a number or a pair.
Padding = str | int | tuple[int | tuple[int, int], ...]

#: The pair (lo, hi) of each spatial axis.
PaddingPairs = tuple[tuple[int, int], ...]

#: One number for all spatial axes, or one for each.
PerAxis = int | tuple[int, ...]


class Window(NamedTuple):
    """The geometry of a sliding window, with one entry for each spatial axis."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: PaddingPairs
    dilation: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """Return E of each axis: the positions from a window's first to its last."""
        pairs = zip(self.size, self.dilation, strict=True)
        return tuple(d * (k - 1) + 1 for k, d in pairs)

    @property
    def overlaps(self) -> bool:
        """Return whether two windows can hold the same position."""
        return any(e > s for e, s in zip(self.extent, self.stride, strict=True))

    @property
    def reach(self) -> tuple[Reach, ...]:
        """Return the receptive field of one output position, along each axis."""
        return tuple(map(Reach, self.extent, self.stride))

    def output_sizes(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Return P of each axis for images of these sizes: below 1 where none fits."""
        axes = zip(sizes, self.extent, self.stride, self.padding, strict=True)
        return tuple((lo + h + hi - e) // s + 1 for h, e, s, (lo, hi) in axes)

    def offsets(self) -> Iterator[tuple[int, ...]]:
        """Iterate over the offsets (k, k', ...) in a window, in row-major order."""
        return product(*map(range, self.size))

    def values_at(
        self,
        offset: tuple[int, ...],
        padded: Shaped[Array, "N *H C"],
        output_sizes: tuple[int, ...],
    ) -> Shaped[Array, "N *P C"]:
        """Return the value that each window holds at one of its offsets.

        Args:
            offset: (k, k', ...).
            padded: x (N, H, ..., C) with its padding.
            output_sizes: P of each axis.
        """
        starts = [d * k for d, k in zip(self.dilation, offset, strict=True)]
        axes = zip(starts, output_sizes, self.stride, strict=True)
        ends = [start + (p - 1) * s + 1 for start, p, s in axes]
        n, *_, features = padded.shape
        strides = (1, *self.stride, 1)
        return lax.slice(padded, (0, *starts, 0), (n, *ends, features), strides)


def make_window(
    layer: Layer,
    sizes: tuple[int, ...],
    size: PerAxis,
    stride: PerAxis,
    padding: Padding,
    dilation: PerAxis = 1,
    *,
    ceil_mode: bool = False,
) -> Window:
    """Return a layer's window on images of these sizes; raise where none fits."""
    window = _unpadded_window(layer, sizes, size, stride, dilation)
    window = window._replace(padding=padding_pairs(layer, padding, sizes, window))
    if ceil_mode:
        window = window._replace(padding=_ceil_padding(sizes, window))
    output_sizes = window.output_sizes(sizes)
    if min(output_sizes) < 1:
        raise ValueError(
            f"{layer!r} does not fit images of {format_sizes(sizes)} positions: its "
            f"window spans {format_sizes(window.extent)}, padding adds "
            f"{format_sizes(map(sum, window.padding))}, so the output would have "
            f"{format_sizes(max(p, 0) for p in output_sizes)} positions. Use larger "
            "images, a smaller window or dilation, or more padding. (Channels come "
            "last: of PyTorch's images, pass x.transpose(0, 2, 3, 1).)"
        )
    return window


def transposed_output_sizes(
    layer: Layer,
    sizes: tuple[int, ...],
    size: PerAxis,
    stride: PerAxis,
    padding: Padding,
    dilation: PerAxis = 1,
    output_padding: PerAxis = 0,
) -> tuple[int, ...]:
    """Return the sizes of images on which a window has `sizes` output positions.

    They are the smallest ones, H = s (P − 1) + E − lo − hi, plus `output_padding`; for
    "SAME", where P = ⌈H/s⌉, the largest, H = s P.
    """
    window = _unpadded_window(layer, sizes, size, stride, dilation)
    if padding == "SAME":
        return tuple(s * p for s, p in zip(window.stride, sizes, strict=True))
    pairs = padding_pairs(layer, padding, sizes, window)
    added = per_axis(layer, "output_padding", output_padding, len(sizes))
    for a, s, d in zip(added, window.stride, window.dilation, strict=True):
        if a and a >= max(s, d):
            raise ValueError(
                f"{layer!r}: output_padding={a} must be less than the larger of the "
                f"stride, {s}, and the dilation, {d}, of its axis"
            )
    axes = zip(sizes, window.stride, window.extent, added, strict=True)
    full = tuple(s * (p - 1) + e + a for p, s, e, a in axes)
    outputs = tuple(h - lo - hi for h, (lo, hi) in zip(full, pairs, strict=True))
    if min(outputs) < 1:
        raise ValueError(
            f"{layer!r} leaves nothing of images of {format_sizes(sizes)} positions: "
            f"they grow to {format_sizes(full)}, of which padding takes off "
            f"{format_sizes(map(sum, pairs))}. Use less padding."
        )
    return outputs


def _unpadded_window(
    layer: Layer,
    sizes: tuple[int, ...],
    size: PerAxis,
    stride: PerAxis,
    dilation: PerAxis,
) -> Window:
    _expect_positions(layer, sizes)
    axes = len(sizes)
    size = per_axis(layer, "window", size, axes)
    stride = per_axis(layer, "stride", stride, axes)
    dilation = per_axis(layer, "dilation", dilation, axes)
    return Window(size, stride, ((0, 0),) * axes, dilation)


def padding_pairs(
    layer: Layer, padding: Padding, sizes: tuple[int, ...], window: Window
) -> PaddingPairs:
    """Return the pairs (lo, hi) that a padding in any of its forms stands for."""
    if padding == "VALID":
        return ((0, 0),) * len(sizes)
    if isinstance(padding, str):  # "SAME", or a mode that copies as many positions
        totals = (
            max((-(-h // s) - 1) * s + e - h, 0)
            for h, s, e in zip(sizes, window.stride, window.extent, strict=True)
        )
        return tuple((total // 2, total - total // 2) for total in totals)
    entries = per_axis(layer, "padding", padding, len(sizes))
    return tuple(p if isinstance(p, tuple) else (p, p) for p in entries)


def _ceil_padding(sizes: tuple[int, ...], window: Window) -> PaddingPairs:
    """Return the padding with hi so large that no position of the image is left over.

    A window that would begin behind the image, in its padding, is left out.
    """
    pairs = []
    axes = zip(sizes, window.extent, window.stride, window.padding, strict=True)
    for h, e, s, (lo, hi) in axes:
        rest = lo + h + hi - e
        start = -(-rest // s) * s  # of the last window, in the padded image
        start -= s if start >= lo + h else 0
        pairs.append((lo, hi + max(start - rest, 0)))
    return tuple(pairs)


def per_axis(layer: Layer, name: str, value: Any, axes: int) -> tuple[Any, ...]:
    """Return one entry for each spatial axis: a tuple as it is, all else repeated."""
    if not isinstance(value, tuple):
        return (value,) * axes
    if len(value) != axes:
        raise ValueError(
            f"{layer!r} has a {name} for {len(value)} spatial axes, and its input has "
            f"{axes}: examples are (H, W, C) for images, (L, C) for sequences. Give a "
            "number, or one for each axis."
        )
    return value


def format_sizes(sizes: Iterable[int]) -> str:
    """Format sizes for a message, such as 28×28."""
    return "×".join(map(str, sizes))


# ---- Checks of arguments ---------------------------------------------------------


def check_image(layer: Layer, in_shape: InShape) -> InShape:
    """Return the shape of one example; raise unless it has 1 to 3 spatial axes."""
    if not 2 <= len(in_shape) <= 4:
        raise ValueError(
            f"{layer!r} expected examples of shape (H, W, C), (L, C) or "
            f"(D, H, W, C), without the batch axis, got {tuple(in_shape)}. A grey "
            "image needs a channel, (28, 28, 1); a vector becomes an image by "
            "fnn.Reshape((28, 28, 1))."
        )
    _expect_positions(layer, in_shape[:-1])
    return tuple(in_shape)


def _expect_positions(layer: Layer, sizes: tuple[int, ...]) -> None:
    """Raise where an image is empty: nothing has a mean or a maximum then."""
    if 0 in sizes:
        raise ValueError(
            f"{layer!r} got images of {format_sizes(sizes)} positions, which are none: "
            "each spatial axis must have at least one"
        )


def positive_integers(name: str, value: Any) -> PerAxis:
    """Return the value as an int, or as a tuple of one for each spatial axis.

    Raises:
        ValueError: the value is neither, or a number in it is not positive.
    """
    entries = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    good = all(is_integer(entry) and 0 < entry < LIMIT for entry in entries)
    if not good or not 1 <= len(entries) <= 3:
        raise ValueError(
            f"{name} must be a positive integer, or a tuple of one for each of at most "
            f"three spatial axes, got {shown(value)}"
        )
    entries = tuple(map(int, entries))
    return entries if isinstance(value, (tuple, list)) else entries[0]


def check_amounts(name: str, value: Any) -> PerAxis:
    """Return a number of positions, or one for each spatial axis; 0 is one, too.

    Raises:
        ValueError: it is neither.
    """
    entries = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not all(map(_is_amount, entries)) or not 1 <= len(entries) <= 3:
        raise ValueError(
            f"{name} must be a number of positions, or a tuple of one for each of at "
            f"most three spatial axes, got {shown(value)}"
        )
    entries = tuple(map(int, entries))
    return entries if isinstance(value, (tuple, list)) else entries[0]


def check_padding(
    name: str, padding: Any, modes: tuple[str, ...] = ("SAME", "VALID")
) -> Padding:
    """Return the padding in its normal form: capitals, Python's integers and tuples.

    Raises:
        ValueError: it is not one of the modes, a number, or one entry for each axis.
    """
    if isinstance(padding, str) and padding.upper() in modes:
        return padding.upper()
    if _is_amount(padding):
        return int(padding)
    if isinstance(padding, (tuple, list)) and 1 <= len(padding) <= 3:
        entries = [tuple(p) if isinstance(p, (tuple, list)) else p for p in padding]
        if all(
            _is_amount(p)
            or (isinstance(p, tuple) and len(p) == 2 and all(map(_is_amount, p)))
            for p in entries
        ):
            return tuple(
                (int(p[0]), int(p[1])) if isinstance(p, tuple) else int(p)
                for p in entries
            )
    allowed = ", ".join([*map(repr, modes), "a number of positions"])
    raise ValueError(
        f"{name} must be {allowed}, or a tuple with one entry for each spatial axis, a "
        f"number or a pair (before, after); got {shown(padding)}"
    )


def _is_amount(value: Any) -> bool:
    return is_integer(value) and 0 <= value < LIMIT
