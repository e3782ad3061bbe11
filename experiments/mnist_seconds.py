"""MNIST in seconds: how long until a network has learned it, and how well?

Two trainings that others publish times of, on whatever processor this runs on:

    lenet5    LeNet-5 (6 and 16 features, 120 and 84 units), Adam, 10 epochs, as in the
              benchmark of SimpleChains.jl: from a cold start, and once more in the same
              process, when everything is compiled
    least     convolutions of 24 features (5 × 5) and 32 (3 × 3), 256 hidden units, one
              cycle of the learning rate: many seeds in one sweep, and their mean

A cold start is a process of its own. It counts everything: the interpreter, imports,
loading the files, planning, compiling, training and the test. (SimpleChains:
github.com/PumasAI/SimpleChains.jl. One cycle: Smith and Topin, arXiv:1708.07120.)
"""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import optax
import tyro

import fnn
from experiments.shared import answers, command_line, problem, run_folder
from experiments.shared.seeds import plus_minus
from experiments.shared.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.mnist_seconds"
LOSS = fnn.losses.SoftmaxCrossEntropy()


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        training: which of the two; all other defaults are those of this one.
        epochs: how many.
        batch_size: images in a step.
        learning_rate: of Adam; of least, the highest of the cycle.
        seeds: how many networks of least are trained; of lenet5 it is one.
        data_dir: folder of MNIST's files; else FNN_DATA_DIR, or the user's cache.
        out: a new folder for the results; else the next free one below runs/.
    """

    training: Literal["lenet5", "least"] = "lenet5"
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-3
    seeds: int = 30
    data_dir: Path | None = None
    out: Path | None = None
    dataset: tyro.conf.Suppress[Literal["mnist"]] = "mnist"


#: The defaults of each training.
PRESETS = {
    "lenet5": Config(),
    "least": Config("least", epochs=2, batch_size=256, learning_rate=1e-2),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and print the seconds and the test accuracies."""
    with command_line.plain_errors(PROG):
        config = command_line.parse_with_presets(
            PRESETS, "training", argv, prog=PROG, description=__doc__
        )
        command_line.require_at_least(config, epochs=1, batch_size=1, seeds=1)
        if not config.learning_rate > 0:
            raise ValueError(
                f"learning_rate must be positive, got {config.learning_rate}"
            )
        problem.load_dataset(config)  # so that files are there, and downloads done
        folder = run_folder.create(config.out, f"mnist_seconds-{config.training}")
    measured = measure_lenet5 if config.training == "lenet5" else measure_least
    numbers, sentence = measured(config)
    out = console()
    rows = [(n["run"], f"{n['seconds']:.1f}", f"{n['accuracy']:.2%}") for n in numbers]
    out.print(table(("", "seconds", "test accuracy"), rows))
    answers.save_and_print(out, folder, config, numbers, {}, sentence)
    return 0


# ---- LeNet-5 ---------------------------------------------------------------------


def lenet5() -> fnn.Layer:
    """Build LeCun et al.'s network of 1998, with ReLU and maxima."""
    return fnn.serial(
        *(fnn.Conv(6, 5, padding="VALID"), fnn.Relu(), fnn.MaxPool(2)),
        *(fnn.Conv(16, 5, padding="VALID"), fnn.Relu(), fnn.MaxPool(2)),
        *(fnn.Flatten(), fnn.Dense(120), fnn.Relu(), fnn.Dense(84), fnn.Relu()),
        fnn.Dense(10),
    )


def measure_lenet5(config: Config) -> tuple[list[dict], str]:
    """Train in a process that has only just started; return numbers and a sentence."""
    start = time.time()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        first, again = process.submit(in_this_process, config).result()
    cold = first | {"seconds": first["end"] - start}
    names = "from a cold start", "once more, compiled"
    numbers = [
        {"run": name, "seconds": n["seconds"], "accuracy": n["accuracy"]}
        for name, n in zip(names, (cold, again), strict=True)
    ]
    return numbers, (
        f"From a cold start it takes {cold['seconds']:.1f} s to a test accuracy of "
        f"{cold['accuracy']:.2%} ({config.epochs} epochs); compiled, "
        f"{again['seconds']:.1f} s to {again['accuracy']:.2%}."
    )


def in_this_process(config: Config) -> tuple[dict, dict]:
    """Train twice, and return for each what the other process is told.

    That is the time of day at the end, its own seconds, and the test accuracy.
    """
    images = problem.load_dataset(config)
    net, optimizer = lenet5(), fnn.optimizers.adam(config.learning_rate)

    def train(seed: int) -> dict:
        start = time.time()
        result = fnn.fit(
            *(net, LOSS, optimizer),
            train=images.train, key=jax.random.key(seed), epochs=config.epochs,
            batch_size=config.batch_size,
        )  # fmt: skip
        measured = fnn.evaluate(net, LOSS, result.variables, images.test)
        end = time.time()
        return dict(end=end, seconds=end - start, accuracy=measured["accuracy"])

    return train(0), train(1)


# ---- The least -------------------------------------------------------------------


def small_network() -> fnn.Layer:
    """Build two convolutions and a hidden layer."""
    return fnn.serial(
        *(fnn.Conv(24, 5, padding="VALID"), fnn.Relu(), fnn.MaxPool(2)),
        *(fnn.Conv(32, 3, padding="VALID"), fnn.Relu(), fnn.MaxPool(2)),
        *(fnn.Flatten(), fnn.Dense(256), fnn.Relu(), fnn.Dense(10)),
    )


def measure_least(config: Config) -> tuple[list[dict], str]:
    """Train all seeds in one sweep; return the numbers and a sentence."""
    images = problem.load_dataset(config)
    steps = config.epochs * -(-len(images.train[0]) // config.batch_size)
    cycle = optax.cosine_onecycle_schedule(steps, config.learning_rate)
    net, optimizer = small_network(), fnn.optimizers.adam(cycle)
    start = time.perf_counter()
    swept = fnn.sweep(
        lambda: (net, LOSS, optimizer), {},
        train=images.train, keys=jax.random.split(jax.random.key(0), config.seeds),
        epochs=config.epochs, batch_size=config.batch_size,
    )  # fmt: skip
    seconds = (time.perf_counter() - start) / config.seeds
    accuracies = [
        fnn.evaluate(net, LOSS, swept.variables_at((seed,)), images.test)["accuracy"]
        for seed in range(config.seeds)
    ]
    numbers = [
        {"run": f"seed {seed}", "seconds": seconds, "accuracy": accuracy}
        for seed, accuracy in enumerate(accuracies)
    ]
    return numbers, (
        f"{config.epochs} epochs reach {plus_minus(accuracies, '.2%')} (mean ± sample "
        f"standard deviation of {config.seeds} seeds; the least is "
        f"{min(accuracies):.2%}), in {seconds:.1f} s each, with the "
        "compilation."
    )


if __name__ == "__main__":
    raise SystemExit(main())
