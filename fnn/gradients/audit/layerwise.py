"""Each layer alone: its backward against `jax.vjp` of its own forward.

Both start from the same x and the same dy, so that a layer cannot inherit an error of
another one: the layer that fails alone is the layer that is wrong. A planned layer is
compared with the plain one that it stands for, and so is its y.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks import describe
from fnn.core import Backward, Forward, Layer, Variables
from fnn.gradients.audit.report import NodeCheck
from fnn.gradients.audit.rounding import lost_digits
from fnn.network import Node, named_params, walk
from fnn.planning.planned import plain
from fnn.probes import Seen, record
from fnn.typing import Array, Float, KeyArray, PyTree

__all__ = [
    "Comparison",
    "compare_layer",
    "random_if_zero",
    "structural_faults",
]


class Comparison(NamedTuple):
    """The same gradients computed in several ways, each a dictionary by name.

    `engine` is under audit, `autodiff` is the referee. `rounding` is what the
    handwritten gradients lose in the lower precision (see the module `rounding`); it is
    measured in float64, and empty elsewhere.
    """

    engine: dict[str, Array]
    autodiff: dict[str, Array]
    rounding: dict[str, Array]


def random_if_zero(dy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return dy, or random numbers where all of it is zero.

    No gradient reaches a layer below weights that are zero, as the last ones of a
    residual branch often are at first; and dy = 0 would hide any mistake.
    """
    noise = np.random.default_rng(dy.size).normal(size=dy.shape)
    return jnp.where((dy == 0).all(), jnp.asarray(noise, dy.dtype), dy)


def compare_layer(
    node: Node, seen: Seen, dy: Array, train: bool, precision: str = "float32"
) -> Comparison:
    """Compare a layer's backward with `jax.vjp` of its plain forward, for one dy.

    Args:
        node: the layer.
        seen: the input and the key that it is given.
        dy: ∂loss/∂y, of y's shape.
        train: in training mode, or in evaluation mode.
        precision: the lower precision that rounding is measured for, in float64.

    Returns:
        The gradients by name: `dx`, and each parameter's; of a planned layer also `y`.
    """
    params, state = node.variables
    plain_layer = plain(node.layer)

    def forward(layer: Layer, params: PyTree, x: Array) -> Forward:
        return layer.forward(params, state, x, key=seen.key, train=train)

    def by_name(y: Array, dx: Array, dparams: PyTree) -> dict[str, Array]:
        named, prefix = named_params(node.layer, dparams), node.layer.kind
        own = {path.removeprefix(prefix).lstrip("./"): g for path, g in named.items()}
        # y is in question only where a layer claims to compute what another one does.
        output = {} if plain_layer is node.layer else {"y": y}
        return output | {"dx": dx} | own

    def by_hand(params: PyTree, x: Array, dy: Array) -> tuple[Array, Array, PyTree]:
        out = forward(node.layer, params, x)
        return out.y, *node.layer.backward(params, out.saved, dy)

    y, vjp = jax.vjp(
        lambda params, x: forward(plain_layer, params, x).y, params, seen.x
    )
    dparams, dx = vjp(dy)
    rounding: dict[str, Array] = {}
    if dy.dtype == jnp.float64:
        rounding = by_name(*lost_digits(by_hand, params, seen.x, dy, dtype=precision))
    engine = by_name(*by_hand(params, seen.x, dy))
    return Comparison(engine, by_name(y, dx, dparams), rounding)


def structural_faults(
    net: Layer, variables: Variables, x: Array, key: KeyArray | None, train: bool
) -> list[NodeCheck]:
    """Find layers whose backward raises, or returns other shapes than x's and params'.

    Nothing is computed. The layers are in backward order.
    """
    seen = jax.eval_shape(
        lambda variables, x, key: record(net, variables, x, key, train),
        variables, x, key,
    )  # fmt: skip
    faults = []
    for node in reversed(list(walk(net, variables))):
        if fault := _structural_fault(node, seen[node.path], train):
            path = node.path or type(node.layer).__name__
            nan = float("nan")
            reason = f"{path}'s backward {fault}"
            faults.append(NodeCheck(f"{path}.backward", nan, nan, nan, False, reason))
    return faults


def _structural_fault(node: Node, seen: Seen, train: bool) -> str:
    """Say what is wrong with the shapes that a layer's backward returns, or ""."""
    params, state = node.variables
    x, key = seen

    def backward(
        params: PyTree, state: PyTree, x: Array, key: Array | None
    ) -> Backward:
        out = node.layer.forward(params, state, x, key=key, train=train)
        return node.layer.backward(params, out.saved, jnp.zeros_like(out.y))

    try:
        got, expected = jax.eval_shape(backward, params, state, x, key), (x, params)
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    if _structure_and_shapes(got) == _structure_and_shapes(expected):
        return ""
    return f"returned {describe(got)} for (x, params) {describe(expected)}"


def _structure_and_shapes(tree: PyTree) -> tuple[PyTree, list[tuple[int, ...]]]:
    """Return the structure of a tree, and the shapes of its leaves."""
    return jax.tree.structure(tuple(tree)), [a.shape for a in jax.tree.leaves(tree)]
