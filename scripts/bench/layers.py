"""Convolutions and poolings one by one: the handwritten backward against jax.vjp.

Both run the same forward; then one calls `layer.backward`, the other JAX's transpose of
the forward. Both compute y, dx and dparams. Each is timed twice: alone under `jit`, and
as the body of a compiled loop, as in training.

The loop is `fnn.planning.timing.fed_back`, in which every result enters the next
iteration.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from fnn.planning.timing import fed_back
from timing import (
    interleave,
    loop,
    ratio,
    repeat,
    rounds_within,
    temporary_bytes,
)

__all__ = ["ROWS", "measure"]

BUDGET = 40.0  # seconds for the rounds of one layer


class Case(NamedTuple):
    """A layer, and the shape of its batch (N, H, W, C)."""

    layer: fnn.Layer
    shape: tuple[int, int, int, int]


ROWS = {
    "LeNet 1: 5×5, 1 → 20": Case(fnn.Conv(20, 5, padding="VALID"), (64, 28, 28, 1)),
    "LeNet 2: 5×5, 20 → 40": Case(fnn.Conv(40, 5, padding="VALID"), (64, 12, 12, 20)),
    "VGG: 3×3, 32 → 64": Case(fnn.Conv(64, 3), (64, 28, 28, 32)),
    "VGG: 3×3, 64 → 64": Case(fnn.Conv(64, 3), (128, 14, 14, 64)),
    "ResNet: 3×3, 16 → 16": Case(fnn.Conv(16, 3), (64, 32, 32, 16)),
    "ResNet: 3×3, 32 → 32": Case(fnn.Conv(32, 3), (64, 16, 16, 32)),
    "ResNet: 3×3, 64 → 64": Case(fnn.Conv(64, 3), (64, 8, 8, 64)),
    "ResNet: 3×3, 16 → 32, stride 2": Case(fnn.Conv(32, 3, stride=2), (64, 32, 32, 16)),
    "ResNet: 1×1, 16 → 32, stride 2": Case(fnn.Conv(32, 1, stride=2), (64, 32, 32, 16)),
    "1×1, 64 → 128": Case(fnn.Conv(128, 1), (64, 16, 16, 64)),
    "depthwise 3×3, 32": Case(fnn.Conv(32, 3, groups=32), (64, 16, 16, 32)),
    "max-pool 2": Case(fnn.MaxPool(2), (64, 24, 24, 20)),
    "max-pool 3, stride 2": Case(fnn.MaxPool(3, stride=2), (64, 32, 32, 16)),
    "average-pool 2": Case(fnn.AvgPool(2), (64, 24, 24, 20)),
}

Gradient = Callable[[Any, Any, Any], tuple[Any, fnn.Backward]]


def engines(layer: fnn.Layer, state: Any) -> dict[str, Gradient]:
    """Return (params, x, dy) -> (y, Backward), by hand and by JAX."""

    def manual(params, x, dy):
        out = layer.forward(params, state, x, train=True)
        return out.y, layer.backward(params, out.saved, dy)

    def autodiff(params, x, dy):
        def forward(params, x):
            return layer.forward(params, state, x, train=True).y

        y, transpose = jax.vjp(forward, params, x)
        dparams, dx = transpose(dy)
        return y, fnn.Backward(dx, dparams)

    return {"manual": manual, "autodiff": autodiff}


def measure(case: Case, rounds: int = 20) -> dict:
    """Measure milliseconds by hand and by JAX, their ratio, and temporary memory."""
    layer, shape = case
    rng = np.random.default_rng(0)
    params, state = layer.init(jax.random.key(0), shape[1:])
    x = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    y = jax.eval_shape(lambda: layer.forward(params, state, x).y)
    dy = jnp.asarray(rng.standard_normal(y.shape), jnp.float32)
    inputs, row = (params, x, dy), {"shape": shape, "layer": repr(layer)}
    gradients = engines(layer, state)
    _expect_same(gradients, inputs)

    alone = {e: repeat(jax.jit(f), *inputs) for e, f in gradients.items()}
    looped = {e: loop(fed_back(f), inputs) for e, f in gradients.items()}
    for where, runs in {"alone": alone, "loop": looped}.items():
        times = interleave(runs, rounds_within(BUDGET, runs, rounds))
        row[where] = {
            "ms": {engine: float(np.median(t)) * 1e3 for engine, t in times.items()},
            "autodiff_to_manual": ratio(*reversed(times.values()))._asdict(),
        }
    row["memory_bytes"] = {e: temporary_bytes(f, *inputs) for e, f in gradients.items()}
    return row


def _expect_same(gradients: dict[str, Gradient], inputs: tuple) -> None:
    """Raise where the two do not compute the same numbers."""
    with jax.default_matmul_precision("highest"):
        results = [jax.jit(f)(*inputs) for f in gradients.values()]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        scale = float(jnp.abs(b).max()) or 1.0
        np.testing.assert_allclose(a / scale, b / scale, atol=1e-4)
