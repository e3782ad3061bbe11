"""The layer contract: three verbs, stated once, that every layer follows.

    init(key, in_shape)                     -> Variables(params, state)
    forward(params, state, x, key, train)   -> Forward(y, saved, state)
    backward(params, saved, dy)             -> Backward(dx, dparams)

A layer is a frozen description (see `fnn.pytree`); weights never live in it.
`forward` and `backward` are pure. With the Jacobian J = ∂y/∂x of the forward at `x`,

    dx = Jᵀ dy,    dparams = (∂y/∂params)ᵀ dy,

and `saved` holds what the backward needs to compute them.

Legend: N examples in a batch, always the first axis of `x`, `y`, `dy`, `dx`;
`in_shape` is the shape of ONE example, without it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import keystr, tree_map_with_path

from fnn.checks import describe
from fnn.pytree import leaf, pytree

__all__ = [
    "Backward",
    "Forward",
    "Layer",
    "Node",
    "PyTree",
    "Reach",
    "Variables",
    "as_variables",
    "child_key",
    "child_variables",
    "children",
    "kind",
    "layer",
    "leaf",
    "located",
    "map_params",
    "named_params",
    "output_shape",
    "path_of",
    "walk",
]

PyTree = Any

#: A layer class: a frozen dataclass registered as a pytree.
layer = pytree


class Variables(NamedTuple):
    """What a network carries: `params` are optimised, `state` is only tracked.

    Either is `()` where a layer has none.
    """

    params: PyTree
    state: PyTree


def as_variables(variables: Any) -> Variables:
    """Variables from any pair; an error where it is something else."""
    if not isinstance(variables, tuple) or len(variables) != 2:
        raise TypeError(
            "variables must be Variables(params, state), as net.init(key, in_shape) "
            f"returns them, got {describe(variables)}"
        )
    return Variables(*variables)


class Forward(NamedTuple):
    """The result of a forward pass: output, what the backward needs, new state."""

    y: Array
    saved: PyTree
    state: PyTree


class Backward(NamedTuple):
    """The result of a backward pass: ∂loss/∂x and ∂loss/∂params."""

    dx: Array
    dparams: PyTree


class Reach(NamedTuple):
    """What a place of y looks at: `extent` places of x, the next place `step` on."""

    extent: int = 1
    step: int | Fraction = 1


@runtime_checkable
class Layer(Protocol):
    """What every layer provides. Subclass it to inherit the defaults.

    The default `init` is that of a layer without parameters. A layer made of layers
    lists them in `children`; its `params` and `state` are then tuples whose first
    entries belong to the children, in that order, and child i draws from
    `fold_in(key, i)`.
    """

    #: Names of the parameters that the penalty λ/(2n) Σ Θ² falls on.
    penalized: ClassVar[tuple[str, ...]] = ("weight",)

    def init(self, key: Array, in_shape: tuple[int, ...]) -> Variables:
        """Draw fresh variables for examples of shape `in_shape` (no batch axis)."""
        del key, in_shape
        return Variables((), ())

    def forward(
        self,
        params: PyTree,
        state: PyTree,
        x: Array,
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Forward:
        """Compute y for a batch x of shape (N, ...)."""
        ...

    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        """Compute dx and dparams from dy = ∂loss/∂y, of y's shape."""
        ...

    def reach(self, in_shape: tuple[int, ...]) -> tuple[Reach, ...] | None:
        """What a place of y looks at, on each spatial axis; None for everything."""
        return (Reach(),) * (len(in_shape) - 1)

    @property
    def kind(self) -> str:
        """What the layer is called in paths."""
        return type(self).__name__

    @property
    def children(self) -> dict[str, "Layer"]:
        """The layers this layer is made of, by label."""
        return {}

    def with_children(self, *layers: "Layer") -> "Layer":
        """The same layer around other children."""
        if layers:
            raise NotImplementedError(
                f"{type(self).__name__} has children and must say how to replace them: "
                "def with_children(self, *layers)"
            )
        return self


# ---- Layers made of layers -------------------------------------------------------


def children(layer: Layer) -> dict[str, Layer]:
    """The children of any layer, also of one that does not subclass `Layer`."""
    return getattr(layer, "children", {})


def child_key(key: Array | None, i: int) -> Any:
    """The key of child i: `fold_in(key, i)`, or None where there is none."""
    return None if key is None else jax.random.fold_in(key, i)


