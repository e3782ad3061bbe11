"""A confusion matrix as a figure: a row for each true class, a column a prediction."""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["plot_confusion_matrix"]

#: With more classes than this the cells have no numbers in them.
MOST_NUMBERS = 20


def plot_confusion_matrix(counts: Any, names: Sequence[str] | None = None) -> Any:
    """Draw a confusion matrix; needs matplotlib.

    The colour of a cell is the share of its true class, so that rare classes show their
    mistakes as common ones do; the number in it is the count.

    Args:
        counts: C (K, K), as `fnn.metrics.confusion_matrix` returns it.
        names: the names of the K classes; by default their numbers.

    Returns:
        A `matplotlib.figure.Figure`:
        `plot_confusion_matrix(counts).savefig("confusion.png")`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: counts that are no square matrix, or another number of names.

    Example:
        >>> figure = plot_confusion_matrix(np.array([[8, 1], [0, 5]]), ["cat", "dog"])
        >>> [text.get_text() for text in figure.axes[0].get_xticklabels()]
        ['cat', 'dog']
    """
    counts = np.asarray(counts)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(
            "expected a confusion matrix of shape (K, K), as "
            f"fnn.metrics.confusion_matrix returns it, got shape {counts.shape}"
        )
    names = [*map(str, range(len(counts)))] if names is None else list(names)
    if len(names) != len(counts):
        raise ValueError(
            f"expected a name for each of {len(counts)} classes, got {len(names)}"
        )
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "a figure needs matplotlib: pip install matplotlib. The matrix itself is "
            "an array: print(counts)"
        ) from error

    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.4 + 0.42 * min(len(counts), 30)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="true class")
    rotation = 45 if max(map(len, names), default=0) > 3 else 0
    axes.set_xticks(range(len(names)), names, rotation=rotation)
    axes.set_yticks(range(len(names)), names)
    if len(counts) <= MOST_NUMBERS:
        for (i, j), number in np.ndenumerate(counts):
            colour = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, f"{number}", ha="center", va="center", color=colour)
    return figure
