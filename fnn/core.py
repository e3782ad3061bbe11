"""The layer contract: three methods, stated once, that every layer has.

    init(key, in_shape)                     -> Variables(params, state)
    forward(params, state, x, key, train)   -> Forward(y, saved, state)
    backward(params, saved, dy)             -> Backward(dx, dparams)

A layer is a frozen description (see `fnn.pytree`); weights never live in it.
`forward` and `backward` are pure. With the Jacobian J = ∂y/∂x of the forward at `x`,

    dx = Jᵀ dy,    dparams = (∂y/∂params)ᵀ dy,

and `saved` holds what the backward needs to compute them.

Legend: N examples in a batch, always the first axis of `x`, `y`, `dy`, `dx`;
`in_shape` is the shape of ONE example, without it. x and y are arrays, or trees of
arrays (a tuple, a dictionary) with the same N; dx and dy are then trees like them.
"""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

import jax
import numpy as np

from fnn.checks import (
    check_in_shape,
    check_key,
    expect_instance,
    expect_pytree,
    expect_signature,
)
from fnn.describe import describe, shown
from fnn.host_arrays import expect_arrays
from fnn.own_code import explain_traced_arrays
from fnn.placement import explicit_mesh, place_backward, place_forward, sum_like
from fnn.pytree import exportable, leaf, pytree
from fnn.shapes import is_shape
from fnn.transfers import own_numbers_may_move
from fnn.typing import Array, InShape, KeyArray, PyTree

__all__ = [
    "NO_INPUT_FEATURES",
    "Backward",
    "Forward",
    "Layer",
    "Reach",
    "Variables",
    "as_variables",
    "expect_layer",
    "layer",
    "leaf",
]

T = TypeVar("T")
L = TypeVar("L", bound="Layer")


@exportable
class Variables(NamedTuple):
    """The numbers that a network carries.

    `params` are optimised, `state` is only tracked (the running statistics of
    BatchNorm). Either is `()` where a layer has none.
    """

    params: PyTree
    state: PyTree


def as_variables(variables: Any) -> Variables:
    """Convert a pair to `Variables`; raise an error for anything else."""
    is_pair = isinstance(variables, tuple) and len(variables) == 2
    if not is_pair or all(hasattr(part, "shape") for part in variables):
        hint = ": pass its .variables" * hasattr(variables, "variables")
        raise TypeError(
            "variables must be Variables(params, state), as net.init(key, in_shape) "
            f"returns them, got {shown(variables)}{hint}"
        )
    return Variables(*variables)


class Forward(NamedTuple):
    """The result of a forward pass: y, `saved` for the backward, the new state."""

    y: Any
    saved: PyTree
    state: PyTree


class Backward(NamedTuple):
    """The result of a backward pass: dx = ∂loss/∂x and dparams = ∂loss/∂params."""

    dx: Any
    dparams: PyTree


class Reach(NamedTuple):
    """The receptive field of one output position, along one spatial axis.

    It is `extent` inputs wide, and shifted by `step` inputs per output.
    """

    extent: int = 1
    step: int | Fraction = 1


