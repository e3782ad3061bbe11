"""A rule as a wrapper of a layer, and the rewriting that puts one around each layer.

A rule has the variables, the forward, the keys and the path of the layer it wraps; only
its backward is another one. So it composes with any network, and with other rules.
"""

import itertools
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import jax
from jax.tree_util import keystr, tree_map_with_path

from fnn.core import Forward, Layer, Reach, Variables, expect_layer, layer, leaf
from fnn.gradients.claims import Claim, Claiming
from fnn.layers.combinators import Serial, with_suited_inits
from fnn.layers.frozen import Frozen
from fnn.planning.planned import plain
from fnn.typing import Array, InShape, KeyArray, PyTree

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
        """Return the layer that this one is around, if both have the same variables."""
        return self.layer

    @property
    def kind(self) -> str:
        return self.layer.kind

    @property
    def takes_ids(self) -> bool:
        return self.layer.takes_ids

    @property
    def takes_trees(self) -> bool:  # pyrefly: ignore[bad-override]
        return self.layer.takes_trees

    @property
    def penalized(self) -> tuple[str, ...]:  # pyrefly: ignore[bad-override]
        return self.layer.penalized

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        return self.layer.init(key, in_shape)

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        return self.layer.forward(params, state, x, key=key, train=train)

    def reach(self, in_shape: InShape) -> tuple[Reach, ...] | None:
        return self.layer.reach(in_shape)

    @abstractmethod
    def to_claim(self) -> Layer: ...


# ---- Rewriting -------------------------------------------------------------------


def rewrite(net: Layer, change: Callable[[Layer, int], Layer]) -> Layer:
    """Replace every layer that has no children by `change(layer, number)`.

    Initialisers are settled first, so that `init` draws what it draws for `net`. Of a
    planned network the plain one is rewritten.

    Args:
        net: the network.
        change: a function of a layer, and of its number among those without children.
    """
    expect_layer("net", net)
    numbers = itertools.count()

    def visit(net: Layer) -> Layer:
        if isinstance(net, Frozen) and not net.children:  # frozen, and so is the rule
            return Frozen(visit(net.layer))
        if not net.children:
            return change(net, next(numbers))
        children = list(net.children.values())
        if isinstance(net, Serial):
            children = with_suited_inits(net)
        return net.with_children(*map(visit, children))

    return visit(plain(net))


def may_have_weight(layer: Layer) -> bool:
    """Return whether a layer may have a weight, judged by its class.

    Of fnn's own layers those that draw one; of any other one those that draw anything.
    """
    if isinstance(layer, Frozen):
        return may_have_weight(layer.layer)
    if isinstance(layer, Claim):
        return may_have_weight(layer.rule)
    if (inner := getattr(layer, "wrapped", None)) is not None:
        return may_have_weight(inner)
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
