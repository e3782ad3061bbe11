"""Early stopping: is the validation loss U-shaped, and does stopping beat weight decay?

A few digits, some of their labels wrong, train a small dense network on

    J = (1/n) Σ_i L(h(x_i), y_i) + λ/(2n) Σ Θ²        the sum over weights, not biases

Five ways, compared on test images whose labels are right:

    unregularized     λ = 0, to the last step
    early stopping    λ = 0, at the step with the least validation loss
    retraining        λ = 0, from the start on training and validation data together,
                      for as many steps as early stopping found
    weight decay      the λ with the least validation loss at the last step
    too much decay    the largest λ

Retraining is algorithm 7.2 of Goodfellow, Bengio and Courville (Deep Learning, 2016).
As many steps may mean as many updates of the parameters, or as many passes through a
set that is larger now. Here a step is one update on all examples, so it is both.

Each seed draws digits, wrong labels and initial parameters, which the five ways share;
differences are taken seed by seed. Patience is endless, to show the whole curve.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter
from rich.progress import track

import fnn
from experiments import answers, command_line, runs
from experiments.figures import OKABE_ITO, STYLE
from experiments.seeds import mean_and_deviation
from experiments.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.early_stopping"
LOSS = fnn.losses.SoftmaxCrossEntropy()
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


@dataclass(frozen=True)
class Config:
    """What a run depends on.

    Attributes:
        examples: digits to train on.
        validation: further digits, to choose by.
        noise: probability that a label of these is replaced by another one.
        hidden: units of the hidden layer.
        penalties: values of λ, ascending from 0.
        steps: parameter updates, each on all examples.
        learning_rate: of Adam.
        seeds: how many, from 0 on.
        out: a new folder for the results; else the next free one below runs/.
    """

    examples: int = 200
    validation: int = 100
    noise: float = 0.1
    hidden: int = 32
    penalties: tuple[float, ...] = (0, 0.1, 0.3, 1, 3, 10, 30, 100)
    steps: int = 300
    learning_rate: float = 1e-2
    seeds: int = 10
    out: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Train with every λ, retrain, and compare the test errors."""
    with command_line.plain_errors(PROG):
        config = command_line.options(Config(), argv, PROG, __doc__)
        command_line.at_least(config, examples=1, validation=1, steps=2, seeds=2)
        given = config.penalties
        if len(given) < 3 or given[0] != 0 or [*given] != sorted(set(given)):
            raise ValueError(
                f"penalties must be 0 and two or more others, ascending, got {given}"
            )
        noisy(config, seed=0)  # checks the options
        hidden = (fnn.Dense(config.hidden), fnn.Relu())
        net = fnn.serial(fnn.Flatten(), *hidden, fnn.Dense(10))
        optimizer = fnn.optimizers.adam(config.learning_rate)
        folder = runs.new_folder(config.out, "early_stopping")

    def build(penalty: float) -> tuple:
        return net, LOSS, optimizer, penalty

    out, numbers = console(), []
    for seed in track(range(config.seeds), "training", console=out):
        numbers += trained(build, config, seed)
    found = compared(numbers)
    rows = [(name, percent(errors)) for name, errors in found.ways().items()]
    out.print(table(("", "test error"), rows))
    picture = {"early_stopping": draw(numbers, found)}
    answers.give(out, folder, config, numbers, picture, conclude(found))
    return 0


# ---- Training and testing --------------------------------------------------------


def noisy(config: Config, seed: int) -> fnn.data.Split:
    """Digits to train on and to choose by, some of their labels wrong."""
    x, y = fnn.data.digits().train
    wanted = config.examples + config.validation
    if wanted > len(y):
        raise ValueError(f"at most {len(y)} examples and validation, got {wanted}")
    if not 0 <= config.noise <= 1:
        raise ValueError(f"noise is a probability, from 0 to 1, got {config.noise}")
    draw = np.random.default_rng(seed)
    chosen = draw.permutation(len(y))[:wanted]
    shift = draw.integers(1, 10, wanted) * (draw.random(wanted) < config.noise)
    x, y = x[chosen], (y[chosen] + shift.astype(y.dtype)) % 10
    n = config.examples
    return fnn.data.Split((x[:n], y[:n]), (x[n:], y[n:]))


