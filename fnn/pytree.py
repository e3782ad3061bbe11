"""Frozen dataclasses that are pytrees: layers, losses and optimizers are such classes.

A field marked `leaf` is a number that an experiment may vary (a dropout rate, a
learning rate) or a child pytree; JAX sees it. Every other field is structure: it is
compared, hashed and compiled in. Two networks of the same structure therefore share
one compiled program, whatever their rates are, and `vmap` over rates works.
"""

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast, dataclass_transform

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey

from fnn.describe import shown
from fnn.typing import Number

__all__ = ["exportable", "holds_numbers", "leaf", "pytree", "tree_where"]

T = TypeVar("T")


def leaf(
    default: Any = dataclasses.MISSING, *, kw_only: bool = False, shown: bool = False
) -> Any:
    """Mark a dataclass field as a pytree leaf.

    Args:
        default: the value that the field has where none is passed.
        kw_only: whether it must be passed by name.
        shown: whether the repr shows it even where it is the default.

    Returns:
        A field of a dataclass.

    Example:
        >>> import fnn
        >>> @fnn.layer
        ... class Scale(fnn.Layer):
        ...     factor: float = fnn.leaf(2)
        ...     def forward(self, params, state, x, *, key=None, train=False):
        ...         return fnn.Forward(self.factor * x, saved=(), state=state)
        ...     def backward(self, params, saved, dy):
        ...         return fnn.Backward(dx=self.factor * dy, dparams=())
        >>> Scale(3).factor
        3.0
    """
    return dataclasses.field(
        default=default, kw_only=kw_only, metadata={"leaf": True, "shown": shown}
    )


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
    check = _own_check(cls)

    def __post_init__(self: Any) -> None:
        for name in leaf_names:
            full_name = f"{type(self).__name__}.{name}"
            number = _as_float(getattr(self, name), full_name)
            object.__setattr__(self, name, number)
        for name in flag_names:
            if not isinstance(flag := getattr(self, name), bool | np.bool_):
                text = f"{type(self).__name__}.{name} must be True or False, got "
                raise TypeError(text + shown(flag))
        if check is not None:
            check(self)
        for name in number_names:  # last: the class's own error may say more
            _check_number(getattr(self, name), f"{type(self).__name__}.{name}")

    cls.__post_init__ = __post_init__
    for name, method in METHODS.items():
        if name not in cls.__dict__:
            setattr(cls, name, method)
    # The methods below compare and hash, not ones that `dataclass` would compile for
    # each of fifty classes: that took a tenth of the time of importing fnn.
    cls = dataclasses.dataclass(frozen=True, repr=False, eq=False)(cls)
    fields = dataclasses.fields(cast(Any, cls))
    names = [field.name for field in fields]
    leaf_names = [field.name for field in fields if field.metadata.get("leaf")]
    number_names = {field.name for field in fields if field.type in (float, Number)}
    flag_names = {field.name for field in fields if field.type is bool}
    cast(Any, cls).__init__ = _checked_init(cls, fields)

    def flatten_with_keys(self: Any) -> tuple[list[Any], tuple[Any, ...]]:
        # A leaf that holds a function (a learning-rate schedule) is structure.
        data = [name for name in leaf_names if not callable(getattr(self, name))]
        structure = tuple(
            (name, getattr(self, name)) for name in names if name not in data
        )
        children = [(GetAttrKey(name), getattr(self, name)) for name in data]
        return children, (tuple(data), structure)

    def unflatten(aux: tuple[Any, ...], children: Any) -> Any:
        # Not through __init__, which validates: JAX also rebuilds trees with tracers,
        # None and sentinels in place of numbers.
        self = object.__new__(cls)
        data, structure = aux
        for name, value in (*zip(data, children, strict=True), *structure):
            object.__setattr__(self, name, value)
        return self

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten)
    return cls


