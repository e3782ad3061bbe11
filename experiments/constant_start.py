"""Zeros, a constant, or chance: from which start do hidden units become different?

    Θ ← Θ − α ∂J/∂Θ,    ∂J/∂Θ^(l)_ij = a_j^(l) δ_i^(l+1)

Let all units of a hidden layer have the same weights to them and from them. Then they
have the same activation a, the same δ, and so the same gradient: after the step they
are equal again, and so for ever, whatever the data, the loss and the learning rate. A
layer of any width is then worth one unit. Zeros are such a start, and so is every other
constant; numbers drawn at random are not, because each unit then has its own gradient.

How far apart the s units of a layer are, with θ_i the weights and the bias of unit i:

    spread = sqrt( (1/s) Σ_i ‖θ_i − θ̄‖² / dim θ ),    θ̄ = (1/s) Σ_i θ_i

The units are sigmoids, as in Rumelhart, Hinton and Williams, Nature 323 (1986), who
break the symmetry with small random weights. (Units with g(0) = 0 are worse: from zeros
their weights have no gradient at all.)
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure, SubFigure
from rich.progress import track

import fnn
from experiments import answers, command_line, runs
from experiments.figures import OKABE_ITO, STYLE
from experiments.seeds import mean_and_deviation
from experiments.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.constant_start"
LOSS = fnn.losses.SoftmaxCrossEntropy()
#: Each start's colour, and dashes through which the line below can be seen.
LOOKS = {
    "random": ("blue", "-"),
    "constant": ("vermilion", (0, (8, 2))),
    "zeros": ("black", (0, (1, 1.5))),
}


@dataclass(frozen=True)
class Config:
    """What a run depends on.

    Attributes:
        hidden: units of each of the two hidden layers.
        constant: what all weights are at the constant start.
        epochs: how many.
        batch_size: examples in a minibatch.
        learning_rate: α.
        momentum: β.
        seeds: how many, from 0 on; they decide the minibatches and the random weights.
        out: a new folder for the results; else the next free one below runs/.
    """

    hidden: int = 16
    constant: float = 0.1
    epochs: int = 60
    batch_size: int = 32
    learning_rate: float = 0.1
    momentum: float = 0.9
    seeds: int = 5
    out: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Train from each start, and watch the units and the accuracy."""
    description = (__doc__ or "").partition("\n")[0]
    with command_line.plain_errors(PROG):
        config = command_line.options(Config(), argv, PROG, description)
        command_line.at_least(config, hidden=2, epochs=1, seeds=2)
        data = fnn.data.digits()
        next(trained("random", config, 0, data))  # checks the options
        folder = runs.new_folder(config.out, "constant_start")
    out, numbers, weights = console(), [], {}
    jobs = list(product(LOOKS, range(config.seeds)))
    for start, seed in track(jobs, "training", console=out):
        for step, layers, accuracy in trained(start, config, seed, data):
            line = {"start": start, "seed": seed, "step": step}
            line["spread"] = [spread(layer) for layer in layers]
            numbers.append(line | {"test_accuracy": accuracy})
        if seed == 0:
            weights[start] = layers[0].weight
    rows = []
    for start in LOOKS:
        apart = np.mean([n["spread"] for n in last(numbers, start)], axis=0)
        shown = (f"{value:.3g}" for value in apart)
        rows.append((start, *shown, percent(last(numbers, start))))
    columns = ("start", "spread, layer 1", "spread, layer 2", "test accuracy")
    out.print(table(columns, rows))
    picture = {"units": draw(numbers, weights)}
    answers.give(out, folder, config, numbers, picture, conclude(numbers))
    return 0


# ---- Training --------------------------------------------------------------------


def network(start: str, config: Config) -> fnn.Layer:
    """Two hidden layers of sigmoids; at random is fnn's default, Glorot's.

    The biases start at 0, whatever the weights.
    """
    weight_init = {
        "zeros": fnn.initializers.Zeros(),
        "constant": fnn.initializers.Constant(config.constant),
        "random": None,
    }[start]
    return fnn.serial(
        fnn.Flatten(),
        *(fnn.Dense(config.hidden, weight_init=weight_init), fnn.Sigmoid()),
        *(fnn.Dense(config.hidden, weight_init=weight_init), fnn.Sigmoid()),
        fnn.Dense(10, weight_init=weight_init),
    )


