"""All stages: plain layers on the left, the kernel that computes them on the right.

Conv [+ Relu] [+ MaxPool]      kernels.conv_block, by im2col or by Winograd
Conv with as many groups as    kernels.depthwise
    inputs
BatchNorm [+ Relu]             kernels.batch_norm
Dropout                        the plain layer's mask, transposed
MaxPool                        kernels.pooling
GlobalAvgPool                  a mean over rows and columns
Relu, Tanh, ... Identity       themselves: element by element, in any layout
MaxPool, AvgPool               themselves, where windows overlap or are averaged; the
                               places of overlapping maxima are written to memory
Residual, Parallel             themselves, with their branches in the inner layout

Legend: images (C, H, W, N); y of O channels, Hy × Wy pixels.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from fnn.checks import as_inputs, require_key
from fnn.core import Backward, Forward, Layer, layer
from fnn.kernels.batch_norm import batch_norm_backward, batch_norm_forward
from fnn.kernels.conv_block import ConvBlock, ConvBlockSaved
from fnn.kernels.depthwise import Depthwise
from fnn.kernels.im2col import Im2col
from fnn.kernels.layout import ALL_BUT_CHANNELS, per_channel, swap_batch_and_channels
from fnn.kernels.planes import (
    Group,
    materialize,
    pad_or_crop,
    planes_to_space,
    sizes_only,
    space_to_planes,
)
from fnn.kernels.pooling import argmax_of_planes, max_of_planes, scatter_to_argmax
from fnn.layers import dropout
from fnn.layers.batch_norm import Eval, Train
from fnn.layers.branches import Parallel, Residual
from fnn.layers.convolution import ConvParams
from fnn.layers.normalization import NormParams, moments
from fnn.layers.padding import COPY_MODES, pad, pad_backward
from fnn.layers.shape import shape_only
from fnn.layers.windows import PaddingPairs
from fnn.planning.planned import Planned, plain
from fnn.planning.stage import InnerLayer, InnerView, Stage
from fnn.typing import Array, Float, InShape, KeyArray, PyTree

__all__ = [
    "BatchNormStage",
    "ConvStage",
    "DepthwiseStage",
    "DropoutStage",
    "GlobalAvgPoolStage",
    "InnerParallel",
    "InnerResidual",
    "MaxPoolStage",
    "OverlappingMaxPoolStage",
    "PointwiseStage",
]


@layer
class ConvStage(Stage):
    """A stage for a convolution, and the ReLU and the pooling that may follow it.

    Args:
        layers: the plain layers.
        block: the kernel that computes them.
    """

    block: ConvBlock = ConvBlock(Im2col())

    def inner_forward(
        self, params: ConvParams, state: PyTree, x: Float[Array, "C H W N"], *,
        key: KeyArray | None, train: bool,
    ) -> Forward:  # fmt: skip
        padded = pad(x, self._mode, self._copies(x.shape[1:3])) if self._mode else x
        y, saved = self.block.forward(padded, params.weight, params.bias)
        return Forward(y, (saved, sizes_only(x)), state)

    def inner_backward(
        self,
        params: ConvParams,
        saved: tuple[ConvBlockSaved, Array],
        dy: Float[Array, "O Hy Wy N"],
    ) -> Backward:
        block, sizes = saved
        dx, dweight, dbias = self.block.backward(params.weight, params.bias, block, dy)
        if self._mode:
            dx = pad_backward(dx, self._mode, self._copies(sizes.shape[1:]))
        return Backward(dx, ConvParams(dweight, dbias))

    @property
    def _mode(self) -> str:
        """Return the mode of padding with copies; "" where the kernel pads zeros."""
        conv: Any = self.layers[0]
        return conv.padding if conv.padding in COPY_MODES else ""

    def _copies(self, sizes: tuple[int, ...]) -> PaddingPairs:
        conv: Any = self.layers[0]
        return conv.window_for(tuple(sizes)).padding


@layer
class DepthwiseStage(Stage):
    """A stage for a depthwise convolution."""

    def inner_forward(
        self, params: ConvParams, state: PyTree, x: Float[Array, "C H W N"], *,
        key: KeyArray | None, train: bool,
    ) -> Forward:  # fmt: skip
        y = self._kernel(x.shape[1:3]).forward(x, params.weight)
        y = y if isinstance(params.bias, tuple) else y + per_channel(params.bias)
        return Forward(y, x, state)

    def inner_backward(
        self, params: ConvParams, saved: Array, dy: Float[Array, "O Hy Wy N"]
    ) -> Backward:
        x, (weight, bias) = saved, params
        channels, *sizes, _ = x.shape
        kernel = self._kernel(tuple(sizes))
        dx = kernel.backward_dx(dy, weight, sizes, channels)
        dweight = kernel.backward_dw(x, dy, weight.shape[:2])
        dbias = () if isinstance(bias, tuple) else dy.sum(ALL_BUT_CHANNELS)
        return Backward(dx, ConvParams(dweight, dbias))

    def _kernel(self, sizes: tuple[int, ...]) -> Depthwise:
        conv: Any = self.layers[0]
        window = conv.window_for(sizes)
        return Depthwise(window.stride, window.padding, window.dilation, True)


@layer
class BatchNormStage(Stage):
    """A stage for batch normalisation, and the ReLU that may follow it."""

    def inner_forward(
        self, params: NormParams, state: PyTree, x: Float[Array, "C H W N"], *,
        key: KeyArray | None, train: bool,
    ) -> Forward:  # fmt: skip
        norm: Any = self.layers[0]
        relu = len(self.layers) > 1
        mean, var = state
        if train:
            m = math.prod(x.shape[1:])
            norm.expect_batch(m)
            mean, var = map(jnp.ravel, moments(x, axes=ALL_BUT_CHANNELS))
            state = norm.update_running(state, mean, var, m)
        scale, bias = params
        y, saved = batch_norm_forward(x, scale, bias, mean, var, norm.eps, relu)
        return Forward(y, (Train if train else Eval)(saved), state)

    def inner_backward(
        self, params: NormParams, saved: Train | Eval, dy: Float[Array, "C H W N"]
    ) -> Backward:
        train = isinstance(saved, Train)
        dx, dscale, dbias = batch_norm_backward(params.scale, saved.arrays, dy, train)
        return Backward(dx, NormParams(dscale, dbias))


@layer
class PointwiseStage(Stage):
    """A stage for a layer that is the same in both layouts, unchanged.

    It works element by element, or along rows and columns alone.
    """

    def inner_forward(
        self, params: PyTree, state: PyTree, x: Float[Array, "C H W N"], *,
        key: KeyArray | None, train: bool,
    ) -> Forward:  # fmt: skip
        return self.layers[0].forward(params, state, x, key=key, train=train)

    def inner_backward(
        self, params: PyTree, saved: PyTree, dy: Float[Array, "C H W N"]
    ) -> Backward:
        return self.layers[0].backward(params, saved, dy)


@layer
class DropoutStage(Stage):
    """A stage for dropout: the mask of the plain layer, transposed."""

    def inner_forward(
        self, params: PyTree, state: PyTree, x: Float[Array, "C H W N"], *,
        key: KeyArray | None, train: bool,
    ) -> Forward:  # fmt: skip
        if not train:
            return Forward(x, dropout.Eval(), state)
        key = require_key(self.layers[0], key)
        return Forward(self._drop(as_inputs(x), key), dropout.Train(key), state)

    def inner_backward(
        self,
        params: PyTree,
        saved: dropout.Train | dropout.Eval,
        dy: Float[Array, "C H W N"],
    ) -> Backward:
        dx = dy if isinstance(saved, dropout.Eval) else self._drop(dy, saved.key)
        return Backward(dx, ())

    def _drop(self, x: Array, key: KeyArray) -> Array:
        layer: Any = self.layers[0]
        outer = x.shape[-1], *x.shape[1:-1], x.shape[0]
        return layer.dropped(x, swap_batch_and_channels(layer.kept(key, outer)))


@layer
class MaxPoolStage(Stage):
    """A stage for the maximum over windows of size `pool` that tile the image."""

    pool: Group = (2, 2)

    def inner_forward(
        self, params: PyTree, state: PyTree, x: Float[Array, "C H W N"], *,
        key: KeyArray | None, train: bool,
    ) -> Forward:  # fmt: skip
        # Windows that are not complete are left out.
        counts = [size // p for size, p in zip(x.shape[1:3], self.pool, strict=True)]
        planes = space_to_planes(x, self.pool, counts)
        (y,) = max_of_planes(planes, self.pool, self.pool)
        argmax = argmax_of_planes(planes, self.pool, self.pool)
        return Forward(y, (argmax, sizes_only(x)), state)

    def inner_backward(
        self, params: PyTree, saved: PyTree, dy: Float[Array, "C Hy Wy N"]
    ) -> Backward:
        argmax, sizes = saved
        planes = scatter_to_argmax(argmax, (dy,), self.pool, self.pool)
        covered = [n * p for n, p in zip(dy.shape[1:3], self.pool, strict=True)]
        dx = planes_to_space(planes, self.pool, covered)
        return Backward(pad_or_crop(dx, (0, 0), sizes.shape[1:]), ())


@layer
class OverlappingMaxPoolStage(PointwiseStage):
    """A stage for the maximum over windows that overlap."""

    def inner_backward(
        self, params: PyTree, saved: Array, dy: Float[Array, "C Hy Wy N"]
    ) -> Backward:
        pool: Any = self.layers[0]
        x = saved
        # Or XLA finds the maxima again for every position of a window. As numbers of
        # as many bits as dy's, which can be compared for several elements at once.
        argmax = materialize(pool.argmax(x).astype(jnp.int32), after=dy)
        return pool.scatter(argmax, dy, x.shape[1:-1])


@layer
class GlobalAvgPoolStage(Stage):
    """A stage for the mean of each channel over rows and columns."""

    def inner_forward(
        self, params: PyTree, state: PyTree, x: Float[Array, "C H W N"], *,
        key: KeyArray | None, train: bool,
    ) -> Forward:  # fmt: skip
        return Forward(x.mean((1, 2)), shape_only(x), state)

    def inner_backward(
        self, params: PyTree, saved: Array, dy: Float[Array, "C N"]
    ) -> Backward:
        shape = saved.shape[1:]
        share = dy / math.prod(shape[1:3])
        return Backward(jnp.broadcast_to(share[:, None, None], shape), ())


class InnerBranches(InnerLayer, Planned):
    """A base class for blocks whose branches are seen from the inner layout."""

    @abstractmethod
    def map_branches(self, change: Callable[[Layer], Layer]) -> Layer:
        """Return the plain layer whose branches are these, each changed."""

    def to_plain(self) -> Layer:
        return self.map_branches(plain)

    def inner_forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None, train: bool,
    ) -> Forward:  # fmt: skip
        return self.inner_net().forward(params, state, x, key=key, train=train)

    def inner_backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        return self.inner_net().backward(params, saved, dy)

    def inner_net(self) -> Layer:
        """Return the layer that takes and returns images in the inner layout."""
        return self.map_branches(InnerView)


@layer
class InnerResidual(InnerBranches, Residual):
    """A residual block in the inner layout, with the fields of `Residual`."""

    @property
    def kind(self) -> str:
        return "Residual"

    def map_branches(self, change: Callable[[Layer], Layer]) -> Residual:
        return Residual(change(self.body), change(self.projection))


@layer
class InnerParallel(InnerBranches, Parallel):
    """A block of branches in the inner layout, with the fields of `Parallel`.

    It adds or multiplies branches, or concatenates their channels.
    """

    @property
    def kind(self) -> str:
        return "Parallel"

    def map_branches(self, change: Callable[[Layer], Layer]) -> Parallel:
        return Parallel(tuple(map(change, self.branches)), self.merge, self.axis)

    def inner_net(self) -> Parallel:
        views = tuple(map(InnerView, self.branches))
        if self.merge == "concatenate":
            return _ConcatenatedChannels(views, self.merge, 0)
        return Parallel(views, self.merge)


@layer
class _ConcatenatedChannels(Parallel):
    """A concatenation in the inner layout, where channels are the first axis.

    In a `Parallel`, that is the axis of the examples; shapes were checked in the plain
    network.
    """

    def __post_init__(self) -> None:
        pass

    def _check(self, shapes: list[InShape], axes_before: int) -> None:
        pass
