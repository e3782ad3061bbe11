"""The gradient noise scale: how large a batch is worth its examples?

    B_noise = tr Σ / ‖G‖²,    S(B) = S_min (1 + B_crit / B)

The first is measured over a run, from the norms of single gradients, with G and Σ those
of the whole training set. The second is what it predicts: a batch of B examples needs
S(B) steps to the same loss, with the learning rate η(B) = η_max / (1 + B_noise / B).
Far below B_crit twice the batch takes half of the steps; far above it no fewer. B_crit
is fitted to the steps that were counted, and should be of the order of B_noise
(McCandlish et al., arXiv:1812.06162, eqs. 2.6, 2.11 and D.1).

This is no independent proof: without any noise the steps go as 1/η(B), which has the
same form. What is seen is that rates as large as η(B) lose nothing to the noise.

    python -m experiments.noise_scale
    python -m experiments.noise_scale --dataset mnist
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

import fnn
from experiments.shared import answers, command_line, problem, run_folder
from experiments.shared.figures import OKABE_ITO, STYLE, draw_mean_and_range
from experiments.shared.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.noise_scale"
LOSS = fnn.losses.SoftmaxCrossEntropy()
WATCHED = 5000  # images whose loss says when a run has reached its target


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        dataset: the images; all other defaults are those for this dataset.
        data_dir: folder of MNIST's files; else FNN_DATA_DIR, or the user's cache.
        hidden: units of the hidden layer.
        batch_sizes: B.
        target: the training loss that ends a run.
        learning_rate: η_max, of plain descent.
        steps: the most steps of a run.
        seeds: how many runs for each B.
        out: a new folder for the results; else the next free one below runs/.
    """

    dataset: Literal["digits", "mnist"] = "digits"
    data_dir: Path | None = None
    hidden: int = 32
    batch_sizes: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    target: float = 0.2
    learning_rate: float = 1.0
    steps: int = 3000
    seeds: int = 3
    out: Path | None = None


