"""The leaves of a tree by name, and the differences between two trees."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from fnn.typing import PyTree

__all__ = ["differences", "leaves_by_name"]


def leaves_by_name(tree: PyTree) -> dict[str, Any]:
    """Return the leaves of a tree by name, such as `params/0/weight`.

    Raises:
        ValueError: two leaves have the same name.
    """
    named: dict[str, Any] = {}
    for path, leaf in tree_flatten_with_path(tree)[0]:
        name = keystr(path, simple=True, separator="/") or "value"
        if name in named:
            raise ValueError(f"two leaves of the tree have the name {name!r}")
        named[name] = leaf
    return named


def differences(expected: PyTree, given: PyTree, dtypes: bool = True) -> list[str]:
    """List what is missing, extra or different in a tree of arrays, one line each.

    Args:
        expected: a tree of arrays.
        given: the tree that is compared with it.
        dtypes: whether dtypes are compared, or only names and shapes.
    """

    def describe(leaf: Any) -> str:
        dtype = getattr(leaf, "dtype", None) or jnp.result_type(leaf)
        return f"{dtype if dtypes else ''}{list(np.shape(leaf))}"

    wanted, got = (
        {name: describe(leaf) for name, leaf in leaves_by_name(tree).items()}
        for tree in (expected, given)
    )
    missing = [f"missing: {name} {wanted[name]}" for name in wanted if name not in got]
    extra = [f"extra: {name} {got[name]}" for name in got if name not in wanted]
    different = [
        f"different: {name} expected {wanted[name]}, got {got[name]}"
        for name in wanted
        if name in got and wanted[name] != got[name]
    ]
    return missing + extra + different
