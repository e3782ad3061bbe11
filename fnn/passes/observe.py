"""The pass that keeps records: one forward, and a walk back that returns them.

It is the same network with another backward. The leaf layers return, in place of
`dparams`, a `Record` of what they saved and of δ; the layers made of layers hand it on
untouched, so that the walk returns a tree like the parameters.
"""

import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax

from fnn.checks import as_inputs, check_key, check_pair, is_key
from fnn.core import (
    Backward,
    Forward,
    Layer,
    Variables,
    as_variables,
    expect_layer,
    layer,
    leaf,
)
from fnn.dtypes import at_least_float32, widen
from fnn.gradients.precision import cast, check_precision
from fnn.layers.branches import Parallel, Residual
from fnn.layers.combinators import Serial
from fnn.layers.remat import Remat
from fnn.layers.several import Each, Fork
from fnn.layers.shared import Shared, filled
from fnn.layers.tied import Tied
from fnn.losses import Loss, Weighted, expect_loss
from fnn.network import path_of
from fnn.passes.formulas import Axes
from fnn.passes.independence import expect_independent
from fnn.passes.records import Record, SharedRecord
from fnn.planning.planned import plain
from fnn.probes import Probed
from fnn.shapes import count_examples, example_shape, format_shapes
from fnn.typing import Array, Batch, KeyArray, PyTree

__all__ = [
    "ExampleRecords",
    "Observation",
    "as_batch",
    "example_deltas",
    "function_of_records",
    "observe",
    "observe_losses",
]

T = TypeVar("T")

#: Layers made of layers that hand on the `dparams` of their children as they are. Any
#: other layer made of layers may add them up: it has one record as a whole.
CONTAINERS = (Serial, Residual, Parallel, Fork, Each, Probed)


class Observation(NamedTuple):
    """A forward pass from which one may walk back.

    Args:
        outputs: z (N, ...), an array or a tree of arrays.
        records: the walk: a function of ∂loss/∂z, of z's shape, that returns the
            records of all layers, in a tree like the parameters.
    """

    outputs: PyTree
    records: Callable[[PyTree], PyTree]


class ExampleRecords(NamedTuple):
    """The records of a batch, for the loss of each example by itself.

    Args:
        records: those of all layers, in a tree like the parameters.
        count: N, the number of examples.
        losses: the loss of each example alone, (N,).
    """

    records: PyTree
    count: int
    losses: Array


def observe(
    net: Layer,
    variables: Variables,
    x: PyTree,
    *,
    key: Array | None,
    train: bool,
    precision: str | None = None,
) -> Observation:
    """Run the forward of a network so that the walk back returns records.

    Args:
        net: the network; of a planned one, the plain one is run.
        variables: its variables.
        x: the inputs (N, ...).
        key: the key of the forward pass.
        train: whether the network is in training mode.
        precision: a half precision to compute in, or None.

    Raises:
        ValueError: a layer mixes the examples of a batch; the error names it.
    """
    net, x = plain(net), as_inputs(x)
    key = None if key is None else check_key(key)
    observed = _observed(net, net.kind)
    params, state = as_variables(variables)
    wide = at_least_float32(jax.tree.leaves(x)[0].dtype)
    if precision is not None:
        params = cast(params, check_precision(precision))
        x = x if net.takes_ids else cast(x, precision)
    out = observed.forward(params, state, x, key=key, train=train)
    z = out.y
    if precision is not None:
        z = jax.tree.map(lambda part: part.astype(wide), z)

    def records(dy: PyTree) -> PyTree:
        dy = jax.tree.map(lambda d, y: d.astype(y.dtype), dy, out.y)
        return observed.backward(params, out.saved, dy).dparams

    return Observation(z, records)


def observe_losses(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: Batch,
    *,
    key: Array | None,
    train: bool,
    precision: str | None = None,
) -> ExampleRecords:
    """Return the records of a batch, for the loss of each example by itself."""
    loss, (x, y) = as_batch(loss, batch)
    seen = observe(net, variables, x, key=key, train=train, precision=precision)
    deltas = example_deltas(loss, seen.outputs, y)
    losses = jax.vmap(loss.value)(*_alone(seen.outputs, y))
    return ExampleRecords(seen.records(deltas), count_examples(x), losses)


def function_of_records(
    net: Layer,
    loss: Loss,
    precision: str | None,
    compute: Callable[[ExampleRecords, PyTree], T],
) -> Callable[..., T]:
    """Make a function of a batch from one of the records of its examples.

    Args:
        net: the network.
        loss: the loss.
        precision: a half precision to compute the network in, or None.
        compute: a function of the records and the parameters.

    Returns:
        `f(variables, (x, y), *, key=None, train=True)`.
    """
    expect_layer("net", net)
    expect_loss(loss)

    def f(
        variables: Variables,
        batch: Batch,
        *,
        key: Array | None = None,
        train: bool = True,
    ) -> T:
        found = observe_losses(
            *(net, loss, variables, batch), key=key, train=train, precision=precision
        )
        return compute(found, variables[0])

    return f


