"""The structure of a tree of arrays as JSON, from which the tree is built again.

Nothing is imported that a file names: a named tuple gets its class where its module is
loaded already, as those of fnn's layers are, and else a class of the same name and
fields, which a layer reads as it reads its own.
"""

import sys
from collections import namedtuple
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fnn.checks import is_key
from fnn.typing import PyTree

__all__ = ["build", "describe_structure"]


def describe_structure(tree: PyTree, path: tuple[str, ...] = ()) -> Any:
    """Return a tree's structure as JSON; a leaf is a text, its name.

    The names are those of `fnn.named_leaves.leaves_by_name`. The structure of a tree
    with a node that is no dictionary by texts, list, tuple or named tuple is "unknown".
    """

    def inside(parts: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
        return {str(k): describe_structure(p, (*path, str(k))) for k, p in parts}

    name = "/".join(path) or "value"
    if tree is None:
        return None
    if is_key(tree):
        return {"key": name, "impl": str(jax.random.key_impl(tree))}
    if jax.tree_util.all_leaves([tree]):
        return name
    if isinstance(tree, dict) and all(isinstance(key, str) for key in tree):
        return {"dict": inside(tree.items())}
    if hasattr(tree, "_asdict"):
        kind = f"{type(tree).__module__}:{type(tree).__qualname__}"
        return {"named": kind, "fields": inside(tree._asdict().items())}
    if type(tree) in (tuple, list):
        return {type(tree).__name__: list(inside(enumerate(tree)).values())}
    return {"unknown": type(tree).__qualname__}


def build(described: Any, arrays: Mapping[str, Any]) -> PyTree:
    """Return the tree of this structure.

    Args:
        described: what `describe_structure` returned.
        arrays: the leaves by name; those of keys are the integers they are made of.

    Raises:
        ValueError: a part of the structure is unknown.
    """
    match described:
        case None:
            return None
        case str():
            return arrays[described]
        case {"key": name, "impl": impl}:
            return jax.random.wrap_key_data(jnp.asarray(arrays[name]), impl=impl)
        case {"dict": parts}:
            return {name: build(part, arrays) for name, part in parts.items()}
        case {"named": kind, "fields": parts}:
            fields = {name: build(part, arrays) for name, part in parts.items()}
            return _class_of(kind, tuple(fields))(**fields)
        case {"tuple": parts}:
            return tuple(build(part, arrays) for part in parts)
        case {"list": parts}:
            return [build(part, arrays) for part in parts]
        case _:
            name = described.get("unknown", described)
            raise ValueError(f"the structure of a {name} is not in the file")


def _class_of(kind: str, fields: tuple[str, ...]) -> Any:
    """Return the named tuple of this module and name, or a new one like it."""
    module, _, name = kind.partition(":")
    known = getattr(sys.modules.get(module), name, None)
    is_class = isinstance(known, type) and issubclass(known, tuple)
    if is_class and getattr(known, "_fields", None) == fields:
        return known
    return namedtuple(name.rpartition(".")[2], fields)
