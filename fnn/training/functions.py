"""Functions compared by their code, and by the numbers that it refers to.

`optax.adam(1e-3)` and `optax.nadam(1.0)` are pairs of functions of the same names. They
differ in their code, or in what their closures hold. Two calls of `optax.adam(1e-3)` do
not differ, though the functions are other objects: what was compiled for the first is
right for the second.
"""

import dataclasses
import functools
import hashlib
import re
import types
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from fnn.checks import is_key

__all__ = ["code_checksum", "description", "first_equal", "without_addresses"]

#: Parts of a thing that are looked into, at most this deep.
DEPTH = 20


def code_checksum(thing: Any) -> int:
    """Return a checksum of all functions inside a thing; 0 if there is none.

    It is the same in every process of one version of Python.

    Args:
        thing: a function; or anything made of dataclasses, named tuples, tuples, lists,
            dictionaries and `functools.partial`, with functions inside.

    Example:
        >>> code_checksum(lambda x: 2 * x) == code_checksum(lambda x: 2 * x)
        True
        >>> code_checksum(lambda x: 2 * x) == code_checksum(lambda x: 3 * x)
        False
    """
    parts = [part for f in _functions(thing, DEPTH) for part in _of_function(f, set())]
    return zlib.crc32("\n".join(parts).encode()) if parts else 0


#: Things with functions inside, by their descriptions; the oldest is forgotten.
_KNOWN: dict[str, Any] = {}
MAX_KNOWN = 256


def first_equal(thing: Any) -> Any:
    """Return the first thing seen that has the same code and refers to the same values.

    JAX compiles once for each function object, so that a function made again would be
    compiled again. Only for functions without side effects: of lists and dictionaries
    that they refer to, the contents are compared, and not which objects they are.

    Args:
        thing: a function, or a thing with functions inside, as in `code_checksum`.

    Example:
        >>> import optax
        >>> first_equal(optax.adam(1e-3)) is first_equal(optax.adam(1e-3))
        True
        >>> first_equal(optax.adam(1e-3)) is first_equal(optax.adam(2e-3))
        False
    """
    described = description(thing)
    if described is None:
        return thing
    known = _KNOWN.setdefault(described, thing)
    if len(_KNOWN) > MAX_KNOWN:
        del _KNOWN[next(iter(_KNOWN))]
    return known


def description(thing: Any) -> str | None:
    """Describe a thing so that another one with the same description acts like it.

    Parts that cannot be looked into are described by their identity: keep the thing
    for as long as its description.

    Args:
        thing: as in `code_checksum`.

    Returns:
        A text, or None where the thing holds tracers.

    Example:
        >>> description([1, 2]) == description([1, 2]) != description([1, 2.0])
        True
    """
    try:
        return f"{type(thing).__qualname__} " + "\n".join(_exactly(thing))
    except _NotComparable:
        return None


def without_addresses(thing: Any) -> str:
    """Return its repr without addresses of functions, which change with the process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(thing))


def _functions(thing: Any, depth: int) -> Iterator[types.FunctionType]:
    """Yield the functions inside a thing, in its own order."""
    if isinstance(thing, types.FunctionType):
        yield thing
    elif depth:
        for part in _parts(thing):
            yield from _functions(part, depth - 1)


def _parts(thing: Any) -> list[Any]:
    """Return what a thing is made of."""
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *_parts(thing.keywords)]
    if isinstance(thing, types.MethodType):
        return [thing.__func__, thing.__self__]
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return [getattr(thing, field.name) for field in dataclasses.fields(thing)]
    if isinstance(thing, dict):
        return [part for key in sorted(thing, key=repr) for part in (key, thing[key])]
    if isinstance(thing, (tuple, list)):
        return [*thing]
    if isinstance(thing, (set, frozenset)):
        return sorted(thing, key=repr)
    wrapped = getattr(thing, "__wrapped__", None)  # as of jax.jit
    return [] if wrapped is None else [wrapped]


def _of_function(function: types.FunctionType, seen: set[int]) -> Iterator[str]:
    """Describe a function: its code, its defaults, and what it refers to."""
    if id(function) in seen:
        return
    seen.add(id(function))
    own = function.__module__.startswith("fnn.") and "<" not in function.__qualname__
    if own:  # `FORMAT` stands for fnn's own code
        yield f"{function.__module__}.{function.__qualname__}"
        return
    yield from _of_code(function.__code__)
    cells = [
        cell.cell_contents for cell in function.__closure__ or () if _is_full(cell)
    ]
    names = sorted(_names(function.__code__) & function.__globals__.keys())
    module = function.__globals__.get("__name__", "")
    referred = [function.__globals__[name] for name in names]
    # Functions of other modules are known by their names, which are in the code.
    near = [r for r in referred if getattr(r, "__module__", module) == module]
    for value in (function.__defaults__, function.__kwdefaults__, cells, near):
        yield from _of_value(value, seen)


def _is_full(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # it is set later
        return False
    return True


def _names(code: types.CodeType) -> set[str]:
    """Return the global names in the code, functions inside it included."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _of_code(code: types.CodeType) -> Iterator[str]:
    yield f"{code.co_name} {code.co_code.hex()} {code.co_names}"
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _of_code(const)
        elif isinstance(const, frozenset):
            yield repr(sorted(const, key=repr))
        else:
            yield repr(const)


