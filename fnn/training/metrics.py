"""The metrics of an evaluation: how each is computed is decided by what it returns.

A metric is a function `metric(outputs, y)` of outputs z (N, ...) and labels y (N, ...).
It is traced once for the shapes of all N examples, and nothing is run:

    it returns (N,)           "mean"    averaged over examples, batch by batch
    it returns ()             "whole"   computed once, of all outputs, in the program
    it needs to know numbers  "host"    computed once, of NumPy arrays, after it

So nothing is averaged but what is a mean. Anything else that a metric returns is
refused.

Labels have the shape in which the loss compares them: beside outputs (N, 1) and a loss
that does not classify, labels (N,) become (N, 1).
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.describe import describe
from fnn.losses import Loss, Weighted
from fnn.losses.several import compared_with, loss_of_parts
from fnn.metrics.classification import Accuracy, accuracy
from fnn.metrics.kinds import Metric, OfPart, WeightedMean, per_example
from fnn.shapes import count_examples, format_shapes
from fnn.training.pairs import Paired, describe_pairs, expect_no_pairs, watched
from fnn.typing import Array

__all__ = [
    "Metric",
    "NamedMetric",
    "compared_labels",
    "compute_on_host",
    "default_metrics",
    "in_metric",
    "sort_metrics",
]


class NamedMetric(NamedTuple):
    """A metric with its name, and how it is computed: "mean", "whole" or "host"."""

    name: str
    function: Metric
    kind: str


def default_metrics(loss: Loss) -> Mapping[str, Metric]:
    """Return the accuracy for a loss that scores classes, else no metric.

    For several outputs it is `accuracy_name` for each whose loss scores classes.
    """
    if parts := loss_of_parts(loss):
        return {
            f"accuracy_{name}": OfPart(_accuracy_of(part), name)
            for name, part in parts.items()
            if getattr(part, "classifies", False)
        }
    if not getattr(loss, "classifies", False):
        return {}
    # Its own weights are taken out of the labels, and into the mean, by `evaluate`.
    inner = loss.loss if isinstance(loss, Weighted) else loss
    return {"accuracy": _accuracy_of(inner)}


def _accuracy_of(loss: Loss) -> Metric:
    """Return the accuracy, by the loss's labels: with weights, and without ignored."""
    if isinstance(loss, Weighted):
        return WeightedMean(_accuracy_of(loss.loss))
    ignore = getattr(loss, "ignore", None)
    return accuracy if ignore is None else Accuracy(ignore)


def compared_labels(loss: Loss, outputs: Any, y: Any) -> Any:
    """Return labels in the shape in which the loss compares them with the outputs.

    Weights are no labels; those of several outputs stay as they are.
    """
    y, _ = compared_with(loss, y)
    if not hasattr(y, "ndim") or not hasattr(outputs, "shape"):
        return y
    is_column = y.ndim == 1 and outputs.shape[1:] == (1,)
    return y[:, None] if is_column and not getattr(loss, "classifies", False) else y


@contextmanager
def in_metric(name: str, outputs: Any, y: Any) -> Generator[None, None, None]:
    """Add the metric's name to any error raised inside, which stays as it is."""
    try:
        yield
    except Exception as error:
        shapes = f"outputs {format_shapes(outputs)}, y {format_shapes(y)}"
        error.add_note(f"in metric {name!r} of {shapes}")
        raise


def sort_metrics(
    metrics: tuple[tuple[str, Metric], ...], loss: Loss, outputs: Any, y: Array
) -> tuple[NamedMetric, ...]:
    """Find out how each metric is computed.

    Args:
        metrics: names and functions.
        loss: the loss.
        outputs: the shape and dtype of the outputs of all examples.
        y: the labels of all examples.

    Raises:
        ValueError, TypeError: a metric returns neither a value of every example nor a
            number; or it pairs every example with every other without saying so.
    """
    labels = jax.eval_shape(lambda y: compared_labels(loss, outputs, y), y)
    sorted_metrics = []
    for name, metric in metrics:
        known = per_example(metric, outputs, compared_with(loss, y)[0])
        kind = "mean" if known is not None else _kind(name, metric, outputs, labels)
        sorted_metrics.append(NamedMetric(name, known or metric, kind))
    return tuple(sorted_metrics)


