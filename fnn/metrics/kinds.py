"""What is known of fnn's own metrics: which are means over examples, which end is good.

`fnn.evaluate` averages a mean batch by batch, and keeps no outputs for it.
"""

from collections.abc import Callable
from typing import Any

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
from fnn.typing import Array, InShape

__all__ = ["Metric", "better", "per_example"]

#: A function `metric(outputs, y)`, of z (N, ...) and y (N, ...). What it returns says
#: what it is: (N,) a value of every example, or () one number of all of them.
Metric = Callable[[Array, Array], Any]


def per_example(metric: Metric, out_shape: InShape, y: Array) -> Metric | None:
    """Return the value of every example that a metric of fnn's is the mean of.

    Args:
        metric: a metric.
        out_shape: the shape of one example's output.
        y: all labels. The accuracy of a batch cannot tell from its own whether they are
            classes or independent answers.

    Returns:
        A function `(outputs, y) -> (N,)`, or None for any other metric.
    """
    if isinstance(metric, TopK):
        return metric.per_example
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
    if isinstance(metric, TopK) or metric in larger:
        return "max"
    return "min" if metric in smaller else None
