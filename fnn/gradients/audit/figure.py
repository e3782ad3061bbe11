"""The errors of an audit as a figure: a line for each gradient, a mark for each way."""

from typing import Any

import numpy as np

__all__ = ["draw"]

#: Errors that are 0 are drawn here, at the left edge.
SMALLEST = 1e-18

#: The marks: field of a row, name, matplotlib's marker and colour (Okabe and Ito's,
#: which colour-blind people can tell apart).
MARKS = (
    ("scaled", "{engine} against autodiff, float64", "o", "#0072B2"),
    ("autodiff_numerical", "autodiff against central differences", "s", "#009E73"),
    ("autodiff32", "autodiff in {precision}", "|", "#999999"),
    ("engine32", "{engine} in {precision}", "x", "#D55E00"),
)


def draw(report: Any) -> Any:
    """Draw a report, as `Report.plot` says."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "a figure needs matplotlib: pip install matplotlib. "
            "report.to_dict() has the same numbers."
        ) from error

    rows = report.rows[::-1]  # the first at the top
    places = np.arange(len(rows))
    figure = Figure(figsize=(8, 1.6 + 0.22 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for field, name, marker, colour in MARKS:
        errors = np.array([getattr(row, field) for row in rows], float)
        axes.scatter(
            np.maximum(errors, SMALLEST),
            places,
            marker=marker,
            color=colour,
            label=name.format(engine=report.engine, precision=report.precision),
        )
    axes.set(
        xscale="log",
        xlabel="largest error / scale",
        xlim=(SMALLEST / 2, 10),
        ylim=(-0.8, len(rows) - 0.2),
    )
    labels = [row.path.lstrip(".") for row in rows]
    axes.set_yticks(places, labels, fontsize=8)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        if row.verdict not in ("pass", "frozen"):
            label.set(color="#D55E00", fontweight="bold")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure
