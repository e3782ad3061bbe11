"""The audit: are the gradients right, and if not, which layer is wrong?

Every gradient is computed in three ways, for each parameter and, through probes, for
each δ: by the engine under audit, by autodiff, and by central differences. Then every
layer is compared alone: its backward with `jax.vjp` of its own forward, both starting
from autodiff's δ. A wrong layer fails alone; those below it only inherit its error, and
pass. The module `verdict` defines agreement.

The gradients of a planned network are compared with autodiff, and with differences, of
the plain network that it stands for.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks import as_inputs, check_key, check_l2, check_pair
from fnn.core import Layer, Variables, as_variables, expect_layer
from fnn.gradients.audit.layerwise import structural_faults
from fnn.gradients.audit.programs import (
    DIFFERENCES,
    GRADIENTS,
    is_large,
    sample_entries,
)
from fnn.gradients.audit.report import Report, Row
from fnn.gradients.audit.scaling import scaled_for_float16, unscaled
from fnn.gradients.audit.verdict import AuditRun, judge_nodes, judge_rows
from fnn.gradients.engines import Engine, get_engine
from fnn.gradients.precision import cast, check_precision
from fnn.losses import Loss, expect_loss
from fnn.typing import Array, Batch

__all__ = ["compare_gradients"]


def compare_gradients(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: Batch,
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
        variables: its variables, of any dtype. The audit runs in float32 (or in
            `precision`) and in float64.
        batch: x (N, ...) and y (N, ...); the first `max_examples` are used.
        key: the key of a training step, for a network that draws random numbers
            (dropout). All runs draw the same masks.
        engine: the engine to audit.
        train: whether the network is in training mode, or in evaluation mode.
        l2: λ of the penalty.
        n: n of the penalty; the number of examples used by default.
        exhaustive: whether to difference every coordinate of every leaf.
        max_examples: the largest number of examples used.
        max_coordinates: the largest number of coordinates of a leaf that are
            differenced: half are the largest gradients, half are drawn at random.
        precision: "bfloat16" or "float16" to audit the network in it, in place of
            float32, as in `value_and_grad`: the variables and x are rounded to it
            first, and rounding errors are measured with its bits. In float16 all
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
    engine_fn, precision = get_engine(engine), check_precision(precision)
    expect_layer("net", net)
    expect_loss(loss)
    check_l2(l2)
    key = None if key is None else check_key(key)
    examples = _first_examples(batch, max_examples)
    name = engine if isinstance(engine, str) else getattr(engine, "__name__", "engine")
    options = dict(train=train, l2=float(l2), n=len(examples[0]) if n is None else n)
    numbers = as_variables(variables), examples
    with jax.enable_x64(False):
        if precision is not None:
            numbers = cast(numbers, precision)
        variables32, batch32 = cast(numbers, jnp.float32)
        if faults := structural_faults(net, variables32, batch32[0], key, train):
            return Report(rows=(), nodes=tuple(faults), engine=name)
        large = is_large(net, variables32, batch32[0], key, train)
        if precision == "float16":
            loss, options["l2"] = scaled_for_float16(
                net, loss, variables32, batch32, key=key, **options
            )
    with jax.enable_x64(True):
        variables64, batch64 = cast(numbers, jnp.float64)
    arguments32 = net, loss, variables32, batch32, key
    arguments64 = net, loss, variables64, batch64, key
    rows: tuple[Row, ...] = ()
    lower = precision or "float32"
    for combinators in (False, True):
        which = dict(engine=engine_fn, combinators=combinators, precision=lower)
        run32, run64 = _both_runs(
            GRADIENTS[large], arguments32, arguments64, **which, **options
        )
        if not rows:
            with jax.enable_x64(True):
                loss.check(run64.outputs.shape[1:], batch64[1])
                grads = run64.network.autodiff
                limit = None if exhaustive else max_coordinates
                chosen, at = sample_entries(net, variables64, batch64[0], grads, limit)
                slopes = DIFFERENCES[large](*arguments64, at, **options)
            found = judge_rows(run32.network, run64.network, chosen, slopes, lower)
            rows = tuple(unscaled(row, loss) for row in found)
        nodes = tuple(judge_nodes(net, variables, run32, run64, lower))
        report = Report(rows, nodes, name, lower)
        # Layers of layers are compared alone only where no simple layer explains a
        # failure, or where no gradient arrives that could show one: each contains all
        # others, and would multiply the compile time.
        unseen = any(row.largest == 0 for row in rows if row.path.endswith(".delta"))
        if not (report.failed or unseen) or not all(node.passed for node in nodes):
            break
    return report


def _first_examples(batch: Batch, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first examples of a batch, at least one, on the host."""
    x, y = check_pair("batch", batch)
    x, y = np.asarray(as_inputs(x)[:count]), np.asarray(y[:count])
    if len(x) == 0:
        raise ValueError(f"expected at least one example, got x of shape {x.shape}")
    return x, y


def _both_runs(
    run: Callable[..., AuditRun],
    arguments32: tuple[Any, ...],
    arguments64: tuple[Any, ...],
    **options: Any,
) -> tuple[AuditRun, AuditRun]:
    """Run in the lower precision, then in float64 with layers at the same x and dy."""
    with jax.enable_x64(False):
        run32 = run(*arguments32, None, **options)
    with jax.enable_x64(True):
        layers_at = cast((run32.seen, run32.deltas), jnp.float64)
        return run32, run(*arguments64, layers_at, **options)