def trained(
    start: str, config: Config, seed: int, data: fnn.data.Dataset
) -> Iterator[tuple[int, list[fnn.DenseParams], float]]:
    """After each epoch, 0 included: steps, the hidden layers, the test accuracy."""
    net = network(start, config)
    fit = partial(
        fnn.fit,
        *(net, LOSS, fnn.optimizers.sgd(config.learning_rate, config.momentum)),
        train=data.train,
        key=jax.random.key(seed),
        batch_size=config.batch_size,
    )
    result = fit(epochs=0)
    for epoch in range(config.epochs + 1):
        if epoch:
            result = fit(epochs=epoch, resume=result)
        if result.stopped == "diverged":  # NaNs are neither equal nor different
            raise SystemExit(
                f"{PROG}: error: from {start} weights training diverged in epoch "
                f"{epoch}: give a smaller --learning-rate"
            )
        params = result.variables.params
        accuracy = fnn.evaluate(net, LOSS, result.variables, data.test)["accuracy"]
        steps = epoch * math.ceil(len(data.train[1]) / config.batch_size)
        yield steps, [params[1], params[3]], accuracy


def spread(layer: fnn.DenseParams) -> float:
    """How far apart the units of a layer are; 0 if all are equal to the last bit."""
    theta = np.vstack([layer.weight, layer.bias]).astype(np.float64)  # a column a unit
    theta -= theta[:, :1]  # else the mean of equal numbers may differ by rounding
    return float(np.sqrt(theta.var(axis=1).mean()))


# ---- The answer ------------------------------------------------------------------


def last(numbers: list[dict], start: str) -> list[dict]:
    """What each seed ends with."""
    end = max(n["step"] for n in numbers)
    return [n for n in numbers if n["start"] == start and n["step"] == end]


def percent(ends: list[dict]) -> str:
    """Mean and standard deviation of the test accuracy."""
    mean, sd = mean_and_deviation([n["test_accuracy"] for n in ends])
    return f"{mean:.1%} ± {sd:.1%}"


def conclude(numbers: list[dict]) -> str:
    """The sentence."""
    seeds, steps = len({n["seed"] for n in numbers}), max(n["step"] for n in numbers)
    most = {
        start: max(max(n["spread"]) for n in numbers if n["start"] == start)
        for start in LOOKS
    }
    equal = [start for start in LOOKS if most[start] == 0]
    parts = []
    if equal:
        accuracies = " and ".join(percent(last(numbers, start)) for start in equal)
        parts.append(
            f"from {' and '.join(equal)} the units of each hidden layer stay equal to "
            f"the last bit, with a test accuracy of {accuracies}"
        )
    parts += [
        f"from {start} they differ (spread up to {most[start]:.2g}), with a test "
        f"accuracy of {percent(last(numbers, start))}"
        for start in LOOKS
        if start not in equal
    ]
    return (
        f"In {steps:,} steps {'; '.join(parts)} (mean ± standard deviation of {seeds} "
        "seeds)."
    )


def draw(numbers: list[dict], weights: dict[str, np.ndarray]) -> Figure:
    """Spread and accuracy over steps, and some units' weights to the pixels."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.6))
        curves, images = figure.subfigures(1, 2, width_ratios=(1.75, 1))
        left, right = curves.subplots(1, 2)
        for start, (colour, dashes) in LOOKS.items():
            mine = [n for n in numbers if n["start"] == start]
            step = sorted({n["step"] for n in mine})
            at_step = [[n for n in mine if n["step"] == s] for s in step]
            spreads = [[n["spread"][0] for n in at] for at in at_step]
            accuracies = [[100 * n["test_accuracy"] for n in at] for at in at_step]
            look = dict(color=OKABE_ITO[colour], linestyle=dashes, label=start)
            for axes, values in ((left, spreads), (right, accuracies)):
                axes.plot(step, np.mean(values, axis=1), **look)
                band = np.min(values, axis=1), np.max(values, axis=1)
                axes.fill_between(step, *band, color=look["color"], alpha=0.2, lw=0)
        seeds = len({n["seed"] for n in numbers})
        left.set(xlabel="step", ylabel="spread of the units' weights")
        left.set_title("first hidden layer")
        left.legend(title="start")
        right.set(xlabel="step", ylabel="test accuracy (%)", ylim=(0, 100))
        right.set_title(f"mean and range of {seeds} seeds")
        draw_weights(images, weights)
    return figure


def draw_weights(figure: SubFigure, weights: dict[str, np.ndarray]) -> None:
    """What the first units of the first hidden layer look for, a row for each start."""
    units = min(4, *(weight.shape[1] for weight in weights.values()))
    grid = figure.subplots(len(weights), units, squeeze=False)
    for row, (start, weight) in zip(grid, weights.items(), strict=True):
        limit = np.abs(weight).max()
        row[0].set_ylabel(start)
        for axes, image in zip(row, weight.T[:units], strict=True):
            axes.imshow(image.reshape(8, 8), cmap="PuOr_r", vmin=-limit, vmax=limit)
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
            axes.spines[:].set(visible=True, color="0.8")
    figure.suptitle(f"weights of {units} of its units in the end", fontsize=11)


if __name__ == "__main__":
    raise SystemExit(main())
