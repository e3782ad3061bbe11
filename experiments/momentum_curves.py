"""Momentum: which loss curve is gradient descent, which has momentum 0.5, which 0.9?

    v ← βv − αg,    θ ← θ + v        β = 0 is gradient descent

The same learning rate α, the same start, and all training examples in every step, so
that nothing but β differs. While a gradient keeps its direction, v grows towards
−αg/(1 − β): steps 1/(1 − β) times as long. Two things can be read from a curve:

    gain     how many times sooner than gradient descent it is below the loss at which
             gradient descent ends, and stays there
    rises    at how many steps the loss goes up, by more than rounding

Along an axis of curvature c, θ follows r² − (1 + β − αc) r + β = 0. Where αc is more
than (1 − √β)² its roots are complex, and θ swings through the minimum: with much
momentum even along the shallow axis of a valley. See G. Goh, "Why momentum really
works", Distill 2017.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from rich.progress import track

import fnn
from experiments import answers, command_line, runs
from experiments.figures import OKABE_ITO, STYLE
from experiments.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.momentum_curves"
#: For each β its colour, and dashes that tell it in grey too.
LOOKS = {0.0: ("black", "--"), 0.5: ("blue", "-."), 0.9: ("vermilion", "-")}
NAMES = {0.0: "gradient descent", 0.5: "momentum 0.5", 0.9: "momentum 0.9"}
#: A smaller rise, relative to the loss, may be rounding in float32.
ROUNDING = 1e-5
#: How many times sooner a curve must be to be told from another by its speed.
CLEARLY = 1.2


@dataclass(frozen=True)
class Config:
    """What a run depends on.

    Attributes:
        steps: of each descent.
        condition_number: κ, how much steeper the valley is across than along.
        valley_rate: α in the valley, where gradient descent diverges above 2/κ.
        digits_rate: α on the digits.
        hidden: units of the hidden layer of the network for the digits.
        seeds: how many, from 0 on; they decide where on the digits to start.
        out: a new folder for the results; else the next free one below runs/.
    """

    steps: int = 200
    condition_number: float = 100.0
    valley_rate: float = 0.005
    digits_rate: float = 0.1
    hidden: int = 32
    seeds: int = 5
    out: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Descend three times in the valley and on the digits, and compare the curves."""
    description = (__doc__ or "").partition("\n")[0]
    with command_line.plain_errors(PROG):
        config = command_line.options(Config(), argv, PROG, description)
        command_line.at_least(config, steps=2, seeds=2)
        valley = fnn.data.ill_conditioned_bowl(config.condition_number)
        if not 0 < config.valley_rate < 2 / config.condition_number:
            raise ValueError(
                "gradient descent in the valley converges for a valley_rate from 0 to "
                f"2/κ = {2 / config.condition_number:g}, got {config.valley_rate:g}"
            )
        on_digits(0.0, config, seed=0, steps=0)  # checks the options
        folder = runs.new_folder(config.out, "momentum_curves")
    out = console()
    paths = {beta: descend(valley, beta, config) for beta in LOOKS}
    in_valley = {beta: np.asarray(jax.vmap(valley.f)(p)) for beta, p in paths.items()}
    losses = {"valley": {beta: loss[None] for beta, loss in in_valley.items()}}
    losses["digits"] = {beta: np.zeros((config.seeds, config.steps)) for beta in LOOKS}
    jobs = list(product(LOOKS, range(config.seeds)))
    for beta, seed in track(jobs, "descending", console=out):
        losses["digits"][beta][seed] = on_digits(beta, config, seed, config.steps)
    numbers = [line for name in losses for line in measured(name, losses[name])]
    rows = [
        (f"{name}, {NAMES[beta]}", f"{gain:.1f}", f"{rises:g}")
        for name in losses
        for beta, (gain, rises) in means(numbers, name).items()
    ]
    out.print(table(("curve", "times as soon", "steps that rise"), rows))
    picture = {"curves": draw(paths, losses, config)}
    answers.give(out, folder, config, numbers, picture, conclude(numbers))
    return 0


# ---- Descents --------------------------------------------------------------------


def descend(target: fnn.data.Target, beta: float, config: Config) -> np.ndarray:
    """The path (steps, dim) in the valley, from its start on."""
    optimizer = fnn.optimizers.sgd(config.valley_rate, momentum=beta)

    def step(carry: tuple, _: None) -> tuple:
        theta, state = carry
        update, new_state = optimizer.update(jax.grad(target.f)(theta), state, theta)
        return (theta + update, new_state), theta

    start = jnp.asarray(target.start)
    carry = start, optimizer.init(start)
    return np.asarray(jax.lax.scan(step, carry, length=config.steps)[1])


def on_digits(beta: float, config: Config, seed: int, steps: int) -> np.ndarray:
    """The training loss before each step; an epoch is one step on all examples."""
    train = fnn.data.digits().train
    result = fnn.fit(
        fnn.serial(
            *(fnn.Flatten(), fnn.Dense(config.hidden), fnn.Tanh(), fnn.Dense(10))
        ),
        fnn.losses.SoftmaxCrossEntropy(),
        fnn.optimizers.sgd(config.digits_rate, momentum=beta),
        train=train,
        key=jax.random.key(seed),
        epochs=steps,
        batch_size=len(train[1]),
    )
    if result.stopped == "diverged":
        raise SystemExit(
            f"{PROG}: error: {NAMES[beta]} diverged on the digits with digits_rate="
            f"{config.digits_rate:g}: give a smaller --digits-rate"
        )
    return result.history["train_loss"]


