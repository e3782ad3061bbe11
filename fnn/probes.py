"""Probes, which show δ at any layer, in any engine, without hooks.

A probed layer computes y + 0, where the 0 is a parameter of y's full shape. Every
engine computes gradients of parameters, and this one is ∂loss/∂0 = ∂loss/∂y, which
is δ. Where y is a tree of arrays, so is the 0.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import Backward, Forward, Layer, Variables, layer, leaf
from fnn.network import output_shape, walk
from fnn.pytree import exportable
from fnn.shapes import count_examples, map_shapes
from fnn.typing import InShape, KeyArray, PyTree
from fnn.visits import Place, visited

__all__ = [
    "Probed",
    "ProbedParams",
    "probe",
    "probe_with_input",
    "probe_with_outputs",
    "read_outputs",
]


@exportable
class ProbedParams(NamedTuple):
    """The wrapped layer's `params`, and `delta`, the zero of y's shape (N, ...)."""

    params: PyTree
    delta: PyTree


@layer
class Probed(Layer):
    """A layer whose δ = ∂loss/∂y is the gradient of its parameter `delta`.

        forward     y = f(x) + 0
        backward    d0 = dy, and dx, dparams as in f

    Its key and its path are those of the wrapped layer.

    Args:
        layer: f.
        batch: N, the batch size: δ has an entry for each example.

    Raises:
        ValueError: x has another number of examples.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Dense(3), fnn.Probed(fnn.Dense(2), batch=4))
        >>> variables = net.init(jax.random.key(0), (5,))
        >>> grad = fnn.value_and_grad(net, fnn.losses.SquaredError())
        >>> grad(variables, (jnp.ones((4, 5)), jnp.zeros((4, 2)))).grads[1].delta.shape
        (4, 2)
    """

    layer: Layer = leaf()
    batch: int = 1

    @property
    def kind(self) -> str:
        return self.layer.kind

    @property
    def children(self) -> dict[str, Layer]:
        return {"": self.layer}

    def with_children(self, *layers: Layer) -> Layer:
        return dataclasses.replace(self, layer=layers[0])

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        variables = self.layer.init(key, in_shape)
        out_shape = output_shape(self.layer, variables, in_shape)
        delta = map_shapes(lambda s: jnp.zeros((self.batch, *s)), out_shape)
        return Variables(ProbedParams(variables.params, delta), (variables.state,))

    def forward(
        self, params: ProbedParams, state: PyTree, x: PyTree, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        (inner,) = state
        out = self.layer.forward(params.params, inner, x, key=key, train=train)
        n = count_examples(x)
        if n not in (1, self.batch):  # `output_shape` passes one example
            raise ValueError(
                f"{self!r} was made for batches of {self.batch}, got {n} examples"
            )
        y = jax.tree.map(lambda y, zero: y + zero[:n], out.y, params.delta)
        return Forward(y, saved=out.saved, state=(out.state,))

    def backward(self, params: ProbedParams, saved: PyTree, dy: PyTree) -> Backward:
        dx, dparams = self.layer.backward(params.params, saved, dy)
        return Backward(dx=dx, dparams=ProbedParams(dparams, delta=dy))


def probe(net: Layer, variables: Variables, x: PyTree) -> tuple[Layer, Variables]:
    """Put a probe on every layer of a network, the network itself included.

    Args:
        net: any network.
        variables: its variables.
        x: the batch (N, ...) of later calls; only its shape and dtype matter.

    Returns:
        The probed network and its variables: the same numbers, and a zero `delta` of
        shape (N, ...) for each layer. Its gradients hold each layer's δ.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, x = fnn.serial(fnn.Dense(3), fnn.Tanh()), jnp.ones((4, 5))
        >>> variables = net.init(jax.random.key(0), (5,))
        >>> probed, probed_variables = fnn.probe(net, variables, x)
        >>> [path for path in fnn.named_params(probed, probed_variables.params)]
        ['0/Dense.weight', '0/Dense.bias', '0/Dense.delta', '1/Tanh.delta', '.delta']
    """
    return _probe(net, variables, x, Probed)


def _probe(
    net: Layer, variables: Variables, x: PyTree, leaf_probe: type[Probed]
) -> tuple[Layer, Variables]:
    """Put a probe on every layer; `leaf_probe` is the one for layers without children.

    The variables get a zero for each probe.
    """
    probed = _wrap(net, count_examples(x), leaf_probe)
    deltas = iter(_zero_outputs(net, variables, x))
    return probed, Variables(
        _add_deltas(probed, variables.params, deltas),
        _wrap_state(net, variables.state),
    )


def _zero_outputs(net: Layer, variables: Variables, x: PyTree) -> list[PyTree]:
    """Return a zero for each layer's output, in the order of `walk`."""
    outputs: dict[int, PyTree] = {}
    dtype = _float_dtype(x)

    def visit(
        place: Place, x: PyTree, key: KeyArray | None, run: Callable[[], Forward]
    ) -> Forward:
        del x, key
        out = run()
        outputs[place.number] = jax.tree.map(lambda y: tuple(y.shape), out.y)
        return out

    def forward(params: PyTree, state: PyTree, x: PyTree) -> PyTree:
        return visited(net, visit).forward(params, state, x).y

    jax.eval_shape(forward, *variables, x)
    return [
        map_shapes(lambda s: jnp.zeros(s, dtype), outputs[number])
        for number in sorted(outputs)
    ]