class Layer(ABC):
    """The contract of a layer: subclass it, and decorate the class with `fnn.layer`.

    A layer defines `forward` and `backward`; the default `init` is that of a layer
    without parameters. A layer made of layers lists them in `children`; its `params`
    and `state` are then tuples whose first entries belong to the children, in that
    order, and child i draws from `fold_in(key, i)`. A layer around another one with the
    same variables says so in `wrapped`, and has its path, children and `init`.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> @fnn.layer
        ... class Double(fnn.Layer):
        ...     def forward(self, params, state, x, *, key=None, train=False):
        ...         return fnn.Forward(2 * x, saved=(), state=state)
        ...     def backward(self, params, saved, dy):
        ...         return fnn.Backward(dx=2 * dy, dparams=())
        >>> fnn.serial(fnn.Dense(3), Double())
        serial(Dense(features=3), Double())
    """

    #: Names of the parameters that the penalty λ/(2n) Σ Θ² falls on.
    penalized: ClassVar[tuple[str, ...]] = ("weight",)

    #: What an error about too many positional arguments adds.
    positional_hint: ClassVar[str] = ""

    #: The initialiser for weights that this layer follows as their activation, or None.
    suited_init: ClassVar[Any] = None

    def __new__(cls: type[L], *args: Any, **kwargs: Any) -> L:
        """Refuse a class that lacks a method, and say which."""
        if missing := sorted(cls.__abstractmethods__):
            raise TypeError(
                f"{cls.__name__} is not a layer yet: it does not define "
                f"{' and '.join(missing)}. A layer defines\n"
                "    forward(self, params, state, x, *, key=None, train=False) "
                "-> fnn.Forward(y, saved, state)\n"
                "    backward(self, params, saved, dy) -> fnn.Backward(dx, dparams)\n"
                "A function without a handwritten backward becomes a layer as "
                "fnn.Lambda(function)."
            )
        return object.__new__(cls)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        """Draw fresh variables for examples of shape `in_shape` (no batch axis)."""
        inner = self.wrapped
        return Variables((), ()) if inner is None else inner.init(key, in_shape)

    @abstractmethod
    def forward(
        self,
        params: PyTree,
        state: PyTree,
        x: Array,
        *,
        key: KeyArray | None = None,
        train: bool = False,
    ) -> Forward:
        """Compute y for a batch x of shape (N, ...)."""

    @abstractmethod
    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        """Compute dx and dparams from dy = ∂loss/∂y, of y's shape."""

    def reach(self, in_shape: InShape) -> tuple[Reach, ...] | None:
        """Return the receptive field of one output position, an entry per spatial axis.

        None stands for all of the input.
        """
        if self.wrapped is not None:
            return self.wrapped.reach(in_shape)
        return (Reach(),) * (len(in_shape) - 1)

    @property
    def wrapped(self) -> "Layer | None":
        """The layer that this one is around, where they have the same variables."""
        return None

    @property
    def kind(self) -> str:
        """The name of the layer in paths; "" for one that only lists others."""
        return type(self).__name__ if self.wrapped is None else self.wrapped.kind

    @property
    def children(self) -> dict[str, "Layer"]:
        """The layers this layer is made of, by label."""
        return {} if self.wrapped is None else self.wrapped.children

    def child_params(self, params: PyTree) -> PyTree:
        """Return params whose first entries are the children's, complete.

        They are its own params, but for a layer that keeps once what children share.
        """
        return params if self.wrapped is None else self.wrapped.child_params(params)

    @property
    def takes_ids(self) -> bool:
        """Inputs may be ids, which half precision must not round.

        That is so where any layer inside takes ids.
        """
        if self.wrapped is not None:
            return self.wrapped.takes_ids
        return any(child.takes_ids for child in self.children.values())

    @property
    def takes_trees(self) -> bool:
        """Inputs and outputs may be trees of arrays.

        Those of a layer made of layers always may; any other says takes_trees = True.
        """
        return bool(self.children if self.wrapped is None else self.wrapped.takes_trees)

    def with_children(self, *layers: "Layer") -> "Layer":
        """Return the same layer around other children."""
        if layers:
            raise NotImplementedError(
                f"{type(self).__name__} has children and must say how to replace them: "
                "def with_children(self, *layers)"
            )
        return self


# ---- The class decorator ---------------------------------------------------------

#: The hint of layers that other libraries construct with a number of inputs.
NO_INPUT_FEATURES = (
    "The number of input features is not an argument: init takes it from in_shape."
)

#: Names that mean something in the contract, and so cannot be fields of a layer.
RESERVED = (
    *("init", "forward", "backward", "reach", "kind", "children", "with_children"),
    *("penalized", "positional_hint", "suited_init", "takes_ids", "takes_trees"),
    *("wrapped", "child_params"),
)


@dataclass_transform(frozen_default=True, field_specifiers=(leaf,))
def layer(cls: type[T]) -> type[T]:
    """Make a subclass of `Layer` a frozen dataclass that JAX treats as a pytree.

    The class's own `init`, `forward` and `backward` are checked whenever they are
    called: they must return `Variables`, `Forward` and `Backward`, and must work on
    traced arrays.

    Args:
        cls: the class, whose fields are numbers marked by `fnn.leaf`, layers, or
            settings; or a loss of your own, which becomes a pytree, and nothing else.

    Returns:
        The class, as a frozen dataclass.

    Raises:
        TypeError: a field's name is part of the contract; a method's signature is not.

    Example: see `Layer`.
    """
    if not issubclass(cls, Layer):  # a loss, or an augmentation
        return pytree(cls)
    for name, annotation in inspect.get_annotations(cls).items():
        if name in RESERVED and "ClassVar" not in str(annotation):
            raise TypeError(
                f"{cls.__name__}: the field {name!r} has the name of a part of the "
                "layer contract. Give the field another name."
            )
    for name, check in _CHECKED.items():
        if name in cls.__dict__:
            expect_signature(cls, name, getattr(Layer, name))
            setattr(cls, name, check(cls.__dict__[name]))
    return pytree(cls)


