"""A rule as a wrapper of a layer, and the rewriting that puts one around each layer.

A rule has the variables, the forward, the keys and the path of the layer it wraps; only
its backward is another one. So it composes with any network, and with other rules.
"""

import dataclasses
import itertools
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import jax
from jax.tree_util import keystr, tree_map_with_path

from fnn.core import Forward, Layer, expect_layer, layer, leaf
from fnn.gradients.claims import Claim, Claiming
from fnn.layers.combinators import Serial, with_suited_inits
from fnn.layers.frozen import Frozen
from fnn.layers.shared import Shared
from fnn.layers.tied import Tied
from fnn.planning.planned import plain
from fnn.typing import Array, KeyArray, PyTree

__all__ = ["Rule", "has_weight", "map_weights", "may_have_weight", "rewrite"]


@layer
class Rule(Claiming):
    """A base class for rules: a layer with another backward.

    A rule defines `backward` and `to_claim`; everything else is the wrapped layer's.

    Args:
        layer: the wrapped layer.
    """

    layer: Layer = leaf()

    @property
    def wrapped(self) -> Layer | None:
        return self.layer

    @property
    def kind(self) -> str:
        return self.layer.kind

    @property
    def penalized(self) -> tuple[str, ...]:  # pyrefly: ignore[bad-override]
        return self.layer.penalized

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        return self.layer.forward(params, state, x, key=key, train=train)

    @abstractmethod
    def to_claim(self) -> Layer: ...


# ---- Rewriting -------------------------------------------------------------------


def rewrite(net: Layer, change: Callable[[Layer, int], Layer]) -> Layer:
    """Replace every layer that has no children by `change(layer, number)`.

    Initialisers are settled first, so that `init` draws what it draws for `net`. Of a
    planned network the plain one is rewritten. A frozen layer stays frozen, and tied
    layers stay tied.

    Args:
        net: the network.
        change: a function of a layer, and of its number among those without children.
            Tied places have the same numbers.
    """
    expect_layer("net", net)
    return _Rewriting(change).visit(plain(net))


class _Rewriting:
    """A walk through a network that changes its layers, and counts them."""

    def __init__(self, change: Callable[[Layer, int], Layer]) -> None:
        self.change, self.next = change, 0
        self.firsts: dict[str, int] = {}  # the first number of each tied name

    def visit(self, net: Layer) -> Layer:
        if isinstance(net, Shared):
            outside = self.firsts
            self.firsts = dict[str, int]()
            inner = self.visit(net.net)
            self.firsts = outside
            return Shared(inner)
        if isinstance(net, Tied):
            counted = self.next
            self.next = self.firsts.setdefault(net.name, counted)
            inner = self.visit(net.layer)
            self.next = max(self.next, counted)
            return dataclasses.replace(net, layer=inner)
        if isinstance(net, Frozen) and not net.children:
            return Frozen(self.visit(net.layer))
        if not net.children:
            self.next += 1
            return self.change(net, self.next - 1)
        children = list(net.children.values())
        if isinstance(net, Serial):
            children = with_suited_inits(net)
        return net.with_children(*map(self.visit, children))


def may_have_weight(layer: Layer) -> bool:
    """Return whether a layer may have a weight, judged by its class.

    Of fnn's own layers those that draw one; of any other one those that draw anything.
    """
    if isinstance(layer, Claim):
        return may_have_weight(layer.rule)
    if layer.wrapped is not None:
        return may_have_weight(layer.wrapped)
    if type(layer).__module__.startswith("fnn.layers."):
        return hasattr(layer, "weight_init")
    return type(layer).init is not Layer.init


def map_weights(f: Callable[[Array, int], Array], params: PyTree) -> PyTree:
    """Replace the parameters called `weight` by f(weight, number); keep the others."""
    numbers = itertools.count()

    def one(path: tuple[Any, ...], param: Array) -> Array:
        return f(param, next(numbers)) if _is_weight(path) else param

    return tree_map_with_path(one, params)


def has_weight(params: PyTree) -> bool:
    """Return whether a parameter of a layer is called `weight`."""
    return any(_is_weight(path) for path, _ in jax.tree.leaves_with_path(params))


def _is_weight(path: tuple[Any, ...]) -> bool:
    return keystr(path[-1:], simple=True) == "weight"
