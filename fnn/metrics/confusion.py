"""Counts of predicted and true classes, and what is made of them.

    right_c        examples of class c that are predicted as c      (true positives)
    predicted_c    examples that are predicted as c
    true_c         examples of class c

An example whose outputs hold a NaN is predicted as no class. Every position (pixel,
token) counts as an example.

Legend: as in `fnn.metrics.answers`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks import is_integer
from fnn.describe import shown
from fnn.metrics.answers import (
    are_rows,
    as_scores,
    one_class_each,
    predicted_classes,
    true_answers,
    true_classes,
)
from fnn.typing import Array, Int, Scalar

__all__ = ["Counts", "confusion_matrix", "count", "f1", "iou", "precision", "recall"]


def confusion_matrix(outputs: Array, y: Array) -> Int[Array, "K K"]:
    """Count the examples of each true class by the class that is predicted.

        C_ij = |{ n : y_n = i, argmax_k z_nk = j }|

    It is an array, not a number, and so no metric for `fnn.evaluate`: compute it from
    `fnn.predict(net, variables, x)`. `fnn.metrics.plot_confusion_matrix` draws it.

    Args:
        outputs: z (N, ..., K); for K = 1 logits of class 1 against class 0.
        y: classes (N, ...), or rows (N, ..., K), whose largest entry is the class.

    Returns:
        C (K, K), integers; (2, 2) for K = 1. Examples with a NaN are not counted.

    Raises:
        ValueError: shapes that do not fit, or rows with several classes.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[2.0, 1.0], [0.0, 3.0], [1.0, 2.0]])
        >>> confusion_matrix(z, jnp.array([0, 1, 0])).tolist()
        [[1, 1], [0, 1]]
    """
    z, y = as_scores(outputs, y)
    if are_rows(z, y) and not isinstance(y, jax.core.Tracer) and not one_class_each(y):
        raise ValueError(
            "a confusion matrix needs one class an example, got rows that do not sum "
            "to 1. Of independent yes/no answers there is one for each question: "
            "confusion_matrix(z[:, k:k+1], y[:, k])"
        )
    classes = max(z.shape[-1], 2)
    predicted, true = predicted_classes(z).ravel(), true_classes(z, y).ravel()
    predicted = jnp.where(predicted < 0, classes, predicted)  # dropped
    counts = jnp.zeros((classes, classes), jnp.int32)
    return counts.at[true, predicted].add(1, mode="drop")


class Counts(NamedTuple):
    """The counts (K,) of every class, or (2,) of the two that one logit tells apart."""

    right: Array
    predicted: Array
    true: Array


def count(outputs: Array, y: Array) -> Counts:
    """Count the right, the predicted and the true examples of every class.

    Rows that do not all sum to 1 are answers to K yes/no questions: class k is then
    true where y_k > ½, and predicted where z_k > 0.
    """
    z, y = as_scores(outputs, y)
    classes = jnp.arange(max(z.shape[-1], 2), dtype=jnp.int32)[None, :]
    predicted = predicted_classes(z).reshape(-1, 1) == classes
    true = true_classes(z, y).reshape(-1, 1) == classes
    if are_rows(z, y):
        one_each = one_class_each(y)
        predicted = jnp.where(one_each, predicted, (z > 0).reshape(predicted.shape))
        true = jnp.where(one_each, true, true_answers(z, y).reshape(true.shape))
    return Counts(*(_sum(a) for a in (predicted & true, predicted, true)))


def _sum(flags: Array) -> Array:
    return flags.sum(0, dtype=jnp.int32)


# ---- Ratios of counts ------------------------------------------------------------


def precision(outputs: Array, y: Array, *, positive: int | None = None) -> Scalar:
    """Return the share of right ones among the examples that are predicted as a class.

        P_c = right_c / predicted_c         0 where nothing is predicted as c

    Args:
        outputs: z (N, ..., K), logits or probabilities; for K = 1 logits.
        y: classes (N, ...), or rows (N, ..., K): of one class, if they all sum to 1,
            otherwise of K yes/no answers.
        positive: the class c. By default the mean over all classes ("macro"), each with
            the same weight, but for those that are neither true nor predicted anywhere;
            for K = 1, class 1.

    Returns:
        A scalar in [0, 1]. It is a number of all examples: the mean over batches would
        be another one. As a metric for one class pass
        `functools.partial(fnn.metrics.precision, positive=c)`.

    Raises:
        ValueError, TypeError: shapes that do not fit, or no such class.

    Example:
        >>> import jax.numpy as jnp
        >>> z, y = jnp.array([[1.0], [2.0], [-1.0]]), jnp.array([1, 0, 1])
        >>> print(precision(z, y))
        0.5

    Source: van Rijsbergen, Information Retrieval (1979), chapter 7.
    """
    return _ratio(outputs, y, positive, lambda n: (n.right, n.predicted))


def recall(outputs: Array, y: Array, *, positive: int | None = None) -> Scalar:
    """Return the share of a class's examples that are predicted as this class.

        R_c = right_c / true_c              0 where no example is of class c

    Args:
        outputs: as in `precision`.
        y: as in `precision`.
        positive: as in `precision`.

    Returns:
        A scalar in [0, 1], a number of all examples.

    Raises:
        ValueError, TypeError: shapes that do not fit, or no such class.

    Example:
        >>> import jax.numpy as jnp
        >>> z, y = jnp.array([[1.0], [2.0], [-1.0]]), jnp.array([1, 1, 1])
        >>> print(f"{recall(z, y):.3f}")
        0.667

    Source: van Rijsbergen, Information Retrieval (1979), chapter 7.
    """
    return _ratio(outputs, y, positive, lambda n: (n.right, n.true))


def f1(outputs: Array, y: Array, *, positive: int | None = None) -> Scalar:
    """Return the harmonic mean of precision and recall.

        F_c = 2 right_c / (predicted_c + true_c) = 2 / (1/P_c + 1/R_c)

    Args:
        outputs: as in `precision`.
        y: as in `precision`.
        positive: as in `precision`.

    Returns:
        A scalar in [0, 1], a number of all examples.

    Raises:
        ValueError, TypeError: shapes that do not fit, or no such class.

    Example:
        >>> import jax.numpy as jnp
        >>> z, y = jnp.array([[1.0], [2.0], [-1.0]]), jnp.array([1, 1, 1])
        >>> print(f"{f1(z, y):.3f}")
        0.800

    Source: van Rijsbergen, Information Retrieval (1979), chapter 7.
    """
    return _ratio(outputs, y, positive, lambda n: (2 * n.right, n.predicted + n.true))


def iou(outputs: Array, y: Array, *, positive: int | None = None) -> Scalar:
    """Return the intersection over the union of what is predicted and what is true.

        J_c = right_c / (predicted_c + true_c − right_c)

    For images, with z (N, H, W, K) and y (N, H, W), it is the (mean) IoU of
    segmentation, counted over the pixels of all images.

    Args:
        outputs: as in `precision`.
        y: as in `precision`.
        positive: as in `precision`.

    Returns:
        A scalar in [0, 1], a number of all examples.

    Raises:
        ValueError, TypeError: shapes that do not fit, or no such class.

    Example:
        >>> import jax.numpy as jnp
        >>> z, y = jnp.array([[1.0], [2.0], [-1.0]]), jnp.array([1, 0, 1])
        >>> print(f"{iou(z, y):.3f}")
        0.333

    Source: Jaccard, New Phytologist 11 (1912), p. 37.
    """

    def of_union(n: Counts) -> tuple[Array, Array]:
        return n.right, n.predicted + n.true - n.right

    return _ratio(outputs, y, positive, of_union)


def _ratio(
    outputs: Array,
    y: Array,
    positive: int | None,
    parts: Callable[[Counts], tuple[Array, Array]],
) -> Scalar:
    """Return part over whole of one class, or its mean over the classes that occur."""
    counts = count(outputs, y)
    part, whole = (a.astype(jnp.float32) for a in parts(counts))
    ratios = jnp.where(whole > 0, part / jnp.maximum(whole, 1), 0)
    logits = np.shape(outputs)[-1]
    if positive is None and logits > 1:
        occurs = counts.predicted + counts.true > 0
        return ratios.sum() / jnp.maximum(occurs.sum(dtype=jnp.int32), 1).astype(
            ratios.dtype
        )
    return ratios[_class_number(1 if positive is None else positive, len(ratios))]


def _class_number(positive: int, classes: int) -> int:
    if not is_integer(positive):
        raise TypeError(
            f"positive must be the number of a class, 0 .. {classes - 1}, or None for "
            f"the mean over all, got {shown(positive)}"
        )
    if not 0 <= positive < classes:
        raise ValueError(
            f"positive must be one of the classes 0 .. {classes - 1}, got {positive}"
        )
    return positive
