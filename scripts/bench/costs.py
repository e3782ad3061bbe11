"""Measure the costs of layers and kernels on this machine, as a table for `fnn.plan`.

scripts/bench/costs                       prints it, and writes costs.json
scripts/bench/costs --out my_costs.json   writes it elsewhere

    plan = fnn.plan(net, (28, 28, 1), costs=fnn.load_costs("my_costs.json"))

Each entry is a forward and a backward inside a compiled loop, with all results (except
dx of a network's first layer). It takes a few minutes on two cores.
"""

import argparse
import json
import math
import time
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from fnn.kernels.layout import swap_batch_and_channels
from fnn.letters import make_stdout_printable
from fnn.planning.costs import Costs, Work
from fnn.planning.options import PlanOptions
from fnn.planning.rewrites import REWRITES
from fnn.planning.stage import InnerView
from layers import fed_back
from timing import loop, machine

FIRST = 4  # up to this many channels, a layer counts as a network's first

#: (taps, stride, pool), (input, output channels), rows.
SHAPES = [
    *product([(5, 1, 2)], [(1, 20), (20, 40)], [28, 12]),
    *product([(3, 1, 1), (3, 1, 2)], [(1, 16), (3, 32), (16, 16)], [28]),
    *product([(3, 1, 1)], [(16, 32), (32, 32), (32, 64)], [14]),
    *product([(3, 1, 2)], [(32, 32), (32, 64)], [14]),
    *product([(3, 1, 1)], [(64, 64), (128, 128)], [7, 14]),
    *product([(5, 1, 1)], [(16, 32), (32, 64)], [14]),
    *product([(3, 2, 1)], [(1, 16), (16, 32), (32, 64), (64, 128)], [28, 14]),
    *product([(5, 2, 1)], [(1, 16), (16, 32)], [28, 14]),
    *product([(1, 1, 1), (1, 2, 1)], [(16, 32), (64, 64)], [14]),
]
EXAMPLES = 64
ELEMENTS = {
    "BatchNorm": fnn.BatchNorm(),
    "Relu": fnn.Relu(),
    "MaxPool": fnn.MaxPool(2),
    "GlobalAvgPool": fnn.GlobalAvgPool(),
}
IMAGE = (28, 28, 16)


def milliseconds(layer: fnn.Layer, shape: tuple, inner: bool, dx: bool) -> float:
    """Measure a forward and a backward of a layer on a batch of this shape."""
    draw = np.random.default_rng(0)
    params, state = layer.init(jax.random.key(0), shape)
    y = jax.eval_shape(lambda x: layer.forward(params, state, x).y, _batch(shape))
    arrays = [draw.standard_normal(a.shape) for a in (_batch(shape), y)]
    x, dy = (jnp.asarray(a, jnp.float32) for a in arrays)
    if inner:
        layer = InnerView(layer)
        x, dy = swap_batch_and_channels(x), swap_batch_and_channels(dy)

    def gradient(params, x, dy):
        out = layer.forward(params, state, x, train=True)
        back = layer.backward(params, out.saved, dy)
        return out.y, back if dx else back._replace(dx=jnp.zeros_like(x))

    run = loop(fed_back(gradient), (params, x, dy))
    return min(run() for _ in range(5)) * 1e3


def _batch(shape: tuple) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((EXAMPLES, *shape), jnp.float32)


def candidates(layers: tuple, shape: tuple) -> dict[str, fnn.Layer]:
    """Return every stage that can replace exactly these layers, by name."""
    options = PlanOptions(EXAMPLES, "fast", Costs("", (), _AllZero()))
    return {
        candidate.name: candidate.stage
        for rewrite in REWRITES
        if len(rewrite.pattern) == len(layers)
        for candidate in rewrite.candidates(layers, shape, options)
    }


class _AllZero(dict):
    def __missing__(self, name: str) -> float:
        return 0.0


def block(taps: int, stride: int, pool: int, channels: tuple, rows: int) -> dict:
    """Measure one row of the table of convolutions."""
    inputs, outputs = channels
    pad = "VALID" if taps == 5 and stride == 1 else taps // 2
    conv = fnn.Conv(outputs, taps, stride=stride, padding=pad)
    layers: tuple = (conv, fnn.Relu(), fnn.MaxPool(pool)) if pool > 1 else (conv,)
    shape = rows, rows, inputs
    places = math.prod(conv.window_for(shape[:2]).output_sizes(shape[:2]))
    work = Work(taps, stride, pool, inputs, outputs, places, EXAMPLES)
    dx = inputs > FIRST
    # Only the plain convolution: the layers after it have costs of their own.
    ms = {"plain": milliseconds(conv, shape, inner=False, dx=dx)}
    for name, stage in candidates(layers, shape).items():
        ms[name] = milliseconds(stage, shape, inner=True, dx=dx)
    print(work, {name: round(value, 3) for name, value in ms.items()}, flush=True)
    return {"work": work._asdict(), "ms": ms}


def elements() -> dict[str, float]:
    """Measure everything but convolutions, in nanoseconds for an element of x."""
    count = math.prod(IMAGE) * EXAMPLES * 1e-6
    found: dict[str, float] = {}
    for name, layer in ELEMENTS.items():
        found[name] = milliseconds(layer, IMAGE, inner=False, dx=True) / count
        for other, stage in candidates((layer,), IMAGE).items():
            found[other] = milliseconds(stage, IMAGE, inner=True, dx=True) / count
    pair = (fnn.BatchNorm(), fnn.Relu())
    ((name, stage),) = candidates(pair, IMAGE).items()
    found[name] = milliseconds(stage, IMAGE, inner=True, dx=True) / count
    found["transpose"] = transpose_seconds() * 1e3 / count
    print(found, flush=True)
    return found


def transpose_seconds() -> float:
    """Measure the transposes of a batch, forward, and of its gradient, backward."""

    def body(carry, zero):
        x, dy = carry
        dy_outer, x_inner = map(swap_batch_and_channels, (dy, x))
        return x + zero * dy_outer, dy + zero * x_inner

    x = jnp.ones((EXAMPLES, *IMAGE))
    run = loop(body, (x, swap_batch_and_channels(x)))
    return min(run() for _ in range(5))


def as_lines(table: dict) -> str:
    """Format the table as JSON, a line for each shape."""
    rows = ",\n  ".join(json.dumps(row) for row in table["blocks"])
    head = json.dumps({k: v for k, v in table.items() if k != "blocks"}, indent=1)
    return f'{head[:-2]},\n "blocks": [\n  {rows}\n ]\n}}\n'


def main() -> None:
    """Run the command line."""
    make_stdout_printable()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("costs.json"))
    out = parser.parse_args().out
    start = time.time()
    host = machine()
    table = {
        "machine": f"{host['processor']}, {host['cores']} cores, jax {host['jax']}",
        "elements": elements(),
        "blocks": [block(*kind, channels, rows) for kind, channels, rows in SHAPES],
    }
    out.write_text(as_lines(table), "utf-8")
    print(f"{out}: {len(SHAPES)} shapes, {time.time() - start:.0f} seconds")


if __name__ == "__main__":
    main()
