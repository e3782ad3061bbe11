"""The audit: are the gradients right, and if not, which layer is wrong?

Three ways to one gradient are compared, for every parameter and, through probes, for
every δ: the engine under audit, autodiff, and central differences. Then every layer is
taken alone: its backward against `jax.vjp` of its own forward, both fed autodiff's δ.
A wrong layer fails alone; those below it only inherit its error, and pass.
`verdict` says what counts as agreement.

Of a planned network the gradients by hand are judged by autodiff, and by differences,
of the plain one: what a plan claims to compute, not what it does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fnn.checks import as_inputs, check_instances, check_key, check_l2, check_pair
from fnn.core import (
    Layer,
    PyTree,
    Variables,
    as_variables,
    children,
    kind,
    named_params,
    walk,
)
from fnn.gradients.alone import (
    Compared,
    alive,
    compare_alone,
    structural_faults,
)
from fnn.gradients.engines import Engine, autodiff, get_engine, objective
from fnn.gradients.numerical import best_h, differences
from fnn.gradients.probing import probe_all
from fnn.gradients.report import Report
from fnn.gradients.rounding import lost_digits
from fnn.gradients.verdict import Results, Slopes, judge_nodes, judge_rows
from fnn.layers.probe import record
from fnn.losses import Loss
from fnn.planning import plain

__all__ = ["compare_gradients"]

#: From so many operations of a forward on, it pays to compile well.
LARGE = 10_000_000


def compare_gradients(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: tuple[Array, Array],
    *,
    key: Array | None = None,
    engine: str | Engine = "manual",
    train: bool = True,
    l2: float = 0.0,
    n: int | None = None,
    exhaustive: bool = False,
    max_examples: int = 32,
    max_coordinates: int = 64,
) -> Report:
    """Compare an engine's gradients with autodiff's and with central differences.

    Args:
        net: the network.
        loss: the loss.
        variables: its variables, in any precision. The audit runs in float32 and in
            float64 whatever theirs is.
        batch: (x, y); the first `max_examples` are used.
        key: as in training: needed where the network draws (dropout). All runs draw
            the same masks.
        engine: the engine to audit.
        train: in training mode, or in evaluation mode.
        l2: λ of the penalty.
        n: n of the penalty; the number of examples used by default.
        exhaustive: difference every coordinate of every leaf.
        max_examples: how many examples are used.
        max_coordinates: how many coordinates of a leaf are differenced: the largest
            gradients, and others drawn at random.

    Returns:
        A `Report`: print it, or read `report.passed`, `report.first_divergence` (the
        path of what is wrong by itself, or None) and `report.rows`.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Dense(4), fnn.Tanh(), fnn.Dense(3))
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> x = jax.random.normal(jax.random.key(1), (5, 2))
        >>> batch = x, jnp.array([0, 1, 2, 0, 1])
        >>> loss = fnn.losses.SoftmaxCrossEntropy()
        >>> report = fnn.compare_gradients(net, loss, variables, batch)
        >>> report.passed, report.first_divergence
        (True, None)
    """
    run = get_engine(engine)
    check_instances(net=net, loss=loss)
    check_l2(l2)
    key = None if key is None else check_key(key)
    x, y = check_pair("batch", batch)
    x, y = np.asarray(as_inputs(x)[:max_examples]), np.asarray(y[:max_examples])
    if len(x) == 0:
        raise ValueError(f"expected at least one example, got x of shape {x.shape}")
    name = engine if isinstance(engine, str) else getattr(engine, "__name__", "engine")
    how = dict(train=train, l2=float(l2), n=len(x) if n is None else n)
    arguments = net, loss, as_variables(variables), (x, y)
    with jax.enable_x64(False):
        single = _cast(arguments, jnp.float32)
        if faults := structural_faults(net, single[2], single[3][0], key, train):
            return Report(rows=(), nodes=tuple(faults), engine=name)
        large = _is_large(net, *single[2], single[3][0], key, train)
    run_engines, run_slopes = (programs[large] for programs in (_RUN, _SLOPES))
    with jax.enable_x64(True):
        double = _cast(arguments, jnp.float64)
    rows: tuple = ()
    for combinators in (False, True):
        with jax.enable_x64(False):
            which = dict(engine=run, combinators=combinators)
            in32 = run_engines(*single, key, None, **which, **how)
        with jax.enable_x64(True):
            given = _cast((in32.seen, in32.deltas), jnp.float64)
            in64 = run_engines(*double, key, given, **which, **how)
            loss.check(in64.outputs.shape[1:], double[3][1])
            if not rows:
                limit = None if exhaustive else max_coordinates
                sample, at = _sample(double, in64.whole.autodiff, limit)
                slopes = run_slopes(*double, key, at, **how)
                rows = tuple(judge_rows(in32.whole, in64.whole, sample, slopes))
        nodes = tuple(judge_nodes(net, variables, in32, in64))
        report = Report(rows, nodes, name)
        # Layers of layers are taken alone only where no simple layer explains a
        # failure, or where no gradient arrives that could show one: each contains all
        # others, and would multiply the compile time.
        unseen = any(row.largest == 0 for row in rows if row.path.endswith(".delta"))
        if not (report.failed or unseen) or not all(node.passed for node in nodes):
            break
    return report


# ---- Running: one compiled program for each precision -----------------------------


def _run(
    net, loss, variables, batch, key, given, *, engine, train, l2, n, combinators
) -> Results:
    """Every gradient in one precision.

    `given` are the inputs and δ at which layers are compared alone; None for those of
    this run. Both engines share one program and so one forward: a ReLU that rounds to
    the other side in only one of them would look like a bug.
    """
    x, y = batch
    probed, probed_variables = probe_all(net, variables, x)
    arguments = probed, loss, probed_variables, batch
    ours = engine(*arguments, key=key, train=train, l2=l2, n=n)
    claimed = plain(probed)
    theirs = autodiff(claimed, *arguments[1:], key=key, train=train, l2=l2, n=n)
    z, delta = theirs.outputs, loss.delta(theirs.outputs, y)

    def backward(params, x, delta):
        out = probed.forward(params, state, x, key=key, train=train)
        if claimed is not probed:  # its outputs, and so its delta, round otherwise
            delta = loss.delta(out.y, y)
        return probed.backward(params, out.saved, delta).dparams

    params, state = probed_variables
    lost = {}
    if delta.dtype == jnp.float64:
        lost = named_params(probed, lost_digits(backward, params, x, delta))
    whole = Compared(
        named_params(probed, ours.grads),
        named_params(probed, theirs.grads),
        lost,
    )
    nodes = {
        node.path: node
        for node in walk(net, variables)
        if combinators or not children(node.layer)
    }
    seen, deltas = given or (
        record(net, variables, x, key, train),
        {path: alive(whole.autodiff[f"{path}.delta"]) for path in nodes},
    )
    parts = {
        path: compare_alone(node, seen[path], deltas[path], train)
        for path, node in nodes.items()
    }
    referee = jax.grad(loss.value)(z, y)
    lost = {}
    if delta.dtype == jnp.float64:  # σ(z) − t of a saturated unit is all rounding
        lost = {"delta": lost_digits(lambda z: loss.delta(z, y), z)}
    parts["loss"] = Compared({"delta": delta}, {"delta": referee}, lost)
    return Results(z, whole, parts, seen, deltas)


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    """Floating-point arrays in the given precision; all else as it is."""

    def cast(part: Any) -> Any:
        if hasattr(part, "dtype") and jnp.issubdtype(part.dtype, jnp.floating):
            return jnp.asarray(part, dtype)
        return part

    return jax.tree.map(cast, tree)


# ---- Central differences ---------------------------------------------------------


def _sample(arguments: tuple, grads: dict, limit: int | None) -> tuple[dict, Array]:
    """Which entries of each gradient to difference, by path in forward order.

    Half of them are the largest, where a mistake weighs most; half are drawn at
    random, where it may hide. The second result numbers the same entries within the
    raveled parameters. The δ of a `serial` is its last layer's and is left out.
    """
    net, _, variables, (x, _) = arguments
    lists = {f"{n.path}.delta" for n in walk(net, variables) if not kind(n.layer)}
    probed, probed_variables = probe_all(net, variables, x)
    named = named_params(probed, probed_variables.params)
    sizes = np.array([param.size for param in named.values()])
    starts = dict(zip(named, np.cumsum(sizes) - sizes, strict=True))
    draw = np.random.default_rng(0)
    sample, at = {}, []
    for path in sorted(named, key=lambda path: path != f"{kind(net)}.x"):
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


_RUN = _compiled(_run, "engine", "train", "combinators")
_SLOPES = _compiled(_slopes, "train")


@partial(jax.jit, static_argnames="train")
def _forward(net, params, state, x, key, train) -> Array:
    return net.forward(params, state, x, key=key, train=train).y


def _is_large(*arguments: Any) -> bool:
    """Whether a forward takes many operations; counted, before compilation, by XLA."""
    cost = _forward.lower(*arguments).cost_analysis() or {}
    return cost.get("flops", 0.0) > LARGE
