"""Metrics: numbers that are reported and may be monitored, but not descended on.

A metric is a function `metric(outputs, y)` of a batch's outputs z (N, ...) and labels
y (N, ...), and returns its mean over the batch, a scalar. `fnn.evaluate` weights the
batches by their sizes, so that the result is the mean over all examples.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp

from fnn.losses import Loss
from fnn.typing import Array, Scalar

__all__ = ["Metric", "accuracy", "default_metrics"]

#: A function `metric(outputs, y) -> mean`.
Metric = Callable[[Array, Array], Array]


def accuracy(outputs: Array, y: Array) -> Scalar:
    """Return the share of examples whose class is the predicted one.

        K > 1    (1/N) Σ_n [ argmax_k z_nk = y_n ]
        K = 1    (1/N) Σ_n [ (z_n > 0) = (y_n > ½) ]        z_n a logit

    Of several equal largest outputs, the first counts. An example whose outputs hold a
    NaN counts as wrong: it would otherwise pass as the class of its first NaN.

    Args:
        outputs: z (N, K), logits or probabilities for K > 1, logits for K = 1.
        y: classes (N,), or rows (N, K) of targets, whose largest entry is the class.

    Returns:
        A scalar in [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> print(accuracy(jnp.array([[1.0, 2.0], [4.0, 3.0]]), jnp.array([1, 1])))
        0.5
    """
    if outputs.shape[1] == 1:
        right = (outputs[:, 0] > 0) == (
            y.reshape(len(outputs)).astype(jnp.float32) > 0.5
        )
    else:
        classes = y if y.ndim == 1 else y.argmax(1)
        right = outputs.argmax(1).astype(jnp.int32) == classes.astype(jnp.int32)
    return (right & ~jnp.isnan(outputs).any(1)).mean(dtype=jnp.float32)


def default_metrics(loss: Loss) -> Mapping[str, Metric]:
    """Return the accuracy for a loss that scores classes, else no metric."""
    return {"accuracy": accuracy} if getattr(loss, "classifies", False) else {}
