"""Figures: one style, readable in print and by the colour-blind.

The figures are made without pyplot: they need no display and share no state.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

__all__ = [
    "OKABE_ITO",
    "STYLE",
    "draw_losses",
    "draw_mean_and_range",
    "draw_rings",
    "health",
    "learning_curves",
    "misclassified",
    "save",
    "use_plain_log_scale",
]

#: Colours that differ in every kind of colour vision (Okabe and Ito 2008).
OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
}

STYLE = {
    "axes.grid": True,
    "axes.labelsize": 10,
    "axes.prop_cycle": matplotlib.cycler(
        color=[OKABE_ITO[c] for c in ("blue", "vermilion", "green", "purple", "orange")]
    ),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.color": "0.9",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.dpi": 200,
}


def save(figure: Figure, path: Path) -> Path:
    """Write a figure to a file, whose folder is created where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure.savefig(path)
    return path


def draw_mean_and_range(axes: Axes, x: Sequence, values: np.ndarray, **style) -> None:
    """Draw the mean over seeds as a line, in a band from the least to the greatest.

    Args:
        axes: where to draw.
        x: of shape (N,).
        values: a row for each seed, (seeds, N).
        style: of the line, as `Axes.plot` takes it.
    """
    (line,) = axes.plot(x, values.mean(0), **style)
    band = values.min(0), values.max(0)
    axes.fill_between(x, *band, color=line.get_color(), alpha=0.25, linewidth=0)


def draw_losses(axes: Axes, losses: Mapping[str, np.ndarray], best: np.ndarray) -> None:
    """Draw losses over steps: every seed, their means, and rings at the best steps.

    Args:
        axes: where to draw.
        losses: "train" and "validation", a row for each seed, (seeds, steps).
        best: the step, from 1 on, with the least validation loss of each seed.
    """
    styles = {"train": ("blue", "--"), "validation": ("vermilion", "-")}
    for name, (colour, dashes) in styles.items():
        steps = np.arange(1, losses[name].shape[1] + 1)
        style = dict(color=OKABE_ITO[colour], linestyle=dashes)
        axes.plot(steps, losses[name].T, alpha=0.3, linewidth=0.8, **style)
        axes.plot(steps, losses[name].mean(0), label=name, **style)
    least = losses["validation"].min(1)
    draw_rings(axes, best, least, label="best step of a seed", markersize=6)
    axes.set(xscale="log", yscale="log", ylabel="loss (nats per example)")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(loc="lower left", fontsize=9)


def draw_rings(axes: Axes, x: ArrayLike, y: ArrayLike, **style) -> None:
    """Draw a ring around each point, so that the point stays visible."""
    axes.plot(x, y, "ko", markerfacecolor="none", **style)


