"""Zeros, a constant, or random: from which start do hidden units become different?

    Θ ← Θ − α ∂J/∂Θ,    ∂J/∂Θ^(l)_ij = a_j^(l) δ_i^(l+1)

Suppose that all units of a hidden layer have the same incoming weights and the same
outgoing weights. Then they have the same activation a, the same δ, and so the same
gradient: after the step they are equal again, and so on, for any data, loss and
learning rate, with momentum or without. A layer of any width is then worth one unit.
Zeros are such a start, and so is every other constant; random numbers are not.

The spread measures how different the s units of a layer are, with θ_i the weights and
the bias of unit i:

    spread = sqrt( (1/s) Σ_i ‖θ_i − θ̄‖² / dim θ ),    θ̄ = (1/s) Σ_i θ_i

The units are sigmoids, as in Rumelhart, Hinton and Williams, Nature 323 (1986), who
break the symmetry with small random weights. (Units with g(0) = 0 are worse: from zeros
their weights have no gradient at all.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.progress import track

import fnn
from experiments.shared import answers, command_line, run_folder
from experiments.shared.figures import OKABE_ITO, STYLE, draw_mean_and_range
from experiments.shared.seeds import plus_minus
from experiments.shared.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.constant_start"
LOSS = fnn.losses.SoftmaxCrossEntropy()
#: The line of each start; dashes, so that a line below stays visible.
LINE_STYLES = {
    "random": dict(color=OKABE_ITO["blue"], linestyle="-"),
    "constant": dict(color=OKABE_ITO["vermilion"], linestyle=(0, (8, 2))),
    "zeros": dict(color=OKABE_ITO["black"], linestyle=(0, (1, 1.5))),
}


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        hidden: units of each of the two hidden layers.
        constant: the value of all weights at the constant start.
        epochs: how many.
        learning_rate: α.
        seeds: how many, from 0 on; they decide the minibatches and the random weights.
        out: a new folder for the results; else the next free one below runs/.
    """

    hidden: int = 16
    constant: float = 0.1
    epochs: int = 60
    learning_rate: float = 0.1
    seeds: int = 5
    out: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Train from each start, and measure the units and the accuracy."""
    with command_line.plain_errors(PROG):
        config = command_line.parse(Config(), argv, PROG, __doc__)
        command_line.require_at_least(config, hidden=2, epochs=1, seeds=2)
        train_from("random", config, seed=0, epochs=0)  # checks the options
        folder = run_folder.create(config.out, "constant_start")
    out, numbers, weights = console(), [], {}
    jobs = list(product(LINE_STYLES, range(config.seeds)))
    for start, seed in track(jobs, "training", console=out):
        line, weight = train_from(start, config, seed, config.epochs)
        numbers.append(line)
        weights.setdefault(start, weight)  # of the first seed
    rows = []
    for start in LINE_STYLES:
        spreads = curves(numbers, start, "spread")[:, -1].mean(0)
        accuracy = final_accuracy(numbers, start)
        rows.append((start, *(f"{s:.3g}" for s in spreads), accuracy))
    out.print(table(("start", "spread, layer 1", "layer 2", "test accuracy"), rows))
    picture = {"units": draw(numbers, weights)}
    answers.save_and_print(out, folder, config, numbers, picture, conclude(numbers))
    return 0


def train_from(start: str, config: Config, seed: int, epochs: int) -> tuple:
    """Train from a start, and measure after each epoch, 0 included.

    Returns:
        A line of numbers, and the weights of the first layer in the end.
    """
    constants = {"constant": config.constant, "zeros": 0.0}
    init = fnn.initializers.Constant(constants[start]) if start in constants else None
    dense = partial(fnn.Dense, weight_init=init)  # None is fnn's default, Glorot's
    hidden = dense(config.hidden), fnn.Sigmoid()
    net = fnn.serial(fnn.Flatten(), *hidden, *hidden, dense(10))
    optimizer = fnn.optimizers.sgd(config.learning_rate, momentum=0.9)
    line = {"start": start, "seed": seed, "spread": [], "test_accuracy": []}
    data, result = fnn.data.digits(), False
    for epoch in range(epochs + 1):
        result = fnn.fit(
            *(net, LOSS, optimizer),
            train=data.train,
            key=jax.random.key(seed),
            epochs=epoch,
            batch_size=32,
            resume=result,
        )
        if result.stopped == "diverged":  # NaNs are neither equal nor different
            raise SystemExit(f"{PROG}: error: diverged: give a smaller --learning-rate")
        _, first, _, second, *_ = result.variables.params
        line["spread"].append([spread(first), spread(second)])
        test = fnn.evaluate(net, LOSS, result.variables, data.test)
        line["test_accuracy"].append(test["accuracy"])
    return line, np.asarray(first.weight)


def spread(layer: fnn.DenseParams) -> float:
    """Return the spread of a layer's units, 0 if all are equal to the last bit."""
    theta = np.vstack([layer.weight, layer.bias]).astype(np.float64)  # column: a unit
    theta -= theta[:, :1]  # else the mean of equal numbers may differ by rounding
    return float(np.sqrt(theta.var(axis=1).mean()))


def curves(numbers: list[dict], start: str, name: str) -> np.ndarray:
    """Return one measurement from a start, of shape (seeds, epochs + 1, ...)."""
    return np.array([line[name] for line in numbers if line["start"] == start])


def final_accuracy(numbers: list[dict], start: str) -> str:
    """Return mean and standard deviation of the test accuracy in the end."""
    return plus_minus(curves(numbers, start, "test_accuracy")[:, -1])


def conclude(numbers: list[dict]) -> str:
    """Return the sentence that answers the question."""
    parts = []
    for start in LINE_STYLES:
        most = curves(numbers, start, "spread").max()
        units = f"differ by up to {most:.2g}" if most else "stay equal to the last bit"
        accuracy = final_accuracy(numbers, start)
        parts.append(f"from {start} they {units}, with a test accuracy of {accuracy}")
    seeds, points = curves(numbers, start, "test_accuracy").shape
    return (
        f"The units of each hidden layer, in {points - 1} epochs: {'; '.join(parts)} "
        f"(mean ± standard deviation of {seeds} seeds)."
    )


def draw(numbers: list[dict], weights: dict[str, np.ndarray]) -> Figure:
    """Draw spread and accuracy over epochs, and some units' weights to the pixels."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.6))
        plots, images = figure.subfigures(1, 2, width_ratios=(1.75, 1))
        left, right = plots.subplots(1, 2)
        for start, style in LINE_STYLES.items():
            spreads = curves(numbers, start, "spread")[..., 0]
            accuracy = 100 * curves(numbers, start, "test_accuracy")
            seeds, points = accuracy.shape
            draw_mean_and_range(left, range(points), spreads, label=start, **style)
            draw_mean_and_range(right, range(points), accuracy, **style)
        left.set(xlabel="epoch", ylabel="spread of units", title="first hidden layer")
        left.legend(title="start")
        right.set(xlabel="epoch", ylabel="test accuracy (%)", ylim=(0, 100))
        right.set_title(f"mean and range of {seeds} seeds")
        units = min(4, weights["zeros"].shape[1])
        grid = images.subplots(len(weights), units)
        for row, (start, weight) in zip(grid, weights.items(), strict=True):
            limit = np.abs(weight).max()
            row[0].set_ylabel(start)
            for axes, image in zip(row, weight.T[:units], strict=True):
                axes.imshow(image.reshape(8, 8), cmap="PuOr_r", vmin=-limit, vmax=limit)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set(visible=True, color="0.8")
        images.suptitle(f"weights of {units} of its units in the end", fontsize=11)
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
