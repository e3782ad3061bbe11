"""Wrong backwards of the layers for images: convolution and pooling.

`planted_bugs` includes them in the list of all bugs.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from planting import Bug, images, plant, planted

import fnn
from fnn import Backward
from fnn.layers.convolve import convolve, convolve_dw, convolve_dx
from fnn.layers.padding import pad
from fnn.layers.windows import Window

IMAGE = (5, 4, 2)  # H, W, C


def wrong(parent: type, dx=None, **others: Callable) -> Any:
    """Make a layer class with gradients replaced by f(layer, params, saved, dy)."""

    def backward(self, params, saved, dy):
        right = parent.backward(self, params, saved, dy)
        arguments = self, params, saved, dy
        changes = {name: f(*arguments) for name, f in others.items()}
        return Backward(
            dx(*arguments) if dx else right.dx,
            right.dparams._replace(**changes) if changes else right.dparams,
        )

    return plant(parent, backward=backward)


def _bug(name: str, layer: fnn.Layer, part: str, shape=IMAGE, before=()) -> Bug:
    """Make a bug of a layer on images, which follows the layers `before`."""
    block = fnn.serial(*before, layer) if before else layer
    path = f"1/2/{len(before)}" if before else "1/2"
    found = f"{path}/{type(layer).__name__}.{part}"
    return planted(name, images(block, shape), found)


# ---- Convolution -----------------------------------------------------------------


def _window(conv: fnn.Conv, x: Any, **changes: Any) -> Window:
    """Return the window of a convolution, with some of its fields changed."""
    return conv.window_for(x.shape[1:-1])._replace(**changes)


def _dw_without_dilation(conv, params, x, dy):
    return convolve_dw(x, dy, _window(conv, x, dilation=(1, 1)), conv.groups)


def _dw_without_stride(conv, params, x, dy):
    return convolve_dw(x, dy, _window(conv, x, stride=(1, 1)), conv.groups)


def _dw_of_another_group(conv, params, x, dy):
    right = convolve_dw(x, dy, _window(conv, x), conv.groups)
    return jnp.roll(right, conv.features // conv.groups, axis=-1)


def _dx_with(change: Callable) -> Callable:
    """Return a dx that uses `change(weight)` as the weight."""

    def dx(conv, params, x, dy):
        weight = change(params.weight)
        return convolve_dx(dy, weight, _window(conv, x), x.shape[1:-1], conv.groups)

    return dx


def _dx_of_swapped_padding(conv, params, x, dy):
    """Compute dx with the padding before and after the image swapped."""
    window = _window(conv, x)
    swapped = tuple((hi, lo) for lo, hi in window.padding)
    window = window._replace(padding=swapped)
    return convolve_dx(dy, params.weight, window, x.shape[1:-1], conv.groups)


def _dx_with_remainder_first(conv, params, x, dy):
    """Compute dx as if no window held the first positions, instead of the last."""
    window = _window(conv, x)
    dx = convolve_dx(dy, params.weight, window, x.shape[1:-1], conv.groups)
    return jnp.roll(dx, 1, axis=1)


def _dx_from_padded_with(change: Callable) -> Callable:
    """Return a dx: `change(dx of the padded image, lo, hi)` along both axes."""

    def dx(conv, params, x, dy):
        amounts = _window(conv, x).padding
        padded = pad(x, conv.padding, amounts)
        window = _window(conv, padded, padding=((0, 0), (0, 0)))
        dx = convolve_dx(dy, params.weight, window, padded.shape[1:-1], conv.groups)
        for axis, (lo, hi) in enumerate(amounts, start=1):
            dx = jnp.moveaxis(change(jnp.moveaxis(dx, axis, 0), lo, hi), 0, axis)
        return dx

    return dx


def _cut(dx, lo, hi):
    return dx[lo : len(dx) - hi]


def _fold_onto_the_edge(dx, lo, hi):
    """Fold the padding back as if the mirror image repeated the edge itself."""
    end = len(dx) - hi
    inside = dx[lo:end].at[:lo].add(dx[:lo][::-1])
    return inside.at[len(inside) - hi :].add(dx[end:][::-1])


def _transposed_dx_unflipped(conv, params, x, dy):
    weight = jnp.flip(params.weight, (0, 1))
    return convolve(dy, weight, conv.window_for(x.shape[1:-1]), conv.groups)


def _saves_the_last_batch(self, params, state, x, *, key=None, train=False):
    """Save other examples than x's, as a value that was never updated would be."""
    right = fnn.Conv.forward(self, params, state, x)
    return right._replace(saved=jnp.roll(x, 1, axis=0))