# ---- What the curves say ---------------------------------------------------------


def measured(problem: str, losses: dict[float, np.ndarray]) -> list[dict]:
    """Gain and rises of every seed, from the losses (seeds, steps) of each β."""
    numbers = []
    for beta, curves in losses.items():
        for seed, (loss, plain) in enumerate(zip(curves, losses[0.0], strict=True)):
            line = {"problem": problem, "momentum": beta, "seed": seed}
            line["gain"] = (len(plain) - 1) / arrival(loss, plain[-1])
            rises = np.diff(loss) > ROUNDING * loss[:-1]
            numbers.append(line | {"rises": int(rises.sum()), "loss": loss.tolist()})
    return numbers


def arrival(loss: np.ndarray, goal: float) -> float:
    """The step from which on the loss is at the goal or below; inf if there is none."""
    above = np.flatnonzero(loss > goal)
    if not len(above):
        return 1  # from the start: an answer that can be divided by
    return math.inf if above[-1] == len(loss) - 1 else float(above[-1] + 1)


def means(numbers: list[dict], problem: str) -> dict[float, tuple[float, float]]:
    """Gain and rises of each β, averaged over the seeds."""
    read = {beta: [] for beta in LOOKS}
    for line in numbers:
        if line["problem"] == problem:
            read[line["momentum"]].append((line["gain"], line["rises"]))
    return {beta: tuple(np.mean(r, axis=0).tolist()) for beta, r in read.items()}


def conclude(numbers: list[dict]) -> str:
    """The sentence."""
    valley, digits = (
        told_apart(means(numbers, problem)) for problem in ("valley", "digits")
    )
    seeds = len({line["seed"] for line in numbers})
    return (
        f"In the valley the three curves are told apart {valley}; on the digits (means "
        f"of {seeds} seeds) {digits}."
    )


def told_apart(read: dict[float, tuple[float, float]]) -> str:
    """By speed, if each is clearly sooner than the one before; by who rises most."""
    slowest_first = sorted((gain, NAMES[beta]) for beta, (gain, _) in read.items())
    gains = ", ".join(f"{name} ×{gain:.1f}" for gain, name in slowest_first)
    clear = all(b > CLEARLY * a for (a, _), (b, _) in pairwise(slowest_first))
    rises, wildest = max((rises, NAMES[beta]) for beta, (_, rises) in read.items())
    speed = f"by speed ({gains})" if clear else f"not by speed ({gains})"
    if rises == 0:
        return f"{speed}, and no loss ever rises"
    return f"{speed} and by oscillation ({wildest} rises most: at {rises:g} steps)"


def draw(
    paths: dict[float, np.ndarray],
    losses: dict[str, dict[float, np.ndarray]],
    config: Config,
) -> Figure:
    """The paths in the valley, the losses there, and the losses on the digits."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.6))
        places = figure.subplots(1, 3)
        draw_paths(places[0], paths, config.condition_number)
        # Each curve is the mean of its seeds, in a band from the least to the greatest.
        for axes, curves in zip(places[1:], losses.values(), strict=True):
            for beta, loss in curves.items():
                colour, dashes = OKABE_ITO[LOOKS[beta][0]], LOOKS[beta][1]
                axes.plot(
                    loss.mean(0), color=colour, ls=dashes, lw=1.6, label=NAMES[beta]
                )
                band = loss.min(0), loss.max(0)
                axes.fill_between(
                    range(config.steps), *band, color=colour, alpha=0.25, lw=0
                )
            axes.set(yscale="log", xlabel="step")
        valley, digits = places[1:]
        valley.set(ylabel="loss f(θ)", title=f"valley, α = {config.valley_rate:g}")
        digits.set(ylabel="training loss (nats per example)")
        digits.set_title(
            f"digits, α = {config.digits_rate:g} (band: {config.seeds} seeds)"
        )
        digits.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        digits.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        digits.yaxis.set_minor_formatter(NullFormatter())
        handles = digits.get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=3, handlelength=3.5)
    return figure


def draw_paths(axes, paths: dict[float, np.ndarray], condition_number: float) -> None:
    """Where each descent goes, over the contours of the valley."""
    along, across = np.mgrid[-0.25:1.1:200j, -1.1:1.1:200j]
    height = (along**2 + condition_number * across**2) / 2
    levels = condition_number / 2 * np.linspace(0.05, 1.1, 8) ** 2
    axes.contour(along, across, height, levels, colors="0.8", linewidths=0.8)
    for beta, path in paths.items():
        colour, dashes = LOOKS[beta]
        axes.plot(*path.T, color=OKABE_ITO[colour], linestyle=dashes, lw=1.3)
    axes.plot(*path[0], "o", color="black", ms=5)
    axes.plot(0, 0, "*", color="black", ms=10)
    for name, place, above in (("start", path[0], 9), ("minimum", (0, 0), 28)):
        axes.annotate(name, place, (0, above), textcoords="offset points", ha="center")
    axes.set(xlabel="θ₁, along the valley", ylabel="θ₂, across it")
    axes.set(ylim=(-1.1, 1.25), title=f"paths in the valley, κ = {condition_number:g}")
    axes.grid(visible=False)


if __name__ == "__main__":
    raise SystemExit(main())
