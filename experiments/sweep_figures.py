"""Figures of a sweep: what is measured under several seeds, over hyperparameters."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from experiments.figures import OKABE_ITO, ring
from experiments.seeds import mean_and_deviation

__all__ = ["LOOKS", "mean_across", "mean_with_bars", "over_one", "over_two"]

#: Of lines to be told apart, in grey too.
LOOKS = matplotlib.cycler(
    color=[OKABE_ITO[c] for c in ("black", "blue", "vermilion", "green", "purple")],
    linestyle=("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))),
    marker=("o", "s", "^", "D", "v"),
)


def mean_with_bars(axes: Axes, x: ArrayLike, values: Sequence, **look) -> None:
    """Draw means over seeds, with bars of one sample standard deviation either way.

    Args:
        axes: where.
        x: of shape (N,).
        values: for each x, those of its seeds.
        look: of line and bars, as `Axes.errorbar` takes it.
    """
    mean, deviation = np.transpose([mean_and_deviation(each) for each in values])
    axes.errorbar(x, mean, deviation, **look)


def mean_across(axes: Axes, values: ArrayLike, **look) -> None:
    """Draw one mean across the axes, in a band of one sample standard deviation.

    Args:
        axes: where.
        values: those of all seeds.
        look: of the line, as `Axes.axhline` takes it.
    """
    mean, deviation = mean_and_deviation(np.asarray(values))
    line = axes.axhline(mean, **look)
    band = mean - deviation, mean + deviation
    axes.axhspan(*band, color=line.get_color(), alpha=0.15, linewidth=0)


def over_one(axes: Axes, values: Mapping[float, Sequence[float]], **look) -> None:
    """Draw all seeds, their mean and deviation over a hyperparameter that starts at 0.

    Its axis is logarithmic, and has a place for 0.

    Args:
        axes: where.
        values: those of all seeds by that of the hyperparameter, which ascends.
        look: of the means, as `Axes.errorbar` takes it.
    """
    x, seeds = [*values], [*values.values()]
    axes.plot(x, seeds, ".", color="0.6", markersize=4)
    look = dict(fmt="o-", color=OKABE_ITO["blue"], capsize=3, markersize=5) | look
    mean_with_bars(axes, x, seeds, **look)
    axes.set_xscale("symlog", linthresh=x[1], linscale=0.5)
    axes.set_xlim(-x[1] / 4, x[-1] * 1.4)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


def over_two(
    axes: Axes,
    values: Mapping[tuple[float, float], np.ndarray],
    chosen: tuple[float, float],
    title: str,
) -> None:
    """Draw mean and deviation over one hyperparameter, a line for each of another.

    Args:
        axes: where.
        values: those of all seeds, by the line's hyperparameter and that of the axis;
            no more lines than LOOKS.
        chosen: the pair that gets a ring.
        title: of the legend: what the lines' hyperparameter is called.
    """
    lines, x = (sorted({pair[i] for pair in values}) for i in (0, 1))
    aside = min(np.diff(x), default=1) / 16  # so that bars do not hide each other
    for i, (line, look) in enumerate(zip(lines, LOOKS[: len(lines)], strict=True)):
        places = np.array(x) + aside * (i - (len(lines) - 1) / 2)
        look |= dict(capsize=3, elinewidth=1, markersize=5, label=f"{line:g}")
        mean_with_bars(axes, places, [values[line, at] for at in x], **look)
        if line == chosen[0]:
            best = places[x.index(chosen[1])], values[chosen].mean()
            ring(axes, *best, label="chosen", markersize=14, zorder=5)
    axes.set_xticks(x, [f"{at:g}" for at in x])
    axes.legend(title=title, loc="upper center", ncols=len(lines) + 1)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.15 * (high - low))  # room for the legend
