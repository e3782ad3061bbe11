"""Figures of the results: dots with their intervals, on logarithmic axes.

Colour, shape and filling all tell the candidates apart, so that the figures can be read
in print and in every kind of colour vision.
"""

from collections.abc import Iterable
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

from experiments.figures import OKABE_ITO, STYLE, save

__all__ = ["draw"]

# Colour, shape, and whether filled.
PEERS = {
    "fnn.fit, plan=None": ("black", "x", True),
    "jax + optax, a jitted step per batch": ("blue", "o", True),
    "jax + optax, one scan": ("blue", "s", False),
    "Flax NNX, nnx.jit per batch": ("sky", "^", True),
    "Equinox, filter_jit per batch": ("green", "v", True),
    "torch, eager": ("vermilion", "D", True),
    "torch, eager, channels last": ("vermilion", "D", False),
    "torch, torch.compile": ("purple", "P", True),
}
FIRST = ("LeNet, batch 64", "ResNet, batch 64")
PLACES = {
    "alone": ("sky", "o", False, "alone under jit"),
    "loop": ("vermilion", "D", True, "in a compiled loop, as in training"),
}


def draw(results: dict, path: Path) -> list[Path]:
    """A figure for each part that can be drawn; the files, named after `path`."""
    drawn = []
    for name, (part, figure) in FIGURES.items():
        if rows := results.get(part):
            file = path.with_name(f"{path.stem}-{name}{path.suffix}")
            drawn.append(save(figure(rows), file))
    return drawn


def _seconds(rows: dict) -> Figure:
    """Seconds per epoch of everyone, for the networks of the first chart."""
    shown = {name: rows[name] for name in FIRST if name in rows}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.5))
        places = figure.subplots(1, len(shown), squeeze=False)[0]
        for axes, (name, row) in zip(places, shown.items(), strict=True):
            _bars(axes, {p: f["seconds"] for p, f in row["peers"].items()})
            axes.set_title(f"{name}\n{row['images']:,} images", fontsize=10)
        figure.supxlabel(f"seconds per epoch; {_where(rows)}", fontsize=9)
        figure.set_layout_engine("constrained")
    return figure


def _bars(axes: Axes, times: dict[str, float]) -> None:
    """The fastest on top; one that is far slower than the others is cut off."""
    order = sorted(times, key=times.__getitem__, reverse=True)
    seconds = [times[peer] for peer in order]
    edge = 1.2 * sorted(seconds)[-2]
    ours = [OKABE_ITO["vermilion" if peer == "fnn.fit" else "sky"] for peer in order]
    axes.barh(order, [min(s, edge) for s in seconds], color=ours)
    for i, s in enumerate(seconds):
        inside = s > 0.7 * edge
        axes.text(
            min(s, edge) * (0.98 if inside else 1) + (0 if inside else 0.02 * edge), i,
            f"{s:.3g}" + (" →" if s > edge else ""),
            va="center", ha="right" if inside else "left", fontsize=8,
        )  # fmt: skip
    axes.set_xlim(0, edge)
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(axis="y", visible=False)


def _epochs(rows: dict) -> Figure:
    """Every peer's time for an epoch, as a multiple of fnn's."""
    series = {}
    for i, row in enumerate(rows.values()):
        for peer, figures in row["peers"].items():
            if peer in PEERS:
                series.setdefault(peer, []).append((i, figures["to_fnn"]))
    labels = [
        f"{name}\n(fnn: {row['peers']['fnn.fit']['seconds']:.2g} s)"
        for name, row in rows.items()
    ]
    order = [peer for peer in PEERS if peer in series]
    styles = [(*PEERS[peer], peer) for peer in order]
    title = "Time for an epoch, as a multiple of fnn.fit's (its own time in brackets)"
    return _dots(labels, [series[p] for p in order], styles, title, "fnn.fit = 1", rows)


def _layers(rows: dict) -> Figure:
    """Autodiff / manual of every layer."""
    series = [
        [(i, row[place]["autodiff_to_manual"]) for i, row in enumerate(rows.values())]
        for place in PLACES
    ]
    title = "Forward and backward of a layer: time of jax.vjp / time by hand"
    styles = list(PLACES.values())
    return _dots(list(rows), series, styles, title, "by hand = 1", rows)


def _dots(
    labels: list[str],
    series: Iterable[list[tuple[int, dict]]],
    styles: list[tuple[str, str, bool, str]],
    title: str,
    reference: str,
    rows: dict,
) -> Figure:
    """Ratios with their intervals: a row of dots for every label."""
    height = 1.6 + len(labels) * (0.24 + 0.05 * len(styles))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, height))
        axes = figure.subplots()
        figure.suptitle(title, fontsize=11)
        for k, (points, style) in enumerate(zip(series, styles, strict=True)):
            # Side by side, so that intervals do not cover one another.
            shift = 0.7 * ((k + 0.5) / len(styles) - 0.5)
            _points(axes, [(i + shift, ratio) for i, ratio in points], style)
        axes.axvline(1, color="black", linewidth=1.2)
        axes.set_yticks(range(len(labels)), labels)
        for i in range(1, len(labels)):
            axes.axhline(i - 0.5, color="0.8", linewidth=0.6)
        axes.set(ylim=(len(labels) - 0.5, -0.5), xscale="log")
        axes.set_xlabel(f"ratio, {reference}; {_spread(rows)}")
        _decades(axes)
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def _points(axes: Axes, points: list[tuple[float, dict]], style: tuple) -> None:
    colour, marker, filled, label = style
    colour = OKABE_ITO[colour]
    heights = [height for height, _ in points]
    median, low, high = (
        [ratio[name] for _, ratio in points] for name in ("median", "low", "high")
    )
    below = [m - v for m, v in zip(median, low, strict=True)]
    above = [v - m for m, v in zip(median, high, strict=True)]
    axes.errorbar(
        median,
        heights,
        xerr=(below, above),
        fmt=marker,
        color=colour,
        markerfacecolor=colour if filled else "white",
        markersize=5.5,
        elinewidth=1.4,
        capsize=2,
        label=label,
    )


def _decades(axes: Axes) -> None:
    """Numbers at 1, 2 and 5, and enough of them."""
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.8), max(high, 2.2))
    marks = LogLocator(subs=(1, 2, 5)).tick_values(*axes.get_xlim())
    if len(marks) > 14:
        marks = LogLocator().tick_values(*axes.get_xlim())
    axes.xaxis.set_major_locator(FixedLocator(marks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _spread(rows: dict) -> str:
    """What dots and bars are, and where they were measured."""
    return f"median within rounds and its 95% interval\n({_where(rows)})"


def _where(rows: dict) -> str:
    machine = next(iter(rows.values()))["machine"]
    if str(machine["device"]).startswith("cpu"):
        return f"{machine['processor']}, {machine['cores']} cores"
    return str(machine["device"]).split(": ")[-1]


#: Each file's ending, which results it shows, and how.
FIGURES = {
    "seconds": ("epochs", _seconds),
    "epochs": ("epochs", _epochs),
    "layers": ("layers", _layers),
}