def _own_check(cls: type) -> Callable[..., Any] | None:
    """Return the class's own check of its fields; refuse an `__init__`."""
    if "__init__" in cls.__dict__:
        raise TypeError(
            f"{cls.__name__} is a dataclass, which makes its own __init__: declare the "
            "fields in the class, such as `width: int = 3`, or `rate: float = "
            "fnn.leaf(0.1)` for a number that may be traced, and check them in "
            "__post_init__"
        )
    return getattr(cls, "__post_init__", None)


def _checked_init(cls: type, fields: tuple[Any, ...]) -> Callable[..., None]:
    """Return an `__init__` with a plain error for too many positional arguments."""
    init, hint = cls.__init__, getattr(cls, "positional_hint", "")
    positional = [field.name for field in fields if not field.kw_only]
    others = [field.name for field in fields if field.kw_only]

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if len(args) > len(positional):
            takes = ", ".join(positional) or "no argument"
            named = f"; {', '.join(others)} must be passed by name" if others else ""
            raise TypeError(
                f"{cls.__name__} takes {takes} by position{named}; got "
                f"{', '.join(map(repr, args))}. {hint}".rstrip()
            )
        init(self, *args, **kwargs)

    return __init__


def _as_float(value: Any, name: str) -> Any:
    """Return a scalar as a Python float, and any other value unchanged."""
    is_array = isinstance(value, np.generic | np.ndarray | jax.Array)
    if isinstance(value, str | bool) or (is_array and value.dtype == bool):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    is_scalar = isinstance(value, numbers.Real) or (
        is_array
        and not isinstance(value, jax.core.Tracer)
        and value.ndim == 0
        and _holds_real_numbers(value)
    )
    return float(value) if is_scalar else value


def _check_number(value: Any, name: str) -> None:
    """Raise unless the value is a number, or an array of numbers for `vmap`."""
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{name} must be a number, got NaN")
    if not isinstance(value, float) and not _holds_real_numbers(value):
        raise TypeError(f"{name} must be a number, got {shown(value)}")


def _holds_real_numbers(value: Any) -> bool:
    dtype = getattr(value, "dtype", np.dtype(object))
    return any(jax.dtypes.issubdtype(dtype, k) for k in (np.floating, np.integer))


def _short_repr(self: Any) -> str:
    """Return a repr without the fields that have their default."""
    shown = []
    for field in dataclasses.fields(self):
        value = getattr(self, field.name)
        is_array = isinstance(value, jax.Array | np.ndarray)
        if is_array or field.metadata.get("shown") or value != field.default:
            shown.append(f"{field.name}={value!r}")
    return f"{type(self).__name__}({', '.join(shown)})"


def _values(self: Any) -> tuple[Any, ...]:
    return tuple(_comparable(getattr(self, name)) for name in self.__dataclass_fields__)


def _comparable(value: Any) -> Any:
    """Return an array as something that compares and hashes by its numbers."""
    is_known = isinstance(value, np.ndarray | jax.Array) and not isinstance(
        value, jax.core.Tracer
    )
    if not is_known or jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
        return value
    if value.ndim == 0 and _holds_real_numbers(value):
        return float(value)  # equal to the Python number that it stands for
    array = np.asarray(value)
    return str(array.dtype), array.shape, array.tobytes()


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
    """Return whether all leaves are numbers: `jit` can take such a tree."""
    numeric = jax.Array | np.ndarray | float | int
    return all(isinstance(leaf, numeric) for leaf in jax.tree.leaves(tree))


def exportable(cls: type[T]) -> type[T]:
    """Let `jax.export` serialise programs that take or return this named tuple.

    fnn's own named tuples of parameters and state are decorated with it.
    """
    name = f"fnn.{cls.__name__}"
    with suppress(ValueError):  # the name is taken where a module is loaded again
        jax.export.register_namedtuple_serialization(cls, serialized_name=name)
    return cls


def tree_where(condition: jax.Array, new: Any, old: Any) -> Any:
    """Return the tree `new` where the scalar condition is true, otherwise `old`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
