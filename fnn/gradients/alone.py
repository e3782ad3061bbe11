"""Each layer alone: its backward against `jax.vjp` of its own forward.

Both start from the same x and the same dy, so that a layer cannot inherit an error of
another one: the layer that fails alone is the layer that is wrong.
"""

from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fnn.checks import describe
from fnn.core import (
    Backward,
    Layer,
    Node,
    PyTree,
    Variables,
    children,
    kind,
    named_params,
    walk,
)
from fnn.gradients.report import NodeCheck
from fnn.layers.probe import Seen, record

__all__ = [
    "Compared",
    "alive",
    "compare_alone",
    "rounding",
    "structural_faults",
]


class Compared(NamedTuple):
    """The same gradients in several ways, each a dictionary by name.

    `engine` is what is under audit, `autodiff` the referee. `rounding` says how much
    the handwritten ones change when all that the backward works on is rounded to
    float32 once more: digits that no backward in float32 can be asked for.
    """

    engine: dict[str, Array]
    autodiff: dict[str, Array]
    rounding: dict[str, Array]


def alive(dy: Array) -> Array:
    """The given dy; random numbers where it is all zero and would hide any mistake.

    No gradient reaches a layer below weights that are zero, as the last ones of a
    residual branch often are at first.
    """
    noise = np.random.default_rng(dy.size).normal(size=dy.shape)
    return jnp.where((dy == 0).all(), jnp.asarray(noise, dy.dtype), dy)


def compare_alone(node: Node, seen: Seen, dy: Array, train: bool) -> Compared:
    """A layer's backward and `jax.vjp` of its forward, both from the same dy."""
    params, state = node.variables

    def forward(params, x):
        return node.layer.forward(params, state, x, key=seen.key, train=train)

    def by_name(dx, dparams):
        named = named_params(node.layer, dparams)
        prefix = kind(node.layer)
        return {"dx": dx} | {
            path.removeprefix(prefix).lstrip("./"): grad for path, grad in named.items()
        }

    saved = forward(params, seen.x).saved
    ours = node.layer.backward(params, saved, dy)
    _, vjp = jax.vjp(lambda params, x: forward(params, x).y, params, seen.x)
    dparams, dx = vjp(dy)
    lost = rounding(node.layer, params, saved, dy, ours)
    return Compared(by_name(*ours), by_name(dx, dparams), by_name(*lost))


#: How many times the rounding is drawn: one draw may cancel by luck.
DRAWS = 4


def rounding(
    layer: Layer, params: PyTree, saved: PyTree, dy: Array, exact: Backward
) -> Backward:
    """The change of a backward when all that passes through it is rounded once more.

    Returns gradients with a first axis for the draws.
    """

    def change(draw: Array) -> PyTree:
        rounded = _rounding(layer, draw, count()).backward(params, saved, dy)
        return jax.tree.map(jnp.subtract, rounded, exact)

    return Backward(*jax.vmap(change)(jnp.arange(DRAWS)))


class _Rounding(Layer):
    """A layer whose backward gets every number moved by float32's ε, up or down."""

    def __init__(self, layer: Layer, draw: Array, seeds: Iterator[int]):
        self.layer, self.draw, self.seeds = layer, draw, seeds

    def __repr__(self) -> str:
        return repr(self.layer)

    def forward(self, params, state, x, *, key=None, train=False):
        return self.layer.forward(params, state, x, key=key, train=train)

    def backward(self, params, saved, dy):
        if not children(self.layer):
            saved = jax.tree.map(self._move, saved)
        return self.layer.backward(params, saved, self._move(dy))

    def _move(self, part: Any) -> Any:
        part = jnp.asarray(part)
        if not jnp.issubdtype(part.dtype, jnp.floating):
            return part
        draw = np.random.default_rng(next(self.seeds))
        signs = draw.choice([-1.0, 1.0], size=(DRAWS, *part.shape))
        factors = 1 + np.finfo(np.float32).eps * signs
        return part * jnp.asarray(factors, part.dtype)[self.draw]


def _rounding(layer: Layer, draw: Array, seeds: Iterator[int]) -> _Rounding:
    inner = [_rounding(child, draw, seeds) for child in children(layer).values()]
    return _Rounding(layer.with_children(*inner) if inner else layer, draw, seeds)


def structural_faults(
    net: Layer, variables: Variables, x: Array, key: Array | None, train: bool
) -> list[NodeCheck]:
    """Layers whose backward raises, or returns other shapes than x's and params'."""
    seen = jax.eval_shape(
        lambda variables, x, key: record(net, variables, x, key, train),
        variables, x, key,
    )  # fmt: skip
    faults = []
    for node in reversed(list(walk(net, variables))):
        (params, state), (x, key) = node.variables, seen[node.path]

        def back(params, state, x, key, layer=node.layer):
            out = layer.forward(params, state, x, key=key, train=train)
            return layer.backward(params, out.saved, jnp.zeros_like(out.y))

        reason = ""
        try:
            got, expected = jax.eval_shape(back, params, state, x, key), (x, params)
            if _skeleton(got) != _skeleton(expected):
                reason = (
                    f"returned {describe(got)} for (x, params) {describe(expected)}"
                )
        except Exception as error:
            reason = f"raised {type(error).__name__}: {error}"
        if reason:
            path = node.path or type(node.layer).__name__
            nan = float("nan")
            why = f"{path}'s backward {reason}"
            faults.append(NodeCheck(f"{path}.backward", nan, nan, nan, False, why))
    return faults


def _skeleton(tree: PyTree) -> tuple:
    """The structure of a tree, and the shapes of its leaves."""
    return jax.tree.structure(tuple(tree)), [a.shape for a in jax.tree.leaves(tree)]
