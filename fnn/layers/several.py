"""Layers of several arrays: branches on their own inputs, forks, and merges.

    fork      x ↦ (f_1(x), ..., f_B(x))                     dx = Σ_b (∂f_b/∂x)ᵀ dy_b
    each      (x_1, ..., x_B) ↦ (f_1(x_1), ..., f_B(x_B))   dx_b = (∂f_b/∂x_b)ᵀ dy_b
    Merge     (x_1, ..., x_B) ↦ one array                   the sum, product, ...
    Select    {..., name: x, ...} ↦ x                       dx is 0 for all others

What goes on is a tuple, or a dictionary where the branches have names. The idea is that
of stax, whose `FanOut`, `parallel` and `FanInSum` these are.

Source: stax, in JAX (2018), `jax.example_libraries.stax`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from fnn.core import Backward, Forward, Layer, Variables, expect_layer, layer, leaf
from fnn.describe import shown
from fnn.layers.combinators import child_backward, join_variables
from fnn.layers.merging import check_merge, check_mergeable, merge, merge_backward
from fnn.network import child_key, child_variables, located
from fnn.shapes import format_shapes, is_shape
from fnn.typing import Array, InShape, KeyArray, PyTree

__all__ = ["Each", "Fork", "Merge", "Select", "each", "fork"]


def each(*layers: Layer, **named: Layer) -> "Each":
    """Give every input its own layer: (x_1, x_2) ↦ (f_1(x_1), f_2(x_2)).

    Args:
        *layers: f_1 ... f_B, for an x that is a tuple of B arrays (or trees).
        **named: in their place, a layer by name, for an x that is a dictionary.

    Returns:
        The block, an `Each`.

    Raises:
        TypeError: an argument is not a layer, or some have names and some have not.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(
        ...     fnn.each(image=fnn.Flatten(), age=fnn.Dense(2)),
        ...     fnn.Merge("concatenate"),
        ... )
        >>> variables = net.init(jax.random.key(0), {"image": (4, 4, 1), "age": (1,)})
        >>> x = {"image": jnp.ones((5, 4, 4, 1)), "age": jnp.ones((5, 1))}
        >>> fnn.predict(net, variables, x).shape
        (5, 18)
    """
    return Each(*_branches("each", layers, named))


def fork(*layers: Layer, **named: Layer) -> "Fork":
    """Give the same input to every layer: x ↦ (f_1(x), f_2(x)), or a dictionary.

    Args:
        *layers: f_1 ... f_B.
        **named: in their place, layers by name: the output is a dictionary.

    Returns:
        The block, a `Fork`.

    Raises:
        TypeError: an argument is not a layer, or some have names and some have not.

    Example:
        >>> import fnn
        >>> fnn.fork(digit=fnn.Dense(10), is_even=fnn.Dense(1))
        fork(digit=Dense(features=10), is_even=Dense(features=1))
    """
    return Fork(*_branches("fork", layers, named))


def _branches(
    name: str, layers: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Return layers, and their names if they have any."""
    if bool(layers) == bool(named):
        raise TypeError(
            f"{name} expected layers without names, or layers with names as "
            f"{name}(image=..., age=...), got {len(layers)} without and {len(named)} "
            "with a name"
        )
    labelled = named or {str(i): branch for i, branch in enumerate(layers)}
    for label, branch in labelled.items():
        if "/" in label or "." in label:
            raise ValueError(
                f"{name}: a name holds no / and no dot, got {shown(label)}"
            )
        expect_layer(f"{name}: {label}", branch)
    return tuple(labelled.values()), tuple(named)


