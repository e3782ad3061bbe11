"""The rewrites: a pattern, a condition, a replacement.

A rewrite looks at layers in a row. Where their types match its pattern and its
condition holds, it returns candidates: stages, each with the milliseconds that it is
expected to take. The choice among them is made for the whole network (see `route`),
because an image that was transposed to the inner layout for one stage is there for the
next.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fnn.kernels.conv_block import ConvBlock
from fnn.kernels.im2col import Im2col
from fnn.kernels.planes import Group
from fnn.kernels.winograd import Winograd
from fnn.layers.activations import (
    Elu,
    Gelu,
    Identity,
    LeakyRelu,
    Relu,
    Sigmoid,
    Silu,
    Softplus,
    Tanh,
)
from fnn.layers.batch_norm import BatchNorm
from fnn.layers.convolution import Conv
from fnn.layers.convolve import is_written_out
from fnn.layers.dropout import Dropout
from fnn.layers.global_pooling import GlobalAvgPool
from fnn.layers.padding import COPY_MODES
from fnn.layers.piecewise import Clip, HardSigmoid, HardSwish
from fnn.layers.pooling import AvgPool, MaxPool
from fnn.planning.costs import Work
from fnn.planning.options import PlanOptions
from fnn.planning.row_stage import RowStage, as_row, pair
from fnn.planning.stage import Stage
from fnn.planning.stages import (
    BatchNormStage,
    ConvStage,
    DepthwiseStage,
    DropoutStage,
    GlobalAvgPoolStage,
    MaxPoolStage,
    OverlappingMaxPoolStage,
    PointwiseStage,
)
from fnn.shapes import is_shape
from fnn.typing import InShape

__all__ = ["REWRITES", "Candidate", "Rewrite", "plain_cost", "work_of"]

POINTWISE = (
    *(Relu, LeakyRelu, Elu, Gelu, Silu, Softplus, Sigmoid, Tanh),
    *(Clip, HardSigmoid, HardSwish),
    Identity,
)

#: How many times as long a grouped convolution takes as a dense one, at least.
GROUPED_SLOWDOWN = 1000


class Candidate(NamedTuple):
    """A stage for layers in a row, the name of its algorithm, and its milliseconds."""

    stage: Stage
    name: str
    cost: float


Layers = tuple[Any, ...]


class Rewrite(NamedTuple):
    """A row of the table below: a pattern, a condition, a replacement."""

    pattern: tuple[tuple[type, ...], ...]
    condition: Callable[[Layers, InShape], bool]
    replacement: Callable[[Layers, InShape, PlanOptions], Iterator[Candidate]]

    def candidates(
        self, layers: Layers, shape: InShape, options: PlanOptions
    ) -> Iterator[Candidate]:
        """Yield stages for the first of these layers; an example has this shape."""
        first = layers[: len(self.pattern)]
        if len(first) < len(self.pattern) or len(shape) not in (2, 3):
            return
        if len(shape) == 2:
            rows = tuple(map(as_row, first))
            for found in self.candidates(rows, (1, *shape), options):
                yield found._replace(stage=RowStage(first, found.stage))
            return
        # Not isinstance: a subclass may compute something else.
        pairs = zip(first, self.pattern, strict=True)
        matches = all(type(layer) in types for layer, types in pairs)
        if matches and self.condition(first, shape):
            yield from self.replacement(first, shape, options)


# ---- Convolutions ----------------------------------------------------------------


def _is_supported(layers: Layers, shape: InShape) -> bool:
    """Return whether a convolution is dense, and its pooling tiles."""
    conv, pooling = layers[0], _pooling(layers)
    return conv.groups == 1 and (
        pooling is None or _tiles(pooling, _output_sizes(conv, shape))
    )


def _conv_stages(
    layers: Layers, shape: InShape, options: PlanOptions
) -> Iterator[Candidate]:
    """Yield the convolution by every algorithm that can compute it."""
    conv, pool = layers[0], _pool(layers)
    relu = any(type(other) is Relu for other in layers)
    work = work_of(layers, shape, options.batch_size)
    for name, kernel in _conv_kernels(conv, pool, shape, options):
        stage = ConvStage(layers, ConvBlock(kernel, relu, pool))
        yield Candidate(stage, name, options.costs.block(name, work))


def _conv_kernels(
    conv: Any, pool: Group, shape: InShape, options: PlanOptions
) -> Iterator[tuple[str, Im2col | Winograd]]:
    if not options.matrix_products:
        return
    window, keep = conv.window_for(shape[:2]), options.keep_patches
    # Copies are put around the image before the kernel.
    padding = ((0, 0), (0, 0)) if conv.padding in COPY_MODES else window.padding
    geometry = window.stride, padding, window.dilation
    yield "im2col", Im2col(*geometry, keep_patches=keep)
    if window.dilation == (1, 1):
        rows = min(2, window.output_sizes(shape[:2])[0])
        group = (rows, 2) if pool == (1, 1) else pool
        yield "grouped im2col", Im2col(*geometry, group, keep_patches=keep)
    unit = window.stride == window.dilation == (1, 1)
    if options.mode != "exact" and unit and window.size[1] in (3, 5):
        for m in (2, 4):
            if m % pool[1] == 0 or pool[1] % m == 0:
                kernel = Winograd(m, padding, keep_patches=keep)
                yield f"Winograd F({m},{window.size[1]})", kernel


def work_of(layers: Layers, shape: InShape, batch_size: int) -> Work:
    """Return the work of a convolution with the layers after it."""
    if len(shape) == 2:
        return work_of(tuple(map(as_row, layers)), (1, *shape), batch_size)
    conv = layers[0]
    window = conv.window_for(shape[:2])
    return Work(
        taps=math.sqrt(math.prod(window.size)),
        stride=math.sqrt(math.prod(window.stride)),
        pool=max(_pool(layers)),
        inputs=shape[2],
        outputs=conv.features,
        places=math.prod(window.output_sizes(shape[:2])),
        examples=batch_size,
    )


# ---- All else --------------------------------------------------------------------


def _always(layers: Layers, shape: InShape) -> bool:
    return True


def _pooling_tiles(layers: Layers, shape: InShape) -> bool:
    return _tiles(layers[0], shape[:2])


def _pooling_does_not_tile(layers: Layers, shape: InShape) -> bool:
    return not _tiles(layers[0], shape[:2])


def _is_depthwise(layers: Layers, shape: InShape) -> bool:
    conv = layers[0]
    many = 1 < conv.groups == shape[2] and is_written_out(conv.window_for(shape[:2]))
    return many and conv.padding not in COPY_MODES


def _as_dear_as_plain(
    name: str, stage: Callable[[Layers], Stage]
) -> Callable[[Layers, InShape, PlanOptions], Iterator[Candidate]]:
    """Return a replacement by the same algorithm in the inner layout.

    It takes as long there. What counts is that the stages before and after it need no
    transposes.
    """

    def candidates(
        layers: Layers, shape: InShape, options: PlanOptions
    ) -> Iterator[Candidate]:
        yield Candidate(stage(layers), name, plain_cost(layers[0], shape, options))

    return candidates


def _single_stage(
    name: str, stage: Callable[[Layers], Stage]
) -> Callable[[Layers, InShape, PlanOptions], Iterator[Candidate]]:
    """Return a replacement by one stage, whose cost is per element."""

    def candidates(
        layers: Layers, shape: InShape, options: PlanOptions
    ) -> Iterator[Candidate]:
        count = math.prod(shape) * options.batch_size
        free = type(layers[0]) is Identity
        cost = 0.0 if free else options.costs.element(name, count)
        yield Candidate(stage(layers), name, cost)

    return candidates


def _dropout_stages(
    layers: Layers, shape: InShape, options: PlanOptions
) -> Iterator[Candidate]:
    """Yield dropout in the inner layout, which transposes the mask, once a pass."""
    count = math.prod(shape) * options.batch_size
    cost = plain_cost(layers[0], shape, options)
    cost += options.costs.element("transpose", count)
    yield Candidate(DropoutStage(layers), "the same mask", cost)


def _max_pool_stage(layers: Layers) -> Stage:
    return MaxPoolStage(layers, pair(layers[0].window))


_NORM_RELU = _single_stage("batch norm + ReLU", BatchNormStage)
_NORM = _single_stage("batch norm", BatchNormStage)
_MAX_POOL = _single_stage("maximum of planes", _max_pool_stage)
_AVG_POOL = _single_stage("mean of rows", GlobalAvgPoolStage)
_MAXIMA = _as_dear_as_plain("as it is", OverlappingMaxPoolStage)
_MEANS = _as_dear_as_plain("as it is", PointwiseStage)
_DEPTHWISE = _as_dear_as_plain("multiply-adds", DepthwiseStage)
_POINTWISE = _single_stage("as it is", PointwiseStage)

#: Tried at every layer; more than one may match.
REWRITES = (
    #        layers in a row                  if              then one of
    Rewrite(((Conv,), (Relu,), (MaxPool,)), _is_supported, _conv_stages),
    Rewrite(((Conv,), (MaxPool,), (Relu,)), _is_supported, _conv_stages),
    Rewrite(((Conv,), (MaxPool,)), _is_supported, _conv_stages),
    Rewrite(((Conv,), (Relu,)), _is_supported, _conv_stages),
    Rewrite(((Conv,),), _is_supported, _conv_stages),
    Rewrite(((Conv,),), _is_depthwise, _DEPTHWISE),
    Rewrite(((BatchNorm,), (Relu,)), _always, _NORM_RELU),
    Rewrite(((BatchNorm,),), _always, _NORM),
    Rewrite(((MaxPool,),), _pooling_tiles, _MAX_POOL),
    Rewrite(((MaxPool,),), _pooling_does_not_tile, _MAXIMA),
    Rewrite(((AvgPool,),), _always, _MEANS),
    Rewrite(((GlobalAvgPool,),), _always, _AVG_POOL),
    Rewrite(((Dropout,),), _always, _dropout_stages),
    Rewrite((POINTWISE,), _always, _POINTWISE),
)


# ---- Costs of plain layers -------------------------------------------------------


def plain_cost(layer: Any, shape: InShape, options: PlanOptions) -> float:
    """Return the milliseconds of a plain layer; 0 where no rewrite could replace it."""
    if not is_shape(shape) or len(shape) not in (2, 3):
        return 0.0
    if len(shape) == 2:
        return plain_cost(as_row(layer), (1, *shape), options)
    count = math.prod(shape) * options.batch_size
    if type(layer) is Conv and _is_supported((layer,), shape):
        work = work_of((layer,), shape, options.batch_size)
        # vmap over W would make it a grouped convolution: every candidate is faster.
        slowdown = GROUPED_SLOWDOWN if options.ensemble else 1
        return slowdown * options.costs.block("plain", work)
    for kinds, name in (
        ((BatchNorm,), "BatchNorm"),
        ((MaxPool, AvgPool), "MaxPool"),
        ((GlobalAvgPool,), "GlobalAvgPool"),
        (POINTWISE[:-1], "Relu"),
    ):
        if type(layer) in kinds:
            return options.costs.element(name, count)
    return 0.0


# ---- Parts of layers -------------------------------------------------------------


def _pooling(layers: Layers) -> Any:
    return next((layer for layer in layers if type(layer) is MaxPool), None)


def _pool(layers: Layers) -> Group:
    pooling = _pooling(layers)
    return (1, 1) if pooling is None else pair(pooling.window)


def _output_sizes(conv: Any, shape: InShape) -> tuple[int, ...]:
    return conv.window_for(shape[:2]).output_sizes(shape[:2])


def _tiles(pooling: Any, sizes: tuple[int, ...]) -> bool:
    """Return whether windows are side by side, without padding."""
    window = pooling.window_for(tuple(sizes))
    return window.stride == window.size and not any(map(any, window.padding))
