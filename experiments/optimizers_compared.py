"""Which optimizer is best, each with its own best learning rate? Is there a consensus?

Eleven optimizers descend three surfaces in the plane, and train one network:

    bowl           f(θ) = ½ (θ₁² + 3 θ₂²)
    valley         f(θ) = ½ (θ₁² + 100 θ₂²)
    Rosenbrock     f(θ) = 100 (θ₂ − θ₁²)² + (1 − θ₁)²
    digits         cross-entropy of 64-32-10, minibatches of 32, early stopping

In the plane they start near the customary point, in coordinates turned at random. What
counts is the loss f(θ_T) / f(θ_0), from 1, which a diverging descent gets too, down to
1e-10, which is solved; and on the digits the error on test images.

Learning rates are chosen on other data than the result's: on half of the starts (least
mean of log f), and on validation images (least mean loss over seeds). Two optimizers
are level where their mean difference over the same starts or seeds is within two
standard errors. AdamW is missing: without decay it is Adam, with it the minimum is
elsewhere. Fifteen optimizers on eight problems: Schmidt, Schneider and Hennig,
"Descending through a crowded valley", ICML 2021.
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
from experiments import answers, command_line, runs, tuning
from experiments.figures import OKABE_ITO, STYLE
from experiments.seeds import mean_and_deviation
from experiments.terminal import console, table
from experiments.tuning import OPTIMIZERS, Tuned, among_the_best, ranked

__all__ = ["main"]

PROG = "python -m experiments.optimizers_compared"
SHARE = r"log₁₀ $f(\theta_T)\ /\ f(\theta_0)$"
#: By problem, then by optimizer.
Results = dict[str, dict[str, Tuned]]


@dataclass(frozen=True)
class Config:
    """What a run depends on.

    Attributes:
        lowest: learning rate of the grid, which is the same for all.
        highest: learning rate of the grid.
        per_decade: learning rates in each decade of it.
        steps: T, of each descent in the plane.
        starts: to choose the learning rate by; as many others are for the result.
        epochs: on the digits, at most; 10 without a better validation loss are the end.
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
    """Tune every optimizer on every problem, and compare what they reach."""
    with command_line.plain_errors(PROG):
        config = command_line.options(Config(), argv, PROG, __doc__)
        least = dict(per_decade=1, steps=1, starts=2, epochs=1, seeds=2)
        command_line.at_least(config, **least)
        rates = grid(config)
        folder = runs.new_folder(config.out, "optimizers_compared")
    plane = partial(tuning.on_surface, steps=config.steps, starts=config.starts)
    problems = {
        "bowl": partial(plane, fnn.data.ill_conditioned_bowl(3)),
        "valley": partial(plane, fnn.data.ill_conditioned_bowl(100)),
        "Rosenbrock": partial(plane, fnn.data.rosenbrock()),
        "digits": partial(tuning.on_digits, epochs=config.epochs, seeds=config.seeds),
    }
    out, numbers = console(), []
    results: Results = {problem: {} for problem in problems}
    jobs = [(problem, name) for problem in problems for name in OPTIMIZERS]
    for problem, name in track(jobs, "tuning", console=out):
        tuned = problems[problem](OPTIMIZERS[name], rates)
        results[problem][name] = tuned
        line = {"problem": problem, "optimizer": name, "rate": rates[tuned.best]}
        numbers.append(line | {"losses": tuned.losses.tolist(), "scores": tuned.scores})
    out.print("Best learning rate, then log10 f(θ_T)/f(θ_0), or test error in percent")
    out.print("(*: the best, or level with it):")
    out.print(table(("", *problems), rows(results, rates)))
    picture = {"optimizers": draw(results, rates)}
    answers.give(out, folder, config, numbers, picture, conclude(results))
    return 0


def grid(config: Config) -> list[float]:
    """The learning rates."""
    low, high = config.lowest, config.highest
    if not 0 < 100 * low <= high < np.inf:  # else most have their best at an edge
        raise ValueError(
            "the learning rates must span two decades or more: expected "
            f"0 < 100 lowest <= highest, got lowest={low:g} and highest={high:g}"
        )
    count = 1 + round(config.per_decade * np.log10(high / low))
    return np.geomspace(low, high, count).tolist()


