"""Early stopping: is the validation loss U-shaped, and does stopping beat weight decay?

A small dense network is trained on a few digits, some of whose labels are wrong, with

    J = (1/n) Σ_i L(h(x_i), y_i) + λ/(2n) Σ Θ²        the sum over weights, not biases

Five ways are compared on test images, whose labels are right:

    unregularized     λ = 0, to the last step
    early stopping    λ = 0, at the step with the least validation loss
    retraining        λ = 0, from the start on training and validation data together,
                      for the number of steps that early stopping found
    weight decay      the λ with the least validation loss at the last step
    too much decay    the largest λ

Retraining is algorithm 7.2 of Goodfellow, Bengio and Courville (Deep Learning, 2016).
The same number of steps may mean the same number of updates, or of passes through a set
that is now larger. Here a step is one update on all examples, so that it means both.

Each seed draws digits, wrong labels and initial parameters, which the five ways share;
differences are taken seed by seed. Training never stops early, so that the whole curve
is visible; the best step is found afterwards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from rich.progress import track

import fnn
from experiments.shared import answers, command_line, run_folder
from experiments.shared.digits_subset import error_on_test_images, sample_digits
from experiments.shared.figures import OKABE_ITO, STYLE, draw_losses
from experiments.shared.seeds import mean_and_deviation, plus_minus
from experiments.shared.sweep_figures import (
    draw_mean_across,
    draw_over_one_hyperparameter,
)
from experiments.shared.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.early_stopping"
LOSS = fnn.losses.SoftmaxCrossEntropy()


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        examples: digits to train on.
        validation: further digits, to choose the step and λ by.
        noise: probability that a label of either is replaced by another one.
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
        config = command_line.parse(Config(), argv, PROG, __doc__)
        command_line.require_at_least(
            config, examples=1, validation=1, steps=2, seeds=2
        )
        given = config.penalties
        if len(given) < 3 or given[0] != 0 or [*given] != sorted(set(given)):
            raise ValueError(
                f"penalties must be 0 and two or more others, ascending, got {given}"
            )
        # This checks the options, and so does the optimizer below.
        sample_digits(config.examples, config.validation, 0, config.noise)
        hidden = (fnn.Dense(config.hidden), fnn.Relu())
        net = fnn.serial(fnn.Flatten(), *hidden, fnn.Dense(10))
        optimizer = fnn.optimizers.adam(config.learning_rate)
        folder = run_folder.create(config.out, "early_stopping")

    def build(penalty: float) -> tuple:
        return net, LOSS, optimizer, penalty

    out, numbers = console(), []
    for seed in track(range(config.seeds), "training", console=out):
        numbers += train_all(build, config, seed)
    choice = choose_penalties(numbers)
    rows = [(name, plus_minus(errors)) for name, errors in choice.test_errors().items()]
    out.print(table(("", "test error"), rows))
    picture = {"early_stopping": draw(numbers, choice)}
    answers.save_and_print(out, folder, config, numbers, picture, conclude(choice))
    return 0


# ---- Training and testing --------------------------------------------------------


def train_all(build: Callable[[float], tuple], config: Config, seed: int) -> list[dict]:
    """Train with every λ, and with λ = 0 again on all data: a line for each λ."""
    data = sample_digits(config.examples, config.validation, seed, config.noise)
    key = jax.random.key(seed)
    swept = fnn.sweep(
        build,
        {"penalty": config.penalties},
        **data._asdict(),
        keys=key,
        epochs=config.steps,
        batch_size=config.examples,
        early_stopping=fnn.EarlyStopping(patience=config.steps),
    )
    *parts, _ = build(0.0)  # network, loss, optimizer
    steps = swept.best_epoch[0, 0].item()
    all_data = tuple(map(np.concatenate, zip(*data, strict=True)))
    size = len(all_data[1])  # all examples in a batch: an epoch is one update
    again = fnn.fit(*parts, train=all_data, key=key, epochs=steps, batch_size=size)
    net, last = parts[0], swept.last_variables
    params = [p[:, 0] for p in jax.tree.leaves(last.params)]  # by λ; the only key
    norms = np.sqrt(sum((p**2).sum((1, 2)) for p in params if p.ndim == 3))  # no biases
    lines: list[dict] = []
    for i, penalty in enumerate(config.penalties):
        line = {"seed": seed, "penalty": penalty}
        line["test_error"] = error_on_test_images(net, last, i, 0)
        line["validation_loss"] = swept.history["validation_loss"][i, 0, -1].item()
        lines.append(line | {"weight_norm": norms[i].item()})
    plain = lines[0]
    for name in ("train", "validation"):
        plain[f"{name}_curve"] = swept.history[f"{name}_loss"][0, 0].tolist()
    plain["best_step"] = steps
    plain["retrained_test_error"] = error_on_test_images(net, again.variables)
    plain["stopped_test_error"] = error_on_test_images(net, swept.variables, 0, 0)
    return lines


# ---- The results -----------------------------------------------------------------


class Choice(NamedTuple):
    """The lines of all seeds with λ = 0, with the λ chosen, and with the largest λ."""

    plain: list[dict]
    chosen: list[dict]
    largest: list[dict]

    def test_errors(self) -> dict[str, np.ndarray]:
        """Return the test error of each of the five ways, an entry for each seed."""
        return {
            "unregularized": column(self.plain, "test_error"),
            "early stopping": column(self.plain, "stopped_test_error"),
            "retraining": column(self.plain, "retrained_test_error"),
            "weight decay": column(self.chosen, "test_error"),
            "too much decay": column(self.largest, "test_error"),
        }


def choose_penalties(numbers: list[dict]) -> Choice:
    """Choose λ for each seed by its validation data."""
    seeds = sorted({n["seed"] for n in numbers})
    lines = [[n for n in numbers if n["seed"] == seed] for seed in seeds]
    chosen = [min(own[1:], key=lambda n: n["validation_loss"]) for own in lines]
    return Choice([own[0] for own in lines], chosen, [own[-1] for own in lines])


def column(lines: list[dict], name: str) -> np.ndarray:
    """Return one measurement of each line."""
    return np.array([line[name] for line in lines])


def difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Return as text how much smaller or larger our errors are, seed by seed."""
    mean, sd = mean_and_deviation(100 * (ours - theirs))
    within = "" if abs(mean) > sd else " (within the spread)"
    return f"{abs(mean):.1f} ± {sd:.1f} points {'more' if mean > 0 else 'less'}{within}"


