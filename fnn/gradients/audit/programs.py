"""The compiled programs of the audit: gradients in one precision, and differences."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import Layer, Variables
from fnn.gradients.audit.layerwise import Comparison, compare_layer, random_if_zero
from fnn.gradients.audit.rounding import lost_digits
from fnn.gradients.audit.verdict import AuditRun, TwoStepDifferences
from fnn.gradients.engines import Engine, autodiff, objective
from fnn.gradients.numerical import best_h, differences
from fnn.gradients.precision import cast, engine_in_precision
from fnn.losses import Loss
from fnn.network import named_params, walk
from fnn.planning.planned import plain
from fnn.probes import Seen, probe_with_input, record
from fnn.summary import count_flops
from fnn.typing import Array, Batch, Int, KeyArray, Number, PyTree

__all__ = ["DIFFERENCES", "GRADIENTS", "is_large", "sample_entries"]

#: From this many operations of a forward on, it pays to compile well.
LARGE = 10_000_000


# ---- Every gradient, in one precision --------------------------------------------


def _gradients(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: Batch,
    key: KeyArray | None,
    layers_at: tuple[dict[str, Seen], dict[str, Array]] | None,
    *,
    engine: Engine,
    train: bool,
    l2: Number,
    n: int | Array,
    combinators: bool,
    precision: str,
) -> AuditRun:
    """Compute every gradient in float64 where the variables are, else in `precision`.

    Layers are compared alone at `layers_at`, inputs and δ by path; None for those of
    this run. Both engines share one program and so one forward: a ReLU that rounds to
    the other side in only one of them would look like a bug.
    """
    x, y = batch
    half = None if precision == "float32" or x.dtype == jnp.float64 else precision
    engine, referee = (engine_in_precision(e, half) for e in (engine, autodiff))
    options = dict(key=key, train=train, l2=l2, n=n)
    z, network = _network_gradients(
        net, loss, variables, batch, engine, referee, precision, **options
    )
    delta = loss.delta(z, y)
    if half is not None:  # then layers alone are given half precision
        params, x = cast((variables.params, x), half)
        variables = Variables(params, variables.state)
    nodes = {
        node.path: node
        for node in walk(net, variables)
        if combinators or not node.layer.children
    }
    if layers_at is None:
        deltas = {path: network.autodiff[f"{path}.delta"] for path in nodes}
        deltas = {path: random_if_zero(d).astype(x.dtype) for path, d in deltas.items()}
        layers_at = record(net, variables, x, key, train), deltas
    seen, deltas = layers_at
    layers = {
        path: compare_layer(node, seen[path], deltas[path], train, precision)
        for path, node in nodes.items()
    }
    rounding: dict[str, Array] = {}
    if delta.dtype == jnp.float64:  # σ(z) − t of a saturated unit is all rounding
        lost = lost_digits(lambda z: loss.delta(z, y), z, dtype=precision)
        rounding = {"delta": lost}
    by_jax = {"delta": jax.grad(loss.value)(z, y)}
    layers["loss"] = Comparison({"delta": delta}, by_jax, rounding)
    return AuditRun(z, network, layers, seen, deltas)


def _network_gradients(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: Batch,
    engine: Engine,
    referee: Engine,
    precision: str,
    *,
    key: KeyArray | None,
    train: bool,
    l2: Number,
    n: int | Array,
) -> tuple[Array, Comparison]:
    """Compute the network's outputs, and its gradients by both engines, δ included."""
    x, y = batch
    options = dict(key=key, train=train)
    probed, probed_variables = probe_with_input(net, variables, x)
    plain_net = plain(probed)
    arguments = loss, probed_variables, batch
    ours = engine(probed, *arguments, **options, l2=l2, n=n)
    theirs = referee(plain_net, *arguments, **options, l2=l2, n=n)
    z, delta = theirs.outputs, loss.delta(theirs.outputs, y)
    params, state = probed_variables

    def backward(params: PyTree, x: Array, delta: Array) -> PyTree:
        out = probed.forward(params, state, x, **options)
        if plain_net is not probed:  # its outputs, and so its delta, round otherwise
            delta = loss.delta(out.y, y)
        return probed.backward(params, out.saved, delta).dparams

    rounding: dict[str, Array] = {}
    if delta.dtype == jnp.float64:
        lost = lost_digits(backward, params, x, delta, dtype=precision)
        rounding = named_params(probed, lost)
    by_engine, by_autodiff = (named_params(probed, g.grads) for g in (ours, theirs))
    return z, Comparison(by_engine, by_autodiff, rounding)


