"""Labels: the targets that they stand for, and whether they fit a network's outputs.

A network has K outputs for an example, or at each of its positions: the tokens of a
text, the pixels of an image. Labels are then one class a position, or a row of K.

Legend: N examples, ... positions (often none), K outputs; z (N, ..., K) outputs,
y labels, t (N, ..., K) targets.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.host_arrays import expect_arrays
from fnn.shapes import format_shapes, is_shape
from fnn.typing import Array, Float, InShape

__all__ = [
    "are_rows",
    "check_class_labels",
    "check_real_labels",
    "check_rows_sum_to_one",
    "class_targets",
    "counted",
    "is_concrete",
    "real_targets",
]


def is_concrete(y: Array) -> bool:
    """Return whether the numbers are known: they are not while a function is traced."""
    return not isinstance(y, jax.core.Tracer)


def _is_integer(y: Array) -> bool:
    return jnp.issubdtype(y.dtype, jnp.integer) or y.dtype == bool


def are_rows(out_shape: InShape, y: Array) -> bool:
    """Return whether labels are rows (N, ..., K), and not one number a position."""
    return y.ndim == len(out_shape) + 1


def class_targets(
    loss: object, z: Array, y: Array, dtype: Any, binary: bool = False
) -> Float[Array, "N ... K"]:
    """Return the targets t that class labels stand for.

    `check` refuses integers that are no label. Where it was not called, as in a loop of
    a user's own that is compiled, they are NaN: they must not pass for another label.
    """
    _expect_batch(loss, z, y)
    _check_class_shape(loss, z.shape[1:], y, binary)
    rows, classes = are_rows(z.shape[1:], y), z.shape[-1]
    if rows or classes == 1:
        t = y if rows else y[..., None]
        return _without(t, 1, t.astype(dtype))
    # int32: in uint8, classes 0 and 256 would be the same.
    wide = y.astype(jnp.int32)[..., None]
    return _without(
        wide, classes - 1, jax.nn.one_hot(wide[..., 0], classes, dtype=dtype)
    )


def _without(labels: Array, largest: int, targets: Array) -> Array:
    """Return the targets, NaN where an integer label is not one of 0 .. largest."""
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        return targets
    return jnp.where((labels >= 0) & (labels <= largest), targets, jnp.nan)


def counted(y: Any, ignore: int) -> Any:
    """Return which labels are not `ignore`, of y's shape; in NumPy for such a y."""
    if y.dtype == bool:
        y = y.astype(np.int32)
    if _is_integer(y):
        limits = jnp.iinfo(y.dtype)
        if not limits.min <= ignore <= limits.max:  # -1 is no uint8
            return y == y
    return y != ignore


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
        is_tree = isinstance(given, (dict, tuple)) and not is_shape(given)
        parts = jax.tree.leaves(given, is_leaf=is_shape) if is_tree else []
        if is_tree and all(isinstance(p, _ARRAYS) or is_shape(p) for p in parts):
            raise TypeError(
                f"{loss!r} expected one {what}, got {format_shapes(given)}. Give each "
                "output its own loss: fnn.losses.Each."
            )


_ARRAYS = (jax.Array, np.ndarray)


# ---- Classes ---------------------------------------------------------------------


def _check_class_shape(
    loss: object, out_shape: InShape, y: Array, binary: bool
) -> None:
    if not out_shape:
        raise ValueError(
            f"{loss!r} expected outputs of shape (N, K), got (N,). End the network "
            "with fnn.Flatten() and fnn.Dense(K)."
        )
    *positions, classes = out_shape
    one, rows = _shape_text(positions), _shape_text(out_shape)
    if classes == 1 and not binary:
        raise ValueError(
            f"{loss!r} expected at least 2 outputs, got 1, whose softmax is always 1. "
            "For one yes/no question use SigmoidCrossEntropy."
        )
    if y.ndim == len(out_shape) and not _is_integer(y) and classes > 1:
        raise TypeError(
            f"{loss!r} expected labels {one} of an integer dtype, or rows {rows}, got "
            f"{y.dtype} of shape {y.shape}. Class indices: y.astype('int32')."
        )
    if y.shape[1:] not in (tuple(positions), tuple(out_shape)):
        hint = (
            f", one at each position of outputs {rows}. Is there one label an example? "
            "End the network with fnn.Flatten() and fnn.Dense(K)."
        )
        raise ValueError(
            f"{loss!r} expected labels of shape {one} or {rows} for {classes} outputs, "
            f"got {y.shape}{hint if positions else ''}"
        )