def trained(build: Callable[[float], tuple], config: Config, seed: int) -> list[dict]:
    """Train with every λ, and with λ = 0 again on all data: a line for each λ."""
    data, key = noisy(config, seed), jax.random.key(seed)
    swept = fnn.sweep(
        build,
        {"penalty": config.penalties},
        train=data.train,
        validation=data.validation,
        keys=key,
        epochs=config.steps,
        batch_size=config.examples,
        early_stopping=fnn.EarlyStopping(patience=config.steps),
    )
    *parts, _ = build(0.0)  # network, loss, optimizer
    steps = swept.best_epoch[0, 0].item()
    together = tuple(map(np.concatenate, zip(*data, strict=True)))
    size = len(together[1])  # all examples in a batch: an epoch is one update
    again = fnn.fit(*parts, train=together, key=key, epochs=steps, batch_size=size)

    def error(variables: fnn.Variables, *at: int) -> float:
        one = jax.tree.map(lambda leaf: leaf[at], variables)
        return 1 - fnn.evaluate(*parts[:2], one, fnn.data.digits().test)["accuracy"]

    lines: list[dict[str, Any]] = []
    for i, penalty in enumerate(config.penalties):
        line = {"seed": seed, "penalty": penalty}
        line["test_error"] = error(swept.last_variables, i, 0)
        line["validation_loss"] = swept.history["validation_loss"][i, 0, -1].item()
        params = [p[i, 0] for p in jax.tree.leaves(swept.last_variables.params)]
        squares = [(p**2).sum() for p in params if p.ndim == 2]  # no biases
        lines.append(line | {"weight_norm": float(np.sqrt(sum(squares)))})
    plain = lines[0]
    for name in ("train", "validation"):
        plain[f"{name}_curve"] = swept.history[f"{name}_loss"][0, 0].tolist()
    plain |= {"best_step": steps, "retrained_test_error": error(again.variables)}
    plain["stopped_test_error"] = error(swept.variables, 0, 0)
    return lines


# ---- What came out ---------------------------------------------------------------


class Lines(NamedTuple):
    """A line of each seed: with λ = 0, with the λ chosen, with the largest."""

    plain: list[dict]
    chosen: list[dict]
    most: list[dict]

    def ways(self) -> dict[str, np.ndarray]:
        """The test error of each way, an entry for each seed."""
        return {
            "unregularized": column(self.plain, "test_error"),
            "early stopping": column(self.plain, "stopped_test_error"),
            "retraining": column(self.plain, "retrained_test_error"),
            "weight decay": column(self.chosen, "test_error"),
            "too much decay": column(self.most, "test_error"),
        }


def compared(numbers: list[dict]) -> Lines:
    """Choose λ for each seed by its validation data."""
    seeds = sorted({n["seed"] for n in numbers})
    lines = [[n for n in numbers if n["seed"] == seed] for seed in seeds]
    chosen = [min(own[1:], key=lambda n: n["validation_loss"]) for own in lines]
    return Lines([own[0] for own in lines], chosen, [own[-1] for own in lines])


def column(lines: list[dict], name: str) -> np.ndarray:
    """One number of each line."""
    return np.array([line[name] for line in lines])


def percent(errors: np.ndarray) -> str:
    """Mean and sample standard deviation."""
    return "{:.1%} ± {:.1%}".format(*mean_and_deviation(errors.tolist()))


def versus(ours: np.ndarray, theirs: np.ndarray) -> str:
    """How much smaller or larger errors are, seed by seed; is that more than spread?"""
    mean, sd = mean_and_deviation((100 * (ours - theirs)).tolist())
    within = "" if abs(mean) > sd else " (within the spread)"
    return f"{abs(mean):.1f} ± {sd:.1f} points {'more' if mean > 0 else 'less'}{within}"


