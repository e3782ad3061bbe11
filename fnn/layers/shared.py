"""A network in which tied places share one set of parameters.

    forward     y = net(x; Θ at every place of a name)
    backward    dΘ = Σ_places dΘ_place          the chain rule of a variable used twice

The parameters stand at the first place of a name, in forward order, at its path. The
trees of the other places have None there, which JAX counts as no array at all: so an
optimizer, the penalty, a file and the audit see each of them once. `forward` fills them
in, and `backward` adds their gradients up.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.tree_util import tree_flatten_with_path, tree_map_with_path

from fnn.core import (
    Backward,
    Forward,
    Layer,
    Reach,
    Variables,
    expect_layer,
    layer,
    leaf,
)
from fnn.layers.tied import Tied, parameter_name
from fnn.network import child_entries, path_of
from fnn.typing import Array, InShape, KeyArray, PyTree

__all__ = ["Shared", "TiedPlace", "filled", "row_of", "shared", "summed", "tied_places"]


def shared(net: Layer) -> "Shared":
    """Share the parameters of all places in a network that have the same name.

    Gradients of the places are added up, in both engines. Each place keeps a state of
    its own (the running statistics of a BatchNorm), and draws its own random numbers.
    A plan leaves a shared network as it is.

    Args:
        net: a network with at least two places of each name (see `fnn.tied`).

    Returns:
        A `Shared` network.

    Raises:
        ValueError: a name has one place only, or a tied layer holds another.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> twin = fnn.tied("twin", fnn.serial(fnn.Dense(4), fnn.Tanh()))
        >>> left = fnn.serial(fnn.Lambda(lambda x: x[:, 0]), twin)
        >>> right = fnn.serial(fnn.Lambda(lambda x: x[:, 1]), twin)
        >>> siamese = fnn.shared(fnn.parallel(left, right, merge="product"))
        >>> variables = siamese.init(jax.random.key(0), (2, 3))
        >>> siamese.forward(*variables, jnp.ones((5, 2, 3))).y.shape
        (5, 4)

    Source: Bromley et al., NIPS 1993, for the siamese network; `equinox.nn.Shared` also
    keeps one copy, and fills it in when the network is called.
    """
    expect_layer("shared: net", net)
    if isinstance(net, Shared):
        return net
    armed = _arm(net, inside=None)
    counts: dict[str, list[Tied]] = {}
    for _, place in _tags(armed, ""):
        counts.setdefault(place.name, []).append(place)
    for name, places in counts.items():
        if len(places) == 1:
            raise ValueError(
                f"shared: the name {name!r} has one place, {places[0]!r}; parameters "
                "are shared by two or more"
            )
        if len({place.only for place in places}) > 1:
            raise ValueError(
                f"shared: all places of {name!r} must share the same parameters, got "
                f"only={', '.join(str(place.only) for place in places)}"
            )
    return Shared(armed)


@layer
class Shared(Layer):
    """A network whose tied places share parameters; built by `fnn.shared`.

    Args:
        net: the network.
    """

    net: Layer = leaf()

    @property
    def kind(self) -> str:
        return self.net.kind

    @property
    def children(self) -> dict[str, Layer]:
        return self.net.children

    @property
    def penalized(self) -> tuple[str, ...]:  # pyrefly: ignore[bad-override]
        return self.net.penalized

    def child_params(self, params: PyTree) -> PyTree:
        return self.net.child_params(filled(self.net, params))

    def with_children(self, *layers: Layer) -> Layer:
        inner = self.net.with_children(*layers) if layers else self.net
        return dataclasses.replace(self, net=inner)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        params, state = self.net.init(key, in_shape)
        return Variables(_without_copies(self.net, params), state)

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        params = filled(self.net, params)
        return self.net.forward(params, state, x, key=key, train=train)

    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        out = self.net.backward(filled(self.net, params), saved, dy)
        return Backward(out.dx, summed(self.net, params, out.dparams))

    def reach(self, in_shape: InShape) -> tuple[Reach, ...] | None:
        return self.net.reach(in_shape)

    def __repr__(self) -> str:
        return f"shared({self.net!r})"


# ---- Finding places --------------------------------------------------------------


class TiedPlace(NamedTuple):
    """A place that is not the first of its name: the `first`'s path, and the tag."""

    first: str
    tag: Tied


def tied_places(net: Layer, path: str | None = None) -> dict[str, TiedPlace]:
    """Return all places but the first of each name, by path, in the whole network."""
    path = net.kind if path is None else path
    found: dict[str, TiedPlace] = {}
    if isinstance(special := _special(net), Shared):
        firsts: dict[str, str] = {}
        for place, tag in _tags(special.net, path):
            first = firsts.setdefault(tag.name, place)
            if first != place:
                found[place] = TiedPlace(first, tag)
    for label, child in net.children.items():
        found |= tied_places(child, path_of(path, label, child))
    return found


def row_of(parameter: str, places: dict[str, TiedPlace]) -> str:
    """Return the path that a parameter has at the first place of its name."""
    for place, (first, tag) in places.items():
        inside = parameter.removeprefix(place)
        if inside != parameter and inside[0] in "./":
            name = parameter.rpartition(".")[2]
            if tag.only is None or name in tag.only:
                return first + inside
    return parameter


