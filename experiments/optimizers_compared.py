"""Which optimizer is best, each with its own best learning rate? Is there a consensus?

Eleven optimizers descend three surfaces in the plane, and train one network:

    bowl           f(θ) = ½ (θ₁² + 3 θ₂²)
    valley         f(θ) = ½ (θ₁² + 100 θ₂²)
    Rosenbrock     f(θ) = 100 (θ₂ − θ₁²)² + (1 − θ₁)²
    digits         cross-entropy of 64-32-10, minibatches of 32, early stopping

In the plane they start near the customary point, in randomly rotated coordinates. Their
result is the loss f(θ_T) / f(θ_0): 1e-10 or less counts as solved, and a descent that
diverges gets 1. On the digits the result is the error on test images.

The data that choose a learning rate are not those of the result: in the plane they are
half of the starts (least mean of log f), and on the digits the validation images (least
mean loss over seeds). Two optimizers are level where their mean difference over the
same starts or seeds is within two standard errors. AdamW is missing: without decay it
is Adam, and with decay its minimum is elsewhere. Fifteen optimizers on eight problems:
Schmidt, Schneider and Hennig, "Descending through a crowded valley", ICML 2021.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.progress import track

import fnn
from experiments.shared import answers, command_line, run_folder, tuning
from experiments.shared.figures import OKABE_ITO, STYLE
from experiments.shared.seeds import mean_and_deviation
from experiments.shared.terminal import console, table
from experiments.shared.tuning import OPTIMIZERS, Tuning, among_the_best, rank

__all__ = ["main"]

PROG = "python -m experiments.optimizers_compared"
SHARE = r"log₁₀ $f(\theta_T)\ /\ f(\theta_0)$"
#: Tuning by problem, then by optimizer.
Results = dict[str, dict[str, Tuning]]


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        lowest: learning rate of the grid, which is the same for all optimizers.
        highest: learning rate of the grid.
        per_decade: learning rates in each decade of the grid.
        steps: T, of each descent in the plane.
        starts: to choose the learning rate by; as many others are for the result.
        epochs: on the digits, at most; 10 without a better validation loss end it.
        seeds: trainings on the digits with each learning rate.
        out: a new folder for the results; else the next free one below runs/.
    """

    lowest: float = 1e-4
    highest: float = 1e2
    per_decade: int = 3
    steps: int = 100
    starts: int = 20
    epochs: int = 50
    seeds: int = 10
    out: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Tune every optimizer on every problem, and compare the results."""
    with command_line.plain_errors(PROG):
        config = command_line.parse(Config(), argv, PROG, __doc__)
        least = dict(per_decade=1, steps=1, starts=2, epochs=1, seeds=2)
        command_line.require_at_least(config, **least)
        rates = learning_rates(config)
        folder = run_folder.create(config.out, "optimizers_compared")
    plane = partial(tuning.tune_on_surface, steps=config.steps, starts=config.starts)
    problems = {
        "bowl": partial(plane, fnn.data.ill_conditioned_bowl(3)),
        "valley": partial(plane, fnn.data.ill_conditioned_bowl(100)),
        "Rosenbrock": partial(plane, fnn.data.rosenbrock()),
        "digits": partial(
            tuning.tune_on_digits, epochs=config.epochs, seeds=config.seeds
        ),
    }
    out, numbers = console(), []
    results: Results = {problem: {} for problem in problems}
    jobs = [(problem, name) for problem in problems for name in OPTIMIZERS]
    for problem, name in track(jobs, "tuning", console=out):
        result = problems[problem](OPTIMIZERS[name], rates)
        results[problem][name] = result
        line = {"problem": problem, "optimizer": name, "rate": rates[result.best]}
        line |= {"losses": result.losses.tolist(), "scores": result.scores}
        numbers.append(line)
    out.print("Best learning rate, then log10 f(θ_T)/f(θ_0), or test error in percent")
    out.print("(*: the best, or level with it):")
    out.print(table(("", *problems), table_rows(results, rates)))
    picture = {"optimizers": draw(results, rates)}
    answers.save_and_print(out, folder, config, numbers, picture, conclude(results))
    return 0


def learning_rates(config: Config) -> list[float]:
    """Return the grid of learning rates."""
    low, high = config.lowest, config.highest
    if not 0 < 100 * low <= high < np.inf:  # else most have their best at an edge
        raise ValueError(
            "the learning rates must span two decades or more: expected "
            f"0 < 100 lowest <= highest, got lowest={low:g} and highest={high:g}"
        )
    count = 1 + round(config.per_decade * np.log10(high / low))
    return np.geomspace(low, high, count).tolist()


# ---- The results -----------------------------------------------------------------


def table_rows(results: Results, rates: list[float]) -> list[list[str]]:
    """Return a row for each optimizer: rate and result on each problem."""
    cells = {name: [name] for name in OPTIMIZERS}
    for problem, tunings in results.items():
        best = among_the_best(tunings)
        for name, t in tunings.items():
            mean = f"{np.mean(t.scores):.1f}"
            score = percent_error(t) if problem == "digits" else mean
            mark = "*" if name in best else " "
            cells[name].append(f"{rates[t.best]:.2g} {score}{mark}")
    return list(cells.values())


def percent_error(digits: Tuning) -> str:
    """Return the test error on the digits in percent, mean ± deviation."""
    mean, sd = mean_and_deviation(digits.scores)
    return f"{mean:.1f}±{sd:.1f}"


def conclude(results: Results) -> str:
    """Return the sentence that answers the question."""
    best = {problem: among_the_best(tunings) for problem, tunings in results.items()}
    always = set.intersection(*map(set, best.values()))
    once = set.union(*map(set, best.values()))
    verdict = (
        f"A consensus, {' and '.join(sorted(always))}, among the best on all problems"
        if always
        else f"No consensus: {len(once)} of {len(results['digits'])} optimizers are "
        "among the best on some problem, none on all"
    )
    groups = "; ".join(
        f"{problem}: {first}" + f" and {len(others)} more" * bool(others)
        for problem, (first, *others) in best.items()
    )
    digits = results["digits"]
    first, *_, worst = rank(digits)
    edges = [
        f"{name} on {problem}"
        for problem, tunings in results.items()
        for name, t in tunings.items()
        if t.best in (0, len(t.losses) - 1)
    ]
    outside = f"; at the edge of the grid, perhaps not at its best: {', '.join(edges)}"
    return (
        f"{verdict} ({groups}), each with its own best learning rate; on the digits "
        f"{worst}, the worst, errs {percent_error(digits[worst])}%, and {first} "
        f"{percent_error(digits[first])}% (mean ± standard deviation of "
        f"{len(digits[first].scores)} seeds){outside if edges else ''}."
    )


# ---- The figure ------------------------------------------------------------------


def draw(results: Results, rates: list[float]) -> Figure:
    """Draw the loss over learning rates, and below it the results of the best one."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 7.2))
        panels = figure.subplots(2, len(results), sharey=True)
        for (above, below), problem in zip(panels.T, results, strict=True):
            draw_rates(above, results[problem], problem, rates)
            draw_scores(below, results[problem], problem)
        below.invert_yaxis()  # of all panels, which share it
        figure.suptitle(
            "Above: mean loss with each learning rate; ring: the best. Below: what the "
            "best reaches,\nfrom each start or with each seed, and the mean; filled: "
            "the best optimizer, and those level with it"
        )
    return figure


