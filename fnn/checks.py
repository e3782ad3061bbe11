"""Checks of arguments before anything is computed, with errors in plain words."""

import inspect
import numbers
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fnn.describe import describe, shown
from fnn.host_arrays import advice, as_host_array, holds_real_numbers
from fnn.shapes import format_shapes, is_shape, map_shapes

__all__ = [
    "LIMIT",
    "as_array",
    "as_inputs",
    "as_labelled",
    "as_number",
    "as_numbers",
    "as_pair",
    "as_path",
    "check_flag",
    "check_in_shape",
    "check_key",
    "check_keys",
    "check_l2",
    "check_pair",
    "expect_instance",
    "expect_integer",
    "expect_params",
    "expect_pytree",
    "expect_shape",
    "expect_signature",
    "is_integer",
    "is_key",
    "key_or_seed",
    "map_named",
    "positive_integer",
    "require_key",
]


#: No axis of an array is longer; XLA counts in 32 bits.
LIMIT = 2**31


def expect_params(layer: object, params: Any, expected: type) -> None:
    """Raise where a layer is handed the parameters of another one."""
    if not isinstance(params, expected):
        raise TypeError(
            f"{layer!r} expected its parameters as {expected.__name__}, got "
            f"{describe(params)}: they belong to another network. Make them with "
            "net.init(key, in_shape)."
        )


def expect_shape(
    layer: object, x: Array, expected: tuple[Any, ...], why: str = ""
) -> None:
    """Raise unless x has the expected shape.

    A str entry stands for any size, and `...` for any number of axes.
    """
    sizes = expected
    if ... in expected:
        i, between = expected.index(...), x.ndim - len(expected) + 1
        sizes = (*expected[:i], *["any"] * between, *expected[i + 1 :])
    if len(sizes) == x.ndim and all(
        isinstance(size, str) or size == have
        for size, have in zip(sizes, x.shape, strict=True)
    ):
        return
    sizes = ", ".join("..." if want is ... else str(want) for want in expected)
    raise ValueError(
        f"{layer!r} expected an input of shape ({sizes}){why}, got {tuple(x.shape)}. "
        "The first axis counts the examples: one example alone is x[None]. The "
        "in_shape of `init` is the shape of one example, without that axis."
    )


def is_integer(value: Any) -> bool:
    """Return whether the value is an integer of Python or NumPy, and not a bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_key(value: Any) -> bool:
    """Return whether the value is an array of JAX random keys."""
    dtype = getattr(value, "dtype", None)
    try:
        return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
    except TypeError:  # a dtype of another library
        return False


def positive_integer(name: str, value: Any) -> int:
    """Return the value as a Python int; raise an error about `name` otherwise."""
    if not is_integer(value) or not 1 <= value < LIMIT:
        raise ValueError(
            f"{name} must be a positive integer, got {shown(value)}"
            + (
                ": more than an axis can have"
                if is_integer(value) and value > 0
                else ""
            )
        )
    return int(value)


def expect_integer(name: str, value: Any) -> None:
    """Raise unless the value is an integer of Python or NumPy."""
    if not is_integer(value):
        raise TypeError(f"{name} must be an integer, got {shown(value)}")


def as_number(name: str, value: Any) -> float:
    """Return a real number, of Python, NumPy or JAX, as a float."""
    is_scalar = isinstance(value, np.generic | np.ndarray | jax.Array)
    is_scalar = is_scalar and value.ndim == 0 and holds_real_numbers(value)
    is_number = isinstance(value, numbers.Real) or is_scalar
    refused: Any = (bool, np.bool_, jax.core.Tracer)
    if isinstance(value, refused) or not is_number:
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    return float(value)


def check_flag(name: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def as_path(name: str, value: Any) -> Path:
    """Return the path of a file or a folder."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, a string, got {shown(value)}")
    return Path(value)


def require_key(layer: object, key: Array | None) -> Array:
    """Return the key; without one, raise an error that says which layer needs it."""
    if key is None:
        raise ValueError(
            f"{layer!r} draws random numbers in training and was given no key: "
            "pass key=jax.random.key(seed), a fresh one at every step."
        )
    return key


