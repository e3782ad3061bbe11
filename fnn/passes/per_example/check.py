"""Check registered formulas against the layer's own backward.

The gradients of single examples are computed twice, in float64, layer by layer from the
same δ: by the layer's formula, and by its backward of the whole batch with a δ that is
zero for all examples but one. `fnn.compare_gradients` checks that backward.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks import check_key
from fnn.core import Layer, Variables, expect_layer
from fnn.gradients.precision import cast_on_host
from fnn.losses import Loss, expect_loss
from fnn.network import named_params
from fnn.own_code import explain_own_code
from fnn.passes.factors import formed, is_factor
from fnn.passes.formulas import has_formula, one_by_one
from fnn.passes.observe import as_batch, observe_losses
from fnn.passes.records import Record, records_in
from fnn.tables import format_number, format_rows, format_shape, rule
from fnn.typing import Array, Batch, PyTree

__all__ = ["CheckedFormulas", "FormulaCheck", "check"]

#: The agreement that is asked for, as a share of the scale.
TOLERANCE = 1e-10

#: No parameter is judged on a finer scale than this share of the largest gradient.
SMALL = 1e-3


class FormulaCheck(NamedTuple):
    """The gradients of single examples of one parameter, computed in two ways.

    Args:
        path: the parameter's path, such as `2/Dense.weight`.
        shape: the shape of the parameter.
        formula: whether the layer has a formula of its own, or the general one.
        error: the largest difference, divided by the largest gradient.
        passed: whether the two agree.
    """

    path: str
    shape: tuple[int, ...]
    formula: bool
    error: float
    passed: bool


@dataclass(frozen=True)
class CheckedFormulas:
    """The result of `check`: print it, or read `passed` and `first_failure`.

    Args:
        rows: a `FormulaCheck` for every parameter.
    """

    rows: tuple[FormulaCheck, ...]

    @property
    def passed(self) -> bool:
        """Return whether all formulas agree with their layer's backward."""
        return self.first_failure is None

    @property
    def first_failure(self) -> str | None:
        """Return the path of the first parameter that disagrees; None if none does."""
        return next((row.path for row in self.rows if not row.passed), None)

    def __str__(self) -> str:
        rows = [("", "shape", "formula", "error", "verdict")]
        for row in self.rows:
            kind = "its own" if row.formula else "general"
            verdict = "pass" if row.passed else "FAIL"
            error = format_number(row.error, 2)
            rows.append((row.path, format_shape(row.shape), kind, error, verdict))
        header, *body = format_rows(rows, "<><><", paths=0)
        failure = self.first_failure
        end = "PASSED" if failure is None else f"FAILED: first at {failure}"
        return "\n".join([header, rule(body), *body, end])


@explain_own_code()
def check(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: Batch,
    *,
    key: Array | None = None,
    train: bool = True,
) -> CheckedFormulas:
    """Compare the formula of every layer with the layer's own backward, in float64.

    Args:
        net: the network.
        loss: the loss.
        variables: its variables, of any dtype.
        batch: x (N, ...) and y (N, ...); a few examples are enough.
        key: the key of the forward pass, for a network that draws random numbers.
        train: whether the network is in training mode.

    Returns:
        A `CheckedFormulas`: print it, or read `passed`.

    Raises:
        ValueError: a layer mixes examples, or a formula returned another tree.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(3)), fnn.losses.SoftmaxCrossEntropy()
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> batch = jnp.ones((5, 2)), jnp.array([0, 1, 2, 0, 1])
        >>> fnn.per_example.check(net, loss, variables, batch).passed
        True
    """
    expect_layer("net", net)
    expect_loss(loss)
    key = None if key is None else check_key(key)
    loss, batch = as_batch(loss, batch)
    numbers: Any = tuple(variables), batch
    with jax.enable_x64(True):
        numbers = cast_on_host(numbers, jnp.float64)
        layers: list[Record] = []

        def both(variables: Variables, batch: Batch) -> list[tuple[PyTree, PyTree]]:
            records, _, _ = observe_losses(
                *(net, loss, variables, batch), key=key, train=train, precision=None
            )
            found = [r for part in records_in(records) for r in part.of_layers()]
            layers.extend(r for r in found if r.has_params)
            return [_both_ways(record) for record in layers]

        grads = jax.device_get(jax.jit(both)(*numbers))
        rows = [
            row
            for record, pair in zip(layers, grads, strict=True)
            for row in _rows(record, *pair, scale=_largest(grads))
        ]
    return CheckedFormulas(tuple(rows))


def _both_ways(record: Record) -> tuple[PyTree, PyTree]:
    by_formula = jax.tree.map(
        lambda factor, param: formed(factor, param.shape),
        *(record.factors(), record.params),
        is_leaf=is_factor,
    )
    layer, params, saved, dy = record.layer, record.params, record.saved, record.dy
    return by_formula, one_by_one(layer, params, saved, dy, axes=None)


def _rows(
    record: Record, by_formula: PyTree, by_backward: PyTree, scale: float
) -> list[FormulaCheck]:
    named = named_params(record.layer, by_formula)
    expected = named_params(record.layer, by_backward)
    rows = []
    for path, grads in named.items():
        error = _largest(grads - expected[path]) if grads.size else 0.0
        unit = max(_largest(expected[path]), SMALL * scale) or 1.0
        rows.append(
            FormulaCheck(
                path=record.path + path.removeprefix(record.layer.kind),
                shape=grads.shape[1:],
                formula=has_formula(record.layer),
                error=error / unit,
                passed=error <= TOLERANCE * unit,  # so that NaN fails
            )
        )
    return rows


def _largest(tree: PyTree) -> float:
    return max(
        (float(np.abs(a).max(initial=0)) for a in jax.tree.leaves(tree)), default=0.0
    )
