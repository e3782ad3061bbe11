"""What does a gradient check cost, against one backpropagation?

Two losses J for each of P weights are 2P forwards; a backpropagation is about three,
however many weights there are. Along M random unit vectors v it takes 2M forwards to
hold the slope (J(θ + hv) − J(θ − hv)) / 2h against ∇J·v:

    full check      2P forwards     ≈ ⅔ P backpropagations
    M directions    2M forwards     ≈ ⅔ M backpropagations, and M P random numbers

The full check is timed twice: many weights at a time under `vmap`, and one by one, in a
loop over some of the weights whose time is scaled up to all. The directions say that a
gradient is wrong, not where: a mistake is planted, the sign of one weight's derivative,
the largest, to see whether it stands out of their error.

All is in float64, where differences have digits to spare. Programs are compiled first;
then those of all networks take turns, so that whatever else the machine does hits all
of them, and ratios are taken and lines fitted within a round.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.progress import track

import fnn
from experiments import answers, command_line, runs
from experiments.figures import OKABE_ITO, STYLE
from experiments.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.cost_of_checking"
BACK, CHEAP, FULL, LOOP = "backpropagation", "directions", "full check", "one by one"
LOSS = fnn.losses.SigmoidCrossEntropy()
SAMPLE = 64  # weights that are really differenced one by one
STEP = float(np.finfo(float).eps) ** (1 / 3)
LEAST = 0.02  # seconds: a timing repeats its run for so long


@dataclass(frozen=True)
class Config:
    """What a run depends on.

    Attributes:
        hidden: sigmoid units in the hidden layer, one network for each number.
        examples: images in the batch.
        directions: random directions of the cheap check.
        rounds: in each of which every program is timed once.
        out: a new folder for the results; else the next free one below runs/.
    """

    hidden: tuple[int, ...] = (4, 12, 36, 108, 256)
    examples: int = 64
    directions: int = 8
    rounds: int = 7
    out: Path | None = None


class Errors(NamedTuple):
    """Of the checks, relative to the size of what they check.

    `full` and `cheap` when the gradient is right, `planted` when one sign is wrong and
    the directions are random.
    """

    full: float
    cheap: float
    planted: float


class Measured(NamedTuple):
    """One network: its weights, the seconds of each program in each round, errors."""

    weights: int
    seconds: dict[str, list[float]]
    errors: Errors


def main(argv: Sequence[str] | None = None) -> int:
    """Time the checks and backpropagation for networks of growing size."""
    description = (__doc__ or "").partition("\n")[0]
    with command_line.plain_errors(PROG):
        config = command_line.options(Config(), argv, PROG, description)
        command_line.at_least(config, examples=1, directions=1, rounds=2)
        sizes = sorted(set(config.hidden))
        if len(sizes) < 2 or sizes[0] < 1:
            raise ValueError(
                "hidden must be two or more different numbers, each at least 1, to fit "
                f"a line, got {' '.join(map(str, config.hidden)) or 'none'}"
            )
        folder = runs.new_folder(config.out, "cost_of_checking")
    out = console()
    with jax.enable_x64(True):
        problems = [problem(h, config) for h in track(sizes, "compiling", console=out)]
        rounds = track(range(config.rounds), "timing", console=out)
        found = in_turns(problems, rounds)
    out.print("Milliseconds, median ± half the interquartile range:")
    rows = [(f"{m.weights:,}", *map(shown, m.seconds.values())) for m in found]
    out.print(table(("weights", *found[0].seconds), rows))
    numbers = [m._asdict() | {"errors": m.errors._asdict()} for m in found]
    picture = {"times": draw(found, config.directions)}
    conclusion = conclude(found, config.directions)
    answers.give(out, folder, config, numbers, picture, conclusion)
    return 0


class Problem(NamedTuple):
    """What to time for one network: programs, and by what to multiply their time."""

    weights: int
    programs: dict[str, Callable[[], Any]]
    scale: dict[str, float]
    errors: Errors


def problem(hidden: int, config: Config) -> Problem:
    """The programs for a network with that many hidden units, and what they find."""
    (x, y), _ = fnn.data.digits()
    batch = jnp.asarray(x[: config.examples], float), jnp.asarray(y[: config.examples])
    net = fnn.serial(fnn.Flatten(), fnn.Dense(hidden), fnn.Sigmoid(), fnn.Dense(10))
    start = net.init(jax.random.key(0), x.shape[1:])
    theta, unravel = ravel_pytree(jax.tree.map(lambda p: p.astype(float), start.params))
    objective = fnn.objective(net, LOSS, start, batch)
    gradients = fnn.value_and_grad(net, LOSS)

    def f(theta: jax.Array) -> jax.Array:
        return objective(unravel(theta))

    @jax.jit
    def back(theta: jax.Array) -> jax.Array:
        variables = start._replace(params=unravel(theta))
        return ravel_pytree(gradients(variables, batch).grads)[0]

    @jax.jit
    def cheap(theta: jax.Array, grads: jax.Array) -> tuple[jax.Array, jax.Array]:
        how = dict(key=jax.random.key(1), directions=config.directions)
        return fnn.directional_derivatives(f, theta, grads, **how)

    @jax.jit
    def full(theta: jax.Array) -> jax.Array:
        return fnn.numerical_gradients(f, theta)

    @jax.jit
    def one(theta: jax.Array, i: jax.Array) -> jax.Array:
        above, below = theta.at[i].add(STEP), theta.at[i].add(-STEP)
        return (f(above) - f(below)) / (2 * STEP)

    grads = back(theta)
    some = np.linspace(0, theta.size - 1, min(SAMPLE, theta.size)).astype(int)
    programs = {
        BACK: lambda: back(theta),
        CHEAP: lambda: cheap(theta, grads),
        FULL: lambda: full(theta),
        LOOP: lambda: [one(theta, i).block_until_ready() for i in some],
    }
    largest = jnp.abs(grads).argmax()
    planted = grads.at[largest].multiply(-1)
    errors = Errors(
        float(jnp.abs(full(theta) - grads).max() / jnp.abs(grads).max()),
        *(along(*cheap(theta, g)) for g in (grads, planted)),
    )
    return Problem(theta.size, programs, {LOOP: theta.size / len(some)}, errors)


def along(numerical: jax.Array, claimed: jax.Array) -> float:
    """The largest error of the slopes, relative to the largest slope."""
    return float(jnp.abs(numerical - claimed).max() / jnp.abs(numerical).max())


def in_turns(problems: list[Problem], rounds: Iterable[Any]) -> list[Measured]:
    """Time every program of every network once a round."""
    found = [
        Measured(p.weights, {n: [] for n in p.programs}, p.errors) for p in problems
    ]
    jobs = []
    for p, m in zip(problems, found, strict=True):
        for name, run in p.programs.items():
            clocked(run, 1)  # compiles
            calls = max(1, round(LEAST / clocked(run, 1)))
            jobs.append((run, calls, p.scale.get(name, 1), m.seconds[name]))
    for _ in rounds:
        for run, calls, scale, seconds in jobs:
            seconds.append(scale * clocked(run, calls))
    return found


def clocked(run: Callable[[], Any], calls: int) -> float:
    """Seconds that a call takes, the mean of several."""
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(run())
    return (time.perf_counter() - start) / calls


def shown(seconds: Sequence[float]) -> str:
    """The median, and half the distance of the quartiles, in milliseconds."""
    low, middle, high = 1e3 * quartiles(np.array(seconds))
    pair = middle, (high - low) / 2
    return " ± ".join(f"{v:,.0f}" if v >= 100 else f"{v:.2g}" for v in pair)


def quartiles(values: np.ndarray) -> np.ndarray:
    """The lower, the median and the upper, over the last axis: the rounds."""
    return np.quantile(values, (0.25, 0.5, 0.75), axis=-1)


def ratios(found: list[Measured], over: str, under: str = BACK) -> np.ndarray:
    """How many times as long, for each network and round, within the round."""
    return np.array([np.divide(m.seconds[over], m.seconds[under]) for m in found])


def exponents(found: list[Measured], way: str) -> np.ndarray:
    """Quartiles of the p of ratio ∝ Pᵖ, a line fitted to the logarithms each round."""
    weights = np.log([m.weights for m in found])
    return quartiles(np.polyfit(weights, np.log(ratios(found, way)), 1)[0])


def conclude(found: list[Measured], directions: int) -> str:
    """The sentence."""

    def growth(way: str) -> str:
        low, middle, high = exponents(found, way)
        first, *_, last = quartiles(ratios(found, way))[1]
        power = f"as P^{middle:.2f}, quartiles {low:.2f} and {high:.2f}"
        return f"{first:,.0f} to {last:,.0f} backpropagations ({power})"

    gain = float(np.median(ratios(found, LOOP, FULL)))
    noticed = sum(m.errors.planted > 100 * m.errors.cheap for m in found)
    return (
        f"From P = {found[0].weights:,} to {found[-1].weights:,} weights a full check "
        f"takes {growth(FULL)}; {directions} random directions take {growth(CHEAP)} "
        f"and notice one wrong sign in {noticed} of {len(found)} networks; one by one "
        f"instead of under vmap the full check takes {gain:.1f} times as long."
    )


def draw(found: list[Measured], directions: int) -> Figure:
    """Times, and how many backpropagations they are: medians, ranges, and theory."""
    looks = {FULL: ("vermilion", "s", "-"), LOOP: ("black", "x", ":")}
    looks |= {CHEAP: ("green", "^", "-"), BACK: ("blue", "o", "-")}
    weights = np.array([m.weights for m in found])

    def curve(axes: Axes, values: np.ndarray, way: str, label: str | None) -> None:
        low, middle, high = quartiles(values)
        colour, marker, line = looks[way]
        style = dict(color=OKABE_ITO[colour], marker=marker, ls=line, ms=5, capsize=3)
        axes.errorbar(
            weights, middle, (middle - low, high - middle), label=label, **style
        )

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 4))
        left, right = figure.subplots(1, 2)
        for way in looks:
            times = 1e3 * np.array([m.seconds[way] for m in found])
            curve(left, times, way, way)
        theory = {FULL: 2 / 3 * weights, CHEAP: np.full(len(found), 2 / 3 * directions)}
        for way, expected in theory.items():
            times = ratios(found, way)
            curve(right, times, way, None)
            label = "⅔P and ⅔M" if way == FULL else None
            right.plot(weights, expected, "--", color="0.3", lw=1.2, label=label)
            power = f"$\\propto P^{{{exponents(found, way)[1]:.2f}}}$"
            at = weights[0], 2 * quartiles(times)[2, 0]
            right.annotate(power, at, color=OKABE_ITO[looks[way][0]])
        rounds = len(found[0].seconds[BACK])
        left.set(ylabel="time (ms)", title=f"median and quartiles, {rounds} rounds")
        right.set(ylabel="ratio", title="time / time of a backpropagation")
        for axes in (left, right):
            axes.set(xscale="log", yscale="log", xlabel="weights P")
        figure.legend(loc="outside upper center", ncols=5, columnspacing=1.5)
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
