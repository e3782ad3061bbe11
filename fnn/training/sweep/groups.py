"""The results of a sweep's groups, put together in the order of the grid."""

from typing import Any

import jax
import numpy as np

from fnn.named_leaves import differences
from fnn.training.sweep.records import TrainedMembers
from fnn.typing import PyTree

__all__ = ["join_groups"]

#: A place in an array, a tuple: along each axis a number, or all of it.
Place = Any


def join_groups(
    names: list[str],
    lengths: list[int],
    indices: list[dict[str, int]],
    parts: list[TrainedMembers],
) -> TrainedMembers:
    """Return the results of all members, each leaf with the axes of the grid.

    Args:
        names: the names of the grid's axes, without the keys'.
        lengths: the lengths of its axes, the keys' included.
        indices: of each group its place along the axes that are compiled in, by name.
        parts: the results of each group, with the other axes in their order.

    Returns:
        Variables of other shapes in other groups are arrays of objects, one object for
        each member; a metric that a group does not compute is NaN there.
    """
    places = [(*(i.get(n, slice(None)) for n in names), slice(None)) for i in indices]
    first = parts[0]

    def joined(leaves: list[Any]) -> np.ndarray:
        return _join(lengths, places, leaves)

    columns: dict[str, Any] = {}
    for name in dict.fromkeys(name for part in parts for name in part.validation):
        known = next(p.validation[name] for p in parts if name in p.validation)
        unknown = np.full_like(known, np.nan)
        columns[name] = joined([p.validation.get(name, unknown) for p in parts])
    named: dict[str, Any] = {
        field: joined([getattr(part, field) for part in parts])
        for field in first._fields
        if field not in ("variables", "last_variables", "validation")
    }
    for field in ("variables", "last_variables"):
        trees = [getattr(part, field) for part in parts]
        named[field] = _join_trees(lengths, places, trees)
    return TrainedMembers(**named, validation=columns)


def _join(lengths: list[int], places: list[Place], leaves: list[Any]) -> np.ndarray:
    """Return an array (*G, ...) with the leaf of each group at its place."""
    mapped = sum(isinstance(i, slice) for i in places[0])
    inner = leaves[0].shape[mapped:]
    whole = np.empty((*lengths, *inner), leaves[0].dtype)
    for place, leaf in zip(places, leaves, strict=True):
        whole[place] = leaf
    return whole


def _join_trees(lengths: list[int], places: list[Place], trees: list[PyTree]) -> Any:
    """Return one tree of all groups, or where shapes differ an array of trees."""
    mapped = sum(isinstance(i, slice) for i in places[0])
    inner = [jax.tree.map(lambda a: a[(0,) * mapped], tree) for tree in trees]
    structures = {jax.tree.structure(tree) for tree in trees}
    alike = len(structures) == 1 and not any(differences(inner[0], t) for t in inner)
    if alike:
        return jax.tree.map(lambda *leaves: _join(lengths, places, [*leaves]), *trees)
    whole = np.empty(lengths, object)
    for place, tree in zip(places, trees, strict=True):
        part = whole[place]  # a view, since the keys' axis is a slice
        for index in np.ndindex(part.shape):
            part[index] = jax.tree.map(lambda a, i=index: a[i], tree)
    return whole