def _of_value(value: Any, seen: set[int], depth: int = DEPTH) -> Iterator[str]:
    if isinstance(value, types.FunctionType):
        yield from _of_function(value, seen)
    elif isinstance(value, np.ndarray | jax.Array) and not is_key(value):
        array = np.asarray(value)
        yield f"{array.dtype}{array.shape}{zlib.crc32(array.tobytes())}"
    elif isinstance(value, int | float):
        # optax's schedules make a float of an int when they are called.
        yield repr(float(value))
    elif isinstance(value, types.ModuleType | type):
        yield value.__name__
    elif (parts := _parts(value)) and depth:
        for part in parts:
            yield from _of_value(part, seen, depth - 1)
    else:
        yield without_addresses(value)


# ---- Exactly ---------------------------------------------------------------------


class _NotComparable(Exception):
    """A value that cannot be kept, or compared: a tracer."""


#: Values of these types are what their repr says.
_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic, np.dtype)


def _exactly(value: Any, seen: frozenset[int] = frozenset()) -> Iterator[str]:
    """Describe a value so that another one with the same description acts like it.

    What is neither a function, a plain value, an array, nor made of these is described
    by its identity. (It is kept, so that no other one gets its address.)
    """
    if isinstance(value, jax.core.Tracer):
        raise _NotComparable
    if id(value) in seen:
        yield "again"
    elif isinstance(value, types.FunctionType):
        yield from _function_exactly(value, seen | {id(value)})
    elif isinstance(value, _PLAIN):
        yield f"{type(value).__qualname__} {value!r}"
    elif isinstance(value, np.ndarray | jax.Array) and not is_key(value):
        array = np.asarray(value)
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        yield f"{type(value).__qualname__} {array.dtype}{array.shape}{digest}"
    elif isinstance(value, _MADE_OF_PARTS) or _is_of_parts(value):
        yield f"{type(value).__module__}.{type(value).__qualname__} {id(type(value))} ("
        for part in _parts(value) or sorted(getattr(value, "__dict__", {}).items()):
            yield from _exactly(part, seen | {id(value)})
        yield ")"
    else:
        yield f"object {id(value)}"


_MADE_OF_PARTS = (functools.partial, types.MethodType, dict, tuple, list)


def _is_of_parts(value: Any) -> bool:
    if isinstance(value, type):
        return False
    return dataclasses.is_dataclass(value) or type(value).__module__.startswith("optax")


def _function_exactly(
    function: types.FunctionType, seen: frozenset[int]
) -> Iterator[str]:
    if _is_global(function):
        yield f"object {id(function)}"
        return
    yield f"function {id(function.__globals__)}"
    yield from _of_code(function.__code__)
    names = sorted(_names(function.__code__) & function.__globals__.keys())
    referred = {name: function.__globals__[name] for name in names}
    cells = [
        cell.cell_contents for cell in function.__closure__ or () if _is_full(cell)
    ]
    defaults = function.__defaults__, function.__kwdefaults__
    for part in (*defaults, cells, referred, vars(function)):
        yield from _exactly(part, seen)


def _is_global(function: types.FunctionType) -> bool:
    """Return whether it is an entry of its module, and so the same every time."""
    return function.__globals__.get(function.__name__) is function
