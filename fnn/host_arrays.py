"""Arrays as users have them: conversion by NumPy, with errors in plain words.

Tensors, tables, lists, masked arrays: what NumPy makes of them is an array, or an error
of the library that they are from, or, silently, an array without the mask.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["advice", "as_host_array", "expect_arrays", "holds_real_numbers"]


def as_host_array(name: str, a: Any) -> np.ndarray:
    """Return what NumPy makes of `a`, of any dtype; raise a plain error otherwise."""
    if _has_mask(a):
        raise TypeError(
            f"{name} has masked entries, and an array on the device has no mask: leave "
            "these examples out, or fill them: a.filled(0)"
        )
    try:
        if not isinstance(a, (list, tuple)):
            return np.asarray(a)
        # A list of tensors NumPy would take for one of numbers.
        return np.asarray([np.asarray(p) if _is_array(p) else p for p in a])
    except Exception as error:  # each library raises its own from `__array__`
        reason = str(error).partition("\n")[0][:120] or type(error).__name__
        hint = f" ({reason})"
        if _requires_grad(a) or "requires grad" in reason:
            hint = ", which requires a gradient in torch: pass x.detach()"
        elif "inhomogeneous" in reason:
            hint = ", whose rows have different lengths"
        raise TypeError(
            f"{name} must be an array of numbers, got {type(a).__name__}{hint}"
        ) from error


def _is_array(part: Any) -> bool:
    return hasattr(part, "__array__") and not isinstance(part, np.generic)


def _has_mask(a: Any) -> bool:
    # NumPy would drop the masks of a list's entries.
    parts = a if isinstance(a, (list, tuple)) else [a]
    masked = [part for part in parts if np.ma.isMaskedArray(part)]
    return any(bool(np.ma.getmaskarray(part).any()) for part in masked)


def _requires_grad(a: Any) -> bool:
    parts = a if isinstance(a, (list, tuple)) else [a]
    return any(getattr(part, "requires_grad", False) is True for part in parts)


def holds_real_numbers(array: Any) -> bool:
    """Return whether the dtype is one of floats, integers or bools."""
    kinds = (np.floating, np.integer, np.bool_)
    is_real = any(jax.dtypes.issubdtype(array.dtype, kind) for kind in kinds)
    return is_real and array.dtype.kind != "m"  # hours are integers to NumPy


def advice(a: Any, dtype: Any) -> str:
    """Return the end of an error about something that holds no real numbers."""
    if hasattr(a, "toarray"):
        return ": pass its toarray(), without the zeros left out"
    kind = getattr(dtype, "kind", "")  # a dtype of JAX's keys has none
    if kind in ("U", "S"):
        return ": number the texts, by np.unique(texts, return_inverse=True)"
    if kind == "O" and hasattr(a, "columns"):
        return ": a column of the table holds something else"
    return ""


def expect_arrays(name: str, tree: Any) -> None:
    """Raise unless it is an array of numbers, or a tree of arrays, of JAX or NumPy.

    Layers and losses compute with it as it is: a list or a tensor has other operations.
    """
    if isinstance(tree, jax.Array):
        return
    # JAX warns of an iterator as a leaf, unless it is told so.
    is_leaf: Any = lambda part: part is None or isinstance(part, Iterator)  # noqa: E731
    for leaf in jax.tree.leaves(tree, is_leaf=is_leaf):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            whole = type(tree).__name__
            inside = "" if leaf is tree else f" of {type(leaf).__name__}"
            detached = ".detach()" if hasattr(leaf, "detach") else ""
            raise TypeError(
                f"{name} must be an array of JAX or NumPy, got {whole}{inside}: pass "
                f"jnp.asarray({name}{detached})"
            )
        if not isinstance(leaf, jax.Array):
            as_host_array(name, leaf)
            is_complex = jnp.issubdtype(leaf.dtype, np.complexfloating)
            if not is_complex and not holds_real_numbers(leaf):
                raise TypeError(
                    f"{name} must be an array of numbers, got {type(leaf).__name__} of "
                    f"{leaf.dtype}{advice(leaf, leaf.dtype)}"
                )
