"""Shapes of examples: of one array, or of a tree of arrays such as `{"image": ...}`.

What a layer is given and returns is an array (N, ...), or a tree of arrays (a tuple, a
named tuple, a dictionary) whose first axis, N, is the same. Its shape, without that
axis, is a tuple of integers, or a tree of such tuples.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from fnn.typing import InShape, PyTree

__all__ = [
    "abstract_batch",
    "by_part",
    "count_examples",
    "example_shape",
    "format_shapes",
    "hashable",
    "is_shape",
    "map_shapes",
]


def is_shape(value: Any) -> bool:
    """Return whether the value is the shape of one array: a tuple or list of sizes."""
    return isinstance(value, (tuple, list)) and all(
        isinstance(size, int | np.integer) and not isinstance(size, bool)
        for size in value
    )


def map_shapes(f: Callable[[tuple[int, ...]], Any], in_shape: InShape) -> PyTree:
    """Apply f to the shape of every array in a tree; a list is taken for a tuple."""
    return jax.tree.map(lambda s: f(tuple(map(int, s))), in_shape, is_leaf=is_shape)


def example_shape(x: PyTree) -> Any:
    """Return the shape of one example of a batch, a tree like x.

    Example:
        >>> import jax.numpy as jnp
        >>> example_shape({"image": jnp.ones((5, 8, 8, 1)), "age": jnp.ones((5, 1))})
        {'age': (1,), 'image': (8, 8, 1)}
    """
    return jax.tree.map(lambda a: tuple(a.shape[1:]), x)


def count_examples(x: PyTree) -> int:
    """Return N, the size of the first axis of all arrays; it may be symbolic."""
    return jax.tree.leaves(x)[0].shape[0]


def abstract_batch(in_shape: InShape, n: int = 1) -> PyTree:
    """Return the shapes and dtypes of a batch of n examples, without its numbers."""
    dtype = jax.dtypes.canonicalize_dtype(float)  # zeros would move to the device
    return map_shapes(lambda s: jax.ShapeDtypeStruct((n, *s), dtype), in_shape)


def by_part(
    tree: PyTree, is_leaf: Callable[[Any], bool] | None = None
) -> dict[str, Any]:
    """Return the leaves of a tree by name; that of a tree of one leaf alone is "".

    Args:
        tree: arrays; or shapes, with `is_leaf=is_shape`.
        is_leaf: as in `jax.tree.leaves`.

    Example:
        >>> by_part({"image": (8, 8, 1), "size": ((1,), (2,))}, is_leaf=is_shape)
        {'image': (8, 8, 1), 'size.0': (1,), 'size.1': (2,)}
    """
    named = tree_flatten_with_path(tree, is_leaf=is_leaf)[0]
    return {keystr(path, simple=True, separator="."): part for path, part in named}


def hashable(in_shape: InShape) -> tuple[Any, ...]:
    """Return a shape as it is, and a tree of shapes as pairs of a name and a shape."""
    if is_shape(in_shape):
        return in_shape
    return tuple(by_part(in_shape, is_leaf=is_shape).items())


def format_shapes(x: Any) -> str:
    """Format the shapes of a batch, or of one example: (5, 3), or {'age': (5, 1)}."""
    if is_shape(x):
        return str(tuple(x))
    return str(jax.tree.map(_shape, x, is_leaf=is_shape))


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(getattr(x, "shape", x))
