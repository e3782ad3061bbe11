"""The audit: are the gradients right, and if not, which layer is wrong?

Three ways to one gradient are compared, for every parameter and, through probes, for
every δ: the engine under audit, autodiff, and central differences. Then every layer is
taken alone: its backward against `jax.vjp` of its own forward, both fed autodiff's δ.
A wrong layer fails alone; those below it only inherit its error, and pass.
`verdict` says what counts as agreement.

Of a planned network the gradients by hand are judged by autodiff, and by differences,
of the plain one: what a plan claims to compute, not what it does.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fnn.checks import as_inputs, check_key, check_l2, check_pair
from fnn.core import Layer, Variables, as_variables, expect_layer
from fnn.gradients.audit.layerwise import structural_faults
from fnn.gradients.audit.programs import RUN, SLOPES, is_large, sample
from fnn.gradients.audit.report import Report
from fnn.gradients.audit.scaling import scaled_for_float16, unscaled
from fnn.gradients.audit.verdict import judge_nodes, judge_rows
from fnn.gradients.engines import Engine, get_engine
from fnn.gradients.precision import cast, check_precision
from fnn.losses import Loss, expect_loss
from fnn.typing import PyTree

__all__ = ["compare_gradients"]


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
    precision: str | None = None,
) -> Report:
    """Compare an engine's gradients with autodiff's and with central differences.

    Args:
        net: the network.
        loss: the loss.
        variables: its variables, in any precision. The audit runs in float32 (or the
            `precision`) and in float64 whatever theirs is.
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
        precision: "bfloat16" or "float16" audits, in place of float32, the network
            computed in that, as in `value_and_grad`: the variables and x are rounded to
            it first, and what it loses is measured with its bits. In float16 all
            gradients are scaled by a power of two that keeps them within its range.

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
    run, precision = get_engine(engine), check_precision(precision)
    expect_layer("net", net)
    expect_loss(loss)
    check_l2(l2)
    key = None if key is None else check_key(key)
    x, y = check_pair("batch", batch)
    x, y = np.asarray(as_inputs(x)[:max_examples]), np.asarray(y[:max_examples])
    if len(x) == 0:
        raise ValueError(f"expected at least one example, got x of shape {x.shape}")
    name = engine if isinstance(engine, str) else getattr(engine, "__name__", "engine")
    how = dict(train=train, l2=float(l2), n=len(x) if n is None else n)
    given = as_variables(variables), (x, y)
    with jax.enable_x64(False):
        given = given if precision is None else cast(given, precision)
        single = _arguments(net, loss, given, jnp.float32)
        if faults := structural_faults(net, single[2], single[3][0], key, train):
            return Report(rows=(), nodes=tuple(faults), engine=name)
        large = is_large(net, *single[2], single[3][0], key, train)
        if precision == "float16":
            loss, how["l2"] = scaled_for_float16(*single, key=key, **how)
            single = _arguments(net, loss, given, jnp.float32)
    run_engines, run_slopes = (programs[large] for programs in (RUN, SLOPES))
    with jax.enable_x64(True):
        double = _arguments(net, loss, given, jnp.float64)
    rows: tuple = ()
    lower = precision or "float32"
    for combinators in (False, True):
        which = dict(engine=run, combinators=combinators, lower=lower)
        with jax.enable_x64(False):
            in32 = run_engines(*single, key, None, **which, **how)
        with jax.enable_x64(True):
            at_same = cast((in32.seen, in32.deltas), jnp.float64)
            in64 = run_engines(*double, key, at_same, **which, **how)
            loss.check(in64.outputs.shape[1:], double[3][1])
            if not rows:
                limit = None if exhaustive else max_coordinates
                entries, at = sample(double, in64.whole.autodiff, limit)
                slopes = run_slopes(*double, key, at, **how)
                found = judge_rows(in32.whole, in64.whole, entries, slopes, lower)
                rows = tuple(unscaled(row, loss) for row in found)
        nodes = tuple(judge_nodes(net, variables, in32, in64, lower))
        report = Report(rows, nodes, name, lower)
        # Layers of layers are taken alone only where no simple layer explains a
        # failure, or where no gradient arrives that could show one: each contains all
        # others, and would multiply the compile time.
        unseen = any(row.largest == 0 for row in rows if row.path.endswith(".delta"))
        if not (report.failed or unseen) or not all(node.passed for node in nodes):
            break
    return report


def _arguments(net: Layer, loss: Loss, given: PyTree, dtype: Any) -> Any:
    """What `_run` and `_slopes` begin with, in one precision."""
    return net, loss, *cast(given, dtype)