CONVOLUTION_BUGS = [
    _bug(
        "convolution: weight gradient without the dilation",
        wrong(fnn.Conv, weight=_dw_without_dilation)(3, 2, dilation=2),
        "weight",
    ),
    _bug(
        "convolution: weight gradient without the stride",
        wrong(fnn.Conv, weight=_dw_without_stride)(3, 2, stride=2),
        "weight",
    ),
    _bug(
        "convolution: weight gradients of another group",
        wrong(fnn.Conv, weight=_dw_of_another_group)(6, (3, 2), groups=2),
        "weight",
    ),
    _bug(
        "convolution: weight not flipped",
        wrong(fnn.Conv, dx=_dx_with(lambda w: jnp.flip(w, (0, 1))))(3, (3, 2)),
        "dx",
    ),
    _bug(
        "convolution: inputs and outputs not swapped, square channels",
        wrong(fnn.Conv, dx=_dx_with(lambda w: jnp.swapaxes(w, -1, -2)))(2, 3),
        "dx",
    ),
    _bug(
        "convolution: groups interleaved",
        wrong(
            fnn.Conv,
            dx=_dx_with(
                lambda w: jnp.swapaxes(w.reshape(3, 2, 1, 3, 2), -1, -2).reshape(
                    w.shape
                )
            ),
        )(6, (3, 2), groups=2),
        "dx",
    ),
    _bug(
        "convolution: uneven padding the other way round",
        wrong(fnn.Conv, dx=_dx_of_swapped_padding)(3, (3, 2)),
        "dx",
    ),
    _bug(
        "convolution: a remainder at the wrong end",
        wrong(fnn.Conv, dx=_dx_with_remainder_first)(3, 2, stride=2, padding="VALID"),
        "dx",
    ),
    _bug(
        "convolution: bias gradient summed over the batch only, raises",
        wrong(fnn.Conv, bias=lambda conv, p, x, dy: dy.sum(0))(3, 2),
        "backward",
    ),
    _bug(
        "convolution: bias gradient averaged over the positions",
        wrong(fnn.Conv, bias=lambda conv, p, x, dy: dy.mean((1, 2)).sum(0))(3, 2),
        "bias",
    ),
    _bug(
        "convolution, circular: copies cut off and not folded back",
        wrong(fnn.Conv, dx=_dx_from_padded_with(_cut))(3, 3, padding="CIRCULAR"),
        "dx",
    ),
    _bug(
        "convolution, reflect: copies folded onto the edge itself",
        wrong(fnn.Conv, dx=_dx_from_padded_with(_fold_onto_the_edge))(
            3, 3, padding="REFLECT"
        ),
        "dx",
    ),
    _bug(
        "convolution: a stale saved value",
        plant(fnn.Conv, forward=_saves_the_last_batch)(3, 2),
        "weight",
    ),
    _bug(
        "transposed convolution: weight flipped in dx",
        wrong(fnn.ConvTranspose, dx=_transposed_dx_unflipped)(3, (3, 2), stride=2),
        "dx",
    ),
]

# ---- Pooling ---------------------------------------------------------------------


def _last_argmax(pool, x):
    """Return the number of the last position with the maximum; without padding."""
    window = pool.window_for(x.shape[1:-1])
    y = pool.forward((), (), x).y
    argmax = jnp.zeros(y.shape, int)
    for number, offset in enumerate(window.offsets()):
        seen = window.values_at(offset, x, y.shape[1:-1])
        argmax = jnp.where(seen < y, argmax, number)
    return argmax


