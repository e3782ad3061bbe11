"""A dense layer or a convolution: which errs less with the same number of parameters?

Two networks differ only in their first layer: a hidden dense layer that sees all pixels
at once, or a 3×3 convolution with max-pooling. In both a dense layer for the classes
follows. The number of hidden units is chosen so that the numbers of parameters agree.
Both networks are trained in the same way under several seeds, and the same seed means
the same minibatches for both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from rich.progress import track

import fnn
from experiments.shared import answers, command_line, problem, run_folder
from experiments.shared.figures import OKABE_ITO, STYLE
from experiments.shared.seeds import mean_and_deviation
from experiments.shared.sweep_figures import draw_means_with_bars
from experiments.shared.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.dense_or_convolution"
KINDS = ("convolution", "dense")
CLASSES, LOSS = 10, fnn.losses.SoftmaxCrossEntropy()


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        dataset: the images.
        data_dir: folder of MNIST's files; else FNN_DATA_DIR, or the user's cache.
        examples: training images, at most.
        features: of the convolution; two networks for each number.
        epochs: how many; there is no early stopping.
        batch_size: examples in a minibatch.
        learning_rate: of Adam.
        seeds: how many, from 0 on.
        out: a new folder for the results; else the next free one below runs/.
    """

    dataset: Literal["digits", "mnist"] = "digits"
    data_dir: Path | None = None
    examples: int = 5000
    features: tuple[int, ...] = (2, 4, 8, 16, 32)
    epochs: int = 60
    batch_size: int = 32
    learning_rate: float = 3e-3
    seeds: int = 5
    out: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Train all networks, and compare their test errors."""
    with command_line.plain_errors(PROG):
        config = command_line.parse(Config(), argv, PROG, __doc__)
        command_line.require_at_least(config, seeds=2, examples=1, epochs=1)
        if not config.features:
            raise ValueError("there must be at least one network: give its features")
        (x, y), test = problem.load_dataset(config)
        train = x[: config.examples], y[: config.examples]
        nets = {
            (features, kind): network(kind, features, x.shape[1:])
            for features, kind in product(config.features, KINDS)
        }
        for net in nets.values():
            train_network(net, train, config, seed=0, epochs=0)  # checks the options
        folder = run_folder.create(config.out, f"dense_or_convolution-{config.dataset}")
    out, numbers = console(), []
    jobs = [(*key, seed) for key in nets for seed in range(config.seeds)]
    for features, kind, seed in track(jobs, "training", console=out):
        net = nets[features, kind]
        variables = train_network(net, train, config, seed, config.epochs)
        accuracy = fnn.evaluate(net, LOSS, variables, test)["accuracy"]
        line = {"features": features, "layer": kind, "seed": seed}
        line["parameters"] = fnn.summary(net, x.shape[1:]).params
        numbers.append(line | {"test_error": 1 - accuracy})
    pairs = [compare(numbers, features) for features in config.features]
    rows = [
        (kind, f"{params:,}", f"{mean:.1%} ± {sd:.1%}")
        for pair in pairs
        for kind, params, mean, sd in zip(KINDS, *pair[1:4], strict=True)
    ]
    out.print(table(("network", "parameters", "test error"), rows))
    picture = {"test_error": draw(numbers, config.dataset)}
    answers.save_and_print(
        out, folder, config, numbers, picture, conclude(pairs, config.seeds)
    )
    return 0


def network(kind: str, features: int, in_shape: tuple[int, ...]) -> fnn.Layer:
    """Build the convolutional network, or the dense one with as many parameters."""
    convolution = fnn.serial(
        *(fnn.Conv(features, 3), fnn.Relu(), fnn.MaxPool(2), fnn.Flatten()),
        fnn.Dense(CLASSES),
    )
    if kind == "convolution":
        return convolution
    # Each hidden unit has a weight for every pixel, a bias, and one for every class.
    wanted = fnn.summary(convolution, in_shape).params - CLASSES
    hidden = max(1, round(wanted / (math.prod(in_shape) + 1 + CLASSES)))
    return fnn.serial(fnn.Flatten(), fnn.Dense(hidden), fnn.Relu(), fnn.Dense(CLASSES))


def train_network(
    net: fnn.Layer, train: tuple, config: Config, seed: int, epochs: int
) -> fnn.Variables:
    """Train a network, and return its variables."""
    return fnn.fit(
        *(net, LOSS, fnn.optimizers.adam(config.learning_rate)),
        train=train,
        key=jax.random.key(seed),
        epochs=epochs,
        batch_size=config.batch_size,
    ).variables


class Pair(NamedTuple):
    """The results of two networks of about the same size.

    params, mean, sd: of the convolution and of the dense layer: the number of
        parameters, the mean and the standard deviation of the test error.
    reduction: test error of the dense layer minus that of the convolution.
    standard_error: of the reduction.
    """

    features: int
    params: tuple[int, int]
    mean: tuple[float, float]
    sd: tuple[float, float]
    reduction: float
    standard_error: float


def compare(numbers: list[dict], features: int) -> Pair:
    """Compare the two networks of one size, seed by seed."""
    mine = [n for n in numbers if n["features"] == features]
    sides = [[n for n in mine if n["layer"] == k] for k in KINDS]
    errors = np.array([[n["test_error"] for n in side] for side in sides])
    reduction, spread = mean_and_deviation((errors[1] - errors[0]).tolist())
    means, deviations = zip(*map(mean_and_deviation, errors.tolist()), strict=True)
    params = tuple(side[0]["parameters"] for side in sides)
    standard_error = spread / math.sqrt(errors.shape[1])
    return Pair(features, params, means, deviations, reduction, standard_error)


def conclude(pairs: list[Pair], seeds: int) -> str:
    """Return the sentence that answers the question."""
    lower = sum(p.reduction > 0 for p in pairs)
    surely = sum(p.reduction > 2 * p.standard_error for p in pairs)
    best = min(pairs, key=lambda p: min(p.mean))
    ours, theirs = [
        f"{m:.1%} ± {s:.1%} with {p:,} parameters"
        for m, s, p in zip(best.mean, best.sd, best.params, strict=True)
    ]
    return (
        f"The convolution has the lower test error at {lower} of {len(pairs)} sizes, "
        f"by more than two standard errors at {surely}; at the best, {ours}, against "
        f"{theirs} of a dense layer (mean ± standard deviation of {seeds} seeds)."
    )


def draw(numbers: list[dict], dataset: str) -> Figure:
    """Draw the test error over parameters: every seed a point, the means a line."""
    styles = {"dense": ("vermilion", "s", -1), "convolution": ("blue", "o", 1)}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6, 4))
        axes = figure.subplots()
        for kind, (colour, marker, side) in styles.items():
            mine = [n for n in numbers if n["layer"] == kind]
            params = sorted({n["parameters"] for n in mine})
            errors = [
                [100 * n["test_error"] for n in mine if n["parameters"] == p]
                for p in params
            ]
            x = np.array(params) * 1.03**side  # side by side, so that both are visible
            style = dict(color=OKABE_ITO[colour], capsize=4, label=kind)
            draw_means_with_bars(axes, x, errors, marker=marker, **style)
            for at, values in zip(x * 1.03**side, errors, strict=True):
                axes.plot(
                    [at] * len(values), values, ".", color=OKABE_ITO[colour], alpha=0.5
                )
        axes.set_xscale("log")
        # Logarithmic, and linear around 0.
        axes.set_yscale("symlog", linthresh=0.5, linscale=0.3)
        axes.set(xlabel="parameters", ylabel="test error (%)", ylim=(0, None))
        axes.set_title(f"{dataset}: every seed, mean ± sample standard deviation")
        axes.xaxis.set_major_locator(FixedLocator(sorted(params)))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_locator(FixedLocator((0, 0.5, 1, 2, 5, 10, 20, 50, 90)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.legend()
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