@contextmanager
def located(
    parent: Layer, label: str, child: Layer, shape: tuple, of: str = "input"
) -> Iterator[None]:
    """Add the child's place in the network to any error raised inside.

    `shape` is that of the child's input, or of what `of` says.
    """
    try:
        yield
    except Exception as error:
        place = f"{type(parent).__name__} layer {label}: {child!r}"
        error.add_note(f"in {place}, {of} shape {tuple(shape)}")
        raise


def path_of(prefix: str, label: str, child: Layer) -> str:
    """The path of a child, such as `2/Dense` or `1/Residual/body/0/Dense`.

    A wrapper's unlabelled child has the wrapper's own path.
    """
    if not label:
        return prefix
    return "/".join(part for part in (prefix, label, kind(child)) if part)


def kind(layer: Layer) -> str:
    """What a layer is called in paths: its class, or "" if it only lists others."""
    return getattr(layer, "kind", type(layer).__name__)


def child_variables(layer: Layer, variables: Variables) -> list[Variables]:
    """The variables of each child, in order; an error if they are another network's."""
    parts = [_child_entries(layer, *item) for item in variables._asdict().items()]
    return [Variables(*pair) for pair in zip(*parts, strict=True)]


def _child_entries(layer: Layer, name: str, tree: PyTree) -> tuple:
    count = len(children(layer))
    if not isinstance(tree, tuple) or len(tree) < count:
        raise ValueError(
            f"{type(layer).__name__} has {count} layers and expected its {name} as a "
            f"tuple with an entry for each, got {describe(tree)}: they belong to "
            "another network. Make them with net.init(key, in_shape)."
        )
    return tree[:count]


class Node(NamedTuple):
    """One layer in its place in a network."""

    path: str
    layer: Layer
    variables: Variables


def walk(net: Layer, variables: Variables, path: str | None = None) -> Iterator[Node]:
    """Every layer of a network, parents before children, in forward order."""
    path = kind(net) if path is None else path
    yield Node(path, net, variables)
    if labelled := children(net):
        parts = child_variables(net, variables)
        for (label, child), part in zip(labelled.items(), parts, strict=True):
            yield from walk(child, part, path_of(path, label, child))


# ---- Parameters by name ----------------------------------------------------------


def map_params(
    f: Callable[[str, Layer, Any], Any],
    net: Layer,
    params: PyTree,
    path: str | None = None,
) -> PyTree:
    """Replace every parameter by `f(path, layer, leaf)`, path as in `2/Dense.weight`.

    `layer` is the innermost layer that owns the parameter.
    """
    path = kind(net) if path is None else path
    if labelled := children(net):
        entries = _child_entries(net, "params", params)
        parts = [
            map_params(f, child, part, path_of(path, label, child))
            for (label, child), part in zip(labelled.items(), entries, strict=True)
        ]
        count = len(parts)  # what follows the children's entries is the layer's own
        names = getattr(params, "_fields", range(len(params)))[count:]
        own = [
            f(f"{path}.{name}", net, part)
            for name, part in zip(names, params[count:], strict=True)
        ]
        make = getattr(params, "_make", tuple)
        return make([*parts, *own])

    def own_leaf(keys: tuple, part: Any) -> Any:
        return f(f"{path}.{keystr(keys, simple=True, separator='.')}", net, part)

    return tree_map_with_path(own_leaf, params)


def named_params(net: Layer, params: PyTree) -> dict[str, Any]:
    """All parameters by path, in forward order: `{"0/Dense.weight": Array, ...}`."""
    named: dict[str, Any] = {}

    def add(path: str, layer: Layer, part: Any) -> None:
        if path in named:
            raise ValueError(
                f"two parameters are called {path}: rename one of {layer!r} (a probe "
                "calls its own `delta`)"
            )
        named[path] = part

    map_params(add, net, params)
    return named


def output_shape(layer: Layer, variables: Variables, in_shape: tuple) -> tuple:
    """The shape of one example's output, by tracing the forward: nothing is run."""
    x = jax.ShapeDtypeStruct((1, *in_shape), jnp.zeros(()).dtype)
    y = jax.eval_shape(lambda p, s, x: layer.forward(p, s, x).y, *variables, x)
    if 0 in y.shape:
        raise ValueError(
            f"{layer!r} turns an example of shape {in_shape} into one of shape "
            f"{y.shape[1:]}, which has an axis of size 0: nothing would be left."
        )
    return y.shape[1:]
