"""The rules: a pattern, a condition, a replacement.

A rule looks at layers in a row. Where their types fit its pattern and its condition has
no objection, it offers stages, each with the milliseconds that it is expected to take.
Which offer is taken is decided for the whole network (see `paths`), because an image
that is turned into the inner layout for one stage is there for the next.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fnn.kernels.block import Block
from fnn.kernels.im2col import Im2col
from fnn.kernels.winograd import Winograd
from fnn.layers import (
    BatchNorm,
    Conv,
    Elu,
    Gelu,
    GlobalAvgPool,
    Identity,
    LeakyRelu,
    MaxPool,
    Relu,
    Sigmoid,
    Silu,
    Softplus,
    Tanh,
)
from fnn.planning.costs import Work
from fnn.planning.stage import Stage
from fnn.planning.stages import (
    BatchNormStage,
    ConvStage,
    MaxPoolStage,
    MeanStage,
    PointwiseStage,
)
from fnn.planning.terms import Terms

__all__ = ["RULES", "Offer", "Rule", "plain_cost"]

POINTWISE = (Relu, LeakyRelu, Elu, Gelu, Silu, Softplus, Sigmoid, Tanh, Identity)
GROUPED = 1000  # how many times as long a grouped convolution takes, at least


class Offer(NamedTuple):
    """A stage for layers in a row, its name, and its milliseconds."""

    stage: Stage
    name: str
    cost: float


Layers = tuple[Any, ...]
Shape = tuple[int, ...]


class Rule(NamedTuple):
    """One row of the table below."""

    pattern: tuple[tuple[type, ...], ...]
    condition: Callable[[Layers, Shape], bool]
    replacement: Callable[[Layers, Shape, Terms], Iterator[Offer]]

    def offers(self, layers: Layers, shape: Shape, terms: Terms) -> Iterator[Offer]:
        """What it offers for the first of these layers, x being of this shape."""
        found = layers[: len(self.pattern)]
        if len(found) < len(self.pattern) or len(shape) != 3:
            return
        # Not isinstance: a subclass may compute something else.
        if not all(
            type(a) in types for a, types in zip(found, self.pattern, strict=True)
        ):
            return
        if self.condition(found, shape):
            yield from self.replacement(found, shape, terms)


# ---- Convolutions ----------------------------------------------------------------


def _is_dense(layers: Layers, shape: Shape) -> bool:
    """A convolution of all channels, zeros around, and windows that tile."""
    conv, pool = layers[0], _pool(layers)
    return (
        conv.groups == 1
        and conv.padding not in ("CIRCULAR", "REFLECT")
        and (pool is None or _tiles(pool, _outputs(conv, shape)))
    )


def _blocks(layers: Layers, shape: Shape, terms: Terms) -> Iterator[Offer]:
    """The convolution by every algorithm that can do it."""
    conv, pool = layers[0], _pool(layers)
    window = (1, 1) if pool is None else _pair(pool.window)
    relu = any(type(other) is Relu for other in layers)
    work = _work(conv, window, shape, terms.batch_size)
    for name, kernel in _convolutions(conv, window, shape, terms):
        stage = ConvStage(layers, Block(kernel, relu, window))
        yield Offer(stage, name, terms.costs.block(name, work))


def _convolutions(conv: Any, window: tuple, shape: Shape, terms: Terms) -> Iterator:
    if not terms.products:
        return
    slides, keep = conv.window(shape[:2]), terms.keep
    how = slides.stride, slides.padding, slides.dilation
    yield "im2col", Im2col(*how, keep=keep)
    if slides.dilation == (1, 1):
        group = (2, 2) if window == (1, 1) else window
        yield "grouped im2col", Im2col(*how, group, keep=keep)
    unit = slides.stride == slides.dilation == (1, 1)
    if terms.mode != "exact" and unit and slides.size[1] in (3, 5):
        for m in (2, 4):
            if m % window[1] == 0 or window[1] % m == 0:
                kernel = Winograd(m, slides.padding, keep=keep)
                yield f"Winograd F({m},{slides.size[1]})", kernel


def _work(conv: Any, window: tuple, shape: Shape, batch: int) -> Work:
    slides = conv.window(shape[:2])
    return Work(
        taps=math.isqrt(math.prod(slides.size)),
        stride=math.isqrt(math.prod(slides.stride)),
        pool=max(window),
        inputs=shape[2],
        outputs=conv.features,
        places=math.prod(slides.outputs(shape[:2])),
        examples=batch,
    )


# ---- All else --------------------------------------------------------------------


def _always(layers: Layers, shape: Shape) -> bool:
    return True


def _pool_tiles(layers: Layers, shape: Shape) -> bool:
    return _tiles(layers[0], shape[:2])


def _offer(name: str, stage: Callable[[Layers], Stage]) -> Callable:
    """A single stage, whose cost is by the element."""

    def offers(layers: Layers, shape: Shape, terms: Terms) -> Iterator[Offer]:
        count = math.prod(shape) * terms.batch_size
        free = type(layers[0]) is Identity
        cost = 0.0 if free else terms.costs.element(name, count)
        yield Offer(stage(layers), name, cost)

    return offers


def _max_pool(layers: Layers) -> Stage:
    return MaxPoolStage(layers, _pair(layers[0].window))


#: Tried at every layer; more than one may fit.
RULES = (
    #     layers in a row                  if                 then one of
    Rule(((Conv,), (Relu,), (MaxPool,)), _is_dense, _blocks),
    Rule(((Conv,), (MaxPool,), (Relu,)), _is_dense, _blocks),
    Rule(((Conv,), (MaxPool,)), _is_dense, _blocks),
    Rule(((Conv,), (Relu,)), _is_dense, _blocks),
    Rule(((Conv,),), _is_dense, _blocks),
    Rule(((BatchNorm,), (Relu,)), _always, _offer("batch norm + ReLU", BatchNormStage)),
    Rule(((BatchNorm,),), _always, _offer("batch norm", BatchNormStage)),
    Rule(((MaxPool,),), _pool_tiles, _offer("maximum of planes", _max_pool)),
    Rule(((GlobalAvgPool,),), _always, _offer("mean of rows", MeanStage)),
    Rule((POINTWISE,), _always, _offer("as it is", PointwiseStage)),
)


# ---- What plain layers cost ------------------------------------------------------


def plain_cost(layer: Any, shape: Shape, terms: Terms) -> float:
    """Milliseconds of a plain layer; 0 where no rule could replace it anyway."""
    count = math.prod(shape) * terms.batch_size
    if type(layer) is Conv and len(shape) == 3 and _is_dense((layer,), shape):
        # Under vmap over W, a grouped convolution: whatever else there is, is better.
        often = GROUPED if terms.ensemble else 1
        return often * terms.costs.block(
            "plain", _work(layer, (1, 1), shape, terms.batch_size)
        )
    for kinds, name in (
        ((BatchNorm,), "BatchNorm"),
        ((MaxPool,), "MaxPool"),
        ((GlobalAvgPool,), "GlobalAvgPool"),
        (POINTWISE[:-1], "Relu"),
    ):
        if type(layer) in kinds and len(shape) == 3:
            return terms.costs.element(name, count)
    return 0.0


# ---- Small things ----------------------------------------------------------------


def _pool(layers: Layers) -> Any:
    return next((other for other in layers if type(other) is MaxPool), None)


def _outputs(conv: Any, shape: Shape) -> Shape:
    return conv.window(shape[:2]).outputs(shape[:2])


def _tiles(pool: Any, sizes: Shape) -> bool:
    """Whether windows lie side by side, without padding."""
    slides = pool.slides(tuple(sizes))
    return slides.stride == slides.size and not any(map(any, slides.padding))


def _pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
