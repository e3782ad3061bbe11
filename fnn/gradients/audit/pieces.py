"""The pieces of a network that are differenced alone, and what each is a function of.

The chain rule makes a gradient of pieces. With δ of a layer's output, that autodiff
computes, the gradient of every number a of that layer, parameter or input, is that of

    φ(a) = ⟨δ, f(a)⟩,        f the forward of this layer alone

so that a difference quotient of φ costs a forward of one layer, and the kinks of other
layers do not disturb it. The pieces are

    a layer without children, in its parameters and its input
    a layer of layers, in its own parameters, in its input and in its children's
        outputs, where it uses them itself (a sum, a gate): constants stand in for the
        children
    the loss, in the network's outputs

A layer of layers that gives a child what no layer returned, such as 2x, is a piece as a
whole, with its children.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import Backward, Forward, Layer, Variables, layer
from fnn.gradients.audit.programs import compiled
from fnn.gradients.audit.wiring import Values, Wiring, rows_of
from fnn.gradients.penalty import has_penalty, penalty
from fnn.layers.shared import Shared, TiedPlace, row_of, tied_places
from fnn.losses import Loss
from fnn.network import Node, child_nodes, map_params, walk
from fnn.probes import probe
from fnn.typing import Array, KeyArray, Number, PyTree

__all__ = ["Piece", "pieces_of"]

#: The row of a parameter, by its path; the number of a value; None for neither.
Target = str | int | None


class Piece(NamedTuple):
    """A function of several arrays, and δ of its result.

    Args:
        path: the path of the layer; "loss" for the loss.
        point: the arrays where it is differenced.
        targets: what each array is, in the order of the tree's leaves.
        dy: δ, of the result's shape. Of a tree of arrays, all numbers in a row.
        evaluate: the function f of a tree like `point`.
        tangent: f's Jacobian at `point` times a tree like it.
        penalty: the penalty, a function of such a tree, or None.
    """

    path: str
    point: PyTree
    targets: tuple[Target, ...]
    dy: np.ndarray
    evaluate: Callable[[PyTree], Array]
    tangent: Callable[[PyTree, PyTree], Array]
    penalty: Callable[[PyTree], Array] | None


def pieces_of(
    net: Layer,
    loss: Loss,
    variables: Variables,
    y: PyTree,
    wiring: Wiring,
    values: Values,
    deltas: dict[int, Any],
    *,
    train: bool,
    l2: Number,
    n: Number,
) -> Iterator[Piece]:
    """Yield the pieces of a network and its loss, all of float64.

    Args:
        net: the network, not planned.
        loss: the loss.
        variables: the network's variables.
        y: the labels.
        wiring: which layer uses which value.
        values: the values.
        deltas: autodiff's δ of each value that a layer returned, by number.
        train: in training mode, or in evaluation mode.
        l2: λ of the penalty.
        n: n of the penalty.
    """
    whole: list[str] = []  # the paths of pieces with their children
    places = tied_places(net)
    for node in walk(net, variables):
        if any(_is_inside(node.path, path) for path in whole):
            continue
        layer, variables = node.layer, node.variables
        if _gives_own_values(node, wiring):
            whole.append(node.path)
            x = values.seen(wiring, node.path).x
            layer, variables = probe(layer, variables, x)
        elif layer.children and _only_lists(node, wiring):
            continue
        elif layer.children:
            layer, variables = _with_constants(node, wiring, values)
        dy = jax.tree.map(lambda i: deltas[i], wiring.outputs[node.path])
        # In a piece with all places of a name, the first has the parameters already.
        elsewhere = places if not isinstance(node.layer, Shared) else None
        piece = _of_layer(node, layer, variables, wiring, values, dy, train, l2, n)
        if elsewhere:
            piece = _with_shared_rows(piece, layer, node, elsewhere, l2, n)
        yield piece
    numbers = wiring.outputs[net.kind]
    yield _of_loss(loss, values.read(numbers), y, tuple(jax.tree.leaves(numbers)))


def _is_inside(path: str, whole: str) -> bool:
    return path == whole or path.startswith(f"{whole}/") or not whole


def _gives_own_values(node: Node, wiring: Wiring) -> bool:
    """Return whether a child is given what no layer returned."""
    known = set(jax.tree.leaves((wiring.inputs[node.path], wiring.outputs)))
    given = [wiring.inputs[child.path] for child in child_nodes(node)]
    return not known.issuperset(jax.tree.leaves(given))


def _only_lists(node: Node, wiring: Wiring) -> bool:
    """Return whether a layer returns what its children do, and nothing else."""
    inside = [p for p in wiring.outputs if p != node.path and _is_inside(p, node.path)]
    returned = set(jax.tree.leaves([wiring.outputs[path] for path in inside]))
    passes_on = returned.issuperset(jax.tree.leaves(wiring.outputs[node.path]))
    own = node.variables.params[len(node.layer.children) :]
    return passes_on and not jax.tree.leaves(own)


# ---- Each kind -------------------------------------------------------------------


def _of_layer(
    node: Node,
    layer: Layer,
    variables: Variables,
    wiring: Wiring,
    values: Values,
    dy: PyTree,
    train: bool,
    l2: Number,
    n: Number,
) -> Piece:
    """Make the piece of a layer; `layer` and `variables` stand for the node's."""
    x, key = values.seen(wiring, node.path)
    point = variables.params, x
    targets: list[Target] = []
    inside, own = wiring.rows_of_deltas(), wiring.outputs[node.path]
    inside |= dict.fromkeys(rows_of(f"{node.path}.delta", own))

    def add(path: str, owner: Layer, leaf: Array) -> None:
        del owner, leaf
        target = inside.get(path, path)  # a probe's value, or the row of a parameter
        # A layer that lists others returns the value of its last one: once is enough.
        targets.append(None if target in targets else target)

    map_params(add, layer, variables.params, node.path)
    targets.extend(jax.tree.leaves(wiring.inputs[node.path]))
    run = dict(state=variables.state, key=key, train=train)
    return Piece(
        path=node.path,
        point=point,
        targets=tuple(targets),
        dy=np.asarray(_in_a_row(dy)),
        evaluate=lambda point: _output(layer, point, **run),
        tangent=lambda point, v: _tangent(layer, point, v, **run),
        penalty=(lambda point: _penalty(layer, point[0], l2, n))
        if has_penalty(l2)
        else None,
    )


