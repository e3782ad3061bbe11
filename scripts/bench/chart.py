"""Figures of the results: dots with their intervals, on logarithmic axes.

The candidates differ in colour, shape and filling, so that the figures can be read in
print and with every kind of colour vision.
"""

from collections.abc import Iterable
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

from experiments.shared.figures import OKABE_ITO, STYLE, save

__all__ = ["draw"]

#: Each peer's colour, shape, and whether it is filled.
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
#: For each way to time a layer: its colour, shape, whether it is filled, its label.
SETTINGS = {
    "alone": ("sky", "o", False, "alone under jit"),
    "loop": ("vermilion", "D", True, "in a compiled loop, as in training"),
}


def draw(results: dict, path: Path) -> list[Path]:
    """Draw a figure for each part that has results; return their paths.

    The files are named after `path`.
    """
    files = []
    for name, (part, figure) in FIGURES.items():
        if rows := results.get(part):
            file = path.with_name(f"{path.stem}-{name}{path.suffix}")
            files.append(save(figure(rows), file))
    return files


def _epochs(rows: dict) -> Figure:
    """Draw every peer's time for an epoch, as a multiple of fnn's."""
    series = {}
    for i, row in enumerate(rows.values()):
        for peer, figures in row["peers"].items():
            if peer in PEERS:
                series.setdefault(peer, []).append((i, figures["to_fnn"]))
    labels = [
        f"{name.removeprefix('zoo: ')}\n"
        f"(fnn: {row['peers']['fnn.fit']['seconds']:.2g} s)"
        for name, row in rows.items()
    ]
    order = [peer for peer in PEERS if peer in series]
    styles = [(*PEERS[peer], peer) for peer in order]
    title = "Time for an epoch, as a multiple of fnn.fit's (its own time in brackets)"
    return _dots(labels, [series[p] for p in order], styles, title, "fnn.fit = 1", rows)


def _layers(rows: dict) -> Figure:
    """Draw autodiff / manual of every layer."""
    series = [
        [(i, row[setting]["autodiff_to_manual"]) for i, row in enumerate(rows.values())]
        for setting in SETTINGS
    ]
    title = "Forward and backward of a layer: time of jax.vjp / time by hand"
    styles = list(SETTINGS.values())
    return _dots(list(rows), series, styles, title, "by hand = 1", rows)


def _dots(
    labels: list[str],
    series: Iterable[list[tuple[int, dict]]],
    styles: list[tuple[str, str, bool, str]],
    title: str,
    reference: str,
    rows: dict,
) -> Figure:
    """Draw ratios with their intervals: a row of dots for every label."""
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
        axes.set_xlabel(f"ratio, {reference}; {_caption(rows)}")
        _label_decades(axes)
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def _points(axes: Axes, points: list[tuple[float, dict]], style: tuple) -> None:
    """Draw one candidate's (height, ratio) pairs, with their intervals."""
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


def _label_decades(axes: Axes) -> None:
    """Put numbers at 1, 2 and 5 of every decade; at 1 alone where those are many."""
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.8), max(high, 2.2))
    ticks = LogLocator(subs=(1, 2, 5)).tick_values(*axes.get_xlim())
    if len(ticks) > 14:
        ticks = LogLocator().tick_values(*axes.get_xlim())
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _caption(rows: dict) -> str:
    """Explain the dots and bars, and name the machine."""
    return f"median within rounds and its 95% interval\n({_machine(rows)})"


def _machine(rows: dict) -> str:
    machine = next(iter(rows.values()))["machine"]
    if str(machine["device"]).startswith("cpu"):
        instructions = machine.get("instructions", "")
        kind = f"{machine['processor']} {instructions}".strip()
        return f"{kind}, {machine['cores']} cores, jax {machine['jax']}"
    return str(machine["device"]).split(": ")[-1]


#: The colour and shape of what grows.
GROWING = dict(
    zip(("blue", "sky", "green", "vermilion", "purple", "black"), "os^vDP", strict=True)
)


def _scale(rows: dict) -> Figure:
    """Draw how the time for one multiply-add, and a first epoch, depend on the size."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.6))
        left, right = figure.subplots(1, 2)
        for (name, row), (colour, marker) in zip(
            rows.items(), GROWING.items(), strict=False
        ):
            sizes = [int(size) for size in row["points"]]
            points = row["points"].values()
            style = dict(color=OKABE_ITO[colour], marker=marker, markersize=5)
            times = [p["seconds"] / p["multiply_adds"] * 1e9 for p in points]
            left.plot(sizes, times, label=name, **style)
            right.plot(sizes, [max(p["first"], 1e-3) for p in points], **style)
        left.set_ylabel("time of an epoch, ns for each multiply-add")
        right.set_ylabel("a first epoch takes longer by, s")
        for axes in (left, right):
            axes.set(xscale="log", yscale="log", xlabel="layers, units, examples, ...")
        figure.suptitle(f"How cost grows ({_machine(rows)})", fontsize=11)
        figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return figure


#: For each figure, by the end of its file's name: the results, and the function.
FIGURES = {
    "epochs": ("epochs", _epochs),
    "zoo": ("zoo", _epochs),
    "layers": ("layers", _layers),
    "scale": ("scale", _scale),
}
