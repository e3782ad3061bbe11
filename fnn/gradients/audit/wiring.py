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
from fnn.probes import Place, Seen, visited
from fnn.typing import Array, KeyArray

__all__ = ["Values", "Wiring", "run_forward", "trace_forward"]


class Wiring(NamedTuple):
    """The values of a forward pass, numbered from 0, which is the network's input x.

    Args:
        inputs: the number of the value that each layer was given, by path.
        outputs: the number of the value that it returned. A layer that only lists
            others returns the value of its last one.
    """

    inputs: dict[str, int]
    outputs: dict[str, int]


class Values(NamedTuple):
    """The `arrays` of a forward pass, by number, and the key of each layer, by path."""

    arrays: tuple[Any, ...]
    keys: dict[str, Any]

    def seen(self, wiring: Wiring, path: str) -> Seen:
        """Return what a layer was given."""
        return Seen(self.arrays[wiring.inputs[path]], self.keys[path])


@by_shapes
def trace_forward(
    net: Layer, variables: Variables, x: Any, key: Any, *, train: bool
) -> tuple[Wiring, Values]:
    """Return the wiring, and the shapes of all values; nothing is computed."""
    wirings: list[Wiring] = []

    def values(variables: Variables, x: Array, key: KeyArray | None) -> Values:
        wiring, found = _watch(net, variables, x, key, train)
        wirings.append(wiring)
        return found

    shapes = jax.eval_shape(values, variables, x, key)
    return wirings[-1], shapes


def run_forward(
    net: Layer, variables: Variables, x: Array, key: KeyArray | None, train: bool
) -> Values:
    """Compute all values, which have the numbers of `trace_forward`."""
    return _watch(net, variables, x, key, train)[1]


def _watch(
    net: Layer, variables: Variables, x: Array, key: KeyArray | None, train: bool
) -> tuple[Wiring, Values]:
    arrays: list[Array] = [x]  # kept, so that no other one gets the same identity
    wiring = Wiring({}, {})
    keys: dict[str, KeyArray | None] = {}

    def number(array: Array) -> int:
        for i, known in enumerate(arrays):
            if known is array:
                return i
        arrays.append(array)
        return len(arrays) - 1

    def visit(
        place: Place, x: Array, key: KeyArray | None, run: Callable[[], Forward]
    ) -> Forward:
        path = place.path
        wiring.inputs[path], keys[path] = number(x), key
        out = run()
        if not place.layer.children:  # its own value, also where it returns x itself
            out = out._replace(y=out.y + 0)
        wiring.outputs[path] = number(out.y)
        return out

    visited(net, visit).forward(*variables, x, key=key, train=train)
    return wiring, Values(tuple(arrays), keys)
