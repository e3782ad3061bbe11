"""Windows that slide along the spatial axes: the geometry of convolution and pooling.

Along one axis of H places, a window of K places, spread out by the dilation d, moves on
by the stride s. The place p of the result looks at

    q = s p + d k − lo,    k = 0 … K − 1,    p = 0 … P − 1
    P = ⌊(lo + H + hi − E) / s⌋ + 1,    E = d (K − 1) + 1, the window's extent

where lo and hi places of padding stand before and after. Where s does not divide
lo + H + hi − E, the last places are looked at by no window, and get no gradient.

Padding is "VALID" (none), "SAME" (P = ⌈H/s⌉, as evenly as it goes, the odd place
after), a number, or one entry for each axis, a number or a pair (lo, hi).
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from jax import Array, lax

from fnn.checks import LIMIT, is_integer
from fnn.core import Reach

__all__ = [
    "Padding",
    "Window",
    "check_padding",
    "check_places",
    "grown",
    "times",
    "window",
]

Padding = str | int | tuple


class Window(NamedTuple):
    """How a window slides; each field has one entry for each spatial axis."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """E: how many places a window spans, those it skips included."""
        pairs = zip(self.size, self.dilation, strict=True)
        return tuple(d * (k - 1) + 1 for k, d in pairs)

    @property
    def overlaps(self) -> bool:
        """Whether two windows can look at the same place."""
        return any(e > s for e, s in zip(self.extent, self.stride, strict=True))

    def outputs(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """P of every axis, for images of these sizes; 0 or less where none fits."""
        axes = zip(sizes, self.extent, self.stride, self.padding, strict=True)
        return tuple((lo + h + hi - e) // s + 1 for h, e, s, (lo, hi) in axes)

    @property
    def reach(self) -> tuple[Reach, ...]:
        """What a place of the result looks at, along each axis."""
        return tuple(map(Reach, self.extent, self.stride))

    def places(self) -> Iterator[tuple[int, ...]]:
        """The places of a window in row-major order, each as (k, k', ...)."""
        return product(*map(range, self.size))

    def look(self, x: Array, place: tuple[int, ...], counts: tuple[int, ...]) -> Array:
        """What every window has at one of its places: (N, P, P', ..., C).

        `x` is padded already, `counts` are the P.
        """
        starts = [d * k for d, k in zip(self.dilation, place, strict=True)]
        axes = zip(starts, counts, self.stride, strict=True)
        ends = [start + (p - 1) * s + 1 for start, p, s in axes]
        return lax.slice(
            x, (0, *starts, 0), (len(x), *ends, x.shape[-1]), (1, *self.stride, 1)
        )


def window(
    layer: Any,
    sizes: tuple[int, ...],
    size: Any,
    stride: Any,
    padding: Padding,
    dilation: Any = 1,
) -> Window:
    """The window of a layer on images of these sizes; an error where none fits."""
    slides = _unpadded(layer, len(sizes), size, stride, dilation)
    slides = slides._replace(padding=_pairs(layer, padding, sizes, slides))
    counts = slides.outputs(sizes)
    if min(counts) < 1:
        raise ValueError(
            f"{layer!r} does not fit images of {times(sizes)} places: its window "
            f"spans {times(slides.extent)}, padding adds "
            f"{times(map(sum, slides.padding))}, so the output would have "
            f"{times(max(count, 0) for count in counts)} places. Use larger images, a "
            "smaller window or dilation, or more padding."
        )
    return slides


def grown(
    layer: Any,
    sizes: tuple[int, ...],
    size: Any,
    stride: Any,
    padding: Padding,
    dilation: Any = 1,
) -> tuple[int, ...]:
    """The sizes of images on which the window has `sizes` places: the fewest that do.

    H = s (P − 1) + E − lo − hi; for "SAME", where P = ⌈H/s⌉, the most, H = s P.
    """
    slides = _unpadded(layer, len(sizes), size, stride, dilation)
    if padding == "SAME":
        return tuple(s * p for s, p in zip(slides.stride, sizes, strict=True))
    pairs = _pairs(layer, padding, sizes, slides)
    axes = zip(sizes, slides.stride, slides.extent, strict=True)
    full = tuple(s * (p - 1) + e for p, s, e in axes)
    outputs = tuple(h - lo - hi for h, (lo, hi) in zip(full, pairs, strict=True))
    if min(outputs) < 1:
        raise ValueError(
            f"{layer!r} leaves nothing of images of {times(sizes)} places: they grow "
            f"to {times(full)}, of which padding takes off {times(map(sum, pairs))}. "
            "Use less padding."
        )
    return outputs


def _unpadded(layer: Any, axes: int, size: Any, stride: Any, dilation: Any) -> Window:
    size, stride, dilation = (
        per_axis(layer, name, value, axes)
        for name, value in (
            ("window", size),
            ("stride", stride),
            ("dilation", dilation),
        )
    )
    return Window(size, stride, ((0, 0),) * axes, dilation)


def per_axis(layer: Any, name: str, value: Any, axes: int) -> tuple:
    """One entry for each spatial axis: a tuple as it is, all else repeated."""
    if not isinstance(value, tuple):
        return (value,) * axes
    if len(value) != axes:
        raise ValueError(
            f"{layer!r} has a {name} for {len(value)} spatial axes, and its input has "
            f"{axes}: examples are (H, W, C) for images, (L, C) for sequences. Give a "
            "number, or one for each axis."
        )
    return value


def _pairs(
    layer: Any, padding: Padding, sizes: tuple[int, ...], slides: Window
) -> tuple[tuple[int, int], ...]:
    if padding == "VALID":
        return ((0, 0),) * len(sizes)
    if isinstance(padding, str):  # "SAME", or another way to fill the same places
        totals = (
            max((-(-h // s) - 1) * s + e - h, 0)
            for h, s, e in zip(sizes, slides.stride, slides.extent, strict=True)
        )
        return tuple((total // 2, total - total // 2) for total in totals)
    entries = per_axis(layer, "padding", padding, len(sizes))
    return tuple(p if isinstance(p, tuple) else (p, p) for p in entries)


def times(sizes: Any) -> str:
    """28×28, for messages."""
    return "×".join(map(str, sizes))


def check_image(layer: Any, in_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one example; an error if it has not 1 to 3 spatial axes."""
    if not 2 <= len(in_shape) <= 4:
        raise ValueError(
            f"{layer!r} expected examples of shape (H, W, C), (L, C) or "
            f"(D, H, W, C), without the batch axis, got {tuple(in_shape)}. A grey "
            "image needs a channel, (28, 28, 1); a vector becomes an image by "
            "fnn.Reshape((28, 28, 1))."
        )
    return tuple(in_shape)


# ---- What a user passes ----------------------------------------------------------


def check_places(name: str, value: Any) -> int | tuple[int, ...]:
    """A positive integer, or a tuple of one for each spatial axis."""
    entries = tuple(value) if isinstance(value, tuple | list) else (value,)
    good = all(is_integer(entry) and 0 < entry < LIMIT for entry in entries)
    if not good or not 1 <= len(entries) <= 3:
        raise ValueError(
            f"{name} must be a positive integer, or a tuple of one for each of at most "
            f"three spatial axes, got {value!r}"
        )
    entries = tuple(map(int, entries))
    return entries if isinstance(value, tuple | list) else entries[0]


def check_padding(
    name: str, padding: Any, modes: tuple[str, ...] = ("SAME", "VALID")
) -> Padding:
    """A mode, a number, or one entry for each axis: a number or a pair."""
    if isinstance(padding, str) and padding.upper() in modes:
        return padding.upper()
    if _is_amount(padding):
        return int(padding)
    if isinstance(padding, tuple | list) and 1 <= len(padding) <= 3:
        entries = [tuple(p) if isinstance(p, tuple | list) else p for p in padding]
        if all(
            _is_amount(p)
            or (isinstance(p, tuple) and len(p) == 2 and all(map(_is_amount, p)))
            for p in entries
        ):
            return tuple(
                tuple(map(int, p)) if isinstance(p, tuple) else int(p) for p in entries
            )
    raise ValueError(
        f"{name} must be {', '.join(map(repr, modes))}, a number of places, or a tuple "
        "with one entry for each spatial axis, a number or a pair (before, after); got "
        f"{padding!r}"
    )


def _is_amount(value: Any) -> bool:
    return is_integer(value) and 0 <= value < LIMIT
