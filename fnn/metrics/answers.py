"""Outputs and labels, read as answers: the class that is predicted, and the right one.

Legend: N examples, P all their positions (pixels, tokens), K outputs a position;
z (N, ..., K) outputs, y (N, ...) classes or (N, ..., K) rows.
"""

import jax.numpy as jnp
import numpy as np

from fnn.checks import as_array, as_inputs
from fnn.typing import Array, Bool, Float, Int

__all__ = [
    "answers_are_right",
    "are_rows",
    "as_scores",
    "mean_over_positions",
    "one_class_each",
    "predicted_classes",
    "true_answers",
    "true_classes",
]

#: Rows of class labels sum to 1 up to this much, as `SoftmaxCrossEntropy` demands.
TOLERANCE = 1e-3


def as_scores(outputs: Array, y: Array) -> tuple[Array, Array]:
    """Return outputs z (N, ..., K) and their labels as arrays that fit one another."""
    z, y = as_inputs(as_array("outputs", outputs)), as_array("y", y)
    if z.ndim < 2 or y.shape not in (z.shape, z.shape[:-1]):
        raise ValueError(
            "expected outputs of shape (N, ..., K), and labels of shape (N, ...) or "
            f"(N, ..., K), got {z.shape} and {y.shape}. One example alone is z[None], "
            "y[None]."
        )
    return z, y


def are_rows(z: Array, y: Array) -> bool:
    """Return whether the labels are rows: an entry for each of K > 1 outputs."""
    return y.ndim == z.ndim and z.shape[-1] > 1


def one_class_each(y: Array) -> Bool[Array, ""]:
    """Return whether all rows sum to 1, as those of one class do.

    Rows that do not are answers to independent yes/no questions.
    """
    sums = y.astype(jnp.float32).sum(-1)
    return (jnp.abs(sums - 1) <= TOLERANCE).all()


def predicted_classes(z: Array) -> Int[Array, "N ..."]:
    """Return the first class with the largest output; −1 where an output is NaN."""
    is_nan = jnp.isnan(z).any(-1)
    predicted = z.argmax(-1) if z.shape[-1] > 1 else z[..., 0] > 0
    return jnp.where(is_nan, -1, predicted.astype(jnp.int32))


def true_classes(z: Array, y: Array) -> Int[Array, "N ..."]:
    """Return the classes that labels stand for; for one logit 0 or 1."""
    if z.shape[-1] == 1:
        return true_answers(z, y)[..., 0].astype(jnp.int32)
    # int32: in uint8, classes 0 and 256 would be the same.
    return (y.argmax(-1) if are_rows(z, y) else y).astype(jnp.int32)


def true_answers(z: Array, y: Array) -> Bool[Array, "N ... K"]:
    """Return the answers to yes/no questions that labels of z's size stand for."""
    if y.size != z.size:
        raise ValueError(
            f"expected a yes or no for each of the {z.shape[-1]} outputs, labels of "
            f"shape {z.shape}, got {y.shape}: these are classes"
        )
    return y.reshape(z.shape).astype(jnp.float32) > np.float32(0.5)


def answers_are_right(z: Array, y: Array) -> Bool[Array, "N ... K"]:
    """Return whether z > 0 answers each question as y > ½ does; NaN is wrong."""
    return ((z > 0) == true_answers(z, y)) & ~jnp.isnan(z)


def mean_over_positions(values: Array) -> Float[Array, "N"]:
    """Average each example's values, in at least float32."""
    dtype = jnp.float64 if values.dtype == jnp.float64 else jnp.float32
    return values.reshape(len(values), -1).mean(1, dtype=dtype)