def draw_rates(
    axes: Axes, tunings: dict[str, Tuning], problem: str, rates: list[float]
) -> None:
    """Draw a row for each optimizer, a column for each rate; dark is a low loss."""
    most, label = 0.0, SHARE
    if problem == "digits":  # guessing costs log 10 nats
        most, label = np.log10(np.log(10)), "log₁₀ validation loss (nats)"
    ratio = rates[1] / rates[0]
    edges = np.append(rates, rates[-1] * ratio) / np.sqrt(ratio)
    y = np.arange(len(tunings))
    heights = np.append(y, len(tunings)) - 0.5
    loss = np.mean([t.losses for t in tunings.values()], axis=-1)
    shown = axes.pcolormesh(edges, heights, loss, vmax=most, cmap="cividis")
    best = [rates[t.best] for t in tunings.values()]
    for colour, width in (("black", 3.5), ("white", 1.8)):
        axes.plot(best, y, "o", color=colour, mew=width, ms=7, mfc="none")
    axes.set(xscale="log", xlabel="learning rate α", title=problem)
    axes.set_yticks(y, list(tunings))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.figure.colorbar(shown, ax=axes, location="bottom", label=label)


def draw_scores(axes: Axes, tunings: dict[str, Tuning], problem: str) -> None:
    """Draw every start or seed as a dot, and their mean."""
    best = among_the_best(tunings)
    for y, (name, t) in enumerate(tunings.items()):
        level = name in best
        colour = OKABE_ITO["vermilion" if level else "blue"]
        axes.plot(t.scores, [y] * len(t.scores), ".", color=colour, alpha=0.35, mew=0)
        mean = dict(color=colour, fillstyle="full" if level else "none", mew=1.6, ms=7)
        axes.plot(np.mean(t.scores), y, "o", **mean)
    axes.set_xlabel("test error (%)" if problem == "digits" else SHARE)


if __name__ == "__main__":
    raise SystemExit(main())
