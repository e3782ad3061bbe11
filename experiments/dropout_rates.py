"""Dropout: which probabilities are best, for pixels and for hidden units, and how good?

In training each unit is removed with probability p, pixels with p_visible and hidden
units with p_hidden, and what is left is divided by 1 − p; in tests nothing is removed
(Srivastava et al., JMLR 15, 2014). `fnn.Dropout(p)` takes this probability of dropping;
the p of that article is the one of keeping, 1 − p.

Every pair of a grid trains a wide dense network on few digits, under several seeds, in
one compiled sweep: the probabilities are arguments of its program. The pair with the
least mean error on validation images is chosen, and only this one and (0, 0), which is
no dropout, see the test images. All train equally long. The images are the same for all
seeds, which differ in initial parameters, minibatches and masks; under one seed the
first two are the same for all pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from rich.progress import Progress

import fnn
from experiments import answers, command_line, runs
from experiments.figures import OKABE_ITO, STYLE
from experiments.seeds import mean_and_deviation
from experiments.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.dropout_rates"
LOSS = fnn.losses.SoftmaxCrossEntropy()
#: Colour, dashes and marker of each p_visible.
LOOKS = (
    *(("black", "-", "o"), ("blue", "--", "s"), ("vermilion", "-.", "^")),
    *(("green", ":", "D"), ("purple", (0, (5, 1, 1, 1, 1, 1)), "v")),
)

Rates = tuple[float, float]  # p_visible, p_hidden


@dataclass(frozen=True)
class Config:
    """What a run depends on.

    Attributes:
        examples: digits to train on.
        validation: further digits, to choose by.
        visible: values of p_visible, ascending from 0, at most five.
        hidden: values of p_hidden, ascending from 0.
        width: units of each of the two hidden layers.
        epochs: how many.
        batch_size: examples in a minibatch.
        learning_rate: of Adam.
        seeds: how many.
        out: a new folder for the results; else the next free one below runs/.
    """

    examples: int = 200
    validation: int = 500
    visible: tuple[float, ...] = (0, 0.1, 0.2, 0.3)
    hidden: tuple[float, ...] = (0, 0.25, 0.5, 0.75)
    width: int = 256
    epochs: int = 300
    batch_size: int = 32
    learning_rate: float = 1e-3
    seeds: int = 5
    out: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Sweep the probabilities, choose a pair by validation, and test it."""
    with command_line.plain_errors(PROG):
        config = command_line.options(Config(), argv, PROG, __doc__)
        command_line.at_least(config, epochs=1, seeds=2)
        check_rates(config)
        train, validation = drawn(config)

        def build(visible: float, hidden: float) -> tuple:
            net = network(config.width, visible, hidden)
            return net, LOSS, fnn.optimizers.adam(config.learning_rate)

        trial = dict(train=train, key=jax.random.key(0), batch_size=config.batch_size)
        fnn.fit(*build(0.0, 0.0), epochs=0, **trial)  # checks the options
        folder = runs.new_folder(config.out, "dropout_rates")
    out = console()
    with Progress(console=out) as progress:
        bar = progress.add_task("training", total=None)
        swept = fnn.sweep(
            build,
            {"visible": config.visible, "hidden": config.hidden},
            train=train,
            validation=validation,
            keys=jax.random.split(jax.random.key(0), config.seeds),
            epochs=config.epochs,
            batch_size=config.batch_size,
            # Nothing stops: this says to validate once, after the last epoch.
            early_stopping=fnn.EarlyStopping(patience=1, every=config.epochs),
            on_chunk=lambda done, of: progress.update(bar, completed=done, total=of),
        )
    numbers = measured(swept, config)
    errors = by_pair(numbers, "validation_error")
    columns = ("p_visible \\ p_hidden", *(f"{p:g}" for p in config.hidden))
    rows = [
        (f"{v:g}", *(percent(errors[v, h]) for h in config.hidden))
        for v in config.visible
    ]
    out.print("Validation error, mean ± sample standard deviation:")
    out.print(table(columns, rows))
    picture = {"dropout_rates": draw(numbers)}
    answers.give(out, folder, config, numbers, picture, conclude(numbers))
    return 0


# ---- Training and testing --------------------------------------------------------


def check_rates(config: Config) -> None:
    """That no dropout is in the grid, and that the figure has looks for all lines."""
    for name in ("visible", "hidden"):
        rates = getattr(config, name)
        if rates[:1] != (0,) or [*rates] != sorted(set(rates)) or rates[-1] >= 1:
            raise ValueError(f"{name} must ascend from 0 to below 1, got {rates}")
    if len(config.visible) > len(LOOKS):
        raise ValueError(
            f"visible must be at most {len(LOOKS)} values, got {config.visible}"
        )


def drawn(config: Config) -> fnn.data.Split:
    """Digits to train on and to choose by."""
    x, y = fnn.data.digits().train
    n, wanted = config.examples, config.examples + config.validation
    if wanted > len(y):
        raise ValueError(f"at most {len(y)} examples and validation, got {wanted}")
    order = np.random.default_rng(0).permutation(len(y))[:wanted]
    x, y = x[order], y[order]
    return fnn.data.Split((x[:n], y[:n]), (x[n:], y[n:]))


def network(width: int, visible: float, hidden: float) -> fnn.Layer:
    """Two hidden layers, with dropout of the pixels and of both."""
    return fnn.serial(
        *(fnn.Flatten(), fnn.Dropout(visible)),
        *(fnn.Dense(width), fnn.Relu(), fnn.Dropout(hidden)),
        *(fnn.Dense(width), fnn.Relu(), fnn.Dropout(hidden)),
        fnn.Dense(10),
    )


