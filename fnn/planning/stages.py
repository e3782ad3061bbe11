"""The stages that there are: which plain layers, by which kernel."""

from typing import Any

import jax.numpy as jnp

from fnn.core import Backward, Forward, Layer, layer, leaf
from fnn.kernels.batch_norm import batch_norm_backward, batch_norm_forward, row_moments
from fnn.kernels.block import Block
from fnn.kernels.planes import Group, apart, deal, together
from fnn.kernels.pooling import max_of_planes, winners_of_planes
from fnn.layers import (
    BatchNorm,
    MaxPool,
    Parallel,
    Residual,
)
from fnn.layers.batch_norm import BatchNormState
from fnn.layers.convolution import ConvParams
from fnn.layers.normalization import NormParams
from fnn.planning.stage import Inside, Stage, Turned, plain

__all__ = [
    "BatchNormStage",
    "ConvStage",
    "InnerResidual",
    "MeanStage",
    "PointwiseStage",
]


@layer
class ConvStage(Stage):
    """Convolution with bias, and what follows it: ReLU, pooling, either, neither."""

    layers: tuple[Layer, ...] = leaf()
    block: Block = Block(None)

    def inside(self, params, state, x, *, key, train):
        y, saved = self.block.forward(x, params.weight, params.bias)
        return Forward(y, saved, state)

    def inside_backward(self, params, saved, dy):
        dx, dweight, dbias = self.block.backward(params.weight, params.bias, saved, dy)
        return Backward(dx, ConvParams(dweight, dbias))


class Train(tuple):
    """."""


@layer
class BatchNormStage(Stage):
    """Batch normalisation, and the ReLU that may follow it."""

    layers: tuple[Layer, ...] = leaf()

    def inside(self, params, state, x, *, key, train):
        norm = self.layers[0]
        mean, var = row_moments(x) if train else state
        relu = len(self.layers) > 1
        y, saved = batch_norm_forward(x, *params, mean, var, norm.eps, relu)
        if train:
            state = norm._track(state, mean, var, x.size // len(x))
        return Forward(y, {"train": saved} if train else {"eval": saved}, state)

    def inside_backward(self, params, saved, dy):
        ((mode, saved),) = saved.items()
        dx, dscale, dbias = batch_norm_backward(
            params.scale, saved, dy, mode == "train"
        )
        return Backward(dx, NormParams(dscale, dbias))


@layer
class PointwiseStage(Stage):
    """An activation that does not care for the layout."""

    layers: tuple[Layer, ...] = leaf()

    def inside(self, params, state, x, *, key, train):
        return self.layers[0].forward(params, state, x, key=key, train=train)

    def inside_backward(self, params, saved, dy):
        return self.layers[0].backward(params, saved, dy)


@layer
class MeanStage(Stage):
    """The mean over all places."""

    layers: tuple[Layer, ...] = leaf()

    def inside(self, params, state, x, *, key, train):
        return Forward(x.mean((1, 2)), jnp.zeros((0, *x.shape[1:3])), state)

    def inside_backward(self, params, saved, dy):
        _, h, w = saved.shape
        c, n = dy.shape
        return Backward(jnp.broadcast_to((dy / (h * w))[:, None, None], (c, h, w, n)), ())


@layer
class InnerResidual(Inside, Residual):
    """A residual block in the inner layout."""

    @property
    def plain(self):
        return Residual(plain(self.body), plain(self.projection))

    @property
    def kind(self):
        return "Residual"

    def inside(self, params, state, x, *, key, train):
        return self._turned.forward(params, state, x, key=key, train=train)

    def inside_backward(self, params, saved, dy):
        return self._turned.backward(params, saved, dy)

    @property
    def _turned(self):
        return Residual(Turned(self.body), Turned(self.projection))
