"""Evaluation and prediction: in batches, in one compiled program, on all examples.

Nothing is dropped, normalised by the batch, or updated: `train=False`. The examples
that do not fill a batch are a smaller batch, in the same program.

Legend: N examples, S batches, the smaller one last.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from fnn.checks import describe, is_integer
from fnn.core import Layer, Variables, as_variables, expect_layer
from fnn.losses import Loss, expect_loss
from fnn.placement import (
    explicit_mesh,
    on_automatic_axes,
    specs_of_examples,
    unsplit_specs,
)
from fnn.training.checks import (
    check_batch_size,
    check_data,
    check_fits,
    check_inputs,
    check_metrics,
)
from fnn.training.compiled.meshes import shard_batch
from fnn.training.compiled.order import batch_sizes
from fnn.training.metrics import Metric, default_metrics
from fnn.transfers import own_numbers_may_move
from fnn.typing import Array, Batch, PyTree

__all__ = [
    "average_batches",
    "batch_means",
    "evaluate",
    "predict",
    "start_evaluation",
]


@own_numbers_may_move()
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

    Args:
        net: the network.
        loss: the loss.
        variables: the network's variables.
        data: x (N, ...) and y (N, ...).
        batch_size: how many examples go through the network at once. It changes memory
            and speed, not the result beyond rounding.
        metrics: functions `(outputs, y) -> mean` by name. By default the accuracy where
            the loss scores classes. Functions are compiled in: pass the same objects
            again, or the program is compiled again.

    Returns:
        `{"loss": ..., "accuracy": ...}`, Python floats.

    Raises:
        ValueError, TypeError: data or variables that do not fit.

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
    chosen = check_metrics(default_metrics(loss) if metrics is None else metrics)
    size = check_batch_size(batch_size)
    x, y = check_data("data", data)
    variables = check_fits(net, loss, variables, (x, y), "data")
    values = start_evaluation(net, loss, variables, (x, y), size, chosen)
    return average_batches(values, len(x), size)


def start_evaluation(
    net: Layer,
    loss: Loss,
    variables: Variables,
    data: Batch,
    batch_size: int,
    metrics: tuple[tuple[str, Metric], ...],
    mesh: Mesh | None = None,
) -> dict[str, Array]:
    """Start to compute the means of each batch by name, without waiting for them."""
    size = min(batch_size, len(data[0]))
    options = dict(metrics=metrics, batch_size=size, mesh=mesh)
    return _batch_means(net, loss, variables, data, **options)


def average_batches(
    values: dict[str, Array], n: int, batch_size: int
) -> dict[str, float]:
    """Average the means of each batch over all n examples; wait for them."""
    # In float64 on the host: an accuracy of 1 is 1, however many batches there are.
    weights = batch_sizes(n, min(batch_size, n))
    return {
        name: float(np.average(np.asarray(each, np.float64), weights=weights))
        for name, each in jax.device_get(values).items()
    }


@own_numbers_may_move()
def predict(net: Layer, variables: Variables, x: Any, batch_size: int = 1000) -> Array:
    """Compute the outputs z (N, ...) of all examples, in their order.

    Args:
        net: the network.
        variables: the network's variables.
        x: the inputs (N, ...).
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
    n = x.shape[0]  # `jax.export` may leave it open; then all go through at once
    size = min(size, n) if is_integer(n) else None
    return _predict(net, variables, x, batch_size=size)


def batch_means(
    net: Layer,
    loss: Loss,
    variables: Variables,
    data: Batch,
    *,
    metrics: tuple[tuple[str, Metric], ...],
    batch_size: int,
    mesh: Mesh | None = None,
) -> dict[str, Array]:
    """Return the means (S,) of each batch by name, of the loss and of the metrics."""
    if on := explicit_mesh(data, variables):
        options = dict(metrics=metrics, batch_size=batch_size, mesh=mesh)
        call, args = partial(batch_means, **options), (net, loss, variables, data)
        return on_automatic_axes(on, call, args, unsplit_specs)

    def means_of(batch: Batch) -> dict[str, Array]:
        x, y = shard_batch(batch, mesh)
        outputs = net.forward(*variables, x, train=False).y
        values = {name: _mean(name, metric, outputs, y) for name, metric in metrics}
        return {"loss": loss.value(outputs, y), **values}

    return _map_batches(
        lambda batch: jax.tree.map(jnp.atleast_1d, means_of(batch)), data, batch_size
    )


def _mean(name: str, metric: Metric, outputs: Array, y: Array) -> Array:
    """Return the metric of a batch, a scalar, or raise an error that names it."""
    try:
        mean = metric(outputs, y)
    except Exception as error:
        error.add_note(f"in metric {name!r} of outputs {outputs.shape}, y {y.shape}")
        raise
    if not hasattr(mean, "dtype") or mean.shape != ():
        raise TypeError(
            f"metric {name!r} must return its mean over the batch, a scalar, got "
            f"{describe(mean)}"
        )
    return mean


_batch_means = jax.jit(batch_means, static_argnames=("metrics", "batch_size", "mesh"))


@partial(jax.jit, static_argnames=("batch_size",))
def _predict(
    net: Layer, variables: Variables, x: Array, *, batch_size: int | None
) -> Array:
    def outputs(variables: Variables, x: Array) -> Array:
        def forward(x: Array) -> Array:
            return net.forward(*variables, x, train=False).y

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
    steps, rest = divmod(len(jax.tree.leaves(data)[0]), batch_size)
    end = steps * batch_size
    full = jax.tree.map(
        lambda part: part[:end].reshape(steps, batch_size, *part.shape[1:]), data
    )
    out = jax.tree.map(lambda z: z.reshape(-1, *z.shape[2:]), lax.map(f, full))
    if not rest:
        return out
    last = f(jax.tree.map(lambda part: part[end:], data))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), out, last)
