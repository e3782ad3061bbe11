"""The audit: decide whether gradients are right, and name the layer that is wrong.

Every gradient is computed in three ways, for each parameter and, through probes, for
each δ: by the engine under audit, by autodiff, and by central differences. Where the
first two disagree, every layer is compared alone: its backward with `jax.vjp` of its
own forward, both starting from autodiff's δ. A wrong layer fails alone; those below it
only inherit its error, and pass. The modules `verdict` and `slopes` define agreement.

The gradients of a planned network are compared with autodiff, and with differences, of
the plain network that it stands for. A backward that is not meant to be the derivative,
as of `fnn.rules`, is compared with what it claims (see `fnn.gradients.claims`), and
differences, which know nothing of claims, are not taken.
"""

import functools

import jax
import numpy as np

from fnn.checks import as_inputs, check_key, check_l2, check_pair
from fnn.core import Layer, Variables, as_variables, expect_layer
from fnn.gradients.audit.alone import check_layers
from fnn.gradients.audit.differences import check_network
from fnn.gradients.audit.layerwise import structural_faults
from fnn.gradients.audit.progress import Progress
from fnn.gradients.audit.report import Report
from fnn.gradients.audit.scaling import unscaled
from fnn.gradients.audit.slopes import NumericalCheck
from fnn.gradients.audit.subject import Subject
from fnn.gradients.audit.verdict import judge_row, measure_rows
from fnn.gradients.claims import claimed
from fnn.gradients.engines import Engine, get_engine, manual
from fnn.gradients.precision import check_precision
from fnn.losses import Loss, expect_loss
from fnn.own_code import explain_own_code
from fnn.placement import with_automatic_axes
from fnn.shapes import count_examples, example_shape, format_shapes
from fnn.transfers import own_numbers_may_move
from fnn.typing import Array, Batch, PyTree

__all__ = ["compare_gradients"]


@with_automatic_axes
@own_numbers_may_move()
@explain_own_code()
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
    numerical: bool = True,
    exhaustive: bool = False,
    max_examples: int = 32,
    max_coordinates: int = 64,
    precision: str | None = None,
    progress: bool | None = None,
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
        numerical: whether to compare with central differences; without them a first
            audit takes about four fifths of the time, a second one less than half.
        exhaustive: whether to difference every single entry of every leaf.
        max_examples: the largest number of examples used.
        max_coordinates: where differences along a direction disagree, entries are
            differenced alone, to find the one that is wrong: until one is found, or so
            many are right, because several kinks meet.
        progress: whether to show the progress on stderr; by default if that is a
            terminal.
        precision: "bfloat16" or "float16" to audit the network in it, in place of
            float32, as in `value_and_grad`: the variables and x are rounded to it
            first, and rounding errors are measured with its bits. In float16 all
            gradients are scaled by a power of two that keeps them within its range.

    Differences are taken of each layer alone, along a random direction in each
    parameter and in each layer's input, whose entries have sizes from 1 to 2. So every
    entry is checked: one that is wrong by e shows as e or more, and is found from 1e-5
    of the largest entry on. At a kink (a ReLU at 0, a tie in a pool) the gradient must
    lie between the slopes on either side. The gradient of a frozen parameter is 0 on
    purpose: it is not differenced, and its row says "frozen". A row is "inconclusive"
    only where rounding in a layer hides all differences, or where more kinks meet than
    `max_coordinates` can tell apart: pass other examples, or parameters that are moved
    a little.

    All values of a forward pass and all δ are kept, for `max_examples` examples, in
    float64: about five times as much memory as a gradient in float32 takes.

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
    batch = check_pair("batch", batch)
    examples = _first_examples(batch, max_examples)
    by_claims = claimed(net) is not net
    name = engine if isinstance(engine, str) else getattr(engine, "__name__", "engine")
    n = count_examples(examples) if n is None else n
    options = dict(train=train, l2=float(l2), n=n)
    subject = Subject.of(
        *(net, loss, as_variables(variables), examples, key),
        precision=precision or "float32",
        **options,
    )
    if faults := structural_faults(subject):
        return Report(rows=(), nodes=tuple(faults), engine=name)
    if precision == "float16":
        subject = subject.scaled_for_float16()
    run32, run64 = subject.run(engine_fn)
    with jax.enable_x64(True), Progress(progress) as shown:
        subject.loss.check(example_shape(run64.outputs), subject.batch64[1])
        rounding = functools.cache(lambda: subject.rounding(run64))
        errors = measure_rows(run32, run64, subject.precision, rounding)
        del run32  # its memory serves the differences
        checks: dict[str, NumericalCheck] = {}
        if numerical and not by_claims:
            checks = check_network(
                *(subject, run64, errors),
                exhaustive=exhaustive,
                budget=max_coordinates,
                has_gradient=_are_real(batch[0]),
                progress=shown,
            )
    frozen = subject.frozen
    rows = tuple(
        judge_row(
            *(path, run64, errors[path], checks.get(path, NumericalCheck())),
            frozen=path in frozen,
        )
        for path in subject.rows()
    )
    always = engine_fn is not manual
    nodes = check_layers(subject, run64, errors, always=always)
    rows = tuple(unscaled(row, subject.loss) for row in rows)
    return Report(rows, tuple(nodes), name, subject.precision, by_claims)


def _first_examples(batch: Batch, count: int) -> Batch:
    """Return the first examples of a batch, at least one, on the host."""
    x, y = batch
    if count_examples(x) == 0 or count < 1:
        raise ValueError(
            f"expected at least one example, got x of shape {format_shapes(x)}"
        )
    return jax.tree.map(lambda a: np.asarray(a[:count]), (as_inputs(x), y))


def _are_real(x: PyTree) -> tuple[bool, ...]:
    """Return whether each array holds numbers that have a gradient, and no integers."""
    return tuple(not np.issubdtype(a.dtype, np.integer) for a in jax.tree.leaves(x))