# ---- Tracing ---------------------------------------------------------------------


@lru_cache(maxsize=64)
def _kind(name: str, metric: Metric, outputs: Any, y: Any) -> str:
    """Trace a metric, and return how it is computed.

    As `jit` does, it takes a function for the same whenever it is called.
    """

    def traced(z: Array, y: Array) -> Any:
        return _as_array(name, metric(z, y))

    try:
        with in_metric(name, outputs, y):
            result = jax.eval_shape(traced, outputs, y)
    except Exception as error:
        if _needs_numbers(error):
            return "host"
        raise
    of_each_example = None
    if hasattr(outputs, "shape") and hasattr(y, "shape"):
        of_each_example = expect_no_pairs(name, traced, outputs, y)
    n = count_examples(outputs)
    if result.shape == ():
        return "whole"
    # (K,) of K classes is no value of every example, even where N = K.
    if result.shape == (n,) and of_each_example in (True, None):
        return "mean"
    raise TypeError(
        f"metric {name!r} must return a value of every example, of shape (N,), or one "
        f"number of them all; got {describe(result)} of {n} examples. Average over "
        "other axes, as values.reshape(len(values), -1).mean(1); call a function that "
        "returns more, such as a confusion matrix, on fnn.predict(net, variables, x)."
    )


def _as_array(name: str, result: Any) -> Array:
    """Return the result of a traced metric; refuse what holds no real numbers."""
    is_number = isinstance(result, int | float | np.number | np.bool_)
    is_array = isinstance(result, jax.Array | np.ndarray)
    array = jnp.asarray(result) if is_number or is_array else None
    kinds = (np.floating, np.integer, np.bool_)
    if array is None or not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        raise TypeError(
            f"metric {name!r} must return real numbers: a value of every example, of "
            f"shape (N,), or one number of them all; got {describe(result)}"
        )
    return array


def _needs_numbers(error: BaseException | None) -> bool:
    """Return whether a function failed because traced arrays have no numbers.

    JAX has errors for that. A library may hide them in its own; or it fails without
    asking for numbers, and its error names the type of the array.
    """
    while error is not None:
        jax_errors = jax.errors.JAXTypeError, jax.errors.JAXIndexError
        text = str(error)
        if isinstance(error, jax_errors) or "Tracer" in text or _IN_PLACE in text:
            return True
        error = error.__cause__ or error.__context__
    return False


_IN_PLACE = "JAX arrays are immutable"


# ---- On the host -----------------------------------------------------------------


def compute_on_host(metric: NamedMetric, outputs: Any, y: Any) -> float:
    """Compute a metric of NumPy arrays, copies that it may write to.

    Args:
        metric: one of kind "host".
        outputs: z of all examples; half precision becomes float32.
        y: their labels, in the shape in which the loss compares them.

    Raises:
        TypeError: it does not return a number. Its own errors come through.
    """
    z, labels = jax.tree.map(lambda a: watched(_as_numpy(a), len(a)), (outputs, y))
    with in_metric(metric.name, z, labels):
        try:
            result = metric.function(z, labels)
        except Paired as error:
            text = describe_pairs(metric.name, error.shapes, z, labels)
            raise ValueError(text) from None
        array = np.asarray(result)
        kinds = (np.floating, np.integer, np.bool_)
        if array.ndim or not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
            raise TypeError(
                f"metric {metric.name!r} is computed on the host, by NumPy, and must "
                f"return a number, got {describe(result)}"
            )
    return float(array)


def _as_numpy(a: Any) -> np.ndarray:
    array = np.array(a)
    is_half = jnp.issubdtype(array.dtype, np.floating) and array.dtype.itemsize < 4
    return array.astype(np.float32) if is_half else array