def _all_win(pool, params, saved, dy):
    """Compute dx with dy at every maximum, for windows of 2 that tile the image."""
    y = pool.forward((), (), saved).y
    y, dy = (a.repeat(2, 1).repeat(2, 2) for a in (y, dy))
    return jnp.where(saved == y, dy, 0)


def _overwritten(pool, params, saved, dy):
    """Compute dx, stride 1, where the last window that shares a position overwrites."""
    window = pool.window_for(saved.shape[1:-1])
    argmax, dx = pool.argmax(saved), jnp.zeros_like(saved)
    for number, (i, j) in enumerate(window.offsets()):
        there = slice(None), slice(i, i + dy.shape[1]), slice(j, j + dy.shape[2])
        dx = dx.at[there].set(jnp.where(argmax == number, dy, dx[there]))
    return dx


def _without_the_last_row(pool, params, saved, dy):
    return fnn.MaxPool.backward(pool, params, saved, dy).dx.at[:, -1].set(0)


def _average_dx_with(count: Callable) -> Callable:
    """Return an average pool's dx, where dy is divided by `count(K_p, K)`."""

    def dx(pool, params, saved, dy):
        window = pool.window_for(saved.shape[2:-1])
        counts = pool._counts(window, saved.shape[2:-1], dy.dtype)
        scaled = dy * counts / count(counts, math.prod(window.size))
        return fnn.AvgPool.backward(pool, params, saved, scaled).dx

    return dx


def _one_size_for_all(pool, params, saved, dy):
    """Compute dx as if every window held ⌈H/P⌉ positions."""
    sizes, outputs = saved.shape[2:-1], dy.shape[1:-1]
    matrices = (
        (a != 0).astype(dy.dtype) / -(-h // p)
        for a, h, p in zip(pool._matrices(sizes, dy.dtype), sizes, outputs, strict=True)
    )
    return jnp.einsum("npqc,ph,qw->nhwc", dy, *matrices)


_copies = fnn.Upsample(2)  # makes ties: each maximum occurs four times

POOLING_BUGS = [
    _bug(
        "max pool: the last of equal maxima wins",
        plant(fnn.MaxPool, argmax=_last_argmax)(2),
        "dx",
        (3, 2, 4),
        [_copies],
    ),
    _bug(
        "max pool: all equal maxima win",
        wrong(fnn.MaxPool, dx=_all_win)(2),
        "dx",
        (3, 2, 4),
        [_copies],
    ),
    _bug(
        "max pool: overlapping windows overwritten, not added",
        wrong(fnn.MaxPool, dx=_overwritten)(3, 1),
        "dx",
    ),
    _bug(
        "max pool: the last window, half outside, forgotten",
        wrong(fnn.MaxPool, dx=_without_the_last_row)(2, padding="SAME"),
        "dx",
    ),
    _bug(
        "average pool: not divided",
        wrong(fnn.AvgPool, dx=_average_dx_with(lambda counts, size: 1))(2),
        "dx",
    ),
    _bug(
        "average pool: divided by what padding adds, too",
        wrong(fnn.AvgPool, dx=_average_dx_with(lambda counts, size: size))(
            2, padding="SAME", count_include_pad=False
        ),
        "dx",
    ),
    _bug(
        "global average pool: not divided",
        wrong(
            fnn.GlobalAvgPool,
            dx=lambda pool, p, saved, dy: jnp.broadcast_to(
                dy[:, None, None], saved.shape[1:]
            ),
        )(),
        "dx",
    ),
    _bug(
        "global max pool: the winners of the first example",
        wrong(
            fnn.GlobalMaxPool,
            dx=lambda pool, p, saved, dy: (
                fnn.GlobalMaxPool.backward(
                    pool, p, (saved[0][:1].repeat(len(dy), 0), saved[1]), dy
                ).dx
            ),
        )(),
        "dx",
    ),
    _bug(
        "adaptive average pool: one size for all windows",
        wrong(fnn.AdaptiveAvgPool, dx=_one_size_for_all)((3, 2)),
        "dx",
    ),
]

IMAGE_BUGS = CONVOLUTION_BUGS + POOLING_BUGS