#: The defaults for each dataset.
PRESETS = {
    "digits": Config(),
    "mnist": Config(
        "mnist", batch_sizes=(32, 64, 128, 256, 512, 1024), target=0.35, steps=2000
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the noise scale, and count the steps of several batch sizes."""
    with command_line.plain_errors(PROG):
        config = command_line.parse_with_presets(
            PRESETS, "dataset", argv, prog=PROG, description=__doc__
        )
        command_line.require_at_least(config, steps=10, seeds=1, hidden=1)
        if len(config.batch_sizes) < 2 or min(config.batch_sizes) < 1:
            raise ValueError("batch_sizes must be two or more, each at least 1")
        images, labels = problem.load_dataset(config).train
        folder = run_folder.create(config.out, "noise_scale")
    train = jnp.asarray(images), jnp.asarray(labels)
    net = fnn.serial(fnn.Flatten(), fnn.Dense(config.hidden), fnn.Tanh(), fnn.Dense(10))
    losses, scales = noise_over_a_run(net, train, config)
    until = max(1, int((losses > config.target).sum()))
    b_noise = float(np.median(scales[:until]))
    numbers: list[dict] = [
        {"b_noise": b_noise, "losses": losses.tolist(), "scales": scales.tolist()}
    ]
    for size in config.batch_sizes:
        steps = steps_to_target(net, train, config, size, b_noise)
        numbers.append({"batch_size": size, "steps": steps.tolist()})
    s_min, b_crit = fitted(numbers[1:])
    out = console()
    rows = [(n["batch_size"], *n["steps"]) for n in numbers[1:]]
    seeds = [f"steps, seed {seed}" for seed in range(config.seeds)]
    out.print(table(("B", *seeds), rows))
    if np.isnan(s_min):
        sentence = (
            f"Fewer than two batch sizes reach a loss of {config.target} within "
            f"{config.steps} steps: nothing can be fitted. Raise --steps or --target."
        )
        pictures = {}
    else:
        pictures = {"noise_scale": draw(numbers, s_min, b_crit, config)}
        sentence = conclude(numbers, s_min, b_crit)
    answers.save_and_print(out, folder, config, numbers, pictures, sentence)
    return 0


def noise_over_a_run(
    net: fnn.Layer, train: tuple[jax.Array, jax.Array], config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss and B_noise, of all examples, over full-batch descent."""
    found = fnn.per_example.signal_noise(net, LOSS)
    gradient = fnn.value_and_grad(net, LOSS)
    rate, x = config.learning_rate, train[0]

    @jax.jit  # the images are an argument: constants would be part of the program
    def run(variables: fnn.Variables, train: tuple) -> tuple[jax.Array, jax.Array]:
        def step(variables: fnn.Variables, _: None) -> tuple[fnn.Variables, tuple]:
            out = gradient(variables, train)
            signal, noise = found(variables, train)
            # Estimates for data of which these are a sample; here they are all.
            scale = noise / (signal + noise / len(x))
            params = jax.tree.map(
                lambda p, g: p - rate * g, variables.params, out.grads
            )
            return variables._replace(params=params), (out.loss, scale)

        return jax.lax.scan(step, variables, length=min(config.steps, 150))[1]

    losses, scales = run(net.init(jax.random.key(0), x.shape[1:]), train)
    return np.asarray(losses), np.asarray(scales)


def steps_to_target(
    net: fnn.Layer,
    train: tuple[jax.Array, jax.Array],
    config: Config,
    size: int,
    b_noise: float,
) -> np.ndarray:
    """Return how many steps of this batch size each seed needs; NaN for too many."""
    gradient = fnn.value_and_grad(net, LOSS)
    rate = config.learning_rate / (1 + b_noise / size)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def run(seed: jax.Array, train: tuple) -> jax.Array:
        x, y = train

        def step(state: tuple, key: jax.Array) -> tuple[tuple, jax.Array]:
            variables, average = state
            drawn = jax.random.randint(key, (size,), 0, len(x))
            grads = gradient(variables, (x[drawn], y[drawn])).grads
            params = jax.tree.map(lambda p, g: p - rate * g, variables.params, grads)
            variables = variables._replace(params=params)
            outputs = net.forward(*variables, x[:WATCHED]).y
            loss = LOSS.value(outputs, y[:WATCHED])
            average = 0.8 * average + 0.2 * loss  # one lucky step does not count
            return (variables, average), average

        first, rest = jax.random.split(jax.random.fold_in(jax.random.key(1), seed))
        start = net.init(first, x.shape[1:]), jnp.asarray(2.3)
        return jax.lax.scan(step, start, jax.random.split(rest, config.steps))[1]

    curves = np.asarray(run(jnp.arange(config.seeds), train))
    reached = curves < config.target
    return np.where(reached.any(1), reached.argmax(1) + 1.0, np.nan)


def fitted(numbers: list[dict]) -> tuple[float, float]:
    """Fit S_min and B_crit to the steps: a line in 1/B, each point by its own size."""
    pairs = [
        (n["batch_size"], s) for n in numbers for s in n["steps"] if np.isfinite(s)
    ]
    if len({size for size, _ in pairs}) < 2:
        return float("nan"), float("nan")
    sizes, steps = np.array(pairs, float).T
    columns = np.stack([1 / steps, 1 / (sizes * steps)], axis=1)
    s_min, slope = np.linalg.lstsq(columns, np.ones(len(steps)), rcond=None)[0]
    return float(s_min), float(slope / s_min)


def conclude(numbers: list[dict], s_min: float, b_crit: float) -> str:
    """Return the sentence that answers the question."""
    b_noise, scales = numbers[0]["b_noise"], numbers[0]["scales"]
    ratio = b_crit / b_noise
    verdict = "of the order of" if 1 / 4 < ratio < 4 else "not of the order of"
    return (
        f"The noise scale grows from {_about(min(scales))} to {_about(max(scales))} "
        f"examples over the run, with a median of {_about(b_noise)} up to the target; "
        f"the counted steps give S_min = {s_min:.0f} and B_crit = {_about(b_crit)}, "
        f"{verdict} that ({ratio:.2g} times): batches much larger than "
        f"{_about(b_crit)} waste examples."
    )


def _about(count: float) -> str:
    """Return a number of examples with two digits that count."""
    return f"{float(f'{count:.2g}'):,.0f}"


def draw(numbers: list[dict], s_min: float, b_crit: float, config: Config) -> Figure:
    """Draw the noise scale over the run, and the steps by batch size."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.4))
        left, right = figure.subplots(1, 2)
        losses, scales = (np.array(numbers[0][n]) for n in ("losses", "scales"))
        left.plot(np.arange(1, len(scales) + 1), scales)
        reached = np.flatnonzero(losses <= config.target)
        if len(reached):
            left.axvline(reached[0] + 1, color="grey", linestyle=":")
        left.set(xlabel="step of full-batch descent", ylabel="B_noise", yscale="log")
        sizes = np.array([n["batch_size"] for n in numbers[1:]])
        steps = np.array([n["steps"] for n in numbers[1:]]).T
        draw_mean_and_range(right, sizes, steps, marker="o", label="counted")
        line = s_min * (1 + b_crit / sizes)
        style = dict(color=OKABE_ITO["vermilion"], linestyle="--")
        right.plot(sizes, line, label="S_min (1 + B_crit/B)", **style)
        right.axvline(numbers[0]["b_noise"], color="grey", linestyle=":")
        right.set(xscale="log", yscale="log", xlabel="B (dotted: B_noise)",
                  ylabel=f"steps to a loss of {config.target}")  # fmt: skip
        right.legend()
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