def _shape_text(shape: Any) -> str:
    """Write the shape of a batch, such as (N,) or (N, 5, 3)."""
    return f"(N, {', '.join(map(str, shape))})" if shape else "(N,)"


def check_class_labels(
    loss: object,
    out_shape: InShape,
    y: Array,
    binary: bool = False,
    ignore: int | None = None,
) -> None:
    """Raise where labels are not classes of K outputs; `binary` allows K = 1.

    Labels that are `ignore` may stand anywhere.
    """
    _expect_arrays(loss, out_shape, y)
    expect_arrays("y", y)
    _check_class_shape(loss, out_shape, y, binary)
    if not is_concrete(y) or y.size == 0:
        return
    values, classes = np.asarray(y), out_shape[-1]
    are_indices = not are_rows(out_shape, y) and classes > 1
    lowest, highest = (0, classes - 1) if are_indices else (0, 1)
    wrong = ~((values >= lowest) & (values <= highest))  # also catches NaN
    if ignore is not None:
        wrong &= counted(values, ignore)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        expected = f"a class 0 .. {classes - 1}" if are_indices else "in [0, 1]"
        ignored = "" if ignore is None else f", or {ignore}, which is ignored"
        raise ValueError(
            f"{loss!r} expected every label to be {expected}{ignored}, as the network "
            f"has {classes} outputs; got {values[index]} at y{list(index)}"
        )


def check_rows_sum_to_one(loss: object, y: Array, ignore: int | None = None) -> None:
    """Raise where a row of targets is no distribution, and not ignored as a whole."""
    if not is_concrete(y) or y.size == 0:
        return
    rows = np.asarray(y, np.float64)
    sums = rows.sum(-1)
    if ignore is not None:
        sums = np.where(counted(rows, ignore).any(-1), sums, 1)
    if np.abs(sums - 1).max() > 1e-3:
        index = np.unravel_index(np.abs(sums - 1).argmax(), sums.shape)
        raise ValueError(
            f"{loss!r} expected label rows that sum to 1, got {sums[index]:.4g} in row "
            f"{', '.join(map(str, index))}. For several yes/no labels an example use "
            "SigmoidCrossEntropy."
        )


# ---- Real numbers ----------------------------------------------------------------


def _check_real_shape(loss: object, out_shape: InShape, y: Array) -> None:
    is_column = out_shape[-1:] == (1,) and y.shape[1:] == out_shape[:-1]
    if y.shape[1:] != out_shape and not is_column:
        raise ValueError(
            f"{loss!r} expected targets of the outputs' shape {_shape_text(out_shape)}"
            f", got {y.shape}. For class labels use jax.nn.one_hot(y, K), or a "
            "cross-entropy."
        )


def check_real_labels(
    loss: object, out_shape: InShape, y: Array, lowest: float = -np.inf
) -> None:
    """Raise where labels are not finite numbers of the outputs' shape, or too low."""
    _expect_arrays(loss, out_shape, y)
    expect_arrays("y", y)
    _check_real_shape(loss, out_shape, y)
    if not is_concrete(y):
        return
    values = np.asarray(y, np.float64)
    wrong = ~np.isfinite(values)
    if wrong.any():
        index = np.argwhere(wrong)[0].tolist()
        raise ValueError(
            f"{loss!r} expected finite targets, got NaN or inf at y{index}"
        )
    if (values < lowest).any():
        index = np.argwhere(values < lowest)[0].tolist()
        raise ValueError(
            f"{loss!r} expected targets of at least {lowest}, got "
            f"{values[tuple(index)]:g} at y{index}"
        )
