"""What does a gradient check cost, against one backpropagation?

Two losses J for each of P weights are 2P forwards; a backpropagation costs about three,
for any number of weights. Along M random unit vectors v it takes 2M forwards to compare
the slope (J(θ + hv) − J(θ − hv)) / 2h with ∇J·v:

    full check      2P forwards     ≈ ⅔ P backpropagations
    M directions    2M forwards     ≈ ⅔ M backpropagations, and M P random numbers

The full check is timed twice: many weights at a time under `vmap`, and one by one, in a
loop over some of them, scaled up to all. The directions tell that a gradient is wrong,
but not where. To see whether they notice it, the largest derivative gets a wrong sign.
Everything is in float64. The programs take turns, and ratios and fits are within a
round, so that other work on the machine affects all of them alike.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from timeit import timeit
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure
from rich.progress import track

import fnn
from experiments.shared import answers, command_line, run_folder
from experiments.shared.figures import OKABE_ITO, STYLE
from experiments.shared.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.cost_of_checking"
FULL, LOOP, CHEAP, BACK = "full check", "one by one", "directions", "backpropagation"
#: Calls in one timing, which is their mean.
CALLS = {FULL: 1, LOOP: 1, CHEAP: 40, BACK: 400}
#: Weights in the loop that differences one by one.
SAMPLE = 64


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        networks: how many; they have 3, 9, 27, ... sigmoid units in the hidden layer.
        directions: random directions of the cheap check, M.
        rounds: of timing; in each, every program is timed once.
        out: a new folder for the results; else the next free one below runs/.
    """

    networks: int = 5
    directions: int = 8
    rounds: int = 7
    out: Path | None = None