@layer
class Fork(Layer):
    """A block of layers on the same input, whose outputs go on side by side.

        forward     y = (f_1(x), ..., f_B(x))
        backward    dx = Σ_b (∂f_b/∂x)ᵀ dy_b

    Built by `fnn.fork`.

    Args:
        branches: f_1 ... f_B.
        names: their names, or none: y is a dictionary, or a tuple.
    """

    branches: tuple[Layer, ...] = leaf()
    names: tuple[str, ...] = ()

    @property
    def children(self) -> dict[str, Layer]:
        labels = self.names or map(str, range(len(self.branches)))
        return dict(zip(labels, self.branches, strict=True))

    def with_children(self, *layers: Layer) -> Layer:
        return dataclasses.replace(self, branches=layers)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        return _init(self, key, [in_shape] * len(self.branches))

    def forward(
        self, params: PyTree, state: PyTree, x: PyTree, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        xs = [x] * len(self.branches)
        return _forward(self, Variables(params, state), xs, key, train)

    def backward(self, params: PyTree, saved: PyTree, dy: PyTree) -> Backward:
        outs = _backward(self, params, saved, dy)
        dx = jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *_dx(outs))
        return Backward(dx, tuple(out.dparams for out in outs))

    def __repr__(self) -> str:
        return _repr("fork", self)


