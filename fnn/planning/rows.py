"""Measure the costs of layers and kernels on this machine.

Each entry of a table is a forward and a backward inside a compiled loop, as in training
(see `timing`), with all results except dx of a network's first layer.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import Backward, Layer
from fnn.kernels.layout import swap_batch_and_channels
from fnn.layers.activations import Relu
from fnn.layers.batch_norm import BatchNorm
from fnn.layers.convolution import Conv
from fnn.layers.global_pooling import GlobalAvgPool
from fnn.layers.pooling import MaxPool
from fnn.network import path_of
from fnn.planning.costs import Costs, Work
from fnn.planning.machine import describe_machine
from fnn.planning.options import PlanOptions
from fnn.planning.rewrites import REWRITES, Candidate, work_of
from fnn.planning.search import shapes_by_path
from fnn.planning.stage import InnerView
from fnn.planning.timing import Body, fed_back, loop
from fnn.typing import Array, InShape, PyTree

__all__ = ["measure_rows", "rows_of", "standard_rows"]

EXAMPLES = 64  #: in the batch of every row of SHAPES
FIRST = 4  #: up to this many channels, a layer counts as a network's first
IMAGE = (28, 28, 16)  #: of the costs per element

#: Seconds that a run of a loop should take, to be well above the clock.
LONG_ENOUGH = 0.05
RUNS = 5  #: of which the fastest counts

#: (taps, stride, pool), (input, output channels), rows and columns. If there is no time
#: for all of them, the first ones say most about other networks.
SHAPES = (
    *product([(3, 1, 1)], [(16, 16), (64, 64)], [14]),
    *product([(5, 1, 2)], [(1, 20), (20, 40)], [12]),
    *product([(3, 1, 2), (3, 1, 1), (3, 2, 1)], [(32, 64)], [14]),
    *product([(3, 1, 1), (3, 1, 2)], [(1, 16), (3, 32)], [28]),
    *product([(1, 1, 1), (5, 1, 1)], [(32, 64)], [14]),
    *product([(3, 1, 1), (3, 1, 2)], [(16, 16)], [28]),
    *product([(5, 1, 2)], [(1, 20), (20, 40)], [28]),
    *product([(3, 1, 1), (3, 1, 2)], [(16, 32), (32, 32)], [14]),
    *product([(3, 1, 1)], [(64, 64)], [7]),
    *product([(3, 1, 1)], [(128, 128)], [7, 14]),
    *product([(5, 1, 1)], [(16, 32)], [14]),
    *product([(3, 2, 1)], [(1, 16), (16, 32), (64, 128)], [28, 14]),
    *product([(5, 2, 1)], [(1, 16), (16, 32)], [28, 14]),
    *product([(1, 1, 1), (1, 2, 1)], [(16, 32), (64, 64), (128, 256)], [14]),
    # Images whose activations do not fit into a processor's cache.
    *product([(3, 1, 1)], [(3, 32), (32, 32), (64, 64)], [32]),
    *product([(3, 1, 1)], [(32, 64), (64, 64)], [16]),
    *product([(5, 1, 1)], [(32, 32)], [20]),
    *product([(1, 1, 1)], [(32, 64)], [32]),
)

#: The same of images with one axis, such as series.
LINES = (
    *product([(5, 1, 1)], [(8, 32), (32, 64)], [128]),
    *product([(3, 1, 1)], [(32, 64), (64, 64), (128, 128)], [64]),
    *product([(5, 1, 2)], [(32, 64)], [128]),
)

ELEMENTS = (BatchNorm(momentum=0.9, eps=1e-5), Relu(), MaxPool(2), GlobalAvgPool())


class Row(NamedTuple):
    """Layers in a row that begin with a convolution, and a batch for them."""

    layers: tuple[Any, ...]
    shape: tuple[int, ...]
    examples: int


def standard_rows() -> Iterator[Row]:
    """Yield the rows of SHAPES and of LINES."""
    for axes, (taps, stride, pool), (inputs, outputs), pixels in (
        *((2, *shape) for shape in SHAPES),
        *((1, *line) for line in LINES),
    ):
        padding = "VALID" if taps == 5 and stride == 1 else taps // 2
        conv = Conv(outputs, (taps,) * axes, stride=stride, padding=padding)
        layers = (conv, Relu(), MaxPool((pool,) * axes)) if pool > 1 else (conv,)
        yield Row(layers, (*(pixels,) * axes, inputs), EXAMPLES)


def rows_of(net: Layer, in_shape: InShape, batch_size: int) -> list[Row]:
    """Return the convolutions of a network, each with what may be fused into it."""
    shapes = shapes_by_path(net, in_shape)
    found: list[Row] = []

    def visit(layers: Sequence[Layer], paths: Sequence[str]) -> None:
        for i, (layer, path) in enumerate(zip(layers, paths, strict=True)):
            if type(layer) is Conv and layer.groups == 1:
                for count in _fused(layers[i:], shapes[path]):
                    part = tuple(layers[i : i + count])
                    found.append(Row(part, tuple(shapes[path]), batch_size))
            labels = layer.children
            inside = [path_of(path, label, child) for label, child in labels.items()]
            visit(list(labels.values()), inside)

    visit([net], [net.kind])
    return found


def _fused(layers: Sequence[Layer], shape: InShape) -> set[int]:
    """Return how many layers the candidates for the first of these replace."""
    return {len(c.stage.layers) for c in _candidates(tuple(layers), shape)}


def _candidates(layers: tuple[Layer, ...], shape: InShape) -> Iterator[Candidate]:
    """Yield every stage that can replace the first of these layers."""
    options = PlanOptions(EXAMPLES, "fast", Costs("", (), _AllZero()))
    for rewrite in REWRITES:
        yield from rewrite.candidates(layers, shape, options)


class _AllZero(dict[str, float]):
    def __missing__(self, name: str) -> float:
        return 0.0


def measure_rows(rows: list[Row], seconds: float, show: Callable[[str], None]) -> Costs:
    """Measure the costs per element, and rows until the time is over.

    Before each of them, `show` gets a line of text that says how far it is.
    """
    end = time.perf_counter() + seconds
    show("costs for each element")
    elements = dict(_elements())
    blocks: dict[Work, dict[str, float]] = {}
    for i, row in enumerate(rows):
        work = work_of(row.layers, row.shape, row.examples)
        if work not in blocks and time.perf_counter() < end:
            show(f"convolution {i + 1} of {len(rows)}")
            blocks[work] = dict(_block(row))
    return Costs(describe_machine(), tuple(blocks.items()), elements)


def _block(row: Row) -> Iterator[tuple[str, float]]:
    """Measure a convolution, and all kernels for it and the layers after it."""
    layers, shape, examples = row
    dx = shape[-1] > FIRST
    # Only the plain convolution: the layers after it have costs of their own.
    yield "plain", _milliseconds(layers[0], (examples, *shape), inner=False, dx=dx)
    for stage, name, _ in _candidates(layers, shape):
        if len(stage.layers) == len(layers):
            yield name, _milliseconds(stage, (examples, *shape), inner=True, dx=dx)


def _elements() -> Iterator[tuple[str, float]]:
    """Measure everything but convolutions, in nanoseconds for an element of x."""
    shape = (EXAMPLES, *IMAGE)
    count = math.prod(shape) * 1e-6
    for layer in ELEMENTS:
        yield layer.kind, _milliseconds(layer, shape, inner=False) / count
        for layers in ((layer,), (layer, Relu())):
            for stage, name, _ in _candidates(layers, IMAGE):
                if len(stage.layers) == len(layers):
                    yield name, _milliseconds(stage, shape, inner=True) / count
    yield "transpose", _transpose_milliseconds(shape) / count


def _milliseconds(
    layer: Layer, shape: tuple[int, ...], *, inner: bool, dx: bool = True
) -> float:
    """Measure a forward and a backward of a layer on a batch of this shape."""
    params, state = layer.init(jax.random.key(0), shape[1:])
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.standard_normal(shape), jnp.float32)
    sizes = jax.eval_shape(lambda x: layer.forward(params, state, x).y, x).shape
    dy = jnp.asarray(draw.standard_normal(sizes), jnp.float32)
    if inner:
        layer = InnerView(layer)
        x, dy = swap_batch_and_channels(x), swap_batch_and_channels(dy)

    def gradient(params: PyTree, x: Array, dy: Array) -> tuple[Array, Backward]:
        out = layer.forward(params, state, x, train=True)
        back = layer.backward(params, out.saved, dy)
        return out.y, back if dx else back._replace(dx=jnp.zeros_like(x))

    return _fastest(fed_back(gradient), (params, x, dy))


def _transpose_milliseconds(shape: tuple[int, ...]) -> float:
    """Measure the transposes of a batch, forward, and of its gradient, backward."""

    def body(carry: tuple[Array, Array], zero: Array) -> tuple[Array, Array]:
        x, dy = carry
        dy_outer, x_inner = map(swap_batch_and_channels, (dy, x))
        return x + zero * dy_outer, dy + zero * x_inner

    x = jnp.ones(shape)
    return _fastest(body, (x, swap_batch_and_channels(x)))


def _fastest(body: Body, carry: PyTree) -> float:
    """Return the milliseconds of the fastest of some runs: others were disturbed."""
    run = loop(body, carry, LONG_ENOUGH)
    return min(run() for _ in range(RUNS)) * 1e3