def conclude(choice: Choice) -> str:
    """Return the sentence that answers the question."""
    errors, curves = choice.test_errors(), column(choice.plain, "validation_curve")
    ends = curves[:, [0, -1]] - curves.min(1, keepdims=True)
    (fall, fall_sd), (rise, rise_sd) = map(mean_and_deviation, ends.T)
    steps = column(choice.plain, "best_step")
    shaped = "is" if rise > 2 * rise_sd and fall > 2 * fall_sd else "is not surely"
    least, second, *_ = sorted(errors, key=lambda name: errors[name].mean())
    norm = column(choice.plain, "weight_norm").mean()
    decayed_norm = column(choice.largest, "weight_norm").mean()
    small = "pathologically small: " if decayed_norm < norm / 10 else ""
    chosen, largest = column(choice.chosen, "penalty"), choice.largest[0]["penalty"]
    stopped, retrained = errors["early stopping"], errors["retraining"]
    return (
        f"The validation loss {shaped} U-shaped: at the end it is {rise:.2g} ± "
        f"{rise_sd:.1g} above its least, at step {plus_minus(steps, '.0f')}; stopping "
        f"there errs {difference(stopped, errors['unregularized'])} than going on, and "
        f"retraining {difference(retrained, stopped)} than stopping; of the five ways "
        f"{least} errs least, {plus_minus(errors[least])}, "
        f"{difference(errors[least], errors[second])} than {second}; the λ chosen are "
        f"{chosen.min():g} to {chosen.max():g}, while λ = {largest:g} leaves weights "
        f"of norm {decayed_norm:.2g} ({small}it is {norm:.2g} without decay) and errs "
        f"{plus_minus(errors['too much decay'])}."
    )


# ---- The figure ------------------------------------------------------------------


def draw(numbers: list[dict], choice: Choice) -> Figure:
    """Draw the losses over steps, and over λ the test error and the weights' norm."""
    curves = {n: column(choice.plain, f"{n}_curve") for n in ("train", "validation")}
    styles = {"early stopping": ("vermilion", "--"), "retraining": ("green", "-.")}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.6))
        losses, errors, norms = figure.subplots(1, 3)
        draw_losses(losses, curves, column(choice.plain, "best_step"))
        losses.set_xlabel("step (one update on all examples)")
        losses.set_title("λ = 0: all seeds, and the mean")
        errors.set(yscale="log", ylabel="test error", xlabel="λ")
        errors.set_title("Test error, and its spread over seeds")
        by_lambda = by_penalty(numbers, "test_error")
        draw_over_one_hyperparameter(errors, by_lambda, label="last step")
        for name, (colour, dashes) in styles.items():
            style = dict(color=OKABE_ITO[colour], linestyle=dashes)
            style["label"] = f"{name}, λ = 0"
            draw_mean_across(errors, choice.test_errors()[name], **style)
        errors.yaxis.set_major_locator(FixedLocator((0.05, 0.1, 0.2, 0.5, 0.9)))
        errors.yaxis.set_major_formatter("{x:.0%}")
        errors.legend(loc="upper left", fontsize=9)
        draw_over_one_hyperparameter(norms, by_penalty(numbers, "weight_norm"))
        norms.set(xlabel="λ", ylabel="norm √ΣΘ²", ylim=(0, None))
        norms.set_title("Weights at the last step")
    return figure


def by_penalty(numbers: list[dict], name: str) -> dict[float, list[float]]:
    """Return one measurement of all seeds at the last step, for each λ."""
    penalties = sorted({n["penalty"] for n in numbers})
    return {p: [n[name] for n in numbers if n["penalty"] == p] for p in penalties}


if __name__ == "__main__":
    raise SystemExit(main())
