"""The wiring of a network: which layer is given the value that another one returned.

A forward is run once with every layer watched. Layers hand on arrays as they are, so
that two layers have the same value where they have the same object. From this follows
who contributes to a δ: the gradient of a value is the sum over all that use it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fnn.core import Forward, Layer, Variables
from fnn.gradients.audit.memory import by_shapes
from fnn.network import walk
from fnn.shapes import by_part
from fnn.typing import Array, KeyArray, PyTree
from fnn.visits import Place, Seen, visited

__all__ = ["Values", "Wiring", "rows_of", "run_forward", "trace_forward"]


class Wiring(NamedTuple):
    """The values of a forward pass, which are arrays, numbered from 0.

    The first ones are the network's input. What a layer is given or returns is a
    number, or a tree of numbers where it is a tree of arrays.

    Args:
        inputs: what each layer was given, by path.
        outputs: what it returned. A layer that only lists others returns the value of
            its last one.
    """

    inputs: dict[str, PyTree]
    outputs: dict[str, PyTree]

    def rows_of_inputs(self, path: str) -> dict[str, int]:
        """Return the rows of ∂loss/∂x of a layer, with the numbers of their values."""
        return rows_of(f"{path}.x", self.inputs[path])

    def rows_of_deltas(self) -> dict[str, int]:
        """Return the rows of all δ, with the numbers of their values."""
        rows: dict[str, int] = {}
        for path, numbers in self.outputs.items():
            rows |= rows_of(f"{path}.delta", numbers)
        return rows


def rows_of(name: str, tree: PyTree) -> dict[str, Any]:
    """Return the leaves of a tree by row: `name`, or `name.part` for each part."""
    return {
        ".".join(filter(None, (name, part))): leaf
        for part, leaf in by_part(tree).items()
    }


class Values(NamedTuple):
    """The `arrays` of a forward pass, by number, and the key of each layer, by path.

    A layer that draws nothing has the network's key: its own would be computed in vain.
    """

    arrays: tuple[Any, ...]
    keys: dict[str, Any]

    def seen(self, wiring: Wiring, path: str) -> Seen:
        """Return what a layer was given."""
        return Seen(self.read(wiring.inputs[path]), self.keys[path])

    def read(self, numbers: PyTree) -> PyTree:
        """Return the values of a tree of numbers."""
        return jax.tree.map(lambda i: self.arrays[i], numbers)


@by_shapes
def trace_forward(
    net: Layer, variables: Variables, x: Any, key: Any, *, train: bool
) -> tuple[Wiring, Values]:
    """Return the wiring, and the shapes of all values; nothing is computed."""
    wirings: list[Wiring] = []

    def values(variables: Variables, x: PyTree, key: KeyArray | None) -> Values:
        wiring, found = _watch(net, variables, x, key, train)
        wirings.append(wiring)
        return found

    shapes = jax.eval_shape(values, variables, x, key)
    return wirings[-1], shapes


def run_forward(
    net: Layer, variables: Variables, x: PyTree, key: KeyArray | None, train: bool
) -> Values:
    """Compute all values, which have the numbers of `trace_forward`."""
    return _watch(net, variables, x, key, train)[1]


def _watch(
    net: Layer, variables: Variables, x: PyTree, root: KeyArray | None, train: bool
) -> tuple[Wiring, Values]:
    # They are kept, so that no other one gets the same identity.
    arrays: list[Array] = list(jax.tree.leaves(x))
    wiring = Wiring({}, {})
    keys: dict[str, KeyArray | None] = {}
    nodes = list(walk(net, variables))

    def number(array: Array) -> int:
        for i, known in enumerate(arrays):
            if known is array:
                return i
        arrays.append(array)
        return len(arrays) - 1

    def visit(
        place: Place, x: PyTree, key: KeyArray | None, run: Callable[[], Forward]
    ) -> Forward:
        path, own = place.path, nodes[place.number].variables
        wiring.inputs[path] = jax.tree.map(number, x)
        keys[path] = key if _draws(place.layer, own, x, key, train=train) else root
        out = run()
        if not place.layer.children:  # its own value, also where it returns x itself
            out = out._replace(y=jax.tree.map(lambda y: y + 0, out.y))
        wiring.outputs[path] = jax.tree.map(number, out.y)
        return out

    visited(net, visit).forward(*variables, x, key=root, train=train)
    return wiring, Values(tuple(arrays), keys)


@by_shapes
def _draws(
    layer: Layer, variables: Variables, x: PyTree, key: KeyArray | None, *, train: bool
) -> bool:
    """Return whether a layer uses its key; layers of layers do, for their children."""
    if key is None or layer.children:
        return key is not None

    def forward(key: KeyArray, params: PyTree, state: PyTree, x: PyTree) -> PyTree:
        return layer.forward(params, state, x, key=key, train=train).y

    traced = jax.make_jaxpr(forward)(key, *variables, x).jaxpr
    uses = (atom for equation in traced.eqns for atom in equation.invars)
    return any(atom is traced.invars[0] for atom in uses)
