"""Metrics: numbers that are reported and may be monitored, but not descended on.

All are functions of a network's outputs z and the labels y, to be called as they are,
or by `fnn.evaluate`, `fnn.fit` and `fnn.sweep`: `metrics={"f1": fnn.metrics.f1}`.

    accuracy, top_k, binary_accuracy,
    exact_match                            shares of right answers
    precision, recall, f1, iou             of one class, or the mean over classes
    auc                                    of two classes, by ranks
    mean_absolute_error, r2,
    root_mean_squared_error                of real-valued targets
    confusion_matrix                       counts (K, K), which are no metric but
    plot_confusion_matrix                  can be drawn
    OfPart                                 one of these, of one of several outputs
"""

from fnn.metrics.classification import accuracy, binary_accuracy, exact_match, top_k
from fnn.metrics.confusion import confusion_matrix, f1, iou, precision, recall
from fnn.metrics.figure import plot_confusion_matrix
from fnn.metrics.kinds import OfPart
from fnn.metrics.ranking import auc
from fnn.metrics.regression import mean_absolute_error, r2, root_mean_squared_error

__all__ = [
    "OfPart",
    "accuracy",
    "auc",
    "binary_accuracy",
    "confusion_matrix",
    "exact_match",
    "f1",
    "iou",
    "mean_absolute_error",
    "plot_confusion_matrix",
    "precision",
    "r2",
    "recall",
    "root_mean_squared_error",
    "top_k",
]
