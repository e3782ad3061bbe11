"""Each layer alone: its backward against `jax.vjp` of its own forward.

Both start from the same x and the same dy, so that a layer cannot inherit an error of
another one: the layer that fails alone is the layer that is wrong. A planned layer is
compared with the plain one that it stands for, and so is its y.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import Backward, Forward, Layer, Variables
from fnn.describe import describe
from fnn.gradients.audit.memory import by_shapes
from fnn.gradients.audit.programs import compiled
from fnn.gradients.audit.report import NodeCheck
from fnn.gradients.audit.rounding import lost_digits
from fnn.gradients.audit.subject import Subject
from fnn.gradients.audit.wiring import rows_of
from fnn.gradients.claims import claimed
from fnn.losses import Loss
from fnn.network import Node, named_params, walk
from fnn.planning.planned import plain
from fnn.typing import Array, PyTree
from fnn.visits import Seen

__all__ = [
    "Comparison",
    "compare_layer",
    "compare_loss",
    "layer_rounding",
    "loss_rounding",
    "part_path",
    "structural_faults",
]


class Comparison(NamedTuple):
    """The gradients of one layer, by name: `dx`, and the name of each parameter.

    `engine` is its handwritten backward, `autodiff` is `jax.vjp` of its plain forward.
    Of a planned layer there is also `y`.
    """

    engine: dict[str, Array]
    autodiff: dict[str, Array]


def compare_layer(node: Node, seen: Seen, dy: PyTree, train: bool) -> Comparison:
    """Compute a layer's gradients in both ways, for one dy.

    Args:
        node: the layer.
        seen: the input and the key that it is given.
        dy: ∂loss/∂y, of y's shape; random numbers stand in for one that is all zero.
        train: in training mode, or in evaluation mode.
    """
    return _both_ways(node.layer, node.variables, seen, random_if_zero(dy), train)


def layer_rounding(
    node: Node, seen: Seen, dy: PyTree, train: bool, precision: str
) -> dict[str, Array]:
    """Measure what the handwritten backward loses in a lower precision, in float64."""
    return _rounding(
        node.layer, node.variables, seen, random_if_zero(dy), train, precision
    )


def part_path(node: Node, part: str) -> str:
    """Return the path of a part of a layer's gradients, such as `2/Dense.weight`.

    A layer of layers has parts `dx` and `dparams` only.
    """
    if node.layer.children and part.partition(".")[0] not in ("dx", "y"):
        part = "dparams"
    return f"{node.path or type(node.layer).__name__}.{part}"


def random_if_zero(dy: PyTree) -> PyTree:
    """Return dy, or random numbers where all of it is zero.

    No gradient reaches a layer below weights that are zero, as the last ones of a
    residual branch often are at first; and dy = 0 would hide any mistake.
    """
    if any(np.asarray(leaf).any() for leaf in jax.tree.leaves(dy)):
        return dy

    def noise(dy: Array) -> Array:
        draw = np.random.default_rng(dy.size)
        return jnp.asarray(draw.normal(size=dy.shape), dy.dtype)

    return jax.tree.map(noise, dy)


@partial(compiled, static_argnames="train")
def _both_ways(
    layer: Layer, variables: Variables, seen: Seen, dy: PyTree, train: bool
) -> Comparison:
    (params, _), judge = variables, claimed(plain(layer))
    y, vjp = jax.vjp(
        lambda params, x: _forward(judge, variables, params, x, seen, train).y,
        params, seen.x,
    )  # fmt: skip
    dparams, dx = vjp(dy)
    return Comparison(
        _by_name(layer, *_by_hand(layer, variables, seen, train)(params, seen.x, dy)),
        _by_name(layer, y, dx, dparams),
    )


@partial(compiled, static_argnames=("train", "precision"))
def _rounding(
    layer: Layer, variables: Variables, seen: Seen, dy: PyTree, train: bool,
    precision: str,
) -> dict[str, Array]:  # fmt: skip
    by_hand = _by_hand(layer, variables, seen, train)
    lost = lost_digits(by_hand, variables.params, seen.x, dy, dtype=precision)
    return _by_name(layer, *lost)


def _forward(
    layer: Layer, variables: Variables, params: PyTree, x: PyTree, seen: Seen,
    train: bool,
) -> Forward:  # fmt: skip
    return layer.forward(params, variables.state, x, key=seen.key, train=train)


def _by_hand(
    layer: Layer, variables: Variables, seen: Seen, train: bool
) -> Callable[..., tuple[PyTree, PyTree, PyTree]]:
    """Return the function (params, x, dy) -> (y, dx, dparams) of the layer itself."""

    def by_hand(params: PyTree, x: PyTree, dy: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        out = _forward(layer, variables, params, x, seen, train)
        return out.y, *layer.backward(params, out.saved, dy)

    return by_hand


def _by_name(layer: Layer, y: Array, dx: PyTree, dparams: PyTree) -> dict[str, Array]:
    named, prefix = named_params(layer, dparams), layer.kind
    own = {path.removeprefix(prefix).lstrip("./"): g for path, g in named.items()}
    # y is in question only where a layer claims to compute what another one does.
    output = {} if plain(layer) is layer else rows_of("y", y)
    return output | rows_of("dx", dx) | own


# ---- The loss --------------------------------------------------------------------


@compiled
def compare_loss(loss: Loss, z: PyTree, y: PyTree) -> Comparison:
    """Compute δ of the network's outputs by hand and by autodiff."""
    return Comparison(
        rows_of("delta", loss.delta(z, y)), rows_of("delta", jax.grad(loss.value)(z, y))
    )