def use_plain_log_scale(axes: Axes) -> None:
    """Make the y axis logarithmic, with the labels 0.1, 0.2, 0.5, 1, ..."""
    axes.set(yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def learning_curves(
    history: Mapping[str, np.ndarray],
    best_epoch: int,
    stopped: str,
    test_accuracy: float | None = None,
    title: str = "",
    augmented: bool = False,
) -> Figure:
    """Draw loss and accuracy over epochs, with the best epoch and the end.

    Args:
        history: of an `fnn.FitResult`.
        best_epoch: the epoch whose parameters were kept.
        stopped: the reason why training ended, as in an `fnn.FitResult`.
        test_accuracy: of those parameters.
        title: of the whole figure.
        augmented: whether the training images were augmented.
    """
    epoch, loss = history["validation_epoch"], history["validation_loss"]
    accuracy = 100 * history["validation_accuracy"]
    thick = dict(
        color=OKABE_ITO["vermilion"], label="validation", **_points_if_few(epoch)
    )
    thin = dict(color=OKABE_ITO["blue"], linewidth=1.1, **_points_if_few(epoch))
    on = "augmented, dropout on" if augmented else "dropout, penalty on"
    thin["label"] = f"training ({on})"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.5))
        figure.suptitle(title, fontsize=10)
        left, right = figure.subplots(1, 2)
        left.plot(history["epoch"], history["train_loss"], **thin)
        left.plot(epoch, loss, **thick)
        left.set(ylabel="cost J (nats per example)")
        use_plain_log_scale(left)
        right.plot(epoch, accuracy, **thick)
        right.set(ylabel="accuracy (%)")
        if test_accuracy is not None:
            label = f"test, at best epoch: {test_accuracy:.2%}"
            point, style = (best_epoch, 100 * test_accuracy), {"markersize": 7}
            right.plot(*point, "D", color=OKABE_ITO["green"], label=label, **style)
        for axes, values in ((left, loss), (right, accuracy)):
            _mark_best_and_last(
                axes, epoch, values, best_epoch, stopped, legend=axes is left
            )
            axes.set(xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend(fontsize=9)
    return figure


def _points_if_few(epoch: np.ndarray) -> dict:
    """Return the style of points where there are too few epochs for a line."""
    return {"marker": "o", "markersize": 4} if len(epoch) < 3 else {}


def _mark_best_and_last(
    axes, epoch, values, best_epoch: int, stopped: str, legend: bool
) -> None:
    """Mark the best epoch with a ring, and the last one with a line."""
    words = {"patience": "stopped early", "epochs": "end"}
    labels = f"best epoch: {best_epoch}", f"{words.get(stopped, stopped)}: {epoch[-1]}"
    at_ring, at_line = labels if legend else (None, None)
    best = values[epoch == best_epoch]
    style = dict(markersize=8, markeredgewidth=1.5)
    draw_rings(axes, [best_epoch] * len(best), best, label=at_ring, **style)
    axes.axvline(epoch[-1], color="0.3", linestyle=":", linewidth=1.5, label=at_line)


def misclassified(
    x: np.ndarray,
    y: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    most: int = 24,
    columns: int = 8,
) -> Figure:
    """Draw the images that are classified wrongly, the surest mistakes first.

    Args:
        x: images (N, H, W, 1), numbers in [0, 1], drawn as ink on paper; or (N, H, W,
            3) in colours.
        y: their classes (N,).
        probabilities: of each class (N, K).
        classes: the names of the K classes.
        most: how many images to show.
        columns: how many of them in a row.
    """
    predicted, sure = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != y)
    shown = wrong[np.argsort(-sure[wrong], kind="stable")][:most]
    columns = min(columns, max(len(shown), 1))
    rows = max(-(-len(shown) // columns), 1)
    title = f"{len(wrong)} of {len(y):,} test images are misclassified"
    if len(shown) < len(wrong):
        title += f"; here the {len(shown)} that the network is surest of"
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(max(columns, 4.8), 1.42 * rows + 0.5))
        figure.suptitle(
            f"{title}\ntrue → predicted, probability of the latter", fontsize=10
        )
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(shown) :]:
            axes.set_axis_off()
        for axes, i in zip(grid.flat[: len(shown)], shown, strict=True):
            axes.imshow(x[i].squeeze(), cmap="gray_r", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color="0.8")
            pair = f"{classes[y[i]]} → {classes[predicted[i]]}"
            percent = f"{sure[i]:.1%}" if sure[i] < 0.9995 else ">99.9%"
            axes.set_title(f"{pair}\n{percent}", fontsize=9)
    return figure


def health(layers: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw the size of activations, δ and updates over epochs, a line for each layer.

    The first layer is the darkest. The share of dead units has a panel of its own, and
    so has the size of an update relative to that of the parameters.

    Args:
        layers: the `health` of an `fnn.FitResult`.
    """
    panels = {
        "activation": "activations, √mean y²",
        "delta": "δ, √mean δ²",
        "updates": "update / parameters, ‖ΔΘ‖ / ‖Θ‖",
        "dead": "dead units (%)",
    }
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(layers)))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 5.2))
        grid = figure.subplots(2, 2, sharex=True)
        for axes, (name, title) in zip(grid.flat, panels.items(), strict=True):
            for i, (path, columns) in enumerate(layers.items()):
                values = np.asarray(columns[name], float)
                if name == "updates":
                    if not columns["parameters"].any():
                        continue
                    values = values / np.maximum(columns["parameters"], 1e-30)
                values = 100 * values if name == "dead" else values
                style = dict(color=colours[i], linestyle=("-", "--", "-.")[i % 3])
                epochs = np.arange(1, len(values) + 1)
                axes.plot(epochs, values, label=path, **style, **_points_if_few(epochs))
            axes.set_title(title)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if name != "dead":
                axes.set_yscale("log")
        for axes in grid[1]:
            axes.set_xlabel("epoch")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", fontsize=9)
    return figure
