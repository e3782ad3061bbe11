"""Layers made of layers, one after the other: the chain rule.

Each child computes its own derivatives. Child i draws from `fold_in(key, i)`, and every
error inside a child names it.
"""

import dataclasses
from typing import Any

from fnn.core import Backward, Forward, Layer, Variables, expect_layer, layer, leaf
from fnn.describe import shown
from fnn.layers.frozen import Frozen
from fnn.layers.tied import Tied
from fnn.network import child_key, child_variables, located, output_shape
from fnn.typing import Array, InShape, KeyArray, PyTree

__all__ = [
    "Serial",
    "child_backward",
    "expect_layers",
    "join_variables",
    "serial",
    "with_suited_inits",
]


def serial(*layers: Layer) -> "Serial":
    """Put layers one after the other: y = f_L(... f_2(f_1(x))).

    A layer object is a description: the same one in two places has two independent sets
    of parameters. For one set, name the places by `fnn.tied`.

    Args:
        *layers: f_1 ... f_L; none at all is the identity.

    Returns:
        The network, a `Serial`.

    Raises:
        TypeError: an argument is not a layer.

    Example:
        >>> import fnn
        >>> fnn.serial(fnn.Dense(3), fnn.Relu())
        serial(Dense(features=3), Relu())
    """
    return Serial(layers)


@layer
class Serial(Layer):
    """A network of layers one after the other; built by `fnn.serial`.

        forward     x_0 = x,    x_i = f_i(x_{i−1}),    y = x_L
        backward    d_L = dy,   d_{i−1} = (∂f_i/∂x_{i−1})ᵀ d_i,   dx = d_0

    Args:
        layers: f_1 ... f_L, numbered from 0 in paths and errors. None at all is the
            identity.

    Raises:
        TypeError: an entry is not a layer.

    Example:
        >>> import jax, fnn
        >>> net = fnn.serial(fnn.Dense(3), fnn.Relu(), fnn.Dense(2))
        >>> params, state = net.init(jax.random.key(0), (4,))
        >>> params[2].weight.shape
        (3, 2)

    Source: Rumelhart, Hinton and Williams, Nature 323 (1986).
    """

    layers: tuple[Layer, ...] = leaf()

    def __post_init__(self) -> None:
        expect_layers("serial", self.layers)

    @property
    def kind(self) -> str:
        return ""  # paths count through a list of layers: 2/Dense, not Serial/2/Dense

    @property
    def children(self) -> dict[str, Layer]:
        return {str(i): child for i, child in enumerate(self.layers)}

    def with_children(self, *layers: Layer) -> Layer:
        return dataclasses.replace(self, layers=layers)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        variables: list[Variables] = []
        for i, child in enumerate(self.layers):
            with located(self, str(i), child, in_shape):
                suited = _with_suited_init(child, self.layers[i + 1 :])
                variables.append(suited.init(child_key(key, i), in_shape))
                in_shape = output_shape(child, variables[-1], in_shape)
        return join_variables(variables)

    def forward(
        self, params: tuple[PyTree, ...], state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        parts = child_variables(self, Variables(params, state))
        saved: list[PyTree] = []
        states: list[PyTree] = []
        for i, (child, part) in enumerate(zip(self.layers, parts, strict=True)):
            with located(self, str(i), child, x):
                out = child.forward(*part, x, key=child_key(key, i), train=train)
            x = out.y
            saved.append(out.saved)
            states.append(out.state)
        return Forward(x, saved=tuple(saved), state=tuple(states))

    def backward(
        self, params: tuple[PyTree, ...], saved: tuple[PyTree, ...], dy: Array
    ) -> Backward:
        dparams: list[PyTree] = []  # from the last layer to the first
        parts = zip(self.children.items(), params, saved, strict=True)
        for (label, child), p, s in reversed(list(parts)):
            dy, dp = child_backward(self, label, child, p, s, dy)
            dparams.append(dp)
        return Backward(dx=dy, dparams=tuple(reversed(dparams)))

    def __getitem__(self, index: int | slice) -> Layer:
        """Return a layer, or for a slice a network of several: `net[2]`, `net[:3]`.

        The variables of `net[a:b]` are the same entries of those of `net`.
        """
        if isinstance(index, slice):
            return Serial(self.layers[index])
        if not isinstance(index, int):
            raise TypeError(
                "the layers of a network are indexed by their numbers, as net[2] or "
                f"net[:3], got {shown(index)}"
            )
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def __bool__(self) -> bool:
        return True  # a network without layers is a network, the identity

    def __repr__(self) -> str:
        return f"serial({', '.join(map(repr, self.layers))})"


# ---- Shared by layers made of layers ---------------------------------------------


def join_variables(children: list[Variables]) -> Variables:
    """Join the children's variables: a tuple of params and a tuple of states."""
    return Variables(
        tuple(v.params for v in children), tuple(v.state for v in children)
    )


def child_backward(
    parent: Layer, label: str, child: Layer, params: PyTree, saved: PyTree, dy: Array
) -> Backward:
    """Call a child's backward; an error inside names the child."""
    with located(parent, label, child, dy, of="dy"):
        return child.backward(params, saved, dy)


def expect_layers(name: str, layers: tuple[Any, ...]) -> None:
    """Raise where an argument is not a layer, and name it."""
    for i, child in enumerate(layers):
        expect_layer(f"{name}: argument {i}", child)


def _with_suited_init(child: Layer, following: tuple[Layer, ...]) -> Layer:
    """Give a layer without an initialiser the one that suits the next activation."""
    if isinstance(child, Frozen | Tied):
        inner = _with_suited_init(child.layer, following)
        return dataclasses.replace(child, layer=inner)
    if list(child.children) == [""]:  # a wrapper, which must not change the draw
        inner = _with_suited_init(child.children[""], following)
        return child.with_children(inner)
    if getattr(child, "weight_init", child) is not None:
        return child
    for other in map(_unwrap, following):
        suited = getattr(other, "suited_init", None)
        if suited is not None:
            changed: Any = child  # a dataclass, since it has the field
            return dataclasses.replace(changed, weight_init=suited)
        if hasattr(other, "weight_init") or other.children:
            break
    return child


def _unwrap(layer: Layer) -> Layer:
    """Return the layer inside a wrapper, whose only child has the label ""."""
    if isinstance(layer, Frozen | Tied):
        return _unwrap(layer.layer)
    inner = layer.children
    return _unwrap(inner[""]) if list(inner) == [""] else layer


def with_suited_inits(net: Serial) -> list[Layer]:
    """Return the layers of a `serial`, each with the initialiser that `init` gives it.

    A layer that is replaced by another one in its place then draws the same.
    """
    following = [net.layers[i + 1 :] for i in range(len(net.layers))]
    pairs = zip(net.layers, following, strict=True)
    return [_with_suited_init(child, rest) for child, rest in pairs]