def conclude(lines: Lines) -> str:
    """The sentence."""
    ways, curves = lines.ways(), column(lines.plain, "validation_curve")
    ends = curves[:, [0, -1]] - curves.min(1, keepdims=True)
    (fall, fall_sd), (rise, rise_sd), (step, step_sd) = map(
        mean_and_deviation, [*ends.T.tolist(), [n["best_step"] for n in lines.plain]]
    )
    shaped = "is" if rise > 2 * rise_sd and fall > 2 * fall_sd else "is not surely"
    least, second, *_ = sorted(ways, key=lambda name: ways[name].mean())
    norm, left = (column(n, "weight_norm").mean() for n in (lines.plain, lines.most))
    small = "pathologically small: " if left < norm / 10 else ""
    chosen, largest = column(lines.chosen, "penalty"), lines.most[0]["penalty"]
    stopped, retrained = ways["early stopping"], ways["retraining"]
    return (
        f"The validation loss {shaped} U-shaped: at the end it is {rise:.2g} ± "
        f"{rise_sd:.1g} above its least, at step {step:.0f} ± {step_sd:.0f}; stopping "
        f"there errs {versus(stopped, ways['unregularized'])} than going on, and "
        f"retraining {versus(retrained, stopped)} than stopping; of the five ways "
        f"{least} errs least, {percent(ways[least])}, "
        f"{versus(ways[least], ways[second])} than {second}; the λ chosen are "
        f"{chosen.min():g} to {chosen.max():g}, while λ = {largest:g} leaves weights "
        f"of norm {left:.2g} ({small}it is {norm:.2g} without decay) and errs "
        f"{percent(ways['too much decay'])}."
    )


# ---- The figure ------------------------------------------------------------------


def draw(numbers: list[dict], lines: Lines) -> Figure:
    """The losses over steps; over λ the test error, and the norm of the weights."""
    ways = lines.ways()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.6))
        curves, errors, norms = figure.subplots(1, 3)
        draw_curves(curves, lines.plain)
        draw_over_penalties(errors, numbers, "test_error")
        looks = {"early stopping": ("vermilion", "--"), "retraining": ("green", "-.")}
        for name, (colour, style) in looks.items():
            mean, sd = mean_and_deviation(ways[name].tolist())
            look = dict(color=OKABE_ITO[colour], linestyle=style)
            errors.axhline(mean, label=f"{name}, λ = 0", **look)
            errors.axhspan(mean - sd, mean + sd, alpha=0.15, lw=0, **look)
        errors.set(yscale="log", ylabel="test error")
        errors.set_title("Test error, and its spread over seeds")
        errors.yaxis.set_major_locator(FixedLocator((0.05, 0.1, 0.2, 0.5, 0.9)))
        errors.yaxis.set_minor_locator(NullLocator())
        errors.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        errors.legend(loc="upper left", fontsize=9)
        draw_over_penalties(norms, numbers, "weight_norm")
        norms.set(ylabel="norm √ΣΘ²", ylim=(0, None))
        norms.set_title("Weights at the last step")
    return figure


def draw_curves(axes: Axes, plain: list[dict]) -> None:
    """The losses of all seeds without decay, their means, and rings at the least."""
    looks = {"train": ("blue", "--"), "validation": ("vermilion", "-")}
    for name, (colour, style) in looks.items():
        curves = column(plain, f"{name}_curve")
        steps = np.arange(1, curves.shape[1] + 1)
        look = dict(color=OKABE_ITO[colour], linestyle=style)
        axes.plot(steps, curves.T, alpha=0.3, linewidth=0.8, **look)
        axes.plot(steps, curves.mean(0), label=name, **look)
    ring = dict(markerfacecolor="none", markersize=6, label="best step of a seed")
    axes.plot(column(plain, "best_step"), curves.min(1), "ko", **ring)
    axes.set(xscale="log", yscale="log", xlabel="step (one update on all examples)")
    axes.set(ylabel="loss (nats per example)", title="λ = 0: all seeds, and the mean")
    axes.xaxis.set_major_formatter(PLAIN)
    axes.yaxis.set_major_formatter(PLAIN)
    axes.legend(loc="lower left", fontsize=9)


def draw_over_penalties(axes: Axes, numbers: list[dict], name: str) -> None:
    """All seeds at the last step, their mean and sample standard deviation, by λ."""
    penalties = sorted({n["penalty"] for n in numbers})
    values = [[n[name] for n in numbers if n["penalty"] == p] for p in penalties]
    axes.plot(penalties, values, ".", color="0.6", markersize=4)
    mean, sd = np.transpose([mean_and_deviation(each) for each in values])
    look = dict(color=OKABE_ITO["blue"], markersize=5, capsize=3, label="last step")
    axes.errorbar(penalties, mean, sd, fmt="o-", **look)
    axes.set_xscale("symlog", linthresh=penalties[1], linscale=0.5)
    axes.set(xlabel="λ", xlim=(-penalties[1] / 4, penalties[-1] * 1.4))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(PLAIN)


if __name__ == "__main__":
    raise SystemExit(main())
