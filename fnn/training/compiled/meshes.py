"""Many devices: where data and variables are, and how a minibatch is sharded.

The mesh's first axis shards the examples of each minibatch. XLA does the rest: each
device computes the gradients of its shard and they are summed, and what is a mean over
the batch, in a loss or in BatchNorm, is a mean over the whole batch.
"""

from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jax.tree_util import keystr, tree_flatten_with_path, tree_unflatten

from fnn.checks import is_key
from fnn.describe import shown
from fnn.placement import automatic
from fnn.typing import Array, PyTree

__all__ = [
    "check_mesh",
    "check_shards",
    "on_mesh",
    "put",
    "put_numbers",
    "shard_batch",
    "shard_count",
    "state_on_mesh",
]


def check_mesh(mesh: Any) -> Mesh | None:
    """Return the mesh with automatic axes, or None for None."""
    if mesh is None:
        return None
    if not isinstance(mesh, Mesh) or not mesh.axis_names:
        raise TypeError(
            "mesh must be a jax.sharding.Mesh, such as jax.make_mesh((8,), "
            f'("batch",)), got {shown(mesh)}'
        )
    return automatic(mesh)


def check_shards(mesh: Mesh | None, batch_size: int) -> None:
    """Raise unless the mesh's first axis divides the batch."""
    if mesh is None:
        return
    count = shard_count(mesh)
    if batch_size % count:
        near = batch_size - batch_size % count or count
        raise ValueError(
            f"batch_size={batch_size} cannot be split over the {count} devices along "
            f"the mesh's axis {mesh.axis_names[0]!r}: pass a multiple, such as {near}"
        )


def shard_count(mesh: Mesh | None) -> int:
    """Return the number of shards that a minibatch has."""
    return 1 if mesh is None else mesh.shape[mesh.axis_names[0]]


def shard_batch(batch: PyTree, mesh: Mesh | None) -> PyTree:
    """Shard the examples of a minibatch over the mesh's first axis; inside `jit`.

    A last, smaller batch that the devices do not divide is computed by all of them.
    """
    if mesh is None:
        return batch
    n = len(jax.tree.leaves(batch)[0])
    divides = n % shard_count(mesh) == 0
    rows = PartitionSpec(mesh.axis_names[0]) if divides else PartitionSpec()
    return lax.with_sharding_constraint(batch, NamedSharding(mesh, rows))


def on_mesh(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Copy every array to all devices; an array that is on them already stays as is."""
    if mesh is None:
        return tree

    def place(array: Any) -> Array:
        spec = _spec_on(mesh, array)
        return put(array, NamedSharding(mesh, spec or PartitionSpec()))

    return jax.tree.map(place, tree)


def put_numbers(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Move Python's numbers to the device, or to all of the mesh's.

    With a mesh over several processes they stay: each device gets them from its host.
    """
    if mesh is None:
        return jax.device_put(tree)
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.device_put(tree, everywhere) if everywhere.is_fully_addressable else tree


def put(array: Any, sharding: Sharding) -> Array:
    """Place an array, which every process holds whole, as the sharding says."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    if is_key(array):
        bits = put(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(array))
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda part: host[part])


def state_on_mesh(state: PyTree, params: PyTree, mesh: Mesh | None) -> PyTree:
    """Place the optimizer's state: each statistic as the parameter it belongs to.

    A leaf belongs to a parameter if its path ends in the parameter's path and it has
    the same shape, which holds for fnn's optimizers and for optax's. All other leaves
    are copied to all devices.
    """
    if mesh is None:
        return state
    owners = [
        (keystr(path), param) for path, param in tree_flatten_with_path(params)[0]
    ]
    leaves, structure = tree_flatten_with_path(state)

    def place(path: tuple[Any, ...], leaf: Array) -> Array:
        for owner, param in owners:
            if keystr(path).endswith(owner) and param.shape == leaf.shape:
                return put(leaf, param.sharding)
        return on_mesh(leaf, mesh)

    return tree_unflatten(structure, [place(path, leaf) for path, leaf in leaves])


def _spec_on(mesh: Mesh, array: Any) -> PartitionSpec | None:
    """Return how the array is split over the mesh's devices, or None if it is not."""
    sharding = getattr(array, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return None
    its = sharding.mesh
    same = isinstance(its, Mesh) and its.axis_names == mesh.axis_names
    if not same or its.devices.tolist() != mesh.devices.tolist():
        return None
    return sharding.spec
