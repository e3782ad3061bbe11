"""The links of the chain rule: one layer each, from its output to what is before it.

Each is asked through probes (see `fnn.probe`), which make a parameter of everything
that a derivative can be taken by: a layer's input, and the output of a layer inside.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import Layer
from fnn.layers import Parallel, Residual
from fnn.network import Node, child_variables, map_params, path_of
from fnn.probes import Seen, probe_all
from fnn.typing import PyTree

__all__ = ["Link", "links", "makers"]


class Link:
    """How the output y of a layer depends on one thing: its input, or one inside.

    Args:
        node: the layer.
        inner: what y is differentiated by: the path of a parameter, or of the δ of a
            layer inside; `node.path` + `.x` is the layer's input.
        seen: what every layer of the network was given.
        train: in training mode, or in evaluation mode.
    """

    def __init__(self, node: Node, inner: str, seen: dict[str, Seen], train: bool):
        self.node, self.inner, self.train, self._seen = node, inner, train, seen
        self._x, self._key = seen[node.path]
        self._probed, self._variables = probe_all(node.layer, node.variables, self._x)

    @property
    def path(self) -> str:
        """What of the layer's backward this is, as the audit calls it."""
        if self._through:
            return f"{self.node.path}.dx"
        inside = self.inner.endswith(".delta")
        return f"{self.node.path}.dparams" if inside else self.inner

    @property
    def _through(self) -> bool:
        return self.inner == f"{self.node.path}.x"

    def reached(self, entries: np.ndarray) -> np.ndarray:
        """The entries of y that change when these entries of `inner` do.

        Looked at here, where a derivative may be, and once more where all numbers are
        positive and these ones the largest: no ReLU is dead there, no unit dropped.
        """
        draw = np.random.default_rng(0)
        params, _ = self._variables
        step = jnp.asarray(entries * draw.uniform(1, 2, entries.shape))
        small = jax.tree.map(
            lambda a: jnp.asarray(draw.uniform(size=a.shape) / max(a.size, 1) ** 0.5),
            params,
        )
        lively = jnp.asarray(draw.uniform(size=self._x.shape))
        changed = [
            self._forward(params, x, train).y
            != self._forward(self._moved(params, step), x, train).y
            for params, x, train in (
                (params, self._x, self.train),
                (small, lively, False),
            )
        ]
        found = np.asarray(changed[0] | changed[1])
        # Where nothing does (the softmax of one unit is 1), all of y takes its place.
        return found if found.any() else ~found

    def jacobian(self, above: np.ndarray, below: np.ndarray) -> np.ndarray:
        """Entries of ∂y/∂inner: a row, and a backward, for each of `above` in y."""
        params, _ = self._variables
        out = self._forward(params, self._x, self.train)
        rows = []
        for place in np.argwhere(above):
            dy = jnp.zeros_like(out.y).at[tuple(place)].set(1)
            back = self._probed.backward(params, out.saved, dy)
            rows.append(np.asarray(self._inner(back.dparams))[below])
        return np.stack(rows)

    def branches(
        self, deltas: dict[str, Any], below: np.ndarray
    ) -> dict[str, np.ndarray]:
        """What each branch of a block adds to the δ of its input; {} without branches.

        Args:
            deltas: the δ of every layer's output, by path and `.delta`.
            below: which entries of the input.
        """
        if not self._through or not isinstance(self.node.layer, Parallel | Residual):
            return {}
        found = {}
        labels = self.node.layer.children
        for label, child in zip(labels, _inside(self.node), strict=True):
            (params, state), (x, key) = child.variables, self._seen[child.path]
            out = child.layer.forward(params, state, x, key=key, train=self.train)
            dy = deltas[f"{child.path}.delta"]
            dx = child.layer.backward(params, out.saved, dy).dx
            found[label] = np.asarray(dx)[below]
        return found

    def _forward(self, params: PyTree, x: Any, train: bool):
        state = self._variables.state
        return self._probed.forward(params, state, x, key=self._key, train=train)

    def _moved(self, params: PyTree, step: Any) -> PyTree:
        def move(path: str, _: Layer, part: Any) -> Any:
            return part + step if path == self.inner else part

        return map_params(move, self._probed, params, self.node.path)

    def _inner(self, dparams: PyTree) -> Any:
        found: dict[str, Any] = {}

        def note(path: str, _: Layer, part: Any) -> None:
            found[path] = part

        map_params(note, self._probed, dparams, self.node.path)
        return found[self.inner]


def links(
    node: Node, parameter: str, seen: dict[str, Seen], train: bool
) -> Iterator[Link]:
    """The chain from a layer's output to a parameter in it.

    Layers in turn are a link each. A block around the parameter is a link to the output
    of the branch that it is in; a block after the parameter is one link.
    """
    inside = _inside(node)
    home = [i for i, child in enumerate(inside) if _holds(child, parameter)]
    if not home:  # it is the layer's own
        yield Link(node, parameter, seen, train)
        return
    below = list(links(inside[home[0]], parameter, seen, train))
    if _in_turn(node):
        for later in reversed(inside[home[0] + 1 :]):
            for part in reversed(list(_unrolled(later))):
                yield Link(part, f"{part.path}.x", seen, train)
    else:
        yield Link(node, f"{below[0].node.path}.delta", seen, train)
    yield from below


def makers(node: Node) -> Iterator[Node]:
    """The layers whose output has a name: all but those that only list others.

    In forward order; a block comes after what is in it.
    """
    for child in _inside(node):
        yield from makers(child)
    if not _in_turn(node):
        yield node


def _inside(node: Node) -> list[Node]:
    parts = child_variables(node.layer, node.variables)
    return [
        Node(path_of(node.path, label, child), child, part)
        for (label, child), part in zip(node.layer.children.items(), parts, strict=True)
    ]


def _in_turn(node: Node) -> bool:
    """Whether it is a list of layers, each of which is given what the last one gave."""
    return bool(node.layer.children) and not node.layer.kind


def _unrolled(node: Node) -> Iterator[Node]:
    """The layers in turn that a list of lists of layers comes to."""
    if not _in_turn(node):
        yield node
        return
    for child in _inside(node):
        yield from _unrolled(child)


def _holds(node: Node, parameter: str) -> bool:
    paths: list[str] = []

    def note(path: str, _: Layer, part: Any) -> None:
        paths.append(path)

    map_params(note, node.layer, node.variables.params, node.path)
    return parameter in paths
