"""Figures of a sweep: measurements over hyperparameters, under several seeds."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from experiments.shared.figures import OKABE_ITO, draw_rings
from experiments.shared.seeds import mean_and_deviation

__all__ = [
    "LINE_STYLES",
    "draw_mean_across",
    "draw_means_with_bars",
    "draw_over_one_hyperparameter",
    "draw_over_two_hyperparameters",
]

#: Styles of lines that a reader can distinguish, in grey too.
LINE_STYLES = matplotlib.cycler(
    color=[OKABE_ITO[c] for c in ("black", "blue", "vermilion", "green", "purple")],
    linestyle=("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))),
    marker=("o", "s", "^", "D", "v"),
)


def draw_means_with_bars(axes: Axes, x: ArrayLike, values: Sequence, **style) -> None:
    """Draw means over seeds, with bars of one sample standard deviation.

    Args:
        axes: where to draw.
        x: of shape (N,).
        values: for each x, those of its seeds.
        style: of line and bars, as `Axes.errorbar` takes it.
    """
    mean, deviation = np.transpose([mean_and_deviation(each) for each in values])
    axes.errorbar(x, mean, deviation, **style)


def draw_mean_across(axes: Axes, values: ArrayLike, **style) -> None:
    """Draw one mean across the axes, in a band of one sample standard deviation.

    Args:
        axes: where to draw.
        values: those of all seeds.
        style: of the line, as `Axes.axhline` takes it.
    """
    mean, deviation = mean_and_deviation(np.asarray(values))
    line = axes.axhline(mean, **style)
    band = mean - deviation, mean + deviation
    axes.axhspan(*band, color=line.get_color(), alpha=0.15, linewidth=0)


def draw_over_one_hyperparameter(
    axes: Axes, values: Mapping[float, Sequence[float]], **style
) -> None:
    """Draw all seeds, their mean and deviation over a hyperparameter that starts at 0.

    The axis is logarithmic, and linear around 0.

    Args:
        axes: where to draw.
        values: for each value of the hyperparameter, ascending, those of its seeds.
        style: of the means, as `Axes.errorbar` takes it.
    """
    x, seeds = [*values], [*values.values()]
    axes.plot(x, seeds, ".", color="0.6", markersize=4)
    style = dict(fmt="o-", color=OKABE_ITO["blue"], capsize=3, markersize=5) | style
    draw_means_with_bars(axes, x, seeds, **style)
    axes.set_xscale("symlog", linthresh=x[1], linscale=0.5)
    axes.set_xlim(-x[1] / 4, x[-1] * 1.4)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


def draw_over_two_hyperparameters(
    axes: Axes,
    values: Mapping[tuple[float, float], np.ndarray],
    chosen: tuple[float, float],
    title: str,
) -> None:
    """Draw mean and deviation over one hyperparameter, a line for each of another.

    Args:
        axes: where to draw.
        values: for each pair, the line's hyperparameter and that of the axis, those of
            its seeds; at most as many lines as LINE_STYLES.
        chosen: the pair that gets a ring.
        title: of the legend: the name of the lines' hyperparameter.
    """
    lines, x = (sorted({pair[i] for pair in values}) for i in (0, 1))
    offset = min(np.diff(x), default=1) / 16  # so that bars do not hide each other
    styles = LINE_STYLES[: len(lines)]
    for i, (line, style) in enumerate(zip(lines, styles, strict=True)):
        shifted = np.array(x) + offset * (i - (len(lines) - 1) / 2)
        style |= dict(capsize=3, elinewidth=1, markersize=5, label=f"{line:g}")
        seeds = [values[line, at] for at in x]
        draw_means_with_bars(axes, shifted, seeds, **style)
        if line == chosen[0]:
            best = shifted[x.index(chosen[1])], values[chosen].mean()
            draw_rings(axes, *best, label="chosen", markersize=14, zorder=5)
    axes.set_xticks(x, [f"{at:g}" for at in x])
    axes.legend(title=title, loc="upper center", ncols=len(lines) + 1)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.15 * (high - low))  # room for the legend