def _float_dtype(x: PyTree) -> Any:
    """Return the dtype of the first array of floating-point numbers in a batch."""
    dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(x)]
    floating = (dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating))
    return next(floating, jnp.zeros(()).dtype)


def _wrap(net: Layer, batch: int, leaf_probe: type[Probed]) -> Probed:
    inner = [_wrap(child, batch, leaf_probe) for child in net.children.values()]
    return Probed(net.with_children(*inner), batch) if inner else leaf_probe(net, batch)


def _add_deltas(probed: Any, params: PyTree, deltas: Iterator[PyTree]) -> ProbedParams:
    """Add the next of the deltas to a layer's params, then to those of its children."""
    delta = next(deltas)

    def add(child: Any, params: PyTree) -> ProbedParams:
        return _add_deltas(child, params, deltas)

    children = probed.layer.children.values()
    return ProbedParams(_map_children(add, children, params), delta)


def _wrap_state(net: Layer, state: PyTree) -> tuple[PyTree]:
    return (_map_children(_wrap_state, net.children.values(), state),)


def _map_children(
    f: Callable[..., PyTree], children: Iterable[Layer], *trees: PyTree
) -> PyTree:
    """Apply f to each child with its entries of the trees.

    The trees are tuples with an entry for each child first. The other entries of the
    last tree belong to the layer itself, and stay.
    """
    if not (children := list(children)):
        return trees[-1]
    first = (tree[: len(children)] for tree in trees)
    parts = [f(*entry) for entry in zip(children, *first, strict=True)]
    own = trees[-1][len(children) :]
    return getattr(trees[-1], "_make", tuple)([*parts, *own])


# ---- A probe on the input as well ------------------------------------------------


class _InputParams(NamedTuple):
    """The network's `params`, and the zero of x's shape."""

    params: PyTree
    x: PyTree


@layer
class _InputProbed(Layer):
    """A network whose ∂loss/∂x is the gradient of its parameter `x`, a zero."""

    layer: Layer = leaf()

    @property
    def kind(self) -> str:
        return self.layer.kind

    @property
    def children(self) -> dict[str, Layer]:
        return {"": self.layer}

    def with_children(self, *layers: Layer) -> Layer:
        return _InputProbed(*layers)

    def forward(
        self, params: _InputParams, state: PyTree, x: PyTree, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        # Ids are not rounded to half precision.
        x = jax.tree.map(lambda x, zero: x + zero.astype(x.dtype), x, params.x)
        (inner,) = state
        out = self.layer.forward(params.params, inner, x, key=key, train=train)
        return Forward(out.y, out.saved, (out.state,))

    def backward(self, params: _InputParams, saved: PyTree, dy: PyTree) -> Backward:
        dx, dparams = self.layer.backward(params.params, saved, dy)
        return Backward(dx, _InputParams(dparams, x=dx))


def probe_with_input(
    net: Layer, variables: Variables, x: PyTree
) -> tuple[Layer, Variables]:
    """Put a probe on every layer, as `probe`, and one on the network's input."""
    probed, (params, state) = probe(net, variables, x)
    zeros = jax.tree.map(jnp.zeros_like, x)
    variables = Variables(_InputParams(params, zeros), (state,))
    return _InputProbed(probed), variables


# ---- Probes that also return each layer's output ---------------------------------


@layer
class _ProbedWithOutput(Probed):
    """A probed layer that also returns its output y, as the last part of its state."""

    def forward(
        self, params: ProbedParams, state: PyTree, x: PyTree, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        out = super().forward(params, state[:1], x, key=key, train=train)
        return out._replace(state=(*out.state, out.y))


def probe_with_outputs(
    net: Layer, variables: Variables, x: PyTree
) -> tuple[Layer, Variables]:
    """Put a probe on every layer, as `probe`; a pass then also returns the outputs.

    The outputs are in the new state, from which `read_outputs` reads them. So they
    belong to the same pass as the δ of the gradients.
    """
    return _probe(net, variables, x, _ProbedWithOutput)


def read_outputs(probed: Layer, variables: Variables) -> dict[str, PyTree]:
    """Return the output of each layer without children, by path, in forward order.

    Args:
        probed: the network that `probe_with_outputs` returned.
        variables: its variables, with the state that a forward pass returned.
    """
    return {
        node.path: node.variables.state[1]
        for node in walk(probed, variables)
        if isinstance(node.layer, _ProbedWithOutput)
    }
