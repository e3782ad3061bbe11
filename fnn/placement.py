"""The placement of arrays on many devices, and of sums over a sharded batch.

The type of an array on a mesh of *explicit* axes (`jax.make_mesh` makes such) says how
it is split, and every product and reshape must say where its result lies. Layers are
written without a word of that. `on_automatic_axes` calls them with automatic axes, on
which XLA decides, and places the results: what belongs to an example as the examples
are, and what belongs to a parameter as the parameter is. That is where the sum over the
examples goes.

Inside `jax.shard_map` an array is either the same on all devices or varies from one to
the next. The gradient by an array that is the same everywhere is a sum over the devices
(`sum_like`), as it is where JAX differentiates.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import jax
from jax import lax
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    get_abstract_mesh,
    get_mesh,
    reshard,
    use_abstract_mesh,
)

from fnn.typing import PyTree

__all__ = [
    "automatic",
    "explicit_mesh",
    "on_automatic_axes",
    "place_backward",
    "place_forward",
    "specs_like",
    "specs_of_examples",
    "sum_like",
    "unsplit_specs",
    "with_automatic_axes",
]

P = ParamSpec("P")
T = TypeVar("T")

# ---- Inside a program ------------------------------------------------------------


def explicit_mesh(*trees: PyTree) -> AbstractMesh | None:
    """Return the mesh whose explicit axes place these arrays; None without one."""
    mesh = get_abstract_mesh()
    if mesh.empty:  # the arrays may bring their own
        found = (_mesh_of(leaf) for leaf in jax.tree.leaves(trees))
        mesh = next((mesh for mesh in found if mesh), mesh)
    return mesh if mesh.explicit_axes else None


def on_automatic_axes(
    mesh: AbstractMesh,
    f: Callable[..., Any],
    args: tuple[PyTree, ...],
    specs_for: Callable[[Any], Any],
) -> Any:
    """Return `f(*args)`, computed with automatic axes in place of explicit ones.

    Args:
        mesh: a mesh with explicit axes.
        f: a function that does not say where its results lie.
        args: pytrees of arrays.
        specs_for: maps the result to a tree like it, of PartitionSpecs.
    """
    in_context = not get_abstract_mesh().empty

    def enter(leaf: Any) -> Any:
        return reshard(leaf, PartitionSpec()) if _mesh_of(leaf) else leaf

    def place(leaf: Any, spec: PartitionSpec) -> Any:
        # Without a context, what has met no array on the mesh stays on one device.
        if in_context or isinstance(leaf, jax.core.Tracer) or _is_on_a_mesh(leaf):
            return reshard(leaf, NamedSharding(mesh, spec))
        return leaf

    args = jax.tree.map(
        lambda leaf: leaf if _mesh_of(leaf) else place(leaf, PartitionSpec()), args
    )
    kinds = dict.fromkeys(mesh.explicit_axes, AxisType.Auto)
    with use_abstract_mesh(mesh.update_axis_types(kinds)):
        out = f(*jax.tree.map(enter, args))
    return jax.tree.map(place, out, specs_for(out))


def place_forward(
    mesh: AbstractMesh,
    forward: Callable[..., Any],
    params: PyTree,
    state: PyTree,
    x: PyTree,
    key: Any,
) -> Any:
    """Return a layer's `Forward`: y and `saved` lie as x does, the state as it did."""

    def call(params: PyTree, state: PyTree, x: PyTree, key: Any) -> Any:
        return forward(params, state, x, key=key)

    def specs(out: Any) -> Any:
        y, saved = specs_of_examples((out.y, out.saved), x)
        return out._replace(y=y, saved=saved, state=specs_like(out.state, state))

    return on_automatic_axes(mesh, call, (params, state, x, key), specs)


def place_backward(
    mesh: AbstractMesh,
    backward: Callable[..., Any],
    params: PyTree,
    saved: PyTree,
    dy: PyTree,
) -> Any:
    """Return a layer's `Backward`: dx lies as dy does, dparams as the params do."""

    def specs(out: Any) -> Any:
        dx, dparams = specs_of_examples(out.dx, dy), specs_like(out.dparams, params)
        return out._replace(dx=dx, dparams=dparams)

    return on_automatic_axes(mesh, backward, (params, saved, dy), specs)


