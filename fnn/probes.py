"""Probes: see δ anywhere, in any engine, with no hooks.

A probed layer computes y + 0, where the 0 is a parameter of y's full shape. Whatever
computes gradients of parameters then computes ∂loss/∂0 = ∂loss/∂y, which is δ.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fnn.core import Backward, Forward, Layer, Variables, layer, leaf
from fnn.network import output_shape, path_of, walk
from fnn.typing import PyTree

__all__ = [
    "Probed",
    "ProbedParams",
    "Seen",
    "outputs_of",
    "probe",
    "probe_all",
    "record",
    "show",
]


class ProbedParams(NamedTuple):
    """The wrapped layer's `params`, and the zero of y's shape (N, ...)."""

    params: PyTree
    delta: Array


@layer
class Probed(Layer):
    """A layer whose δ = ∂loss/∂y is the gradient of its parameter `delta`.

        forward     y = f(x) + 0
        backward    d0 = dy, and dx, dparams as in f

    Keys and paths are those of the wrapped layer.

    Args:
        layer: f.
        batch: N, the batch size: δ has an entry for each example.

    Raises:
        ValueError: a batch of another size.

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
    def kind(self):
        return self.layer.kind

    @property
    def children(self):
        return {"": self.layer}

    def with_children(self, *layers):
        return dataclasses.replace(self, layer=layers[0])

    def init(self, key, in_shape):
        return self._wrap(self.layer.init(key, in_shape), in_shape)

    def _wrap(self, variables: Variables, in_shape: tuple[int, ...]) -> Variables:
        shape = output_shape(self.layer, variables, in_shape)
        delta = jnp.zeros((self.batch, *shape))
        return Variables(ProbedParams(variables.params, delta), (variables.state,))

    def forward(self, params, state, x, *, key=None, train=False):
        (inner,) = state
        out = self.layer.forward(params.params, inner, x, key=key, train=train)
        if len(x) not in (1, self.batch):  # `output_shape` asks with one example
            raise ValueError(
                f"{self!r} was made for batches of {self.batch}, got {len(x)} examples"
            )
        y = out.y + params.delta[: len(x)]
        return Forward(y, saved=out.saved, state=(out.state,))

    def backward(self, params, saved, dy):
        dx, dparams = self.layer.backward(params.params, saved, dy)
        return Backward(dx=dx, dparams=ProbedParams(dparams, delta=dy))