@partial(compiled, static_argnames="precision")
def loss_rounding(loss: Loss, z: PyTree, y: PyTree, precision: str) -> dict[str, Array]:
    """Measure what δ loses in a lower precision: σ(z) − t of a saturated unit, all."""
    lost = lost_digits(lambda z: loss.delta(z, y), z, dtype=precision)
    return rows_of("delta", lost)


# ---- Shapes ----------------------------------------------------------------------


def structural_faults(subject: Subject) -> list[NodeCheck]:
    """Find layers whose backward raises, or returns other shapes than x's and params'.

    Nothing is computed. The layers are in backward order.
    """
    faults = []
    for node in reversed(list(walk(subject.net, subject.variables32))):
        seen = subject.shapes.seen(subject.wiring, node.path)
        arguments = node.layer, node.variables, seen
        if fault := _structural_fault(*arguments, train=subject.train):
            path = node.path or type(node.layer).__name__
            nan = float("nan")
            reason = f"{path}'s backward {fault}"
            faults.append(NodeCheck(f"{path}.backward", nan, nan, nan, False, reason))
    return faults


@by_shapes
def _structural_fault(
    layer: Layer, variables: Variables, seen: Seen, *, train: bool
) -> str:
    """Say what is wrong with the shapes that a layer's backward returns, or ""."""
    params, state = variables
    x, key = seen

    def backward(
        params: PyTree, state: PyTree, x: PyTree, key: Array | None
    ) -> Backward:
        out = layer.forward(params, state, x, key=key, train=train)
        return layer.backward(params, out.saved, jax.tree.map(jnp.zeros_like, out.y))

    try:
        got, expected = jax.eval_shape(backward, params, state, x, key), (x, params)
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    if jax.tree.structure(tuple(got)) != jax.tree.structure(expected):
        return f"returned {describe(got)} for (x, params) {describe(expected)}"
    given, wanted = (_shapes_by_name(layer, *pair) for pair in (got, expected))
    for name, shape in wanted.items():
        if given[name] != shape:
            return f"returned {name} of shape {given[name]}, expected {shape}"
    return ""


def _shapes_by_name(layer: Layer, dx: PyTree, dparams: PyTree) -> dict[str, Any]:
    rows, prefix = rows_of("dx", dx) | named_params(layer, dparams), layer.kind
    return {
        name.removeprefix(prefix).lstrip("."): leaf.shape for name, leaf in rows.items()
    }
