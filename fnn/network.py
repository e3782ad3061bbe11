"""A network as a tree of layers: children, their paths, and what belongs to each.

A path reads `2/Dense`, or `1/Residual/body/0/Dense`; that of a parameter ends in its
name, as in `2/Dense.weight`.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
from jax.tree_util import keystr, tree_map_with_path

from fnn.core import Layer, Variables
from fnn.describe import describe
from fnn.shapes import abstract_batch, example_shape, format_shapes
from fnn.typing import Array, InShape, PyTree

__all__ = [
    "Node",
    "child_entries",
    "child_key",
    "child_nodes",
    "child_variables",
    "located",
    "map_params",
    "named_params",
    "output_shape",
    "path_of",
    "places",
    "walk",
]


def child_key(key: Array | None, i: int) -> Any:
    """Return the key of child i, `fold_in(key, i)`; None if there is no key."""
    return None if key is None else jax.random.fold_in(key, i)


@contextmanager
def located(
    parent: Layer, label: str, child: Layer, x: Any, of: str = "input"
) -> Generator[None, None, None]:
    """Add the child's place in the network to any error raised inside.

    `x` is the child's input, or what `of` says, or the shape of one example of it.
    """
    try:
        yield
    except Exception as error:
        place = f"{type(parent).__name__} layer {label}: {child!r}"
        error.add_note(f"in {place}, {of} shape {format_shapes(x)}")
        raise


def path_of(prefix: str, label: str, child: Layer) -> str:
    """Return the path of a child, such as `2/Dense` or `1/Residual/body/0/Dense`.

    The unlabelled child of a wrapper has the path of the wrapper.
    """
    if not label:
        return prefix
    return "/".join(part for part in (prefix, label, child.kind) if part)


def child_variables(layer: Layer, variables: Variables) -> list[Variables]:
    """Return the variables of each child, in order.

    Raises:
        ValueError: they belong to another network.
    """
    variables = Variables(layer.child_params(variables.params), variables.state)
    parts = [child_entries(layer, *item) for item in variables._asdict().items()]
    return [Variables(*pair) for pair in zip(*parts, strict=True)]


def child_entries(layer: Layer, name: str, tree: PyTree) -> tuple[Any, ...]:
    """Return each child's entry of a tuple; `name` is what the tuple holds."""
    count = len(layer.children)
    if not isinstance(tree, tuple) or len(tree) < count:
        raise ValueError(
            f"{type(layer).__name__} has {count} layers and expected its {name} as a "
            f"tuple with an entry for each, got {describe(tree)}: they belong to "
            "another network. Make them with net.init(key, in_shape)."
        )
    return tree[:count]


class Node(NamedTuple):
    """A layer of a network, with its path and its variables."""

    path: str
    layer: Layer
    variables: Variables


def walk(net: Layer, variables: Variables, path: str | None = None) -> Iterator[Node]:
    """Yield every layer of a network, parents before children, in forward order.

    Args:
        net: the network.
        variables: its variables.
        path: the path of the network itself; by default that of an outermost one.

    Returns:
        An iterator of `Node`: path, layer, variables.

    Example:
        >>> import jax, fnn
        >>> net = fnn.serial(fnn.Dense(3), fnn.Tanh())
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> [node.path for node in walk(net, variables)]
        ['', '0/Dense', '1/Tanh']
    """
    node = Node(net.kind if path is None else path, net, variables)
    yield node
    for child in child_nodes(node):
        yield from walk(child.layer, child.variables, child.path)


def child_nodes(node: Node) -> list[Node]:
    """Return the children of a layer, without theirs."""
    if not (labelled := node.layer.children):
        return []
    parts = child_variables(node.layer, node.variables)
    return [
        Node(path_of(node.path, label, child), child, part)
        for (label, child), part in zip(labelled.items(), parts, strict=True)
    ]


def places(net: Layer, path: str | None = None) -> Iterator[tuple[str, Layer]]:
    """Yield the path of every layer and the layer, in the order of `walk`."""
    path = net.kind if path is None else path
    yield path, net
    for label, child in net.children.items():
        yield from places(child, path_of(path, label, child))


def output_shape(layer: Layer, variables: Variables, in_shape: InShape) -> InShape:
    """Return the shape of one example's output; the forward is traced, and not run."""
    x = abstract_batch(in_shape)
    y = jax.eval_shape(lambda p, s, x: layer.forward(p, s, x).y, *variables, x)
    if any(0 in leaf.shape for leaf in jax.tree.leaves(y)):
        raise ValueError(
            f"{layer!r} turns an example of shape {in_shape} into one of shape "
            f"{example_shape(y)}, which has an axis of size 0: nothing would be left."
        )
    return example_shape(y)


# ---- Parameters by name ----------------------------------------------------------


def map_params(
    f: Callable[[str, Layer, Any], Any],
    net: Layer,
    params: PyTree,
    path: str | None = None,
) -> PyTree:
    """Replace every parameter by `f(path, layer, leaf)`, path as in `2/Dense.weight`.

    Args:
        f: a function of the path, of the innermost layer that owns the parameter, and
            of the parameter.
        net: the network.
        params: its parameters, or a tree like them.
        path: the path of the network itself; by default that of an outermost one.

    Returns:
        A tree like `params`.

    Example:
        >>> import jax, fnn
        >>> net = fnn.serial(fnn.Dense(3), fnn.Tanh(), fnn.Dense(1))
        >>> params = net.init(jax.random.key(0), (2,)).params
        >>> map_params(lambda path, layer, leaf: path, net, params)[2].weight
        '2/Dense.weight'
    """
    path = net.kind if path is None else path
    if labelled := net.children:
        entries = child_entries(net, "params", params)
        parts = [
            map_params(f, child, part, path_of(path, label, child))
            for (label, child), part in zip(labelled.items(), entries, strict=True)
        ]
        count = len(parts)  # what follows the children's entries is the layer's own
        names = getattr(params, "_fields", range(len(params)))[count:]
        own = [
            _map_leaves(f, net, part, f"{path}.{name}")
            for name, part in zip(names, params[count:], strict=True)
        ]
        make = getattr(params, "_make", tuple)
        return make([*parts, *own])
    return _map_leaves(f, net, params, path)


def _map_leaves(
    f: Callable[[str, Layer, Any], Any], layer: Layer, params: PyTree, path: str
) -> PyTree:
    """Replace the leaves of a layer's own parameters, whose names follow its path."""

    def replace(keys: tuple[Any, ...], part: Any) -> Any:
        name = keystr(keys, simple=True, separator=".")
        return f(f"{path}.{name}" if name else path, layer, part)

    return tree_map_with_path(replace, params)


def named_params(net: Layer, params: PyTree) -> dict[str, Any]:
    """Return all parameters by path, in forward order: `{"0/Dense.weight": ...}`.

    Args:
        net: the network.
        params: its parameters, or a tree like them, such as gradients.

    Returns:
        A dictionary.

    Raises:
        ValueError: two parameters would have the same path.

    Example:
        >>> import jax, fnn
        >>> net = fnn.serial(fnn.Dense(3), fnn.Tanh())
        >>> params = net.init(jax.random.key(0), (2,)).params
        >>> {path: leaf.shape for path, leaf in named_params(net, params).items()}
        {'0/Dense.weight': (2, 3), '0/Dense.bias': (3,)}
    """
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
