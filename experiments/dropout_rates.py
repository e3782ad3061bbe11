"""Dropout: which probabilities are best, for pixels and for hidden units, and how good?

In training each unit is removed with probability p, pixels with p_visible and hidden
units with p_hidden, and the remaining ones are divided by 1 − p; in tests nothing is
removed (Srivastava et al., JMLR 15, 2014). `fnn.Dropout(p)` takes this probability of
dropping; the p of that article is the probability of keeping, 1 − p.

Every pair of a grid trains a wide dense network on a few digits, under several seeds,
in one compiled sweep: the probabilities are arguments of its program. The pair with the
least mean error on validation images is chosen. Only this pair and (0, 0), which is no
dropout, are measured on the test images. All pairs train for the same number of epochs.
The images are the same for all seeds, which differ in initial parameters, minibatches
and masks; under one seed all pairs have the same initial parameters and minibatches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.progress import Progress

import fnn
from experiments.shared import answers, command_line, run_folder
from experiments.shared.digits_subset import error_on_test_images, sample_digits
from experiments.shared.figures import OKABE_ITO, STYLE
from experiments.shared.seeds import mean_and_deviation, plus_minus
from experiments.shared.sweep_figures import (
    LINE_STYLES,
    draw_means_with_bars,
    draw_over_two_hyperparameters,
)
from experiments.shared.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.dropout_rates"
LOSS = fnn.losses.SoftmaxCrossEntropy()
Rates = tuple[float, float]  # p_visible, p_hidden


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        examples: digits to train on.
        validation: further digits, to choose the pair by.
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
        config = command_line.parse(Config(), argv, PROG, __doc__)
        command_line.require_at_least(config, epochs=1, seeds=2)
        check_rates(config)
        train, validation = sample_digits(config.examples, config.validation, seed=0)

        def build(visible: float, hidden: float) -> tuple:
            net = network(config.width, visible, hidden)
            return net, LOSS, fnn.optimizers.adam(config.learning_rate)

        trial = dict(train=train, key=jax.random.key(0), batch_size=config.batch_size)
        fnn.fit(*build(0.0, 0.0), epochs=0, **trial)  # checks the options
        folder = run_folder.create(config.out, "dropout_rates")
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
            # Nothing stops early: this asks for one validation, after the last epoch.
            early_stopping=fnn.EarlyStopping(patience=1, every=config.epochs),
            on_chunk=lambda done, of: progress.update(bar, completed=done, total=of),
        )
    numbers = measure(swept, config)
    errors = by_pair(numbers, "validation_error")
    columns = ("p_visible \\ p_hidden", *(f"{p:g}" for p in config.hidden))
    rows = [
        (f"{v:g}", *(plus_minus(errors[v, h]) for h in config.hidden))
        for v in config.visible
    ]
    out.print("Validation error, mean ± sample standard deviation:")
    out.print(table(columns, rows))
    picture = {"dropout_rates": draw(numbers)}
    answers.save_and_print(out, folder, config, numbers, picture, conclude(numbers))
    return 0


# ---- Training and testing --------------------------------------------------------


def check_rates(config: Config) -> None:
    """Raise where the grid lacks 0, or has more lines than the figure has styles."""
    for name in ("visible", "hidden"):
        rates = getattr(config, name)
        if rates[:1] != (0,) or [*rates] != sorted(set(rates)) or rates[-1] >= 1:
            raise ValueError(f"{name} must ascend from 0 to below 1, got {rates}")
    visible, most = config.visible, len(LINE_STYLES)
    if len(visible) > most:
        raise ValueError(f"visible must be at most {most} values, got {visible}")


def network(width: int, visible: float, hidden: float) -> fnn.Layer:
    """Build two hidden layers, with dropout of the pixels and of both layers."""
    return fnn.serial(
        *(fnn.Flatten(), fnn.Dropout(visible)),
        *(fnn.Dense(width), fnn.Relu(), fnn.Dropout(hidden)),
        *(fnn.Dense(width), fnn.Relu(), fnn.Dropout(hidden)),
        fnn.Dense(10),
    )


def measure(swept: fnn.Sweep, config: Config) -> list[dict]:
    """Return a line for each pair and seed; two pairs have the test error as well."""
    errors, best = 1 - swept.at_best("accuracy"), swept.best("accuracy", "max")
    net = network(config.width, 0.0, 0.0)  # in a test nothing is dropped
    lines = []
    for member in np.ndindex(errors.shape):
        i, j, seed = member
        pair = {"visible": config.visible[i], "hidden": config.hidden[j]}
        line = {f"p_{name}": rate for name, rate in pair.items()} | {"seed": seed}
        line["validation_error"] = errors[member].item()
        if pair in ({"visible": 0, "hidden": 0}, best):
            line["test_error"] = error_on_test_images(net, swept.variables, *member)
        lines.append(line)
    return lines


# ---- The results -----------------------------------------------------------------


def by_pair(numbers: list[dict], name: str) -> dict[Rates, np.ndarray]:
    """Return one measurement of all seeds, for each pair that has it."""
    pairs: dict[Rates, list[float]] = {}
    for line in numbers:
        if name in line:
            pair = line["p_visible"], line["p_hidden"]
            pairs.setdefault(pair, []).append(line[name])
    return {pair: np.array(values) for pair, values in pairs.items()}


def conclude(numbers: list[dict]) -> str:
    """Return the sentence that answers the question."""
    errors, tested = (by_pair(numbers, f"{n}_error") for n in ("validation", "test"))
    *_, chosen = tested  # (0, 0) comes first
    if chosen == (0, 0):
        return (
            f"No dropout has the least validation error of all {len(errors)} pairs, "
            f"{plus_minus(errors[chosen])}, and errs {plus_minus(tested[chosen])} on "
            "the test images: here dropout does not help."
        )
    gain, sd = mean_and_deviation(100 * (tested[0, 0] - tested[chosen]))
    verdict = "makes no difference beyond"
    if abs(gain) > sd:
        verdict = f"{'helps' if gain > 0 else 'harms'} by more than"
    return (
        f"p_visible = {chosen[0]:g} and p_hidden = {chosen[1]:g} have the least "
        f"validation error of {len(errors)} pairs, {plus_minus(errors[chosen])} (no "
        f"dropout: {plus_minus(errors[0, 0])}); on the test images they err "
        f"{plus_minus(tested[chosen])}, no dropout {plus_minus(tested[0, 0])}: dropout "
        f"{verdict} the spread over the seeds ({abs(gain):.1f} ± {sd:.1f} points "
        f"{'less' if gain > 0 else 'more'}, seed by seed)."
    )


# ---- The figure ------------------------------------------------------------------


def draw(numbers: list[dict]) -> Figure:
    """Draw the validation error of all pairs, and beside it the two test errors."""
    errors, tested = (by_pair(numbers, f"{n}_error") for n in ("validation", "test"))
    *_, chosen = tested  # (0, 0) comes first
    names = ("none", f"{chosen[0]:g}, {chosen[1]:g}")[: len(tested)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.8))
        swept, test = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
        draw_over_two_hyperparameters(swept, errors, chosen, title="$p_{visible}$")
        swept.set_xlabel("$p_{hidden}$: probability of dropping a hidden unit")
        swept.set_ylabel("error (share of images)")
        swept.set_title("Validation: mean ± deviation")
        swept.yaxis.set_major_formatter("{x:.1%}")
        x, values = np.arange(len(tested)), list(tested.values())
        test.plot(x + 0.2, values, ".", color=OKABE_ITO["blue"], alpha=0.6)
        draw_means_with_bars(test, x, values, fmt="ko", capsize=4, elinewidth=1)
        test.set_xticks(x, names)
        test.set(title="Test: all seeds", xlim=(-0.6, 1.7))
        test.set(xlabel="$p_{visible},\\ p_{hidden}$")
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