def _special(net: Layer) -> Tied | Shared | None:
    """Return the place or the shared network that this is, maybe inside wrappers."""
    inner: Layer | None = net
    while inner is not None and not isinstance(inner, Tied | Shared):
        inner = inner.wrapped
    return inner


def _tags(net: Layer, path: str) -> Iterator[tuple[str, Tied]]:
    """Yield the path and the tag of each place, but not those of a `Shared` inside."""
    special = _special(net)
    if isinstance(special, Tied):
        yield path, special
    elif special is None:
        for label, child in net.children.items():
            yield from _tags(child, path_of(path, label, child))


def _arm(net: Layer, inside: Tied | None) -> Layer:
    """Return the network with each tag armed; a tag in a tag is refused."""
    if isinstance(net, Shared):
        return net
    if isinstance(net, Tied):
        if inside is not None:
            raise ValueError(
                f"shared: {inside!r} holds another tied layer, {net!r}: put a "
                "fnn.shared of its own around what is inside"
            )
        return Tied(_arm(net.layer, net), net.name, net.only, armed=True)
    if isinstance(_special(net), Tied):
        raise ValueError(f"shared: write the tag outside, around {net!r}")
    if not net.children:
        return net
    return net.with_children(*(_arm(child, inside) for child in net.children.values()))


# ---- One tree for all places -----------------------------------------------------

#: A function (tag, tree) -> tree of the parameters, or gradients, of one place.
_AtPlace = Callable[[Tied, PyTree], PyTree]


def _at_places(f: _AtPlace, net: Layer, tree: PyTree) -> PyTree:
    """Replace the tree of each place by f(tag, tree), in forward order."""
    special = _special(net)
    if isinstance(special, Tied):
        return f(special, tree)
    if special is not None or not net.children:
        return tree
    entries = child_entries(net, "params", tree)
    parts = [
        _at_places(f, child, entry)
        for child, entry in zip(net.children.values(), entries, strict=True)
    ]
    return getattr(tree, "_make", tuple)([*parts, *tree[len(parts) :]])


def _is_none(part: Any) -> bool:
    return part is None


def _by_path(tree: PyTree) -> dict[Any, Any]:
    """Return the leaves of a tree by their paths in it; None is a leaf."""
    return dict(tree_flatten_with_path(tree, is_leaf=_is_none)[0])


def _without_copies(net: Layer, params: PyTree) -> PyTree:
    """Return the parameters with None for those that the first place has."""
    firsts: dict[str, tuple[Tied, dict[Any, Any]]] = {}

    def once(tag: Tied, part: PyTree) -> PyTree:
        if tag.name not in firsts:
            firsts[tag.name] = tag, _by_path(part)
            return part
        first, arrays = firsts[tag.name]

        def drop(path: Any, array: Array) -> Array | None:
            if not tag.shares(path):
                return array
            if path not in arrays or arrays[path].shape != array.shape:
                shapes = [jnp.shape(arrays[path])] if path in arrays else ["nothing"]
                raise ValueError(
                    f"shared: {tag!r} cannot share {parameter_name(path)!r} of shape "
                    f"{array.shape} with the first place, {first!r}, which has "
                    f"{shapes[0]} there"
                )
            return None

        return tree_map_with_path(drop, part)

    return _at_places(once, net, params)


def filled(net: Layer, params: PyTree) -> PyTree:
    """Return the parameters with those of the first place at all others."""
    firsts: dict[str, dict[Any, Any]] = {}

    def fill(tag: Tied, part: PyTree) -> PyTree:
        if tag.name not in firsts:
            firsts[tag.name] = _by_path(part)
            return part
        first = firsts[tag.name]

        def one(path: Any, array: Array | None) -> Array:
            return first[path] if array is None else array

        return tree_map_with_path(one, part, is_leaf=_is_none)

    return _at_places(fill, net, params)


def summed(net: Layer, params: PyTree, dparams: PyTree) -> PyTree:
    """Return gradients like `params`: those of all places are added up at the first."""
    totals: dict[str, dict[Any, Any]] = {}
    missing: list[set[Any]] = []

    def note(tag: Tied, part: PyTree) -> PyTree:
        gone = {path for path, array in _by_path(part).items() if array is None}
        missing.append(gone)
        return part

    def add(tag: Tied, part: PyTree) -> PyTree:
        gone, arrays = missing[len(order)], _by_path(part)
        order.append(tag.name)
        total = totals.setdefault(tag.name, arrays)
        for path in gone:
            total[path] = total[path] + arrays[path]
        return part

    def once(tag: Tied, part: PyTree) -> PyTree:
        gone, total = next(gaps), totals[tag.name]
        if tag.name in done:
            return tree_map_with_path(lambda p, d: None if p in gone else d, part)
        done.add(tag.name)
        return tree_map_with_path(lambda path, _: total[path], part)

    order: list[str] = []
    _at_places(note, net, params)
    _at_places(add, net, dparams)
    gaps, done = iter(missing), set()
    return _at_places(once, net, dparams)
