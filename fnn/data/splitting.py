"""Split examples in two parts, for training and for validation."""

from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from fnn.checks import as_number, check_flag, key_or_seed
from fnn.host_arrays import as_host_array

__all__ = ["Examples", "Split", "shuffled_split", "split"]

#: Inputs and targets, one row per example.
Examples = tuple[np.ndarray, np.ndarray]


class Split(NamedTuple):
    """The two parts that `split` makes: train and validation, each (x, y)."""

    train: Examples
    validation: Examples


def split(
    x: ArrayLike,
    y: ArrayLike,
    fraction: float,
    key: Array | int = 0,
    *,
    stratify: bool = False,
) -> Split:
    """Shuffle the examples and set a share of them aside for validation.

    Exactly round(fraction · N) examples go to `validation`, the others to `train`,
    both in shuffled order. The same key returns the same split.

    Args:
        x: Inputs, shape (N, ...).
        y: Targets, shape (N, ...).
        fraction: The share that goes to `validation`, strictly between 0 and 1.
        key: A `jax.random` key, or a plain seed.
        stratify: Whether every class has the same share in both parts (to within one
            example); `y` must then be labels, shape (N,).

    Returns:
        A `Split`: `.train` and `.validation`, each `(x, y)`, copied to NumPy.

    Raises:
        ValueError: If x and y have different lengths, or one part would be empty.
        TypeError: If an argument is of another type.

    Example:
        >>> x, y = np.arange(10.0), np.array([0, 1] * 5)
        >>> (xt, yt), (xv, yv) = split(x, y, 0.4, stratify=True)
        >>> len(xt), len(xv), sorted(yv.tolist())
        (6, 4, [0, 0, 1, 1])
    """
    return shuffled_split(x, y, fraction, key, stratify=stratify, name="fraction")


def shuffled_split(
    x: ArrayLike,
    y: ArrayLike,
    fraction: float,
    key: Array | int,
    *,
    stratify: bool,
    name: str,
    seed_name: str = "key",
) -> Split:
    """Split as `split` does; errors call the fraction `name`, the key `seed_name`."""
    key = key_or_seed(seed_name, key)
    x, y = as_host_array("x", x), as_host_array("y", y)
    fraction, stratify = as_number(name, fraction), check_flag("stratify", stratify)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ValueError(
            f"expected x and y with one row per example, got shapes {x.shape} and "
            f"{y.shape}: their first axes must be equal"
        )
    n = len(x)
    if n < 2:
        raise ValueError(f"expected two or more examples to split, got {n}")
    if not 0 < fraction < 1:
        raise ValueError(
            f"{name} must lie strictly between 0 and 1, got {fraction}: it is the "
            f"share of the examples set aside, such as 0.2"
        )
    if stratify and y.ndim != 1:
        raise ValueError(
            f"stratify=True expects y to be labels, shape (N,), got shape {y.shape}: "
            f"use y.argmax(-1) for one-hot targets, or stratify=False"
        )
    count = round(fraction * n)
    if not 0 < count < n:
        raise ValueError(
            f"{name}={fraction} of {n} examples leaves one part empty ({n - count} and "
            f"{count}): choose a {name} nearer to 0.5"
        )
    order = np.asarray(jax.random.permutation(key, n))

    # Choose `count` positions, evenly spaced along the shuffled examples. Where these
    # are sorted by class, each class contributes its share.
    position = np.arange(1, n + 1)
    is_chosen = position * count // n > (position - 1) * count // n
    sequence = order[np.argsort(y[order], kind="stable")] if stratify else order
    in_validation = np.zeros(n, bool)
    in_validation[sequence] = is_chosen
    train, validation = order[~in_validation[order]], order[in_validation[order]]
    return Split((x[train], y[train]), (x[validation], y[validation]))