def _checked_init(init: Callable[..., Any]) -> Callable[..., Variables]:
    """Return `init` with its arguments and its result checked."""

    @functools.wraps(init)
    def checked(self: Layer, key: Any, in_shape: Any) -> Variables:
        key, in_shape = check_key(key), check_in_shape(in_shape)
        _expect_one(self, is_shape(in_shape), in_shape)
        out = _on_traced_arrays(self, "init", init, key, in_shape)
        if not isinstance(out, Variables):
            raise TypeError(
                f"{self!r}.init must return fnn.Variables(params, state), got "
                f"{describe(out)}. Where there is no state: fnn.Variables(params, ())."
            )
        return out

    return checked


def _checked_forward(forward: Callable[..., Any]) -> Callable[..., Forward]:
    """Return `forward` with its key and its result checked."""

    @functools.wraps(forward)
    def checked(
        self: Layer, params: PyTree, state: PyTree, x: Any, *,
        key: Any = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        key = None if key is None else check_key(key)
        expect_arrays("x", x)
        if mesh := explicit_mesh(params, x):
            call = functools.partial(checked, self, train=train)
            return place_forward(mesh, call, params, state, x, key)
        call = functools.partial(forward, key=key, train=train)
        _expect_one(self, hasattr(x, "shape"), x)
        out = _on_traced_arrays(self, "forward", call, params, state, x)
        if not isinstance(out, Forward):
            raise TypeError(
                f"{self!r}.forward must return fnn.Forward(y, saved, state), got "
                f"{describe(out)}"
            )
        _expect_arrays(self, "forward", "y", out.y)
        return out

    return checked


def _checked_backward(backward: Callable[..., Any]) -> Callable[..., Backward]:
    """Return `backward` with its result checked."""

    @functools.wraps(backward)
    def checked(self: Layer, params: PyTree, saved: PyTree, dy: Any) -> Backward:
        if mesh := explicit_mesh(params, dy):
            call = functools.partial(checked, self)
            return place_backward(mesh, call, params, saved, dy)
        out = _on_traced_arrays(self, "backward", backward, params, saved, dy)
        if not isinstance(out, Backward):
            raise TypeError(
                f"{self!r}.backward must return fnn.Backward(dx, dparams), got "
                f"{describe(out)}. Where there are no parameters: fnn.Backward(dx, ())."
            )
        _expect_arrays(self, "backward", "dx", out.dx)
        return out._replace(dparams=sum_like(out.dparams, params))

    return checked


def _expect_one(self: Layer, is_one: bool, given: Any) -> None:
    """Raise where a layer of one array is given a tree of arrays, or its shape."""
    if is_one or self.takes_trees:
        return
    shapes = jax.tree.leaves(given, is_leaf=is_shape)
    text = str(given) if all(map(is_shape, shapes)) else describe(given)
    raise TypeError(
        f"{self!r} expected one array, got {text}. Join several by fnn.Merge, or give "
        "each its own layer by fnn.each. (A layer of your own that takes several says "
        "so in its class: takes_trees = True.)"
    )


def _expect_arrays(self: Layer, method: str, name: str, value: Any) -> None:
    """Raise unless a result is an array; or a tree of arrays, where it may be one."""
    kinds = jax.Array | np.ndarray | np.generic
    if isinstance(value, kinds):
        return
    leaves = jax.tree.leaves(value, is_leaf=lambda leaf: leaf is None)
    are_arrays = leaves and all(isinstance(leaf, kinds) for leaf in leaves)
    if not are_arrays or not self.takes_trees:
        raise TypeError(
            f"{self!r}.{method} must return one array as {name}, got {describe(value)}"
        )


_CHECKED = {
    "init": _checked_init,
    "forward": _checked_forward,
    "backward": _checked_backward,
}


def _on_traced_arrays(
    self: Layer, name: str, method: Callable[..., Any], *args: Any
) -> Any:
    """Call a method, which may be traced."""
    with explain_traced_arrays(lambda: f"{self!r}.{name}"), own_numbers_may_move(args):
        return method(self, *args)


def expect_layer(name: str, layer: Any) -> None:
    """Raise where `layer` is not a layer, and say how to make it one."""
    expect_instance(name, layer)
    if not isinstance(layer, Layer):
        hint = "A function becomes a layer as fnn.Lambda(fn), a list as serial(*list)."
        if hasattr(layer, "forward"):
            hint = f"Make its class a subclass: class {type(layer).__name__}(fnn.Layer)"
        raise TypeError(f"{name} is not a layer: {shown(layer)}. {hint}")
    expect_pytree(name, layer)
