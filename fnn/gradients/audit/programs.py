"""What the audit runs: one compiled program for each precision, and one for slopes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fnn.core import Variables
from fnn.gradients.audit.layerwise import Compared, alive, compare_alone
from fnn.gradients.audit.rounding import lost_digits
from fnn.gradients.audit.verdict import Results, Slopes
from fnn.gradients.engines import autodiff, objective
from fnn.gradients.numerical import best_h, differences
from fnn.gradients.precision import cast, in_precision
from fnn.network import named_params, walk
from fnn.planning import plain
from fnn.probes import probe_all, record

__all__ = ["RUN", "SLOPES", "is_large", "sample"]

#: From so many operations of a forward on, it pays to compile well.
LARGE = 10_000_000


# ---- Every gradient, in one precision -----------------------------


def _run(
    net, loss, variables, batch, key, given, *, engine, train, l2, n, combinators, lower
) -> Results:
    """Every gradient in one precision: float64 where the variables are, else `lower`.

    `given` are the inputs and δ at which layers are compared alone; None for those of
    this run. Both engines share one program and so one forward: a ReLU that rounds to
    the other side in only one of them would look like a bug.
    """
    x, y = batch
    half = None if lower == "float32" or x.dtype == jnp.float64 else lower
    ours, referee = in_precision(engine, half), in_precision(autodiff, half)
    how = dict(key=key, train=train, l2=l2, n=n)
    z, whole = _whole(net, loss, variables, batch, ours, referee, lower, **how)
    delta = loss.delta(z, y)
    if half is not None:  # what layers are given then
        params, x = cast((variables.params, x), half)
        variables = Variables(params, variables.state)
    nodes = {
        node.path: node
        for node in walk(net, variables)
        if combinators or not node.layer.children
    }
    seen, deltas = given or (
        record(net, variables, x, key, train),
        {
            path: alive(whole.autodiff[f"{path}.delta"]).astype(x.dtype)
            for path in nodes
        },
    )
    parts = {
        path: compare_alone(node, seen[path], deltas[path], train, lower)
        for path, node in nodes.items()
    }
    referee = jax.grad(loss.value)(z, y)
    lost = {}
    if delta.dtype == jnp.float64:  # σ(z) − t of a saturated unit is all rounding
        lost = {"delta": lost_digits(lambda z: loss.delta(z, y), z, dtype=lower)}
    parts["loss"] = Compared({"delta": delta}, {"delta": referee}, lost)
    return Results(z, whole, parts, seen, deltas)


def _whole(
    net, loss, variables, batch, engine, referee, lower, *, key, train, l2, n
) -> tuple[Array, Compared]:
    """The network's outputs, and its gradients from both engines, δ included."""
    x, y = batch
    how = dict(key=key, train=train)
    probed, probed_variables = probe_all(net, variables, x)
    arguments = probed, loss, probed_variables, batch
    ours = engine(*arguments, **how, l2=l2, n=n)
    claimed = plain(probed)
    theirs = referee(claimed, *arguments[1:], **how, l2=l2, n=n)
    z, delta = theirs.outputs, loss.delta(theirs.outputs, y)

    def backward(params, x, delta):
        out = probed.forward(params, state, x, **how)
        if claimed is not probed:  # its outputs, and so its delta, round otherwise
            delta = loss.delta(out.y, y)
        return probed.backward(params, out.saved, delta).dparams

    params, state = probed_variables
    lost = {}
    if delta.dtype == jnp.float64:
        lost = lost_digits(backward, params, x, delta, dtype=lower)
        lost = named_params(probed, lost)
    ours, theirs = (named_params(probed, out.grads) for out in (ours, theirs))
    return z, Compared(ours, theirs, lost)


# ---- Central differences ---------------------------------------------------------


def sample(arguments: tuple, grads: dict, limit: int | None) -> tuple[dict, Array]:
    """Which entries of each gradient to difference, by path in forward order.

    Half of them are the largest, where a mistake weighs most; half are drawn at
    random, where it may hide. The second result numbers the same entries within the
    raveled parameters. The δ of a `serial` is its last layer's and is left out.
    """
    net, _, variables, (x, _) = arguments
    lists = {f"{n.path}.delta" for n in walk(net, variables) if not n.layer.kind}
    probed, probed_variables = probe_all(net, variables, x)
    named = named_params(probed, probed_variables.params)
    sizes = np.array([param.size for param in named.values()])
    starts = dict(zip(named, np.cumsum(sizes) - sizes, strict=True))
    draw = np.random.default_rng(0)
    sample, at = {}, []
    for path in sorted(named, key=lambda path: path != f"{net.kind}.x"):
        if path in lists:
            continue
        order = np.argsort(-np.abs(np.asarray(grads[path])), axis=None)
        if limit is not None and len(order) > limit:
            rest = draw.permutation(order[limit // 2 :])
            order = np.concatenate([order[: limit // 2], rest[: -(limit // -2)]])
        sample[path] = order
        at.append(starts[path] + order)
    return sample, jnp.asarray(np.concatenate(at))


def _slopes(net, loss, variables, batch, key, at, *, train, l2, n) -> Slopes:
    net, (params, state) = probe_all(net, variables, batch[0])
    how = dict(key=key, train=train, l2=l2, n=n)
    f = objective(plain(net), loss, Variables(params, state), batch, **how)
    # One after the other in a loop, so that the differences are compiled once.
    steps = best_h(jnp.float64) * jnp.array([1.0, 0.5])
    both = jax.lax.map(lambda h: differences(f, params, at, h), steps)
    full, half = (jax.tree.map(lambda a, i=i: a[i], both) for i in (0, 1))
    return Slopes(f(params), full, half)


# ---- Compiling -------------------------------------------------------------------


def _compiled(program: Callable, *static: str) -> dict[bool, Callable]:
    """Both ways to compile: quickly, for a program that runs once, and well."""
    return {
        large: jax.jit(
            program,
            static_argnames=static,
            compiler_options={"xla_backend_optimization_level": int(large)},
        )
        for large in (False, True)
    }


RUN = _compiled(_run, "engine", "train", "combinators", "lower")
SLOPES = _compiled(_slopes, "train")


@partial(jax.jit, static_argnames="train")
def _forward(net, params, state, x, key, train) -> Array:
    return net.forward(params, state, x, key=key, train=train).y


def is_large(*arguments: Any) -> bool:
    """Whether a forward takes many operations; counted, before compilation, by XLA."""
    cost = _forward.lower(*arguments).cost_analysis() or {}
    return cost.get("flops", 0.0) > LARGE
