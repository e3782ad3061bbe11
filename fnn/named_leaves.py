"""Leaves of a tree by name, to say where two trees differ."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from fnn.typing import PyTree

__all__ = ["differences", "leaves_by_name"]


def leaves_by_name(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by name, such as `params/0/weight`."""
    named: dict[str, Any] = {}
    for path, leaf in tree_flatten_with_path(tree)[0]:
        name = keystr(path, simple=True, separator="/") or "value"
        if name in named:
            raise ValueError(f"two leaves of the tree have the name {name!r}")
        named[name] = leaf
    return named


def differences(expected: PyTree, given: PyTree, dtypes: bool = True) -> list[str]:
    """What is missing, extra or different in a tree of arrays, one line each."""

    def spec(leaf: Any) -> str:
        dtype = getattr(leaf, "dtype", None) or jnp.result_type(leaf)
        return f"{dtype if dtypes else ''}{list(np.shape(leaf))}"

    want, have = (
        {name: spec(leaf) for name, leaf in leaves_by_name(tree).items()}
        for tree in (expected, given)
    )
    missing = [f"missing: {name} {want[name]}" for name in want if name not in have]
    extra = [f"extra: {name} {have[name]}" for name in have if name not in want]
    different = [
        f"different: {name} expected {want[name]}, got {have[name]}"
        for name in want
        if name in have and want[name] != have[name]
    ]
    return missing + extra + different
