"""Visits of every layer in a forward pass: what each is given, and what it returns.

A visited network computes the same as the network, and calls a function for each of its
layers. It exists only while a forward is traced.
"""

from collections.abc import Callable
from dataclasses import field
from itertools import count
from typing import NamedTuple

from fnn.core import Backward, Forward, Layer, Variables, layer, leaf
from fnn.network import path_of
from fnn.typing import Array, KeyArray, PyTree

__all__ = ["Place", "Seen", "Visit", "record", "visited"]


class Place(NamedTuple):
    """A layer in a network: its path, its number in `walk`'s order, and the layer."""

    path: str
    number: int
    layer: Layer


#: A function (place, x, key, run) -> Forward, where run() is the layer's forward.
Visit = Callable[[Place, PyTree, KeyArray | None, Callable[[], Forward]], Forward]


class Seen(NamedTuple):
    """The input `x` and the key of one layer in a forward pass."""

    x: PyTree
    key: KeyArray | None


@layer
class _Visited(Layer):
    """A layer whose forward is a visit; it exists only while a forward is traced."""

    layer: Layer = leaf()
    place: Place = field(kw_only=True)
    visit: Visit = field(kw_only=True)

    @property
    def wrapped(self) -> Layer:
        return self.layer

    @property
    def takes_trees(self) -> bool:
        return True  # the layer inside looks at what it is given

    def __repr__(self) -> str:
        return repr(self.layer)

    def forward(
        self, params: PyTree, state: PyTree, x: PyTree, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        def run() -> Forward:
            return self.layer.forward(params, state, x, key=key, train=train)

        return self.visit(self.place, x, key, run)

    def backward(self, params: PyTree, saved: PyTree, dy: PyTree) -> Backward:
        return self.layer.backward(params, saved, dy)


def visited(net: Layer, visit: Visit) -> Layer:
    """Return a network that computes the same, but calls `visit` for every layer.

    Args:
        net: any network.
        visit: a function `(place, x, key, run) -> Forward`. It must return what
            `run()` returns, the layer's forward of x; its y may be another array of
            the same numbers.

    Returns:
        The network; use it while a forward is traced, and not afterwards.
    """
    numbers = count()

    def wrap(layer: Layer, path: str) -> _Visited:
        place = Place(path, next(numbers), layer)
        inner = [
            wrap(child, path_of(path, label, child))
            for label, child in layer.children.items()
        ]
        around = layer.with_children(*inner) if inner else layer
        return _Visited(around, place=place, visit=visit)

    return wrap(net, net.kind)


def record(
    net: Layer,
    variables: Variables,
    x: PyTree,
    key: Array | None = None,
    train: bool = False,
) -> dict[str, Seen]:
    """Record the input and the key of every layer in a forward pass.

    Args:
        net: any network.
        variables: its variables.
        x: a batch (N, ...).
        key: the key of the forward pass.
        train: whether it is in training mode.

    Returns:
        The entry (x, key) of each layer, by path.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, x = fnn.serial(fnn.Dense(3), fnn.Tanh()), jnp.ones((4, 5))
        >>> seen = fnn.record(net, net.init(jax.random.key(0), (5,)), x)
        >>> {path: entry.x.shape for path, entry in seen.items()}
        {'': (4, 5), '0/Dense': (4, 5), '1/Tanh': (4, 3)}
    """
    seen: dict[str, Seen] = {}

    def visit(
        place: Place, x: PyTree, key: KeyArray | None, run: Callable[[], Forward]
    ) -> Forward:
        seen[place.path] = Seen(x, key)
        return run()

    visited(net, visit).forward(*variables, x, key=key, train=train)
    return seen