def example_deltas(loss: Loss, z: PyTree, y: PyTree) -> PyTree:
    """Return ∂L(z_n, y_n)/∂z_n of every example, where L is the loss of it alone.

    That is `loss.delta` of a batch of one. For most losses it is N δ_n, and the loss of
    the batch is the mean; where labels are ignored, or classes have weights, that loss
    is divided by what counts in the batch, and an example alone by what counts in it.

    It is computed in at least float32: in float16, δ may be too small.
    """
    loss.check(example_shape(z), y)
    deltas = jax.vmap(loss.delta)(*_alone(jax.tree.map(widen, z), y))
    return jax.tree.map(lambda d: d[:, 0], deltas)


def _alone(z: PyTree, y: PyTree) -> tuple[PyTree, PyTree]:
    """Return outputs and labels as N batches of one example."""
    return jax.tree.map(lambda a: a[:, None], (z, y))


def as_batch(loss: Loss, batch: Any) -> tuple[Loss, Batch]:
    """Return a loss and a batch (x, y) on the device, of a batch (x, y) or (x, y, w).

    With weights w (N,) it is the loss of examples with weights, and y is (y, w).

    Raises:
        ValueError, TypeError: it is no batch, or has no examples.
    """
    if type(batch) in (tuple, list) and len(batch) == 3:
        x, y, w = batch
        loss, batch = Weighted(loss), (x, (y, w))
    x, y = check_pair("batch", batch)
    if count_examples(x) == 0:
        raise ValueError(
            f"expected a batch of examples, got x of shape {format_shapes(x)}"
        )
    return loss, (as_inputs(x), y)


# ---- The network of the pass -----------------------------------------------------


def _observed(net: Layer, path: str) -> Layer:
    """Replace every layer that is no container."""
    if isinstance(net, Remat):  # its layers have formulas of their own
        return _observed(net.layer, path)
    if isinstance(net, Tied):
        return dataclasses.replace(net, layer=_observed(net.layer, path))
    if isinstance(net, Shared):
        return _ObservedShared(net, _observed(net.net, path))
    if type(net) not in CONTAINERS:
        return _Observed(net, path)
    inner = [
        _observed(child, path_of(path, label, child))
        for label, child in net.children.items()
    ]
    return net.with_children(*inner)


@dataclasses.dataclass(frozen=True)
class _Kept:
    """The arrays that a forward saved, and their axes; to JAX it is a leaf."""

    saved: PyTree
    find_axes: Callable[[], Axes | None]


@layer
class _Observed(Layer):
    """A layer that returns its record; it exists only while a pass is traced."""

    layer: Layer = leaf()
    path: str = ""

    @property
    def wrapped(self) -> Layer:
        return self.layer

    @property
    def takes_trees(self) -> bool:
        return True  # the layer inside looks at what it is given

    def __repr__(self) -> str:
        return repr(self.layer)

    def forward(
        self, params: PyTree, state: PyTree, x: PyTree, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        out = self.layer.forward(params, state, x, key=key, train=train)
        arguments = self.layer, params, state, x, key, train
        expect_independent(self.path, out.saved, *arguments)
        find_axes = functools.cache(partial(_axes_of_examples, *arguments))
        return out._replace(saved=_Kept(out.saved, find_axes))

    def backward(self, params: PyTree, saved: _Kept, dy: PyTree) -> Backward:
        dx = self.layer.backward(params, saved.saved, dy).dx  # dparams is not computed
        kept = saved.saved, dy, saved.find_axes
        return Backward(dx, Record(self.path, self.layer, params, *kept))


@layer
class _ObservedShared(Layer):
    """A network of tied places that returns the record of all places together."""

    shared: Shared = leaf()
    observed: Layer = leaf()

    @property
    def wrapped(self) -> Layer:
        return self.shared

    def forward(
        self, params: PyTree, state: PyTree, x: PyTree, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        params = filled(self.shared.net, params)
        return self.observed.forward(params, state, x, key=key, train=train)

    def backward(self, params: PyTree, saved: PyTree, dy: PyTree) -> Backward:
        complete = filled(self.shared.net, params)
        dx, records = self.observed.backward(complete, saved, dy)
        return Backward(dx, SharedRecord(self.shared, params, records))


def _axes_of_examples(
    layer: Layer, params: PyTree, state: PyTree, x: PyTree, key: KeyArray | None,
    train: bool,
) -> Axes | None:  # fmt: skip
    """Return the axis of examples of each saved array: the one that grows with N.

    Returns:
        None where it is not known: where there is one example, where an array changes
        otherwise, or where a key is saved, from which a batch of one would draw other
        numbers.
    """

    def saved(count: int) -> PyTree:
        batch = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((count, *a.shape[1:]), a.dtype), x
        )

        def forward(params: PyTree, state: PyTree, x: PyTree) -> PyTree:
            return layer.forward(params, state, x, key=key, train=train).saved

        return jax.eval_shape(forward, params, state, batch)

    if (count := count_examples(x)) == 1:
        return None
    (many, tree), (one, other) = (jax.tree.flatten(saved(n)) for n in (count, 1))
    if tree != other or any(map(is_key, many)):
        return None
    axes: list[int | None] = []
    for big, small in zip(many, one, strict=True):
        if big.ndim != small.ndim:
            return None
        sizes = enumerate(zip(big.shape, small.shape, strict=True))
        grown = [axis for axis, (n, m) in sizes if n != m]
        if len(grown) > 1:
            return None
        axes.append(grown[0] if grown else None)
    return tuple(axes)
