"""Momentum: which loss curve is gradient descent, which has momentum 0.5, which 0.9?

    v ← βv − αg,    θ ← θ + v        β = 0 is gradient descent

Only β differs: learning rate α and start are the same, and every step uses all training
examples. While a gradient keeps its direction, v grows towards −αg/(1 − β): steps
1/(1 − β) times as long. Two numbers are read from a curve:

    gain     how many times sooner than gradient descent it falls below the loss at
             which gradient descent ends, and stays there; 0 if it never does
    rises    at how many steps the loss rises, by more than rounding

Along an axis of curvature c, θ follows r² − (1 + β − αc) r + β = 0. Where αc is more
than (1 − √β)² its roots are complex, and θ swings through the minimum: with much
momentum even along the shallow axis of a valley. See G. Goh, "Why momentum really
works", Distill 2017.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

import fnn
from experiments.shared import answers, command_line, run_folder
from experiments.shared.figures import (
    OKABE_ITO,
    STYLE,
    draw_mean_and_range,
    use_plain_log_scale,
)
from experiments.shared.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.momentum_curves"
#: The line of each β; dashes distinguish them in grey too.
CURVES = {
    0.0: dict(label="gradient descent", color=OKABE_ITO["black"], linestyle="--"),
    0.5: dict(label="momentum 0.5", color=OKABE_ITO["blue"], linestyle="-."),
    0.9: dict(label="momentum 0.9", color=OKABE_ITO["vermilion"], linestyle="-"),
}
#: A smaller rise, relative to the loss, may be rounding in float32.
ROUNDING = 1e-5
#: Curves can be told apart by speed if each is this many times sooner than the next.
CLEARLY = 1.2


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        steps: of each descent.
        condition_number: κ of the valley, where α is 1/2κ (above 2/κ it diverges).
        learning_rate: α on the digits.
        seeds: how many, from 0 on; they decide the initial parameters on the digits.
        out: a new folder for the results; else the next free one below runs/.
    """

    steps: int = 200
    condition_number: float = 100.0
    learning_rate: float = 0.1
    seeds: int = 5
    out: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Descend three times in the valley and on the digits, and compare the curves."""
    with command_line.plain_errors(PROG):
        config = command_line.parse(Config(), argv, PROG, __doc__)
        command_line.require_at_least(config, steps=2, seeds=2)
        valley = fnn.data.ill_conditioned_bowl(config.condition_number)
        fnn.optimizers.sgd(config.learning_rate)  # checks it
        folder = run_folder.create(config.out, "momentum_curves")
    out = console()
    paths = [descend(valley, beta, config) for beta in CURVES]
    heights = [jax.vmap(valley.f)(path)[None] for path in paths]
    with out.status("descending on the digits"):
        losses = descend_on_digits(config)
    numbers = measure("valley", heights) + measure("digits", losses)
    rows = [
        (f"{n['problem']}, {n['curve']}", *np.mean([n["gain"], n["rises"]], 1).round(1))
        for n in numbers
    ]
    out.print(table(("curve", "times as soon", "steps that rise"), rows))
    picture = {"curves": draw(paths, numbers, config)}
    answers.save_and_print(out, folder, config, numbers, picture, conclude(numbers))
    return 0


def descend(valley: fnn.data.Target, beta: float, config: Config) -> np.ndarray:
    """Descend in the valley, and return the path (steps, 2) with its start."""
    optimizer = fnn.optimizers.sgd(1 / (2 * config.condition_number), momentum=beta)
    path, gradient = [jnp.asarray(valley.start)], jax.jit(jax.grad(valley.f))
    state = optimizer.init(path[0])
    for _ in range(config.steps - 1):
        update, state = optimizer.update(gradient(path[-1]), state, path[-1])
        path.append(path[-1] + update)
    return np.array(path)


def descend_on_digits(config: Config) -> np.ndarray:
    """Return the training losses (β, seeds, steps), each before a step."""
    net = fnn.serial(fnn.Flatten(), fnn.Dense(32), fnn.Tanh(), fnn.Dense(10))
    loss, (train, _) = fnn.losses.SoftmaxCrossEntropy(), fnn.data.digits()

    def build(momentum: float) -> tuple:
        return net, loss, fnn.optimizers.sgd(config.learning_rate, momentum)

    swept = fnn.sweep(
        build,
        {"momentum": list(CURVES)},
        train=train,
        keys=jax.random.split(jax.random.key(0), config.seeds),
        epochs=config.steps,
        batch_size=len(train[1]),
    )
    losses = swept.history["train_loss"]
    if not (losses[..., -1] < losses[..., 0]).all():  # nor with a NaN
        raise SystemExit(f"{PROG}: error: no descent: give a smaller --learning-rate")
    return losses


def measure(problem: str, losses: Sequence[np.ndarray]) -> list[dict]:
    """Measure gain and rises: a line for each β, from its losses (seeds, steps)."""
    numbers, goal = [], losses[0][:, -1:]  # where gradient descent ends
    for style, loss in zip(CURVES.values(), losses, strict=True):
        last = loss.shape[1] - 1
        arrival = np.where(loss > goal, np.arange(1, last + 2), 1).max(1)  # for good
        gain = np.where(arrival > last, 0, last / arrival)
        rises = (np.diff(loss) > ROUNDING * loss[:, :-1]).sum(1)
        line = {"problem": problem, "curve": style["label"], "gain": gain.tolist()}
        numbers.append(line | {"rises": rises.tolist(), "loss": loss.tolist()})
    return numbers


def conclude(numbers: list[dict]) -> str:
    """Return the sentence that answers the question."""
    parts = []
    for problem, where in (("valley", "in the valley"), ("digits", "on the digits")):
        curves = [n for n in numbers if n["problem"] == problem]
        slowest_first = sorted((np.mean(n["gain"]), n["curve"]) for n in curves)
        clear = all(b > CLEARLY * a for (a, _), (b, _) in pairwise(slowest_first))
        gains = ", ".join(f"{name} ×{gain:.1f}" for gain, name in slowest_first)
        speed = f"{'' if clear else 'not '}by speed ({gains})"
        rises, wildest = max((np.mean(n["rises"]), n["curve"]) for n in curves)
        oscillation = f"by oscillation ({wildest} rises most: at {rises:g} steps)"
        no_rise = "no loss ever rises"
        parts.append(f"{where} {speed} and {oscillation if rises else no_rise}")
    seeds = len(numbers[-1]["gain"])
    return f"The curves are told apart {'; '.join(parts)} (means of {seeds} seeds)."


def draw(paths: list[np.ndarray], numbers: list[dict], config: Config) -> Figure:
    """Draw the paths in the valley, the losses there, and those on the digits."""
    kappa, styles = config.condition_number, CURVES.values()
    x, y = np.mgrid[-0.25:1.1:200j, -1.1:1.25:200j]
    height = np.sqrt(x**2 / kappa + y**2)
    with matplotlib.rc_context(STYLE | {"lines.linewidth": 1.5}):
        figure = Figure(figsize=(10, 3.6))
        plane, valley, digits = figure.subplots(1, 3)
        plane.contourf(x, y, height, 12, cmap="Greys", vmax=4)
        for path, style in zip(paths, styles, strict=True):
            plane.plot(*path.T, **style)
        plane.plot(1, 1, "ko", markersize=5)
        plane.text(1, 1.1, "start", ha="center")
        plane.plot(0, 0, "k*", markersize=10)
        plane.text(0, 0.35, "minimum", ha="center")
        plane.set(xlabel="θ₁, along the valley", ylabel="θ₂, across it")
        plane.set_title(f"paths in a valley, κ = {kappa:g}")
        plane.grid(visible=False)
        lines = product((valley, digits), styles)
        for n, (axes, style) in zip(numbers, lines, strict=True):
            loss = np.array(n["loss"])
            draw_mean_and_range(axes, range(config.steps), loss, **style)
        valley.set(yscale="log", xlabel="step", ylabel="loss f(θ)")
        valley.set_title("in the valley, α = 1/2κ")
        digits.set(xlabel="step", ylabel="training loss (nats per example)")
        band = f"(band: {config.seeds} seeds)"
        digits.set_title(f"on digits, α = {config.learning_rate:g} {band}")
        use_plain_log_scale(digits)
        handles = digits.get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=3, handlelength=3.5)
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