# ---- What a user passes ----------------------------------------------------------


def check_key(key: Any) -> Array:
    """Return a typed JAX key; raise an error that says how to make one."""
    dtype = getattr(key, "dtype", None)
    if is_key(key):
        if key.shape != ():
            raise ValueError(f"key must be one key, got an array of shape {key.shape}")
        return key
    if dtype == jnp.uint32 and key.ndim == 1:  # from jax.random.PRNGKey
        try:
            return jax.random.wrap_key_data(jnp.asarray(key))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"key must be a JAX random key, got {len(key)} words that are none: "
                "pass key=jax.random.key(0)"
            ) from error
    seed = int(key) if is_integer(key) else 0
    raise TypeError(
        f"key must be a JAX random key, got {shown(key)}: pass "
        f"key=jax.random.key({seed}). A run is a function of its key."
    )


def key_or_seed(name: str, value: Any) -> Array:
    """Return a typed JAX key, the one that is passed or the one of a seed."""
    if not is_integer(value):
        try:
            return check_key(value)
        except TypeError:
            raise TypeError(
                f"{name} must be a JAX random key, such as jax.random.key(0), or a "
                f"seed, an integer; got {shown(value)}"
            ) from None
    if not -LIMIT <= value < LIMIT:
        raise ValueError(f"{name} must be a seed of at most 32 bits, got {value}")
    return jax.random.key(int(value))


def check_keys(keys: Any) -> Array:
    """Return an array (S,) of keys; one key becomes an array of one."""
    if is_key(keys):
        if keys.ndim < 2 and keys.size:
            return keys.reshape(-1)
        raise ValueError(
            f"keys must be an array (S,) of keys, got one of shape {keys.shape}"
        )
    raise TypeError(
        f"keys must be JAX random keys, got {shown(keys)}: pass "
        "keys=jax.random.split(jax.random.key(0), 5) for five seeds"
    )


def check_l2(l2: Any) -> float | None:
    """Return λ as a float, or None if it is 0: then no penalty is compiled in."""
    is_array = isinstance(l2, np.ndarray | jax.Array) and l2.ndim == 0
    is_number = isinstance(l2, numbers.Real | np.floating | np.integer) or is_array
    if isinstance(l2, bool) or not is_number or jnp.iscomplexobj(l2):
        raise TypeError(f"l2 must be a number, λ of λ/(2n) Σ Θ², got {shown(l2)}")
    if not 0 <= float(l2) < float("inf"):
        raise ValueError(f"l2 must be finite and not negative, got {l2}")
    return float(l2) or None


def expect_instance(name: str, thing: Any) -> None:
    """Raise where a class is passed, such as `fnn.Relu`, in place of an object."""
    if isinstance(thing, type):
        raise TypeError(
            f"{name} is the class {thing.__name__}; pass an instance, "
            f"{thing.__name__}()"
        )


def expect_signature(cls: type, name: str, like: Callable[..., Any]) -> None:
    """Raise where a method does not take what fnn calls it with, as `like` does."""
    own, wanted = map(inspect.signature, (cls.__dict__[name], like))
    parameters = [p.replace(annotation=p.empty) for p in wanted.parameters.values()]
    by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    try:
        own.bind(*range(len(parameters) - len(by_name)), **dict.fromkeys(by_name))
    except TypeError as error:
        raise TypeError(
            f"{cls.__name__}.{name} must take {inspect.Signature(parameters)}, got "
            f"{own}: {error}"
        ) from None


def expect_pytree(name: str, thing: Any) -> None:
    """Raise where JAX does not know the class of a layer or a loss as a pytree."""
    if jax.tree_util.all_leaves([thing]):
        raise TypeError(
            f"{name} is of class {type(thing).__name__}, which JAX does not know as a "
            "pytree: write @fnn.layer on the line before its class statement."
        )


def as_numbers(name: str, a: Any) -> np.ndarray | Array:
    """Return an array of real numbers, on the host or the device, as it was given."""
    array = a if isinstance(a, jax.Array) else as_host_array(name, a)
    if not holds_real_numbers(array):
        raise TypeError(
            f"{name} must be an array of numbers, real ones, got {type(a).__name__} of "
            f"{array.dtype}{advice(a, array.dtype)}"
        )
    return array


