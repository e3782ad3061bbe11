"""Frozen dataclasses that are pytrees: what every layer, loss and optimizer is made of.

A field marked `leaf` is a number that an experiment may vary (a dropout rate, a
learning rate) or a child pytree; JAX sees it. Every other field is structure: it is
compared, hashed and compiled in. Two networks of the same structure therefore share
one compiled program whatever their rates are, and `vmap` over rates works.
"""

import dataclasses
import math
import numbers
from typing import Any, TypeVar, cast, dataclass_transform

import jax
import numpy as np
from jax.tree_util import GetAttrKey

__all__ = ["holds_numbers", "leaf", "pytree"]

T = TypeVar("T")


def leaf(default: Any = dataclasses.MISSING) -> Any:
    """Mark a dataclass field as a pytree leaf, with an optional default."""
    return dataclasses.field(default=default, metadata={"leaf": True})


@dataclass_transform(frozen_default=True, field_specifiers=(leaf, dataclasses.field))
def pytree(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass that JAX treats as a pytree.

    An instance compares and hashes by value, and its repr, which shows the fields
    that differ from their defaults, can be pasted back. Numbers in `leaf` fields
    become floats, so that `Dropout(0)` and `Dropout(0.5)` are one program.

    Example:
        >>> import jax
        >>> from fnn.pytree import leaf, pytree
        >>> @pytree
        ... class Scale:
        ...     factor: float = leaf(1.0)
        >>> Scale(2)
        Scale(factor=2.0)
        >>> jax.tree.map(lambda factor: factor + 1, Scale(2))
        Scale(factor=3.0)
    """
    check = getattr(cls, "__post_init__", None)

    def __post_init__(self: Any) -> None:
        for name in leaf_names:
            full_name = f"{type(self).__name__}.{name}"
            number = _as_float(getattr(self, name), full_name)
            if name in number_names:
                _check_number(number, full_name)
            object.__setattr__(self, name, number)
        if check is not None:
            check(self)
        for name in number_names:  # last: a class may have more to say of its own
            number = getattr(self, name)
            if isinstance(number, float) and math.isnan(number):
                raise ValueError(
                    f"{type(self).__name__}.{name} must be a number, got NaN"
                )

    cls.__post_init__ = __post_init__
    for name, method in METHODS.items():
        if name not in cls.__dict__:
            setattr(cls, name, method)
    # Compared and hashed by the methods below, not by ones that `dataclass` compiles
    # for each of fifty classes: a tenth of the time that importing fnn took.
    cls = dataclasses.dataclass(frozen=True, repr=False, eq=False)(cls)
    fields = dataclasses.fields(cast(Any, cls))
    names = [field.name for field in fields]
    leaf_names = [field.name for field in fields if field.metadata.get("leaf")]
    number_names = {field.name for field in fields if field.type is float}

    def flatten_with_keys(self: Any) -> tuple[list, tuple]:
        # A leaf that holds a function (a learning-rate schedule) is structure.
        data = [name for name in leaf_names if not callable(getattr(self, name))]
        structure = tuple(
            (name, getattr(self, name)) for name in names if name not in data
        )
        children = [(GetAttrKey(name), getattr(self, name)) for name in data]
        return children, (tuple(data), structure)

    def unflatten(aux: tuple, children: Any) -> Any:
        # Not through __init__: JAX also rebuilds trees with tracers, None and
        # sentinels in place of numbers, and there is nothing to validate then.
        self = object.__new__(cls)
        data, structure = aux
        for name, value in (*zip(data, children, strict=True), *structure):
            object.__setattr__(self, name, value)
        return self

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten)
    return cls


def _as_float(value: Any, name: str) -> Any:
    if isinstance(value, str | bool | np.bool_):
        raise TypeError(f"{name} must be a number, got {value!r}")
    is_scalar = isinstance(value, numbers.Real) or (
        isinstance(value, np.generic | np.ndarray | jax.Array)
        and not isinstance(value, jax.core.Tracer)
        and value.ndim == 0
    )
    return float(value) if is_scalar else value


def _check_number(value: Any, name: str) -> None:
    """That a number is one, or an array of many, for `vmap` to take one at a time."""
    dtype = getattr(value, "dtype", np.dtype(object))
    is_array = any(jax.dtypes.issubdtype(dtype, k) for k in (np.floating, np.integer))
    if not isinstance(value, float) and not is_array:
        raise TypeError(f"{name} must be a number, got {value!r}")


def _short_repr(self: Any) -> str:
    shown = []
    for field in dataclasses.fields(self):
        value = getattr(self, field.name)
        if isinstance(value, jax.Array | np.ndarray) or value != field.default:
            shown.append(f"{field.name}={value!r}")
    return f"{type(self).__name__}({', '.join(shown)})"


def _values(self: Any) -> tuple:
    return tuple(getattr(self, name) for name in self.__dataclass_fields__)


def _equal(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return _values(self) == _values(other)


def _hash(self: Any) -> int:
    return hash(_values(self))


METHODS = {
    "__repr__": _short_repr,
    "__eq__": _equal,
    "__hash__": _hash,
}


def holds_numbers(tree: Any) -> bool:
    """Whether all leaves are numbers, so that it can be an argument under `jit`."""
    numeric = jax.Array | np.ndarray | float | int
    return all(isinstance(leaf, numeric) for leaf in jax.tree.leaves(tree))