# ---- What they reach -------------------------------------------------------------


def rows(results: Results, rates: list[float]) -> list[list[str]]:
    """Of the table: for each optimizer, rate and result on each problem."""
    cells = {name: [name] for name in OPTIMIZERS}
    for problem, tuned in results.items():
        best = among_the_best(tuned)
        for name, t in tuned.items():
            score = error(t) if problem == "digits" else f"{np.mean(t.scores):.1f}"
            mark = "*" if name in best else " "
            cells[name].append(f"{rates[t.best]:.2g} {score}{mark}")
    return list(cells.values())


def error(tuned: Tuned) -> str:
    """On the test images, in percent."""
    mean, sd = mean_and_deviation(tuned.scores)
    return f"{mean:.1f}±{sd:.1f}"


def conclude(results: Results) -> str:
    """The sentence."""
    best = {problem: among_the_best(tuned) for problem, tuned in results.items()}
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
    first, *_, worst = ranked(digits)
    edges = [
        f"{name} on {problem}"
        for problem, tuned in results.items()
        for name, t in tuned.items()
        if t.best in (0, len(t.losses) - 1)
    ]
    outside = f"; at the edge of the grid, perhaps not at its best: {', '.join(edges)}"
    return (
        f"{verdict} ({groups}), each with its own best learning rate; on the digits "
        f"{worst}, the worst, errs {error(digits[worst])}%, and {first} "
        f"{error(digits[first])}% (mean ± standard deviation of "
        f"{len(digits[first].scores)} seeds){outside if edges else ''}."
    )


# ---- The figure ------------------------------------------------------------------


def draw(results: Results, rates: list[float]) -> Figure:
    """Above, the loss over learning rates; below, what the best of them reaches."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 7.2))
        places = figure.subplots(2, len(results), sharey=True)
        for (above, below), problem in zip(places.T, results, strict=True):
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
    axes: Axes, tuned: dict[str, Tuned], problem: str, rates: list[float]
) -> None:
    """A row for each optimizer, a column for each rate, dark where the loss is low."""
    most, label = 0.0, SHARE
    if problem == "digits":  # guessing costs log 10 nats
        most, label = np.log10(np.log(10)), "log₁₀ validation loss (nats)"
    ratio = rates[1] / rates[0]
    edges = np.append(rates, rates[-1] * ratio) / np.sqrt(ratio)
    y = np.arange(len(tuned))
    heights = np.append(y, len(tuned)) - 0.5
    loss = np.mean([t.losses for t in tuned.values()], axis=-1)
    shown = axes.pcolormesh(edges, heights, loss, vmax=most, cmap="cividis")
    best = [rates[t.best] for t in tuned.values()]
    for colour, width in (("black", 3.5), ("white", 1.8)):
        axes.plot(best, y, "o", color=colour, mew=width, ms=7, mfc="none")
    axes.set(xscale="log", xlabel="learning rate α", title=problem)
    axes.set_yticks(y, list(tuned))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.figure.colorbar(shown, ax=axes, location="bottom", label=label)


def draw_scores(axes: Axes, tuned: dict[str, Tuned], problem: str) -> None:
    """Every start or seed a dot, and their mean."""
    best = among_the_best(tuned)
    for y, (name, t) in enumerate(tuned.items()):
        level = name in best
        colour = OKABE_ITO["vermilion" if level else "blue"]
        axes.plot(t.scores, [y] * len(t.scores), ".", color=colour, alpha=0.35, mew=0)
        mean = dict(color=colour, fillstyle="full" if level else "none", mew=1.6, ms=7)
        axes.plot(np.mean(t.scores), y, "o", **mean)
    axes.set_xlabel("test error (%)" if problem == "digits" else SHARE)


if __name__ == "__main__":
    raise SystemExit(main())