@layer
class Each(Layer):
    """A block of layers, each on its own input.

        forward     y = (f_1(x_1), ..., f_B(x_B))
        backward    dx = ((∂f_1/∂x_1)ᵀ dy_1, ..., (∂f_B/∂x_B)ᵀ dy_B)

    Built by `fnn.each`.

    Args:
        branches: f_1 ... f_B.
        names: their names, or none: x and y are dictionaries, or tuples.

    Raises:
        TypeError: x does not have the parts that the branches are for.
    """

    branches: tuple[Layer, ...] = leaf()
    names: tuple[str, ...] = ()

    @property
    def children(self) -> dict[str, Layer]:
        labels = self.names or map(str, range(len(self.branches)))
        return dict(zip(labels, self.branches, strict=True))

    def with_children(self, *layers: Layer) -> Layer:
        return dataclasses.replace(self, branches=layers)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        return _init(self, key, _by_child(self, in_shape))

    def forward(
        self, params: PyTree, state: PyTree, x: PyTree, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        xs = _by_child(self, x)
        out = _forward(self, Variables(params, state), xs, key, train)
        _, container = _parts(x)
        return out._replace(saved=(out.saved, container))

    def backward(self, params: PyTree, saved: PyTree, dy: PyTree) -> Backward:
        saved, container = saved
        outs = _backward(self, params, saved, dy)
        dx = container.join(dict(zip(self.children, _dx(outs), strict=True)))
        return Backward(dx, tuple(out.dparams for out in outs))

    def __repr__(self) -> str:
        return _repr("each", self)


@layer
class Merge(Layer):
    """A layer that makes one array of several, a tuple or a dictionary of arrays.

        sum             y = Σ_b x_b             dx_b = dy
        product         y = Π_b x_b             dx_b = dy Π_{c≠b} x_c
        concatenate     y = [x_1 ... x_B]       dx_b: the slice of dy that is x_b's

    The parts of a dictionary come in the alphabetical order of their names.

    Args:
        operation: "sum", "product" or "concatenate".
        axis: the axis to concatenate along, the batch's being 0; the last by default.

    Raises:
        ValueError: the merge is unknown, or the shapes do not allow it.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> x = jnp.ones((2, 3)), jnp.zeros((2, 1))
        >>> fnn.Merge("concatenate").forward((), (), x).y.shape
        (2, 4)
    """

    takes_trees: ClassVar[bool] = True  # pyrefly: ignore[bad-override]

    operation: str
    axis: int = field(default=-1, kw_only=True)

    def __post_init__(self) -> None:
        check_merge("Merge: operation", self.operation, self.axis)

    def forward(
        self, params: PyTree, state: PyTree, x: PyTree, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        parts, container = _parts(x)
        shapes = [part.shape for part in parts.values()]
        check_mergeable(self, shapes, self.operation, self.axis)
        y, saved = merge(list(parts.values()), self.operation, self.axis)
        return Forward(y, (saved, container), state)

    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        saved, container = saved
        dxs = merge_backward(saved, dy, self.operation, self.axis)
        return Backward(
            container.join(dict(zip(container.names, dxs, strict=True))), ()
        )


@layer
class Select(Layer):
    """A layer that passes on one part of its input: y = x[part].

    Args:
        part: the name of an entry of a dictionary, or the number of one of a tuple.

    Raises:
        ValueError: x has no such part.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> x = {"image": jnp.ones((2, 8)), "age": jnp.ones((2, 1))}
        >>> fnn.Select("age").forward((), (), x).y.shape
        (2, 1)
    """

    takes_trees: ClassVar[bool] = True  # pyrefly: ignore[bad-override]

    part: str | int

    def forward(
        self, params: PyTree, state: PyTree, x: PyTree, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        parts, _ = _parts(x)
        if str(self.part) not in parts:
            raise ValueError(
                f"{self!r} expected an input with this part, got the parts "
                f"{', '.join(parts)}"
            )
        return Forward(parts[str(self.part)], saved=x, state=state)

    def backward(self, params: PyTree, saved: PyTree, dy: PyTree) -> Backward:
        parts, container = _parts(saved)
        dxs: dict[str, PyTree] = jax.tree.map(jnp.zeros_like, parts)
        return Backward(container.join(dxs | {str(self.part): dy}), ())


# ---- Parts by name ---------------------------------------------------------------


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Container:
    """The container of some parts, a tuple, a named tuple or a dictionary: for dx."""

    names: tuple[str, ...]
    structure: Any

    def join(self, parts: Mapping[str, PyTree]) -> PyTree:
        return jax.tree.unflatten(self.structure, [parts[name] for name in self.names])


def _parts(x: PyTree) -> tuple[dict[str, PyTree], _Container]:
    """Return the parts of x by name or number, and their container.

    x is a batch, or the shape of one example. An array has one part, called "".
    """

    def is_part(part: Any) -> bool:
        return part is not x or is_shape(part)

    named, structure = tree_flatten_with_path(x, is_leaf=is_part)
    parts = {keystr(path, simple=True): part for path, part in named}
    return parts, _Container(tuple(parts), structure)


def _by_child(parent: Layer, x: PyTree) -> list[PyTree]:
    """Return the part of x for each child; raise unless they are the same."""
    parts, _ = _parts(x)
    if parts.keys() != parent.children.keys():
        raise TypeError(
            f"{parent!r} expected an input with the parts "
            f"{', '.join(parent.children)}, got {format_shapes(x)}"
        )
    return [parts[label] for label in parent.children]


# ---- Shared by Fork and Each -----------------------------------------------------


def _init(parent: Layer, key: KeyArray, in_shapes: list[InShape]) -> Variables:
    variables: list[Variables] = []
    labelled = zip(parent.children.items(), in_shapes, strict=True)
    for i, ((label, child), in_shape) in enumerate(labelled):
        with located(parent, label, child, in_shape):
            variables.append(child.init(child_key(key, i), in_shape))
    return join_variables(variables)


def _forward(
    parent: "Fork | Each",
    variables: Variables,
    xs: list[PyTree],
    key: KeyArray | None,
    train: bool,
) -> Forward:
    outs: list[Forward] = []
    parts = child_variables(parent, variables)
    labelled = zip(parent.children.items(), parts, xs, strict=True)
    for i, ((label, child), part, x) in enumerate(labelled):
        with located(parent, label, child, x):
            key_i = child_key(key, i)
            outs.append(child.forward(*part, x, key=key_i, train=train))
    ys, saved, states = zip(*outs, strict=True)
    y = dict(zip(parent.names, ys, strict=True)) if parent.names else ys
    return Forward(y, saved, states)


def _backward(
    parent: "Fork | Each", params: PyTree, saved: PyTree, dy: PyTree
) -> list[Backward]:
    dys = [dy[name] for name in parent.names] if parent.names else dy
    labelled = zip(parent.children.items(), params, saved, dys, strict=True)
    return [
        child_backward(parent, label, child, p, s, dy)
        for (label, child), p, s, dy in labelled
    ]


def _dx(outs: list[Backward]) -> list[PyTree]:
    return [out.dx for out in outs]


def _repr(name: str, parent: "Fork | Each") -> str:
    inside = map(repr, parent.branches)
    if parent.names:
        labelled = zip(parent.names, inside, strict=True)
        inside = (f"{label}={branch}" for label, branch in labelled)
    return f"{name}({', '.join(inside)})"