def measured(swept: fnn.Sweep, config: Config) -> list[dict]:
    """A line for each pair and seed; the test error where that is to be known."""
    errors, best = 1 - swept.at_best("accuracy"), swept.best("accuracy", "max")
    net = network(config.width, 0.0, 0.0)  # in a test nothing is dropped
    lines = []
    for at in np.ndindex(errors.shape):
        visible, hidden = config.visible[at[0]], config.hidden[at[1]]
        line = {"p_visible": visible, "p_hidden": hidden, "seed": at[2]}
        line["validation_error"] = errors[at].item()
        if (visible, hidden) in ((0, 0), (best["visible"], best["hidden"])):
            variables = jax.tree.map(lambda leaf, at=at: leaf[at], swept.variables)
            test = fnn.evaluate(net, LOSS, variables, fnn.data.digits().test)
            line["test_error"] = 1 - test["accuracy"]
        lines.append(line)
    return lines


# ---- What came out ---------------------------------------------------------------


def by_pair(numbers: list[dict], name: str) -> dict[Rates, np.ndarray]:
    """One number of all seeds, for each pair that has it."""
    pairs: dict[Rates, list[float]] = {}
    for line in numbers:
        if name in line:
            pair = line["p_visible"], line["p_hidden"]
            pairs.setdefault(pair, []).append(line[name])
    return {pair: np.array(values) for pair, values in pairs.items()}


def percent(errors: np.ndarray) -> str:
    """Mean and sample standard deviation."""
    return "{:.1%} ± {:.1%}".format(*mean_and_deviation(errors.tolist()))


def conclude(numbers: list[dict]) -> str:
    """The sentence."""
    errors, tested = (by_pair(numbers, f"{n}_error") for n in ("validation", "test"))
    *_, chosen = tested  # (0, 0) comes first
    if chosen == (0, 0):
        return (
            f"No dropout has the least validation error of all {len(errors)} pairs, "
            f"{percent(errors[chosen])}, and errs {percent(tested[chosen])} on the "
            "test images: here dropout does not help."
        )
    spared, sd = mean_and_deviation((100 * (tested[0, 0] - tested[chosen])).tolist())
    verdict = "makes no difference beyond the spread over the seeds"
    if abs(spared) > sd:
        what = "helps" if spared > 0 else "harms"
        verdict = f"{what} by more than the spread over the seeds"
    return (
        f"p_visible = {chosen[0]:g} and p_hidden = {chosen[1]:g} have the least "
        f"validation error of {len(errors)} pairs, {percent(errors[chosen])} (no "
        f"dropout: {percent(errors[0, 0])}); on the test images they err "
        f"{percent(tested[chosen])}, no dropout {percent(tested[0, 0])}: dropout "
        f"{verdict} ({abs(spared):.1f} ± {sd:.1f} points "
        f"{'less' if spared > 0 else 'more'}, seed by seed)."
    )


# ---- The figure ------------------------------------------------------------------


def draw(numbers: list[dict]) -> Figure:
    """Validation error over p_hidden by p_visible; beside it the two tests."""
    errors, tested = (by_pair(numbers, f"{n}_error") for n in ("validation", "test"))
    *_, chosen = tested  # (0, 0) comes first
    names = ("none", f"{chosen[0]:g}, {chosen[1]:g}")[: len(tested)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.8))
        swept, test = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
        draw_sweep(swept, errors, chosen)
        swept.set(
            ylabel="error (share of images)", title="Validation: mean ± deviation"
        )
        swept.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        for place, values in enumerate(tested.values()):
            beside = np.full(len(values), place + 0.2)
            test.plot(beside, values, ".", color=OKABE_ITO["blue"], alpha=0.6)
            mean, sd = mean_and_deviation(values.tolist())
            test.errorbar(place, mean, sd, fmt="ko", capsize=4, elinewidth=1)
        test.set_xticks(range(len(names)), names)
        test.set(title="Test: all seeds", xlim=(-0.6, 1.7))
        test.set(xlabel="$p_{visible},\\ p_{hidden}$")
    return figure


def draw_sweep(axes: Axes, errors: dict[Rates, np.ndarray], chosen: Rates) -> None:
    """Mean ± sample standard deviation, a line for each p_visible."""
    visible, hidden = (sorted({pair[i] for pair in errors}) for i in (0, 1))
    aside = min(np.diff(hidden), default=1) / 16  # so that bars do not hide each other
    for i, v in enumerate(visible):
        places = np.array(hidden) + aside * (i - (len(visible) - 1) / 2)
        stated = [mean_and_deviation(errors[v, h].tolist()) for h in hidden]
        mean, sd = np.transpose(stated)
        colour, dashes, marker = LOOKS[i]
        look = dict(color=OKABE_ITO[colour], linestyle=dashes, marker=marker)
        bars = dict(capsize=3, elinewidth=1, markersize=5, label=f"{v:g}")
        axes.errorbar(places, mean, sd, **look, **bars)
        if v == chosen[0]:
            at = hidden.index(chosen[1])
            ring = dict(markersize=14, markerfacecolor="none", zorder=5)
            axes.plot(places[at], mean[at], "ko", label="chosen", **ring)
    axes.set_xticks(hidden, [f"{h:g}" for h in hidden])
    axes.set_xlabel("$p_{hidden}$: probability of dropping a hidden unit")
    axes.legend(title="$p_{visible}$", loc="upper center", ncols=len(visible) + 1)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.15 * (high - low))  # room for the legend


if __name__ == "__main__":
    raise SystemExit(main())