def specs_of_examples(tree: PyTree, x: Any) -> PyTree:
    """Return the specs of arrays that belong to the examples x, if so long as x is.

    Args:
        tree: arrays.
        x: the examples, an array or a tree of arrays that are split alike.
    """
    x = jax.tree.leaves(x)[0]
    first = _spec_of(x)[:1]

    def spec(leaf: Any) -> PartitionSpec:
        has_examples = leaf.shape[:1] == x.shape[:1]
        return PartitionSpec(*first) if has_examples else PartitionSpec()

    return jax.tree.map(spec, tree)


def specs_like(tree: PyTree, like: PyTree) -> PyTree:
    """Return the specs of arrays that belong to those of `like`, one to each."""
    if jax.tree.structure(tree) != jax.tree.structure(like):  # refused later
        return unsplit_specs(tree)
    return jax.tree.map(_spec_of, like)


def unsplit_specs(tree: PyTree) -> PyTree:
    """Return the specs of arrays that are whole on every device."""
    return jax.tree.map(lambda _: PartitionSpec(), tree)


def sum_like(grads: PyTree, like: PyTree) -> PyTree:
    """Sum gradients over the devices on which the arrays of `like` are the same.

    Outside `shard_map` there is nothing to sum; with `check_vma=False` the caller does.
    """
    manual = get_abstract_mesh().manual_axes
    if not manual or jax.tree.structure(grads) != jax.tree.structure(like):
        return grads

    def total(grad: Any, array: Any) -> Any:
        axes = _varying_axes(grad) - _varying_axes(array)
        return lax.psum(grad, tuple(sorted(axes))) if axes else grad

    return jax.tree.map(total, grads, like)


def _spec_of(leaf: Any) -> PartitionSpec:
    return jax.typeof(leaf).sharding.spec if _mesh_of(leaf) else PartitionSpec()


def _mesh_of(leaf: Any) -> AbstractMesh | None:
    """Return the mesh that the type of an array names, or None."""
    sharding = getattr(jax.typeof(leaf), "sharding", None)
    return None if sharding is None or sharding.mesh.empty else sharding.mesh


def _is_on_a_mesh(leaf: Any) -> bool:
    return isinstance(getattr(leaf, "sharding", None), NamedSharding)


def _varying_axes(array: Any) -> frozenset[str]:
    return jax.typeof(array).mat.varying


# ---- On the host -----------------------------------------------------------------


def automatic(mesh: Mesh) -> Mesh:
    """Return the same mesh with automatic axes."""
    kinds = (AxisType.Auto,) * len(mesh.axis_names)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=kinds)


def with_automatic_axes(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function that compiles programs of its own take arrays on explicit axes.

    They stay where they are; within the function their axes are automatic.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        moved: Any = map(_on_automatic_axes, args)
        named: Any = {name: _on_automatic_axes(arg) for name, arg in kwargs.items()}
        if not get_abstract_mesh().explicit_axes:
            return function(*moved, **named)
        with jax.set_mesh(automatic(get_mesh())):
            return function(*moved, **named)

    return call


def _on_automatic_axes(argument: Any) -> Any:
    """Move a key, Variables or data (x, y, weights); return all else as it is."""
    is_data = isinstance(argument, (tuple, list)) and len(argument) in (2, 3)
    if not is_data and not isinstance(argument, jax.Array):
        return argument
    return jax.tree.map(_moved, argument, is_leaf=_is_no_container_of_arrays)


def _moved(leaf: Any) -> Any:
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding) or not isinstance(sharding.mesh, Mesh):
        return leaf
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return leaf
    on = NamedSharding(automatic(sharding.mesh), sharding.spec)
    return jax.device_put(leaf, on)


def _is_no_container_of_arrays(node: Any) -> bool:
    """Return whether a node holds numbers, which are nowhere yet, or is an iterator."""
    if isinstance(node, Iterator):
        return True
    return isinstance(node, list) and bool(node) and isinstance(node[0], int | float)
