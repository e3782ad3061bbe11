"""Wrong kernels, and wrong replacements of layers by them.

`planted_bugs` lists them among all others. Each is a stage in the middle of a network,
and is compared with the plain layers that it holds.
"""

from typing import Any

import jax.numpy as jnp
from planting import Bug, N, images, plant, planted

import fnn
from fnn.kernels.conv_block import ConvBlock
from fnn.kernels.im2col import Im2col
from fnn.kernels.layout import per_channel
from fnn.kernels.planes import space_to_planes
from fnn.kernels.pooling import argmax_of_planes
from fnn.kernels.winograd import Winograd
from fnn.planning.stages import (
    BatchNormStage,
    ConvStage,
    InnerResidual,
    MaxPoolStage,
)

IMAGE = (6, 9, 2)  # H, W, C
AROUND = ((1, 1), (1, 1))


def _bug(name: str, stage: Any, part: str, before: tuple = (), shape=IMAGE) -> Bug:
    block = fnn.serial(*before, stage)
    found = f"1/2/{len(before)}/{stage.kind}.{part}"
    return planted(f"plan, {name}", images(block, shape), found)


def _conv(
    block: ConvBlock, *after: fnn.Layer, features: int = 3, **options: Any
) -> ConvStage:
    return ConvStage((fnn.Conv(features, 3, **options), *after), block)


# ---- Kernels ---------------------------------------------------------------------


class SwappedPhases(Winograd):
    def forward(self, x, weight):
        (a, b, *rest), saved = super().forward(x, weight)
        return (b, a, *rest), saved


class SwappedPhasesBack(Winograd):
    def backward(self, weight, saved, dy):
        a, b, *rest = dy
        return super().backward(weight, saved, (b, a, *rest))


class LostTile(Winograd):
    def backward(self, weight, saved, dy):
        dy = tuple(plane.at[:, :, -1].set(0) for plane in dy)
        return super().backward(weight, saved, dy)


class OneTemplate(Im2col):
    def backward(self, weight, saved, dy):
        dx, _ = super().backward(weight, saved, dy)
        first = (dy[0], *map(jnp.zeros_like, dy[1:]))
        return dx, super().backward(weight, saved, first)[1]


class Shifted(Im2col):
    def backward(self, weight, saved, dy):
        dx, dweight = super().backward(weight, saved, dy)
        return jnp.roll(dx, 1, axis=2), dweight


class LostBias(ConvBlock):
    def forward(self, x, weight, bias):
        return super().forward(x, weight, 0 * bias)


class LostBiasBack(ConvBlock):
    def backward(self, weight, bias, saved, dy):
        dx, dweight, dbias = super().backward(weight, bias, saved, dy)
        return dx, dweight, 0 * dbias


class BiasAfterReLU(ConvBlock):
    def forward(self, x, weight, bias):
        y, saved = super().forward(x, weight, 0 * bias)
        return y + per_channel(bias), saved


def _last_wins(self, params, state, x, **options):
    right = MaxPoolStage.inner_forward(self, params, state, x, **options)
    _, sizes = right.saved
    planes = space_to_planes(x, (2, 2), right.y.shape[1:3])[::-1]
    (argmax,) = argmax_of_planes(planes, (2, 2), (2, 2))
    return right._replace(saved=((3 - argmax,), sizes))


def _without_stretch(self, params, saved, dy):
    right = BatchNormStage.inner_backward(self, params, saved, dy)
    factor = per_channel(params.scale * saved.arrays.inverse_std)
    return right._replace(dx=factor * (dy - dy.mean((1, 2, 3), keepdims=True)))


# ---- Layouts ---------------------------------------------------------------------


def _left_inner(self, params, state, x, *, key=None, train=False):
    out = ConvStage.forward(self, params, state, x, key=key, train=train)
    square = out.y.shape[0] == out.y.shape[-1]  # else the shape would reveal it
    return out._replace(y=jnp.swapaxes(out.y, 0, -1) if square else out.y)


def _dx_left_inner(self, params, saved, dy):
    out = ConvStage.backward(self, params, saved, dy)
    return out._replace(dx=jnp.swapaxes(out.dx, 0, -1))


def _shortcut_forgotten(self, params, saved, dy):
    out = InnerResidual.inner_backward(self, params, saved, dy)
    return out._replace(dx=out.dx - dy)


PLAN_BUGS = [
    _bug(
        "the last of equal maxima wins",
        plant(MaxPoolStage, inner_forward=_last_wins)((fnn.MaxPool(2),)),
        "dx",
        before=(fnn.Upsample(2),),
        shape=(3, 4, 2),
    ),
    _bug("two phases swapped", _conv(ConvBlock(SwappedPhases(4, AROUND))), "y"),
    _bug(
        "two phases swapped on the way back",
        _conv(ConvBlock(SwappedPhasesBack(4, AROUND))),
        "weight",
    ),
    _bug("the last tile is lost", _conv(ConvBlock(LostTile(2, AROUND))), "weight"),
    _bug(
        "one template of a group has a gradient",
        _conv(ConvBlock(OneTemplate(padding=AROUND, group=(2, 2)), pool=(2, 2)),
              fnn.MaxPool(2)),
        "weight",
    ),
    _bug("dx is one column off", _conv(ConvBlock(Shifted(padding=AROUND))), "dx"),
    _bug("a lost bias", _conv(LostBias(Winograd(2, AROUND))), "y"),
    _bug(
        "a bias without gradient", _conv(LostBiasBack(Im2col(padding=AROUND))), "bias"
    ),
    _bug(
        "the bias comes after the ReLU",
        _conv(BiasAfterReLU(Im2col(padding=AROUND), relu=True), fnn.Relu()),
        "y",
    ),
    _bug(
        "batch norm forgets the stretch",
        plant(BatchNormStage, inner_backward=_without_stretch)((fnn.BatchNorm(),)),
        "dx",
    ),
    _bug(
        "an absorbed ReLU is not done",
        _conv(ConvBlock(Im2col(padding=AROUND)), fnn.Relu()),
        "y",
    ),
    _bug(
        "padding on the wrong side",
        _conv(ConvBlock(Im2col(padding=((0, 2), (1, 1)))), padding=((2, 0), (1, 1))),
        "y",
    ),
    _bug(
        "y stays in the inner layout",
        plant(ConvStage, forward=_left_inner)(
            (fnn.Conv(N, 3),), ConvBlock(Im2col(padding=AROUND))
        ),
        "y",
    ),
    _bug(
        "dx stays in the inner layout",
        plant(ConvStage, backward=_dx_left_inner)(
            (fnn.Conv(3, 3),), ConvBlock(Im2col(padding=AROUND))
        ),
        "dx",
        shape=(*IMAGE[:2], N),
    ),
    _bug(
        "the shortcut is forgotten",
        plant(InnerResidual, inner_backward=_shortcut_forgotten)(
            _conv(ConvBlock(Im2col(padding=AROUND)), features=2)
        ),
        "dx",
    ),
]  # fmt: skip
