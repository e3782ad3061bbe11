"""Shares of right answers: means of a value of every example.

Each has two forms, side by side: the metric, and its value for every example, by which
a long evaluation averages it batch by batch.

Legend: as in `fnn.metrics.answers`.
"""

import dataclasses

import jax.numpy as jnp

from fnn.checks import positive_integer
from fnn.labels import counted
from fnn.metrics.answers import (
    answers_are_right,
    are_rows,
    as_scores,
    mean_over_positions,
    one_class_each,
    predicted_classes,
    true_classes,
)
from fnn.typing import Array, Float, Scalar

__all__ = [
    "Accuracy",
    "TopK",
    "accuracy",
    "all_answers_right",
    "binary_accuracy",
    "exact_match",
    "right_answers",
    "right_class",
    "top_k",
]


def accuracy(outputs: Array, y: Array, *, ignore: int | None = None) -> Scalar:
    """Return the share of right answers.

        K > 1, y (N,)       (1/N) Σ_n [ argmax_k z_nk = y_n ]
        K > 1, y (N, K)     the same with the class argmax_k y_nk, if every row of y
                            sums to 1 (to within 0.001); otherwise y holds independent
                            yes/no answers:
                            1/(NK) Σ_nk [ (z_nk > 0) = (y_nk > ½) ]
        K = 1               (1/N) Σ_n [ (z_n > 0) = (y_n > ½) ]        z_n a logit

    Of several equal largest outputs, the first counts. An example whose outputs hold a
    NaN counts as wrong: it would otherwise pass as the class of its first NaN. Outputs
    may have any positions between N and K, such as pixels or tokens: these are counted
    as examples are.

    Args:
        outputs: z (N, ..., K), logits or probabilities for classes, logits for yes/no
            answers.
        y: classes (N, ...), or rows (N, ..., K).
        ignore: the label of what does not count, as that of a loss; None for none. A
            row does not count where each of its entries is it.

    Returns:
        A scalar in [0, 1]; 0 where nothing counts.

    Raises:
        ValueError: the shapes do not fit one another.

    Example:
        >>> import jax.numpy as jnp
        >>> print(accuracy(jnp.array([[1.0, 2.0], [4.0, 3.0]]), jnp.array([1, 1])))
        0.5
        >>> several = jnp.array([[1, 1], [1, 0]])  # not one class each
        >>> print(accuracy(jnp.array([[1.0, 2.0], [-4.0, -3.0]]), several))
        0.75
    """
    z, y = as_scores(outputs, y)
    if ignore is not None:
        counts = counted(y, ignore)
        counts = counts.any(-1) if y.ndim == z.ndim else counts
        right = counts & (predicted_classes(z) == true_classes(z, y))
        return right.sum(dtype=jnp.float32) / jnp.maximum(
            counts.sum(dtype=jnp.float32), 1
        )
    by_class = right_class(z, y).mean()
    if not are_rows(z, y):
        return by_class
    return jnp.where(one_class_each(y), by_class, right_answers(z, y).mean())


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """The accuracy of labels that are not `ignore`; two of them are equal.

    Args:
        ignore: the label that does not count.
    """

    ignore: int

    def __call__(self, outputs: Array, y: Array) -> Scalar:
        return accuracy(outputs, y, ignore=self.ignore)


def right_class(outputs: Array, y: Array) -> Float[Array, "N"]:
    """Return 1 for each example whose class is predicted, and 0 for the others."""
    z, y = as_scores(outputs, y)
    return mean_over_positions(predicted_classes(z) == true_classes(z, y))


def binary_accuracy(outputs: Array, y: Array) -> Scalar:
    """Return the share of right answers to independent yes/no questions.

        1/(NK) Σ_nk [ (z_nk > 0) = (y_nk > ½) ]

    It is `accuracy` for labels of which every row may happen to sum to 1.

    Args:
        outputs: logits z (N, ..., K), one for each question.
        y: answers (N, ..., K); for K = 1 also (N, ...).

    Returns:
        A scalar in [0, 1]; a NaN among the outputs is a wrong answer.

    Example:
        >>> import jax.numpy as jnp
        >>> z, y = jnp.array([[1.0, -2.0], [-4.0, -3.0]]), jnp.array([[1, 0], [1, 0]])
        >>> print(binary_accuracy(z, y))
        0.75
    """
    return right_answers(outputs, y).mean()


def right_answers(outputs: Array, y: Array) -> Float[Array, "N"]:
    """Return the share of right yes/no answers of each example."""
    return mean_over_positions(answers_are_right(*as_scores(outputs, y)))


def exact_match(outputs: Array, y: Array) -> Scalar:
    """Return the share of examples, or positions, all of whose K answers are right.

        (1/N) Σ_n Π_k [ (z_nk > 0) = (y_nk > ½) ]

    Args:
        outputs: logits z (N, ..., K).
        y: answers (N, ..., K); for K = 1 also (N, ...).

    Returns:
        A scalar in [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> z, y = jnp.array([[1.0, -2.0], [-4.0, -3.0]]), jnp.array([[1, 0], [1, 0]])
        >>> print(exact_match(z, y))
        0.5
    """
    return all_answers_right(outputs, y).mean()


def all_answers_right(outputs: Array, y: Array) -> Float[Array, "N"]:
    """Return 1 for each example all of whose answers are right, 0 for the others."""
    return mean_over_positions(answers_are_right(*as_scores(outputs, y)).all(-1))


# ---- Among the k likeliest -------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TopK:
    """The metric that `top_k` returns: equal for equal k, so it is compiled once."""

    k: int

    def __call__(self, outputs: Array, y: Array) -> Scalar:
        return self.per_example(outputs, y).mean()

    def per_example(self, outputs: Array, y: Array) -> Float[Array, "N"]:
        """Return 1 for each example whose class is among the k, 0 for the others."""
        z, y = as_scores(outputs, y)
        if self.k > z.shape[-1]:
            raise ValueError(
                f"top_k: k must be at most the number of outputs, {z.shape[-1]}, got "
                f"{self.k}"
            )
        true = true_classes(z, y)[..., None]
        of_true = jnp.take_along_axis(z, true, -1)
        earlier = jnp.arange(z.shape[-1], dtype=true.dtype) < true
        before = (z > of_true) | ((z == of_true) & earlier)
        among = before.sum(-1, dtype=jnp.int32) < self.k
        return mean_over_positions(among & ~jnp.isnan(z).any(-1))


def top_k(k: int) -> TopK:
    """Make the metric: the share of examples whose class has one of the k largest z.

        (1/N) Σ_n [ |{ j : z_nj > z_ny, or z_nj = z_ny and j < y }| < k ],    y = y_n

    Of equal outputs the first counts as the larger: `top_k(1)` is `accuracy`.

    Args:
        k: from 1 to K.

    Returns:
        A metric `(outputs, y) -> scalar`, of z (N, ..., K) with K > 1, and classes
        (N, ...) or rows (N, ..., K), whose largest entry is the class.

    Raises:
        ValueError: k is not a positive integer; or, from the metric, larger than K.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4]])
        >>> print(top_k(2)(z, jnp.array([2, 1])))
        0.5
    """
    return TopK(positive_integer("top_k: k", k))
