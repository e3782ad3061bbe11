"""Each layer alone: its backward against `jax.vjp` of its own forward.

Both start from the same x and the same dy, so that a layer cannot inherit an error of
another one: the layer that fails alone is the layer that is wrong. A planned layer is
compared with the plain one that it stands for, and so is its y.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fnn.checks import describe
from fnn.core import Layer, Variables
from fnn.gradients.audit.report import NodeCheck
from fnn.gradients.audit.rounding import lost_digits
from fnn.network import Node, named_params, walk
from fnn.planning import plain
from fnn.probes import Seen, record
from fnn.typing import PyTree

__all__ = [
    "Compared",
    "alive",
    "compare_alone",
    "structural_faults",
]


class Compared(NamedTuple):
    """The same gradients in several ways, each a dictionary by name.

    `engine` is what is under audit, `autodiff` the referee. `rounding` is what the
    handwritten ones lose in the lower precision (see the module `rounding`); it is
    measured in float64, and empty elsewhere.
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


def compare_alone(
    node: Node, seen: Seen, dy: Array, train: bool, lower: str = "float32"
) -> Compared:
    """A layer's backward and `jax.vjp` of its plain forward, both from the same dy."""
    params, state = node.variables

    claimed = plain(node.layer)

    def forward(layer, params, x):
        return layer.forward(params, state, x, key=seen.key, train=train)

    def by_name(y, dx, dparams):
        named, prefix = named_params(node.layer, dparams), node.layer.kind
        own = {path.removeprefix(prefix).lstrip("./"): g for path, g in named.items()}
        # y is in question only where a layer claims to compute what another one does.
        claim = {} if claimed is node.layer else {"y": y}
        return claim | {"dx": dx} | own

    def by_hand(params, x, dy):
        out = forward(node.layer, params, x)
        return out.y, *node.layer.backward(params, out.saved, dy)

    y, vjp = jax.vjp(lambda params, x: forward(claimed, params, x).y, params, seen.x)
    dparams, dx = vjp(dy)
    lost = {}
    if dy.dtype == jnp.float64:
        lost = by_name(*lost_digits(by_hand, params, seen.x, dy, dtype=lower))
    ours = by_hand(params, seen.x, dy)
    return Compared(by_name(*ours), by_name(y, dx, dparams), lost)


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
