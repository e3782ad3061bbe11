"""Arguments in error messages: types and shapes, and no page of numbers."""

from typing import Any

import jax

__all__ = ["describe", "shown"]


def describe(tree: Any) -> str:
    """Describe a pytree for an error message: its types and shapes, no numbers."""
    if hasattr(tree, "shape") and hasattr(tree, "dtype"):
        return f"{tree.dtype}{list(tree.shape)}"
    if isinstance(tree, tuple):
        names = getattr(tree, "_fields", ("",) * len(tree))
        inner = ", ".join(
            f"{name}={describe(part)}" if name else describe(part)
            for name, part in zip(names, tree, strict=True)
        )
        return f"{type(tree).__name__ if any(names) else ''}({inner})"
    if isinstance(tree, dict):
        inner = ", ".join(f"{name}: {describe(part)}" for name, part in tree.items())
        return f"{{{inner}}}"
    if isinstance(tree, list):
        return f"[{', '.join(map(describe, tree))}]"
    return type(tree).__name__ if tree is not None else "None"


def shown(thing: Any) -> str:
    """Show an argument in an error message: its repr, or types and shapes of arrays."""
    holds_arrays = any(getattr(leaf, "ndim", 0) for leaf in jax.tree.leaves(thing))
    text = describe(thing) if holds_arrays else repr(thing)
    return text if len(text) <= 200 else f"{text[:200]}..."
