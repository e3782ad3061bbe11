"""Metrics: numbers that are reported and may be monitored, but not descended on.

A metric is a function `metric(outputs, y)` of a batch's outputs z (N, ...) and labels
y (N, ...), and returns its mean over the batch, a scalar. `fnn.evaluate` weights the
batches by their sizes, so that the result is the mean over all examples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax.numpy as jnp

from fnn.labels import counted
from fnn.losses import Loss
from fnn.typing import Array, Scalar

__all__ = ["Metric", "accuracy", "default_metrics"]

#: A function `metric(outputs, y) -> mean`.
Metric = Callable[[Array, Array], Array]


def accuracy(outputs: Array, y: Array, *, ignore: int | None = None) -> Scalar:
    """Return the share of labels whose class is the predicted one.

        K > 1    (1/M) Σ_n [ argmax_k z_nk = y_n ]
        K = 1    (1/M) Σ_n [ (z_n > 0) = (y_n > ½) ]        z_n a logit

    M counts the labels: the examples, times the positions in each (tokens, pixels).
    Of several equal largest outputs, the first counts. A label whose outputs hold a
    NaN counts as wrong: it would otherwise pass as the class of its first NaN. For
    several yes/no labels an example it says little: pass a metric of your own.

    Args:
        outputs: z (N, ..., K), logits or probabilities for K > 1, logits for K = 1.
        y: classes (N, ...), or rows (N, ..., K) of targets, whose largest entry is the
            class.
        ignore: the label that does not count, as that of a loss; a row where each entry
            is it. None for none.

    Returns:
        A scalar in [0, 1]; 0 where no label counts.

    Example:
        >>> import jax.numpy as jnp
        >>> print(accuracy(jnp.array([[1.0, 2.0], [4.0, 3.0]]), jnp.array([1, 1])))
        0.5
    """
    is_rows = y.ndim == outputs.ndim
    if outputs.shape[-1] == 1:
        y_one = y.reshape(outputs.shape[:-1]).astype(jnp.float32)
        right = (outputs[..., 0] > 0) == (y_one > 0.5)
    else:
        classes = y.argmax(-1) if is_rows else y
        right = outputs.argmax(-1).astype(jnp.int32) == classes.astype(jnp.int32)
    right &= ~jnp.isnan(outputs).any(-1)
    if ignore is None:
        return right.mean(dtype=jnp.float32)
    counts = counted(y, ignore)
    counts = counts.any(-1) if is_rows else counts
    total = counts.sum(dtype=jnp.float32)
    return (right & counts).sum(dtype=jnp.float32) / jnp.maximum(total, 1)


@dataclass(frozen=True)
class _Accuracy:
    """The accuracy of the labels that a loss does not ignore.

    It is a class so that two of them are equal, and are compiled once.
    """

    ignore: int

    def __call__(self, outputs: Array, y: Array) -> Scalar:
        return accuracy(outputs, y, ignore=self.ignore)


def default_metrics(loss: Loss) -> Mapping[str, Metric]:
    """Return the accuracy for a loss that scores classes, else no metric."""
    if not getattr(loss, "classifies", False):
        return {}
    ignore = getattr(loss, "ignore", None)
    return {"accuracy": accuracy if ignore is None else _Accuracy(ignore)}