class Network(NamedTuple):
    """A network to time.

    weights: how many, P.
    contrast: the error of the directions where one sign is wrong, divided by the error
        where none is.
    runs: the programs to time.
    """

    weights: int
    contrast: float
    runs: dict[str, Callable[[], Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Time the checks and backpropagation for networks of growing size."""
    with command_line.plain_errors(PROG):
        config = command_line.parse(Config(), argv, PROG, __doc__)
        command_line.require_at_least(config, networks=2, directions=1, rounds=2)
        folder = run_folder.create(config.out, "cost_of_checking")
    out = console()
    rounds = track(range(config.rounds + 1), "compiling, timing", console=out)
    with jax.enable_x64(True):
        networks = [build_network(3 ** (i + 1), config) for i in range(config.networks)]
        seconds = time_programs(networks, rounds)
    rows = [(k, *np.round(1e3 * np.median(s, 0), 2)) for k, s in seconds.items()]
    out.print(table(("median ms, P =", *(f"{n.weights:,}" for n in networks)), rows))
    numbers = [
        n._asdict() | {"runs": {k: s[:, i].tolist() for k, s in seconds.items()}}
        for i, n in enumerate(networks)
    ]
    picture = {"times": draw(networks, seconds, config.directions)}
    conclusion = conclude(networks, seconds, config.directions)
    answers.save_and_print(out, folder, config, numbers, picture, conclusion)
    return 0


def build_network(hidden: int, config: Config) -> Network:
    """Build a network with this many hidden units, and the programs to time."""
    (x, y), _ = fnn.data.digits()
    batch, loss = (x[:64].astype(float), y[:64]), fnn.losses.SigmoidCrossEntropy()
    net = fnn.serial(fnn.Flatten(), fnn.Dense(hidden), fnn.Sigmoid(), fnn.Dense(10))
    start = net.init(jax.random.key(0), x.shape[1:])
    params, f = start.params, fnn.objective(net, loss, start, batch)
    theta, unravel = ravel_pytree(params)

    @jax.jit
    def difference(theta: jax.Array, i: int, h: float = 6e-6) -> jax.Array:
        above, below = (f(unravel(theta.at[i].add(step))) for step in (h, -h))
        return (above - below) / (2 * h)

    options = dict(key=jax.random.key(1), directions=config.directions)
    cheap = jax.jit(lambda p, g: fnn.directional_derivatives(f, p, g, **options))
    full = jax.jit(lambda p: fnn.numerical_gradients(f, p))
    back = jax.jit(lambda v: fnn.value_and_grad(net, loss)(v, batch).grads)
    grads = back(start)
    programs = {
        FULL: lambda: jax.block_until_ready(full(params)),
        LOOP: lambda: [difference(theta, i).block_until_ready() for i in range(SAMPLE)],
        CHEAP: lambda: jax.block_until_ready(cheap(params, grads)),
        BACK: lambda: jax.block_until_ready(back(start)),
    }
    flat = ravel_pytree(grads)[0]
    planted = unravel(flat.at[abs(flat).argmax()].multiply(-1))
    wrong, right = (abs(np.subtract(*cheap(params, g))).max() for g in (planted, grads))
    return Network(theta.size, float(wrong / right), programs)


def time_programs(
    networks: Sequence[Network], rounds: Iterable
) -> dict[str, np.ndarray]:
    """Time all programs in turn: the seconds of each, of shape (rounds, networks)."""
    times = [
        [[timeit(n.runs[k], number=m) / m for k, m in CALLS.items()] for n in networks]
        for _ in rounds
    ]
    seconds = dict(zip(CALLS, np.moveaxis(times[1:], 2, 0), strict=True))  # 0 compiles
    seconds[LOOP] *= [n.weights / SAMPLE for n in networks]
    return seconds


def fit_power(networks: Sequence[Network], ratio: np.ndarray) -> np.ndarray:
    """Fit ratio ∝ Pᵖ to the logarithms of each round; return the quartiles of p."""
    x, y = np.log([n.weights for n in networks]), np.log(ratio.T)
    return np.quantile(np.polyfit(x, y, 1)[0], (0.25, 0.5, 0.75))


def conclude(networks: Sequence[Network], seconds: dict, directions: int) -> str:
    """Return the sentence that answers the question."""

    def growth(name: str) -> str:
        ratio = seconds[name] / seconds[BACK]
        first, *_, last = np.median(ratio, 0)
        low, middle, high = fit_power(networks, ratio)
        fit = f"as P^{middle:.2f}, quartiles {low:.2f} and {high:.2f}"
        return f"{first:,.0f} to {last:,.0f} backpropagations ({fit})"

    noticed = sum(n.contrast > 100 for n in networks)
    return (
        f"From P = {networks[0].weights:,} to {networks[-1].weights:,} weights a full "
        f"check takes {growth(FULL)}; {directions} random directions take "
        f"{growth(CHEAP)} and notice one wrong sign in {noticed} of {len(networks)} "
        "networks; one by one instead of under vmap the full check takes "
        f"{np.median(seconds[LOOP] / seconds[FULL]):.1f} times as long."
    )


def draw(networks: Sequence[Network], seconds: dict, directions: int) -> Figure:
    """Draw times, and their ratios to a backpropagation: medians, quartiles, theory."""
    styles = ("vermilion", "s-"), ("black", "x:"), ("green", "^-"), ("blue", "o-")
    weights = np.array([n.weights for n in networks])
    with matplotlib.rc_context(STYLE | {"errorbar.capsize": 3, "lines.markersize": 5}):
        figure = Figure(figsize=(8, 4.2))
        scales = dict(xscale="log", yscale="log", xlabel="weights P")
        left, right = figure.subplots(1, 2, sharex=True, subplot_kw=scales)
        for (name, times), (colour, line) in zip(seconds.items(), styles, strict=True):
            ratio = times / seconds[BACK]
            fit = f"$\\propto P^{{{fit_power(networks, ratio)[1]:.2f}}}$"
            style = dict(fmt=line, color=OKABE_ITO[colour], label=f"{name} {fit}")
            for axes, shown in ((left, 1e3 * times), (right, ratio)):
                low, middle, high = np.quantile(shown, (0.25, 0.5, 0.75), axis=0)
                axes.errorbar(weights, middle, (middle - low, high - middle), **style)
        right.plot(weights, 2 / 3 * weights, "--", color="0.3", lw=1.2, label="⅔P")
        right.axhline(2 / 3 * directions, ls="-.", color="0.3", lw=1.2, label="⅔M")
        right.set_xticks(weights, [f"{p:,}" for p in weights])
        right.set_xticks([], minor=True)
        left.set(ylabel="time (ms)", title=f"median and quartiles, {len(ratio)} rounds")
        right.set(ylabel="ratio", title="time / time of a backpropagation")
        handles = right.get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", ncols=3)
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
