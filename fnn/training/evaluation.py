"""Evaluation and prediction: in batches, in one compiled program, on all examples.

Nothing is dropped, normalised by the batch, or updated: `train=False`. The examples
that do not fill a batch are a smaller batch, in the same program.

Legend: N examples, S batches, the smaller one last.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnn.checks import as_inputs, is_integer
from fnn.core import Layer, Variables, as_variables, expect_layer
from fnn.dtypes import at_least_float32
from fnn.losses import Loss, expect_loss
from fnn.losses.several import compared_with, loss_parts, part_names
from fnn.own_code import explain_own_code
from fnn.placement import (
    explicit_mesh,
    on_automatic_axes,
    specs_of_examples,
    with_automatic_axes,
)
from fnn.shapes import count_examples
from fnn.training.checks import check_batch_size, check_metrics
from fnn.training.compiled.meshes import shard_batch
from fnn.training.compiled.order import batch_sizes
from fnn.training.data import check_data, check_fits, check_inputs, with_weights
from fnn.training.metrics import (
    Metric,
    NamedMetric,
    compared_labels,
    compute_on_host,
    default_metrics,
    in_metric,
    sort_metrics,
)
from fnn.transfers import own_numbers_may_move
from fnn.typing import Array, Batch, PyTree

__all__ = [
    "Evaluation",
    "average_batches",
    "evaluate",
    "evaluate_batches",
    "finish_evaluation",
    "metrics_of",
    "names_of",
    "predict",
    "start_evaluation",
]


class Evaluation(NamedTuple):
    """The part of an evaluation that the device computes.

    means: the means (S,) of each batch by name: of the loss, and of metrics that have a
        value for every example.
    wholes: numbers by name, of metrics that are computed of all outputs at once.
    outputs: z (N, ...), where a metric is computed on the host, else None.
    """

    means: dict[str, Array]
    wholes: dict[str, Array]
    outputs: PyTree | None


@with_automatic_axes
@own_numbers_may_move()
@explain_own_code()
def evaluate(
    net: Layer,
    loss: Loss,
    variables: Variables,
    data: tuple[Any, Any],
    batch_size: int = 1000,
    metrics: Mapping[str, Metric] | None = None,
) -> dict[str, float]:
    """Compute the loss and the metrics of all examples.

        loss = (1/N) Σ_n L(z_n, y_n)        without a penalty

    Where a loss ignores labels or weighs them, each batch has its own divisor, and the
    result is the mean over batches, each times its number of examples; and so is a
    metric that does so. A batch of all examples has their exact mean.

    Args:
        net: the network.
        loss: the loss.
        variables: the network's variables.
        data: x (N, ...) and y (N, ...), each an array or a tree of arrays; or x, y and
            weights (N,).
        batch_size: how many examples go through the network at once. It changes memory
            and speed, not the result beyond rounding.
        metrics: functions `(outputs, y)` by name, such as those of `fnn.metrics`. By
            default the accuracy where the loss scores classes. One that returns (N,), a
            value of every example, is averaged over all examples, by their weights if
            they have some. One that returns a
            scalar is called once, with all outputs: nothing is averaged that is no
            mean. One that needs to know the numbers, because it calls NumPy or
            scikit-learn, is called with NumPy arrays; let it begin with np.asarray if
            it is to be called so anyway. y has the shape in which the loss compares it:
            (N, 1) beside outputs (N, 1), but for losses that classify. Functions are
            compiled in: pass the same objects again, or the program is compiled again.

    Returns:
        `{"loss": ..., "accuracy": ...}`, Python floats.

    Raises:
        ValueError, TypeError: data or variables that do not fit; a metric that returns
            something else, or that pairs every example with every other by accident.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(2)), fnn.losses.SoftmaxCrossEntropy()
        >>> variables = jax.tree.map(jnp.zeros_like, net.init(jax.random.key(0), (3,)))
        >>> data = jnp.ones((5, 3)), jnp.array([0, 0, 0, 0, 1])
        >>> out = evaluate(net, loss, variables, data, batch_size=2)
        >>> f"loss {out['loss']:.3f}, accuracy {out['accuracy']}"
        'loss 0.693, accuracy 0.8'
    """
    expect_layer("net", net)
    expect_loss(loss)
    variables = as_variables(variables)
    size = check_batch_size(batch_size)
    loss, data = with_weights(loss, data)
    chosen = check_metrics(default_metrics(loss) if metrics is None else metrics)
    x, y = check_data("data", data)
    variables = check_fits(net, loss, variables, (x, y), "data")
    known = metrics_of(net, loss, variables, (x, y), chosen)
    started = start_evaluation(net, loss, variables, (x, y), size, known)
    return finish_evaluation(started, loss, y, size, known)


def metrics_of(
    net: Layer,
    loss: Loss,
    variables: Variables,
    data: Batch | None,
    metrics: tuple[tuple[str, Metric], ...],
) -> tuple[NamedMetric, ...]:
    """Return metrics with how each is computed; network and metrics are traced.

    Without data none is computed.
    """
    if not metrics or data is None:
        return ()
    x, y = data
    outputs = jax.eval_shape(partial(_outputs, net), variables, x)
    return sort_metrics(metrics, loss, outputs, y)


def start_evaluation(
    net: Layer,
    loss: Loss,
    variables: Variables,
    data: Batch,
    batch_size: int,
    metrics: tuple[NamedMetric, ...],
    mesh: Mesh | None = None,
) -> Evaluation:
    """Start to evaluate all examples, without waiting for the numbers."""
    size = min(batch_size, count_examples(data))
    options = dict(metrics=metrics, batch_size=size, mesh=mesh)
    return _evaluate_batches(net, loss, variables, data, **options)


def finish_evaluation(
    started: Evaluation,
    loss: Loss,
    y: PyTree,
    batch_size: int,
    metrics: tuple[NamedMetric, ...],
) -> dict[str, float]:
    """Wait for the numbers, and return the loss and each metric by name.

    Args:
        started: what `start_evaluation` returned.
        loss: the loss.
        y: the labels of all examples.
        batch_size: how many examples went through the network at once.
        metrics: the metrics.
    """
    values = average_batches(started.means, count_examples(y), batch_size)
    values |= {k: float(v) for k, v in jax.device_get(started.wholes).items()}
    for metric in metrics:
        if metric.kind == "host":
            outputs: Any = started.outputs
            labels = compared_labels(loss, outputs, y)
            values[metric.name] = compute_on_host(metric, outputs, labels)
    return {name: values[name] for name in names_of(loss, metrics)}


def names_of(loss: Loss, metrics: tuple[NamedMetric, ...]) -> tuple[str, ...]:
    """Return the names of all numbers of an evaluation, in their order."""
    parts = (f"loss_{name}" for name in part_names(loss))
    return ("loss", *parts, *(metric.name for metric in metrics))


def average_batches(
    means: dict[str, Array], n: int, batch_size: int
) -> dict[str, float]:
    """Average the means of each batch over all n examples; wait for them."""
    # In float64 on the host: an accuracy of 1 is 1, however many batches there are.
    weights = batch_sizes(n, min(batch_size, n))
    return {
        name: float(np.average(np.asarray(each, np.float64), weights=weights))
        for name, each in jax.device_get(means).items()
    }


@own_numbers_may_move()
@explain_own_code()
def predict(net: Layer, variables: Variables, x: Any, batch_size: int = 1000) -> Any:
    """Compute the outputs z (N, ...) of all examples, in their order.

    Args:
        net: the network.
        variables: the network's variables.
        x: the inputs (N, ...), an array or a tree of arrays.
        batch_size: how many examples go through the network at once.

    Inside `jax.jit` and `jax.export` it computes the same; there x is not checked for
    NaN. `fnn.export` makes a program of a network that is to be used without fnn.

    Returns:
        The last layer's outputs, which are logits for a network that was trained with a
        cross-entropy.

    Raises:
        ValueError, TypeError: inputs or variables that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Dense(2))
        >>> variables = net.init(jax.random.key(0), (3,))
        >>> predict(net, variables, jnp.ones((5, 3)), batch_size=2).shape
        (5, 2)
    """
    expect_layer("net", net)
    variables = as_variables(variables)
    size = check_batch_size(batch_size)
    x = check_inputs("x", x)
    variables = check_fits(net, None, variables, (x, None), "x")
    n = count_examples(x)  # `jax.export` may leave it open; then all go through at once
    size = min(size, n) if is_integer(n) else None
    return _predict(net, variables, x, batch_size=size)


def evaluate_batches(
    net: Layer,
    loss: Loss,
    variables: Variables,
    data: Batch,
    *,
    metrics: tuple[NamedMetric, ...],
    batch_size: int,
    mesh: Mesh | None = None,
) -> Evaluation:
    """Evaluate all examples, batch by batch; a pure function.

    The outputs of a batch are kept only if a metric is computed of them all.
    """
    averaged = [metric for metric in metrics if metric.kind == "mean"]
    kept = len(averaged) < len(metrics)
    _, weights = compared_with(loss, data[1])

    def evaluate_batch(batch: Batch) -> tuple[PyTree, ...]:
        x, y = shard_batch(batch, mesh)
        z = _outputs(net, variables, x)
        means = {"loss": loss.value(z, y)}
        means |= {f"loss_{k}": part for k, part in loss_parts(loss, z, y).items()}
        values: dict[str, Array] = {}
        for metric in averaged:
            each = _values(metric, z, compared_labels(loss, z, y))
            if weights is None:
                means[metric.name] = each.mean(dtype=at_least_float32(each.dtype))
            else:
                values[metric.name] = each
        return jax.tree.map(jnp.atleast_1d, means), values, z if kept else None

    means, values, outputs = _map_batches(evaluate_batch, data, batch_size)
    if outputs is not None and mesh is not None:  # as the labels are
        everywhere = NamedSharding(mesh, PartitionSpec())
        outputs = lax.with_sharding_constraint(outputs, everywhere)
    wholes = {name: _weighted_mean(each, weights) for name, each in values.items()}
    for name, metric, kind in metrics:
        if kind == "whole":
            y = compared_labels(loss, outputs, data[1])
            with in_metric(name, outputs, y):
                wholes[name] = jnp.asarray(metric(outputs, y))
    is_wanted = any(metric.kind == "host" for metric in metrics)
    return Evaluation(means, wholes, outputs if is_wanted else None)


def _values(metric: NamedMetric, outputs: PyTree, y: PyTree) -> Array:
    """Return the value of every example of a batch."""
    with in_metric(metric.name, outputs, y):
        return as_inputs(metric.function(outputs, y))


def _weighted_mean(values: Array, weights: Any) -> Array:
    """Return Σ w_n m_n / Σ w_n, without the examples of weight 0."""
    used = jnp.where(weights == 0, 0, values)
    return (weights * used).sum() / weights.sum()


_evaluate_batches = jax.jit(
    evaluate_batches, static_argnames=("metrics", "batch_size", "mesh")
)


def _outputs(net: Layer, variables: Variables, x: PyTree) -> PyTree:
    return net.forward(*variables, x, train=False).y


@partial(jax.jit, static_argnames=("batch_size",))
def _predict(
    net: Layer, variables: Variables, x: PyTree, *, batch_size: int | None
) -> PyTree:
    def outputs(variables: Variables, x: PyTree) -> PyTree:
        forward = partial(_outputs, net, variables)
        if batch_size is None:
            return forward(x)
        return _map_batches(forward, x, batch_size)

    if mesh := explicit_mesh(variables, x):
        specs = partial(specs_of_examples, x=x)
        return on_automatic_axes(mesh, outputs, (variables, x), specs)
    return outputs(variables, x)


def _map_batches(
    f: Callable[[PyTree], PyTree], data: PyTree, batch_size: int
) -> PyTree:
    """Apply f to each batch, (B, ...) -> (M, ...), and join the results."""
    steps, rest = divmod(count_examples(data), batch_size)
    end = steps * batch_size
    full = jax.tree.map(
        lambda part: part[:end].reshape(steps, batch_size, *part.shape[1:]), data
    )
    out = jax.tree.map(lambda z: z.reshape(-1, *z.shape[2:]), lax.map(f, full))
    if not rest:
        return out
    last = f(jax.tree.map(lambda part: part[end:], data))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), out, last)