# ---- Central differences ---------------------------------------------------------


def sample_entries(
    net: Layer,
    variables: Variables,
    x: Array,
    grads: dict[str, Array],
    limit: int | None,
) -> tuple[dict[str, np.ndarray], Int[Array, "M"]]:
    """Choose the entries of each gradient to difference.

    Half of them are the largest, where a mistake weighs most; half are drawn at
    random, where it may hide. The δ of a `serial` is its last layer's and is left out.

    Args:
        net: the network.
        variables: its variables.
        x: the batch (N, ...).
        grads: the gradients by path.
        limit: how many entries of a gradient are chosen; None for all.

    Returns:
        The chosen entries of each raveled gradient, by path in forward order; and the
        same M entries, numbered within the raveled parameters.
    """
    serials = {f"{n.path}.delta" for n in walk(net, variables) if not n.layer.kind}
    probed, probed_variables = probe_with_input(net, variables, x)
    named = named_params(probed, probed_variables.params)
    sizes = np.array([param.size for param in named.values()])
    starts = dict(zip(named, np.cumsum(sizes) - sizes, strict=True))
    draw = np.random.default_rng(0)
    entries: dict[str, np.ndarray] = {}
    coordinates = []
    for path in sorted(named, key=lambda path: path != f"{net.kind}.x"):
        if path in serials:
            continue
        order = np.argsort(-np.abs(np.asarray(grads[path])), axis=None)
        if limit is not None and len(order) > limit:
            rest = draw.permutation(order[limit // 2 :])
            order = np.concatenate([order[: limit // 2], rest[: -(limit // -2)]])
        entries[path] = order
        coordinates.append(starts[path] + order)
    return entries, jnp.asarray(np.concatenate(coordinates))


def _differences(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: Batch,
    key: KeyArray | None,
    coordinates: Int[Array, "M"],
    *,
    train: bool,
    l2: Number,
    n: int | Array,
) -> TwoStepDifferences:
    """Compute difference quotients of J at M coordinates, with step h and with h/2."""
    probed, (params, state) = probe_with_input(net, variables, batch[0])
    options = dict(key=key, train=train, l2=l2, n=n)
    f = objective(plain(probed), loss, Variables(params, state), batch, **options)
    # One after the other in a loop, so that the differences are compiled once.
    steps = best_h(jnp.float64) * jnp.array([1.0, 0.5])
    both = jax.lax.map(lambda h: differences(f, params, coordinates, h), steps)
    full, half = (jax.tree.map(lambda a, i=i: a[i], both) for i in (0, 1))
    return TwoStepDifferences(f(params), full, half)


# ---- Compiling -------------------------------------------------------------------


def _compiled(
    program: Callable[..., Any], *static: str
) -> dict[bool, Callable[..., Any]]:
    """Compile a program in two ways: quickly (False), and well (True).

    A small program runs once, and is not worth more time.
    """
    return {
        large: jax.jit(
            program,
            static_argnames=static,
            compiler_options={"xla_backend_optimization_level": int(large)},
        )
        for large in (False, True)
    }


GRADIENTS = _compiled(_gradients, "engine", "train", "combinators", "precision")
DIFFERENCES = _compiled(_differences, "train")


@partial(jax.jit, static_argnames="train")
def _forward(
    net: Layer,
    params: PyTree,
    state: PyTree,
    x: Array,
    key: KeyArray | None,
    train: bool,
) -> Array:
    return net.forward(params, state, x, key=key, train=train).y


def is_large(
    net: Layer, variables: Variables, x: Array, key: KeyArray | None, train: bool
) -> bool:
    """Return whether a forward takes many operations; nothing is compiled."""
    return count_flops(_forward, net, *variables, x, key, train) > LARGE