def as_array(name: str, a: Any) -> Array:
    """Return an array of real numbers on the device, changed by rounding alone."""
    host = as_numbers(name, a)
    try:
        array = jnp.asarray(host)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: JAX has no numbers of {host.dtype}") from error
    if array.dtype != host.dtype and array.dtype.kind in "iu" and host.size:
        lowest, highest = int(host.min()), int(host.max())
        limits = jnp.iinfo(array.dtype)
        if lowest < limits.min or highest > limits.max:
            raise ValueError(
                f"{name} holds integers from {lowest} to {highest}, which JAX would "
                f"cut to {array.dtype}: number them anew, or pass floats"
            )
    return array


def as_labelled(data: Any) -> Any:
    """Return data (x, y, weights) as x and (y, weights); all other data as it is."""
    if type(data) in (tuple, list) and len(data) == 3:
        x, y, weights = data
        return x, (y, weights)
    return data


def as_pair(name: str, data: Any) -> tuple[Any, Any]:
    """Return a pair (x, y) of real numbers, as they were given, of the same length.

    Either is an array, or a tree of arrays: a dictionary, a tuple or a named tuple.
    """
    if getattr(data, "_fields", None) == ("train", "test"):
        raise TypeError(f"{name} must be a pair (x, y), got a Dataset: pass its .train")
    if getattr(data, "_fields", None) == ("params", "state"):
        raise TypeError(f"{name} must be a pair (x, y), got Variables: they come first")
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise TypeError(f"{name} must be a pair (x, y), got {type(data).__name__}")
    x = map_named(as_numbers, f"{name}: x", data[0])
    y = map_named(as_numbers, f"{name}: y", data[1])
    leaves = jax.tree.leaves((x, y))
    if any(a.ndim == 0 for a in leaves) or len({a.shape[0] for a in leaves}) > 1:
        raise ValueError(
            f"{name}: x and y must have one entry an example on their first axis, got "
            f"shapes {format_shapes(x)} and {format_shapes(y)}. One example alone is "
            "x[None], y[None]."
        )
    return x, y


def map_named(f: Callable[[str, Any], Any], name: str, tree: Any) -> Any:
    """Apply f to each array of a tree of data, with a name for errors."""
    if not _is_tree_of_arrays(tree):
        return f(name, tree)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: f(f"{name}{jax.tree_util.keystr(path)}", leaf), tree
    )


def _is_tree_of_arrays(tree: Any) -> bool:
    """Return whether it is a dictionary or a tuple of arrays; a list is one array."""
    return isinstance(tree, (dict, tuple)) and any(
        hasattr(leaf, "shape") and len(leaf.shape) > 0 for leaf in jax.tree.leaves(tree)
    )


def check_pair(name: str, data: Any) -> tuple[Any, Any]:
    """Return a pair (x, y) on the device, with one entry per example everywhere."""
    x, y = as_pair(name, data)
    return map_named(as_array, f"{name}: x", x), map_named(as_array, f"{name}: y", y)


def as_inputs(x: Any) -> Any:
    """Return inputs as floating-point numbers: in integers layers would round."""
    return jax.tree.map(
        lambda a: a if jnp.issubdtype(a.dtype, jnp.floating) else a.astype(float), x
    )


def check_in_shape(in_shape: Any) -> Any:
    """Return the shape of one example: a tuple of sizes, or a tree of such tuples.

    Lists of sizes become tuples, and NumPy's integers Python's.
    """
    shapes = jax.tree.leaves(in_shape, is_leaf=is_shape)
    if not shapes or not all(is_shape(s) and all(n > 0 for n in s) for s in shapes):
        raise TypeError(
            "in_shape must be the shape of ONE example, a tuple of positive integers "
            "without the batch axis, such as (784,) or (28, 28, 1); or a tree of them, "
            f"such as {{'image': (28, 28, 1), 'age': (1,)}}; got {shown(in_shape)}"
        )
    return map_shapes(tuple, in_shape)