def _with_shared_rows(
    piece: Piece,
    layer: Layer,
    node: Node,
    places: dict[str, TiedPlace],
    l2: Number,
    n: Number,
) -> Piece:
    """Return a piece whose shared parameters have the rows of the first place.

    There the gradients of all places are added up; the penalty counts them once.
    """
    rows = {
        target: row
        for target in piece.targets
        if isinstance(target, str) and (row := row_of(target, places)) != target
    }
    if not rows:
        return piece
    targets = tuple(
        rows.get(target, target) if isinstance(target, str) else target
        for target in piece.targets
    )

    def penalty(point: PyTree) -> Array:
        params = map_params(
            lambda path, _, part: None if path in rows else part,
            layer, point[0], node.path,
        )  # fmt: skip
        return _penalty(layer, params, l2, n)

    counted = None if piece.penalty is None else penalty
    return piece._replace(targets=targets, penalty=counted)


def _in_a_row(y: PyTree) -> Array:
    """Return an array as it is, and all numbers of a tree of arrays in a row."""
    leaves = jax.tree.leaves(y)
    if len(leaves) == 1:
        return leaves[0]
    return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])


def _of_loss(loss: Loss, z: PyTree, y: PyTree, values: tuple[int, ...]) -> Piece:
    return Piece(
        path="loss",
        point=z,
        targets=values,
        dy=np.ones(1),
        evaluate=lambda z: _loss_value(loss, z, y),
        tangent=lambda z, v: _loss_tangent(loss, z, y, v),
        penalty=None,
    )


@layer
class _Constant(Layer):
    """A stand-in for a layer: y = 0 + y₀, the 0 its parameter and y₀ its state."""

    takes_trees: ClassVar[bool] = True  # pyrefly: ignore[bad-override]

    name: str = ""

    @property
    def kind(self) -> str:
        return self.name

    def forward(
        self, params: dict[str, PyTree], state: PyTree, x: PyTree, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        y = jax.tree.map(jnp.add, params["delta"], state)
        return Forward(y, saved=x, state=state)

    def backward(self, params: PyTree, saved: PyTree, dy: PyTree) -> Backward:
        return Backward(jax.tree.map(jnp.zeros_like, saved), {"delta": dy})


def _with_constants(
    node: Node, wiring: Wiring, values: Values
) -> tuple[Layer, Variables]:
    """Return a layer of layers with constants for its children."""
    layer, (params, state) = node.layer, node.variables
    outputs: list[PyTree] = []
    standins: list[Layer] = []
    for child in child_nodes(node):
        standins.append(_Constant(child.layer.kind))
        outputs.append(values.read(wiring.outputs[child.path]))
    zeros = [{"delta": jax.tree.map(np.zeros_like, y)} for y in outputs]
    return layer.with_children(*standins), Variables(
        _replace_first(params, zeros), _replace_first(state, outputs)
    )


def _replace_first(entries: tuple[Any, ...], first: list[Any]) -> PyTree:
    """Replace the entries of the children, which come first."""
    own = entries[len(first) :]
    return getattr(entries, "_make", tuple)([*first, *own])


# ---- Compiled, once for all layers that are equal --------------------------------


@partial(compiled, static_argnames="train")
def _output(
    layer: Layer, point: PyTree, state: PyTree, key: KeyArray | None, train: bool
) -> Array:
    params, x = point
    return _in_a_row(layer.forward(params, state, x, key=key, train=train).y)


@partial(compiled, static_argnames="train")
def _tangent(
    layer: Layer, point: PyTree, v: PyTree, state: PyTree, key: KeyArray | None,
    train: bool,
) -> Array:  # fmt: skip
    def forward(point: PyTree) -> Array:
        params, x = point
        return _in_a_row(layer.forward(params, state, x, key=key, train=train).y)

    return _jacobian_times(forward, point, v)


@compiled
def _penalty(layer: Layer, params: PyTree, l2: Number, n: Number) -> Array:
    return penalty(layer, params, l2, n)


@compiled
def _loss_value(loss: Loss, z: PyTree, y: PyTree) -> Array:
    return loss.value(z, y).reshape(1)


@compiled
def _loss_tangent(loss: Loss, z: PyTree, y: PyTree, v: PyTree) -> Array:
    return _jacobian_times(lambda z: loss.value(z, y).reshape(1), z, v)


def _jacobian_times(f: Callable[[PyTree], Array], point: PyTree, v: PyTree) -> Array:
    """Compute J v from the gradients of f alone: Jᵀ dy is linear in dy.

    `jax.jvp` would do it from other rules, and not where f has a `jax.custom_vjp`.
    """
    y, pull_back = jax.vjp(f, point)
    _, transpose = jax.vjp(lambda dy: pull_back(dy)[0], jnp.zeros_like(y))
    return transpose(v)[0]
