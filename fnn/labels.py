"""Labels: the targets that they stand for, and whether they fit a network's outputs.

Legend: N examples, K outputs; z (N, K) outputs, y labels, t (N, K) targets.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.host_arrays import expect_arrays
from fnn.shapes import format_shapes, is_shape
from fnn.typing import Array, Float, InShape

__all__ = [
    "check_class_labels",
    "check_real_labels",
    "class_targets",
    "is_concrete",
    "real_targets",
]


def is_concrete(y: Array) -> bool:
    """Return whether the numbers are known: they are not while a function is traced."""
    return not isinstance(y, jax.core.Tracer)


def _is_integer(y: Array) -> bool:
    return jnp.issubdtype(y.dtype, jnp.integer) or y.dtype == bool


def class_targets(
    loss: object, z: Array, y: Array, dtype: Any, binary: bool = False
) -> Float[Array, "N K"]:
    """Return the targets t that class labels stand for."""
    _expect_batch(loss, z, y)
    _check_class_shape(loss, z.shape[1:], y, binary)
    if y.ndim == 2:
        return y.astype(dtype)
    if z.shape[1] == 1:
        return y[:, None].astype(dtype)
    # int32: in uint8, classes 0 and 256 would be the same.
    return jax.nn.one_hot(y.astype(jnp.int32), z.shape[1], dtype=dtype)


def real_targets(loss: object, z: Array, y: Array, dtype: Any) -> Float[Array, "N ..."]:
    """Return the targets t, of z's shape, that real-valued labels stand for."""
    _expect_batch(loss, z, y)
    _check_real_shape(loss, z.shape[1:], y)
    return y.reshape(z.shape).astype(dtype)


def _expect_batch(loss: object, z: Array, y: Array) -> None:
    _expect_arrays(loss, z, y)
    expect_arrays("y", y)
    if z.ndim == 0 or z.shape[:1] != y.shape[:1]:
        raise ValueError(
            f"{loss!r} got outputs of shape {z.shape} and labels of shape {y.shape}: "
            "both must have one entry per example on the first axis"
        )


def _expect_arrays(loss: object, z: Any, y: Any) -> None:
    """Raise where outputs or labels are trees: this loss is of one array each."""
    for what, given in (("output", z), ("array of labels", y)):
        if not is_shape(given) and not hasattr(given, "shape"):
            raise TypeError(
                f"{loss!r} expected one {what}, got {format_shapes(given)}. Give each "
                "output its own loss: fnn.losses.Each."
            )


def _check_class_shape(
    loss: object, out_shape: InShape, y: Array, binary: bool
) -> None:
    if len(out_shape) != 1:
        raise ValueError(
            f"{loss!r} expected outputs of shape (N, K), got (N, *{out_shape}). End "
            "the network with fnn.Flatten() and fnn.Dense(K)."
        )
    classes = out_shape[0]
    if classes == 1 and not binary:
        raise ValueError(
            f"{loss!r} expected at least 2 outputs, got 1, whose softmax is always 1. "
            "For one yes/no question use SigmoidCrossEntropy."
        )
    if y.ndim == 1 and not _is_integer(y) and classes > 1:
        raise TypeError(
            f"{loss!r} expected labels (N,) of an integer dtype, or rows (N, "
            f"{classes}), got {y.dtype} of shape {y.shape}. Class indices: "
            "y.astype('int32')."
        )
    if y.ndim != 1 and y.shape[1:] != (classes,):
        raise ValueError(
            f"{loss!r} expected labels of shape (N,) or (N, {classes}) for "
            f"{classes} outputs, got {y.shape}"
        )


def check_class_labels(
    loss: object, out_shape: InShape, y: Array, binary: bool = False
) -> None:
    """Raise where labels are not classes of K outputs; `binary` allows K = 1."""
    _expect_arrays(loss, out_shape, y)
    expect_arrays("y", y)
    _check_class_shape(loss, out_shape, y, binary)
    if not is_concrete(y) or y.size == 0:
        return
    values, classes = np.asarray(y), out_shape[0]
    are_indices = y.ndim == 1 and classes > 1
    lowest, highest = (0, classes - 1) if are_indices else (0, 1)
    wrong = ~((values >= lowest) & (values <= highest))  # also catches NaN
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        expected = f"a class 0 .. {classes - 1}" if are_indices else "in [0, 1]"
        raise ValueError(
            f"{loss!r} expected every label to be {expected}, as the network has "
            f"{classes} outputs; got {values[index]} at y{list(index)}"
        )


def _check_real_shape(loss: object, out_shape: InShape, y: Array) -> None:
    is_column = y.ndim == 1 and out_shape == (1,)
    if y.shape[1:] != out_shape and not is_column:
        raise ValueError(
            f"{loss!r} expected targets of the outputs' shape (N, "
            f"{', '.join(map(str, out_shape))}), got {y.shape}. For class labels use "
            "jax.nn.one_hot(y, K), or a cross-entropy."
        )


def check_real_labels(loss: object, out_shape: InShape, y: Array) -> None:
    """Raise where labels are not finite numbers of the outputs' shape."""
    _expect_arrays(loss, out_shape, y)
    expect_arrays("y", y)
    _check_real_shape(loss, out_shape, y)
    if not is_concrete(y):
        return
    wrong = ~np.isfinite(np.asarray(y, np.float64))
    if wrong.any():
        index = np.argwhere(wrong)[0].tolist()
        raise ValueError(
            f"{loss!r} expected finite targets, got NaN or inf at y{index}"
        )
