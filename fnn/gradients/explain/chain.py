"""The chain of derivatives from a network's output to a parameter, one layer each.

They are computed through probes (see `fnn.probe`), which add a parameter for everything
that y is differentiated by: a layer's input, or the output of a layer inside.

A link of the chain is one array. Between a fork and the layer that merges its branches
there are several, so that the two are one link.
"""

from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import Backward, Forward, Layer, Variables, layer, leaf
from fnn.layers.branches import Parallel, Residual
from fnn.layers.several import Fork
from fnn.layers.shared import Shared, row_of, tied_places
from fnn.network import Node, child_variables, map_params, path_of
from fnn.probes import probe_with_input
from fnn.typing import Array, Bool, Float, KeyArray, PyTree
from fnn.visits import Seen

__all__ = [
    "LayerDerivative",
    "derivative_chain",
    "nodes_with_symbols",
]


class LayerDerivative:
    """The derivative of a layer's output y by its input, or by something inside it.

    Args:
        node: the layer.
        wrt: what y is differentiated by ("with respect to"): the path of a parameter,
            or of the δ of a layer inside; None for the layer's input.
        seen: the input and the key that each layer of the network is given, by path.
        train: in training mode, or in evaluation mode.
        then: layers that follow, up to one that returns a single array; y is its
            output.
    """

    def __init__(
        self,
        node: Node,
        wrt: str | None,
        seen: dict[str, Seen],
        train: bool,
        then: Sequence[Node] = (),
    ):
        self.node, self.train, self._seen, self.last = node, train, seen, node
        self._x, self._key = seen[node.path]
        layer, variables = node.layer, node.variables
        self._path = node.path
        if then:
            nodes = [node, *then]
            self.last, self._path = nodes[-1], ""
            layer = _InARow(
                tuple(part.layer for part in nodes),
                tuple(seen[part.path].key for part in nodes),
                labels=tuple(map(_label, nodes)),
            )
            entries = zip(*(part.variables for part in nodes), strict=True)
            variables = Variables(*entries)
        self._by_input = wrt is None
        self.wrt = f"{self._path}.x" if wrt is None else wrt
        self._probed, self._variables = probe_with_input(layer, variables, self._x)

    @property
    def path(self) -> str:
        """Return the path of the part of the layer's backward, as in the audit."""
        if self._by_input:
            return f"{self.node.path}.dx"
        inside = self.wrt.endswith(".delta")
        return f"{self.node.path}.dparams" if inside else self.wrt

    @property
    def is_of_one_array(self) -> bool:
        """Return whether y is a single array."""
        params, _ = self._variables
        out = jax.eval_shape(lambda x: self._forward(params, x, self.train).y, self._x)
        return hasattr(out, "shape")

    def influenced(self, entries: Bool[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
        """Return which entries of y change when these entries of `wrt` do: a mask.

        They are changed here, where a derivative may be zero, and once more where all
        numbers are positive and the changed ones the largest: there no ReLU is zero,
        and no unit is dropped.
        """
        draw = np.random.default_rng(0)
        params, _ = self._variables
        step = jnp.asarray(entries * draw.uniform(1, 2, entries.shape))
        positive_params = jax.tree.map(
            lambda a: jnp.asarray(draw.uniform(size=a.shape) / max(a.size, 1) ** 0.5),
            params,
        )

        def positive(a: Array) -> Array:  # ids stay those of the batch
            return a if _are_ids(a) else jnp.asarray(draw.uniform(size=a.shape))

        positive_x = jax.tree.map(positive, self._x)
        if self.node.layer.takes_ids:
            zero = jax.tree.map(jnp.zeros_like, self._x)
            positive_params, positive_x = positive_params._replace(x=zero), self._x
        changed = [
            self._forward(params, x, train).y
            != self._forward(self._moved(params, step), x, train).y
            for params, x, train in (
                (params, self._x, self.train),
                (positive_params, positive_x, False),
            )
        ]
        mask = np.asarray(changed[0] | changed[1])
        # Where nothing changes (the softmax of one unit is 1), all of y is returned.
        return mask if mask.any() else ~mask

    def jacobian(
        self, above: Bool[np.ndarray, "..."], below: Bool[np.ndarray, "..."]
    ) -> Float[np.ndarray, "R C"]:
        """Compute entries of ∂y/∂wrt by the layer's backward.

        Args:
            above: a mask of the R entries of y; a row, and a backward, for each.
            below: a mask of the C entries of `wrt`.
        """
        params, _ = self._variables
        out = self._forward(params, self._x, self.train)
        rows = []
        for index in np.argwhere(above):
            dy = jnp.zeros_like(out.y).at[tuple(index)].set(1)
            dparams = self._probed.backward(params, out.saved, dy).dparams
            named = _leaves_by_path(self._probed, dparams, self._path)
            rows.append(np.asarray(named[self.wrt])[below])
        return np.stack(rows)

    def branch_contributions(
        self, deltas: dict[str, Array], below: Bool[np.ndarray, "..."]
    ) -> dict[str, Float[np.ndarray, "C"]]:
        """Compute what each branch of a block adds to the δ of its input, by label.

        Args:
            deltas: the δ of every layer's output, by path and `.delta`.
            below: a mask of C entries of the input.

        Returns:
            An entry for each branch; {} where the layer has no branches.
        """
        layer = self.node.layer
        if not self._by_input or not isinstance(layer, Parallel | Residual | Fork):
            return {}
        found = {}
        for label, child in zip(layer.children, _child_nodes(self.node), strict=True):
            (params, state), (x, key) = child.variables, self._seen[child.path]
            out = child.layer.forward(params, state, x, key=key, train=self.train)
            dy = deltas[f"{child.path}.delta"]
            dx = child.layer.backward(params, out.saved, dy).dx
            found[label] = np.asarray(dx)[below]
        return found

    def _forward(self, params: PyTree, x: Array, train: bool) -> Forward:
        state = self._variables.state
        return self._probed.forward(params, state, x, key=self._key, train=train)

    def _moved(self, params: PyTree, step: Array) -> PyTree:
        """Return the parameters with a step added to `wrt`."""

        def move(path: str, _: Layer, part: Any) -> Any:
            return part + step if path == self.wrt else part

        return map_params(move, self._probed, params, self._path)


@layer
class _InARow(Layer):
    """Layers in a row, at the places and with the keys that they have in a network."""

    layers: tuple[Layer, ...] = leaf()
    keys: tuple[Array | None, ...] = leaf()
    labels: tuple[str, ...] = field(kw_only=True)

    @property
    def kind(self) -> str:
        return ""

    @property
    def children(self) -> dict[str, Layer]:
        return dict(zip(self.labels, self.layers, strict=True))

    def with_children(self, *layers: Layer) -> Layer:
        return _InARow(layers, self.keys, labels=self.labels)

    def forward(
        self, params: tuple[PyTree, ...], state: tuple[PyTree, ...], x: PyTree, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        saved: list[PyTree] = []
        parts = zip(self.layers, self.keys, params, state, strict=True)
        for child, own_key, child_params, child_state in parts:
            arguments = child_params, child_state, x
            out = child.forward(*arguments, key=own_key, train=train)
            x = out.y
            saved.append(out.saved)
        return Forward(x, tuple(saved), state)

    def backward(
        self, params: tuple[PyTree, ...], saved: tuple[PyTree, ...], dy: PyTree
    ) -> Backward:
        dparams: list[PyTree] = []
        for child, child_params, kept in reversed(
            list(zip(self.layers, params, saved, strict=True))
        ):
            dy, own = child.backward(child_params, kept, dy)
            dparams.append(own)
        return Backward(dy, tuple(reversed(dparams)))


def derivative_chain(
    node: Node, parameter: str, seen: dict[str, Seen], train: bool
) -> Iterator[LayerDerivative]:
    """Yield the derivatives from a layer's output to a parameter in it.

    Layers in sequence yield a derivative each, and one for all between which several
    arrays go on. A block around the parameter yields the derivative by the output of
    the branch that the parameter is in; a block after the parameter yields one
    derivative. So does a network that uses it in several places.
    """
    if isinstance(node.layer, Shared) and _is_shared(node.layer, node, parameter):
        yield LayerDerivative(node, parameter, seen, train)
        return
    if _is_sequence(node):
        yield from _sequence_chain(node, parameter, seen, train)
        return
    home = next((n for n in _child_nodes(node) if _has(n, parameter)), None)
    if home is None:  # it is the layer's own
        yield LayerDerivative(node, parameter, seen, train)
        return
    below = list(derivative_chain(home, parameter, seen, train))
    while below and not below[0].is_of_one_array:
        below.pop(0)
    wrt = f"{below[0].last.path}.delta" if below else parameter
    yield LayerDerivative(node, wrt, seen, train)
    yield from below


def _sequence_chain(
    node: Node, parameter: str, seen: dict[str, Seen], train: bool
) -> Iterator[LayerDerivative]:
    """Yield the derivatives of a list of layers, of which one has the parameter."""
    links: list[list[Node]] = []  # several layers where several arrays go on
    for part in _flattened(node):
        if links and not hasattr(seen[part.path].x, "shape"):
            links[-1].append(part)
        else:
            links.append([part])
    while links:
        first, *then = links.pop()
        for i, part in enumerate([first, *then]):
            if _has(part, parameter):
                top, *below = derivative_chain(part, parameter, seen, train)
                yield LayerDerivative(part, top.wrt, seen, train, then[i:])
                yield from below
                return
        yield LayerDerivative(first, None, seen, train, then)


def nodes_with_symbols(node: Node) -> Iterator[Node]:
    """Yield the layers whose output has a symbol: all but those that only list others.

    They are in forward order; a block comes after its branches.
    """
    for child in _child_nodes(node):
        yield from nodes_with_symbols(child)
    if not _is_sequence(node):
        yield node


def _is_shared(layer: Shared, node: Node, parameter: str) -> bool:
    """Return whether a parameter stands for those of other places as well."""
    places = tied_places(layer, node.path)
    complete = layer.child_params(node.variables.params)
    paths = _leaves_by_path(layer.net, complete, node.path)
    return any(row_of(p, places) == parameter != p for p in paths)


def _child_nodes(node: Node) -> list[Node]:
    parts = child_variables(node.layer, node.variables)
    return [
        Node(path_of(node.path, label, child), child, part)
        for (label, child), part in zip(node.layer.children.items(), parts, strict=True)
    ]


def _are_ids(a: Array) -> bool:
    return jnp.issubdtype(a.dtype, jnp.integer)


def _has(node: Node, parameter: str) -> bool:
    """Return whether a parameter belongs to a layer, or to one inside it."""
    return parameter in _leaves_by_path(node.layer, node.variables.params, node.path)


def _label(node: Node) -> str:
    """Return the part of a layer's path that comes before its own name."""
    return node.path.removesuffix(f"/{node.layer.kind}")


def _is_sequence(node: Node) -> bool:
    """Return whether the layer is a list of layers, one after the other."""
    return bool(node.layer.children) and not node.layer.kind


def _flattened(node: Node) -> Iterator[Node]:
    """Yield the layers of a list of lists of layers, one after the other."""
    if not _is_sequence(node):
        yield node
        return
    for child in _child_nodes(node):
        yield from _flattened(child)


def _leaves_by_path(layer: Layer, params: PyTree, path: str) -> dict[str, Any]:
    """Return the parameters of a layer, or their gradients, by path in the network."""
    found: dict[str, Any] = {}

    def add(path: str, _: Layer, part: Any) -> None:
        found[path] = part

    map_params(add, layer, params, path)
    return found
