"""Properties of fnn's own metrics: which are means over examples, which end is good.

`fnn.evaluate` averages a mean batch by batch, and keeps no outputs for it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from fnn.metrics.answers import one_class_each
from fnn.metrics.classification import (
    TopK,
    accuracy,
    all_answers_right,
    binary_accuracy,
    exact_match,
    right_answers,
    right_class,
)
from fnn.metrics.confusion import f1, iou, precision, recall
from fnn.metrics.ranking import auc
from fnn.metrics.regression import (
    absolute_errors,
    mean_absolute_error,
    r2,
    root_mean_squared_error,
)
from fnn.typing import PyTree

__all__ = ["Metric", "OfPart", "WeightedMean", "better", "per_example"]

#: A function `metric(outputs, y)`, of z (N, ...) and y (N, ...). What it returns says
#: what it is: (N,) a value of every example, or () one number of all of them.
Metric = Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class OfPart:
    """A metric of one of several outputs: metric(outputs[part], y[part]).

    Args:
        metric: a metric of one output and its labels.
        part: the name of an entry of a dictionary, or the number of one of a tuple.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> metric = fnn.metrics.OfPart(fnn.accuracy, "digit")
        >>> outputs = {"digit": jnp.array([[1.0, 2.0]]), "weight": jnp.ones((1, 1))}
        >>> print(metric(outputs, {"digit": jnp.array([1]), "weight": jnp.ones(1)}))
        1.0
    """

    metric: Metric
    part: str | int

    def __call__(self, outputs: PyTree, y: PyTree) -> Any:
        return self.metric(self._of(outputs), self._of(y))

    def per_example(self, outputs: PyTree, y: PyTree) -> Any:
        """Return the value of every example that the metric is the mean of, or None."""
        known = per_example(self.metric, self._of(outputs), self._of(y))
        return None if known is None else OfPart(known, self.part)

    def _of(self, tree: PyTree) -> Any:
        is_dict = isinstance(tree, Mapping)
        if isinstance(self.part, str) and not is_dict:
            return (
                getattr(tree, self.part, None)
                if hasattr(tree, self.part)
                else (tree[int(self.part)])
            )
        return tree[self.part]


@dataclasses.dataclass(frozen=True)
class WeightedMean:
    """The mean of a metric by the weights of the examples, which are in the labels.

        metric(outputs, (y, w)) = Σ_n w_n m_n / Σ_n w_n

    Args:
        metric: a metric that is the mean of values m_n; any other one stays as it is.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> from fnn.metrics.kinds import WeightedMean
        >>> metric = WeightedMean(fnn.accuracy)
        >>> outputs, y = jnp.eye(2), jnp.array([0, 0])
        >>> print(metric(outputs, (y, jnp.array([3.0, 1.0]))))
        0.75
    """

    metric: Metric

    def __call__(self, outputs: PyTree, y: PyTree) -> Any:
        labels, w = y
        known = per_example(self.metric, outputs, labels)
        if known is None:
            return self.metric(outputs, labels)
        w = jnp.asarray(w)
        values = known(outputs, labels).astype(w.dtype)
        # Of weight 0, outputs and labels may be anything, even NaN.
        return jnp.where(w == 0, 0, values * w).sum() / w.sum()


def per_example(metric: Metric, outputs: PyTree, y: PyTree) -> Metric | None:
    """Return the value of every example that a metric of fnn's is the mean of.

    Args:
        metric: a metric.
        outputs: the shapes of all outputs.
        y: all labels. The accuracy of a batch cannot tell from its own whether they are
            classes or independent answers.

    Returns:
        A function `(outputs, y) -> (N,)`, or None for any other metric.
    """
    if isinstance(metric, OfPart):
        return metric.per_example(outputs, y)
    if not hasattr(outputs, "shape") or not hasattr(y, "shape"):
        return None
    if isinstance(metric, TopK):
        return metric.per_example
    out_shape = outputs.shape[1:]
    is_rows = bool(out_shape) and out_shape[-1] > 1 and y.ndim == len(out_shape) + 1
    if metric is accuracy and is_rows and not one_class_each(y):
        return right_answers
    means: dict[Metric, Metric] = {
        accuracy: right_class,
        binary_accuracy: right_answers,
        exact_match: all_answers_right,
        mean_absolute_error: absolute_errors,
    }
    return means.get(metric)


def better(metric: Metric) -> str | None:
    """Return "max" or "min", the better end of a metric of fnn's; None for others."""
    smaller = {mean_absolute_error, root_mean_squared_error}
    larger = {
        accuracy,
        binary_accuracy,
        exact_match,
        precision,
        recall,
        f1,
        iou,
        auc,
        r2,
    }
    if isinstance(metric, OfPart | WeightedMean):
        return better(metric.metric)
    if isinstance(metric, TopK) or metric in larger:
        return "max"
    return "min" if metric in smaller else None
