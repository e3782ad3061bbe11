"""The stages that there are: plain layers on the left, the kernel they are done by.

Conv [+ Relu] [+ MaxPool]      kernels.block, by im2col or by Winograd
BatchNorm [+ Relu]             kernels.batch_norm
MaxPool                        kernels.pooling
GlobalAvgPool                  a mean over rows and columns
Relu, Tanh, ... Identity       themselves: element by element, any layout will do
Residual, Parallel             themselves, with their branches in the inner layout
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from fnn.core import Backward, Forward, Layer, layer
from fnn.kernels.batch_norm import batch_norm_backward, batch_norm_forward
from fnn.kernels.block import Block
from fnn.kernels.im2col import Im2col
from fnn.kernels.planes import apart, place, together
from fnn.kernels.pooling import given_to_winners, max_of_planes, winners_of_planes
from fnn.layers import Parallel, Residual
from fnn.layers.convolution import ConvParams
from fnn.layers.normalization import NormParams, moments
from fnn.layers.shape import shape_only
from fnn.planning.planned import Planned, plain
from fnn.planning.stage import Inside, Stage, Turned
from fnn.typing import PyTree

__all__ = [
    "BatchNormStage",
    "ConvStage",
    "InnerParallel",
    "InnerResidual",
    "MaxPoolStage",
    "MeanStage",
    "PointwiseStage",
]


@layer
class ConvStage(Stage):
    """A convolution, and the ReLU and the pooling that may follow it.

    Args:
        layers: the plain ones.
        block: by which kernels.
    """

    block: Block = Block(Im2col())

    def inside(self, params, state, x, *, key, train):
        y, saved = self.block.forward(x, params.weight, params.bias)
        return Forward(y, saved, state)

    def inside_backward(self, params, saved, dy):
        dx, dweight, dbias = self.block.backward(params.weight, params.bias, saved, dy)
        return Backward(dx, ConvParams(dweight, dbias))


class Train(NamedTuple):
    """Saved in training, when μ and σ depend on x."""

    saved: PyTree


class Eval(NamedTuple):
    """Saved in evaluation, when μ and σ are constants."""

    saved: PyTree


@layer
class BatchNormStage(Stage):
    """Batch normalisation, and the ReLU that may follow it."""

    def inside(self, params, state, x, *, key, train):
        norm: Any = self.layers[0]
        relu = len(self.layers) > 1
        mean, var = map(jnp.ravel, moments(x, axes=(1, 2, 3))) if train else state
        scale, bias = params
        y, saved = batch_norm_forward(x, scale, bias, mean, var, norm.eps, relu)
        if train:
            state = norm.track(state, mean, var, x.size // len(x))
        return Forward(y, (Train if train else Eval)(saved), state)

    def inside_backward(self, params, saved, dy):
        train = isinstance(saved, Train)
        dx, dscale, dbias = batch_norm_backward(params.scale, saved.saved, dy, train)
        return Backward(dx, NormParams(dscale, dbias))


@layer
class PointwiseStage(Stage):
    """A layer that works element by element, as it is."""

    def inside(self, params, state, x, *, key, train):
        return self.layers[0].forward(params, state, x, key=key, train=train)

    def inside_backward(self, params, saved, dy):
        return self.layers[0].backward(params, saved, dy)


@layer
class MaxPoolStage(Stage):
    """The maximum over windows that tile the image."""

    pool: tuple[int, int] = (2, 2)

    def inside(self, params, state, x, *, key, train):
        counts = self._counts(x.shape[1:3])
        planes = apart(x, self.pool, counts)
        (y,) = max_of_planes(planes, self.pool, self.pool)
        winners = winners_of_planes(planes, self.pool, self.pool)
        return Forward(y, (winners, jnp.zeros((0, *x.shape[1:3]))), state)

    def inside_backward(self, params, saved, dy):
        winners, like = saved
        planes = given_to_winners(winners, (dy,), self.pool, self.pool)
        sizes, (rows, columns) = like.shape[1:], planes[0].shape[1:3]
        seen = rows * self.pool[0], columns * self.pool[1]
        dx = together(planes, self.pool, seen)
        return Backward(place(dx, (0, 0), sizes), ())

    def _counts(self, sizes: tuple[int, ...]) -> tuple[int, int]:
        """Windows along each axis; what does not fill one is left out."""
        h, w = (size // p for size, p in zip(sizes, self.pool, strict=True))
        return h, w


@layer
class MeanStage(Stage):
    """The mean of each channel over rows and columns."""

    def inside(self, params, state, x, *, key, train):
        return Forward(x.mean((1, 2)), shape_only(x), state)

    def inside_backward(self, params, saved, dy):
        shape = saved.shape[1:]
        share = dy / math.prod(shape[1:3])
        return Backward(jnp.broadcast_to(share[:, None, None], shape), ())


class Branches(Inside, Planned):
    """Layers on the same input, each seen from the inner layout."""

    def over(self, change: Callable[[Layer], Layer]) -> Layer:
        """The plain layer of branches that were each changed."""
        raise NotImplementedError

    def stands_for(self) -> Layer:
        return self.over(plain)

    def inside(self, params, state, x, *, key, train):
        return self.over(Turned).forward(params, state, x, key=key, train=train)

    def inside_backward(self, params, saved, dy):
        return self.over(Turned).backward(params, saved, dy)


@layer
class InnerResidual(Branches, Residual):
    """A shortcut around a body, both in the inner layout; fields as in `Residual`."""

    @property
    def kind(self):
        return "Residual"

    def over(self, change):
        return Residual(change(self.body), change(self.projection))


@layer
class InnerParallel(Branches, Parallel):
    """Branches side by side in the inner layout; fields as in `Parallel`.

    Only where they are added up: channels are the last axis outside, the first inside.
    """

    @property
    def kind(self):
        return "Parallel"

    def over(self, change):
        return Parallel(tuple(map(change, self.branches)), self.merge)