def probe(net: Layer, variables: Variables, x: Array) -> tuple[Layer, Variables]:
    """Put a probe on every layer of a network, the network itself included.

    Args:
        net: any network.
        variables: its variables.
        x: the batch (N, ...) the probes will see; only its shape and dtype matter.

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
    return _probed(_probe_all(net, len(x)), net, variables, x)


def _probed(
    probed: Layer, net: Layer, variables: Variables, x: Array
) -> tuple[Layer, Variables]:
    """The network with its probes, and its variables with zeros for them."""
    key = jax.random.key(0)  # only shapes are wanted of this init
    shapes = jax.eval_shape(lambda: probed.init(key, x.shape[1:]))
    return probed, Variables(
        _add_deltas(probed, shapes.params, variables.params, x.dtype),
        _wrap_state(net, variables.state),
    )


def _probe_all(net: Layer, batch: int, of_leaf: type = Probed) -> Layer:
    inner = [_probe_all(child, batch, of_leaf) for child in net.children.values()]
    return Probed(net.with_children(*inner), batch) if inner else of_leaf(net, batch)


def _add_deltas(probed: Any, shapes: PyTree, params: PyTree, dtype) -> ProbedParams:
    delta = jnp.zeros(shapes.delta.shape, dtype)

    def add(probe: Layer, shape: PyTree, part: PyTree) -> PyTree:
        return _add_deltas(probe, shape, part, dtype)

    probes = probed.layer.children.values()
    return ProbedParams(_map_first(add, probes, shapes.params, params), delta)


def _wrap_state(net: Layer, state: PyTree) -> tuple[PyTree]:
    return (_map_first(_wrap_state, net.children.values(), state),)


def _map_first(f: Callable, layers: Iterable[Layer], *trees: PyTree) -> PyTree:
    """F on the children's entries of a tuple; further ones are the layer's own."""
    if not (layers := list(layers)):
        return trees[-1]
    first = (tree[: len(layers)] for tree in trees)
    parts = [f(*entry) for entry in zip(layers, *first, strict=True)]
    rest = trees[-1][len(layers) :]
    return getattr(trees[-1], "_make", tuple)([*parts, *rest])


# ---- A probe on the input as well ------------------------------------------------


class _InputParams(NamedTuple):
    params: PyTree
    x: Array


@layer
class _InputProbed(Layer):
    """A network whose ∂loss/∂x is the gradient of its parameter `x`, a zero."""

    layer: Layer = leaf()

    @property
    def kind(self):
        return self.layer.kind

    @property
    def children(self):
        return {"": self.layer}

    def with_children(self, *layers):
        return _InputProbed(*layers)

    def forward(self, params, state, x, *, key=None, train=False):
        x = x + params.x
        (inner,) = state
        out = self.layer.forward(params.params, inner, x, key=key, train=train)
        return Forward(out.y, out.saved, (out.state,))

    def backward(self, params, saved, dy):
        dx, dparams = self.layer.backward(params.params, saved, dy)
        return Backward(dx, _InputParams(dparams, x=dx))


def probe_all(net: Layer, variables: Variables, x: Array) -> tuple[Layer, Variables]:
    """A probe on every layer's output, and one on the network's input."""
    probed, (params, state) = probe(net, variables, x)
    variables = Variables(_InputParams(params, jnp.zeros_like(x)), (state,))
    return _InputProbed(probed), variables


# ---- What every layer returns, of the same forward pass ---------------------------


@layer
class Shown(Probed):
    """A probed layer that hands out its output as well: y follows its state."""

    def forward(self, params, state, x, *, key=None, train=False):
        out = super().forward(params, state[:1], x, key=key, train=train)
        return out._replace(state=(*out.state, out.y))


def show(net: Layer, variables: Variables, x: Array) -> tuple[Layer, Variables]:
    """As `probe`; and of every layer without children the output, too.

    It is in the state that a forward pass returns, from where `outputs_of` takes it:
    whatever computes gradients shows δ and y of one and the same pass.
    """
    return _probed(_probe_all(net, len(x), Shown), net, variables, x)


def outputs_of(shown: Layer, variables: Variables) -> dict[str, Array]:
    """The output of every layer by path, in order, from the state after a pass."""
    nodes = [node for node in walk(shown, variables) if isinstance(node.layer, Shown)]
    return {node.path: node.variables.state[1] for node in nodes}


# ---- What every layer is given ----------------------------------------------------


class Seen(NamedTuple):
    """What one layer was given in a forward pass."""

    x: Array
    key: Array | None


@layer
class _Recorder(Layer):
    """A layer that notes what it is given; it lives only while a forward is traced."""

    layer: Layer = leaf()
    path: str = ""
    seen: dict[str, Seen] = field(default_factory=dict)

    def __repr__(self) -> str:
        return repr(self.layer)

    def forward(self, params, state, x, *, key=None, train=False):
        self.seen[self.path] = Seen(x, key)
        return self.layer.forward(params, state, x, key=key, train=train)

    def backward(self, params, saved, dy):
        return self.layer.backward(params, saved, dy)


def record(
    net: Layer,
    variables: Variables,
    x: Array,
    key: Array | None = None,
    train: bool = False,
) -> dict[str, Seen]:
    """What every layer is given in a forward pass, by path.

    Args:
        net: any network.
        variables: its variables.
        x: a batch (N, ...).
        key: as in `forward`.
        train: as in `forward`.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, x = fnn.serial(fnn.Dense(3), fnn.Tanh()), jnp.ones((4, 5))
        >>> seen = fnn.record(net, net.init(jax.random.key(0), (5,)), x)
        >>> {path: entry.x.shape for path, entry in seen.items()}
        {'': (4, 5), '0/Dense': (4, 5), '1/Tanh': (4, 3)}
    """
    seen: dict[str, Seen] = {}

    def recorded(layer: Layer, path: str) -> _Recorder:
        inner = [
            recorded(child, path_of(path, label, child))
            for label, child in layer.children.items()
        ]
        return _Recorder(layer.with_children(*inner) if inner else layer, path, seen)

    recorded(net, net.kind).forward(*variables, x, key=key, train=train)
    return seen
