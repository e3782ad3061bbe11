"""Which step h should a gradient check take, in float32 and in float64?

The central difference (f(θ + h) − f(θ − h)) / 2h errs in two ways. Taylor's theorem
leaves a truncation error h² f‴/6; rounding f to a relative ε leaves ε |f| / h:

    error(h) ≈ h² |f‴| / 6 + ε |f| / h,    least at h* = (3 ε |f| / |f‴|)^(1/3)

On two logarithmic axes that is a V of slopes −1 and +2. Where f and f‴ are not known
one takes them to be alike, and h = ε^(1/3). (Press et al., Numerical Recipes, section
5.7.) Here f is the cost J of a network with sigmoids on handwritten digits, the truth
is its gradient by backpropagation in float64, and the error is the largest of all
parameters, divided by the largest entry of the gradient. f‴ is the largest third
derivative along a parameter, by differentiating three times.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure
from rich.progress import track

import fnn
from experiments import answers, command_line, runs
from experiments.figures import OKABE_ITO, STYLE
from experiments.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.step_sizes"
PRECISIONS, LOSS = ("float32", "float64"), fnn.losses.SigmoidCrossEntropy()


@dataclass(frozen=True)
class Config:
    """What a run depends on.

    Attributes:
        hidden: sigmoid units in the hidden layer.
        examples: images that J is the mean of.
        per_decade: steps h in each decade from 1e-12 to 1e-1.
        seeds: draws of the initial parameters.
        out: a new folder for the results; else the next free one below runs/.
    """

    hidden: int = 8
    examples: int = 64
    per_decade: int = 4
    seeds: int = 5
    out: Path | None = None


class Sweep(NamedTuple):
    """The error over h in one precision, with the parameters of one seed.

    `simple` is ε^(1/3), `refined` h* with the third derivative; `expected` the error
    that the equation above says, for each h.
    """

    precision: str
    seed: int
    h: list[float]
    error: list[float]
    expected: list[float]
    best: float
    simple: float
    refined: float


class Step(NamedTuple):
    """A step, and the error with it."""

    h: float
    error: float


class Found(NamedTuple):
    """What the seeds of one precision say together: three steps, and the shape.

    `best` by measurement, `simple` and `refined` by theory; `rises`: whether the error
    is clearly greater at both ends of the sweep.
    """

    precision: str
    best: Step
    simple: Step
    refined: Step
    rises: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Sweep over h, and compare the best with what theory says."""
    description = (__doc__ or "").partition("\n")[0]
    with command_line.plain_errors(PROG):
        config = command_line.options(Config(), argv, PROG, description)
        command_line.at_least(config, hidden=1, examples=1, per_decade=1, seeds=1)
        folder = runs.new_folder(config.out, "step_sizes")
    out = console()
    jobs = list(product(PRECISIONS, range(config.seeds)))
    sweeps = [
        sweep(precision, seed, config)
        for precision, seed in track(jobs, "sweeping over h", console=out)
    ]
    found = [summed(sweeps, precision) for precision in PRECISIONS]
    columns = ("precision", "best h", "error", "ε^(1/3)", "error", "with f‴", "error")
    rows = [
        (f.precision, *(f"{v:.1e}" for v in (*f.best, *f.simple, *f.refined)))
        for f in found
    ]
    out.print(table(columns, rows))
    numbers = [s._asdict() for s in sweeps]
    picture = {"errors": draw(sweeps, found)}
    answers.give(out, folder, config, numbers, picture, conclude(found, config.seeds))
    return 0


def sweep(precision: str, seed: int, config: Config) -> Sweep:
    """The error for each h, at parameters that are the same in both precisions."""
    (x, y), _ = fnn.data.digits()
    x, y = x[: config.examples], y[: config.examples]
    net = fnn.serial(
        *(fnn.Flatten(), fnn.Dense(config.hidden), fnn.Sigmoid(), fnn.Dense(10))
    )
    start = net.init(jax.random.key(seed), x.shape[1:])
    steps = 10.0 ** np.linspace(-12, -1, 11 * config.per_decade + 1)
    with jax.enable_x64(True):
        exact, batch = cast(start, "float64"), (cast(x, "float64"), y)
        true = fnn.value_and_grad(net, LOSS)(exact, batch)
        f = fnn.objective(net, LOSS, exact, batch)
        third = float(jnp.abs(third_derivatives(f, exact.params)).max())
        gradient = np.asarray(ravel_pytree(true.grads)[0])
    with jax.enable_x64(precision == "float64"):
        here, grads = cast((start, true.grads), precision)
        f = fnn.objective(net, LOSS, here, (cast(x, precision), y))
        swept = fnn.h_sweep(f, here.params, grads, h=steps, coordinates=gradient.size)
    rounding = float(jnp.finfo(precision).eps) * float(true.loss)
    expected = (steps**2 * third / 6 + rounding / steps) / np.abs(gradient).max()
    curves = (array.tolist() for array in (steps, swept.error, expected))
    refined = (3 * rounding / third) ** (1 / 3)
    return Sweep(precision, seed, *curves, swept.best, swept.theory, refined)


def cast(tree: Any, precision: str) -> Any:
    """The same numbers, which are float32 to begin with, in that precision."""
    return jax.tree.map(lambda part: jnp.asarray(np.asarray(part), precision), tree)


def third_derivatives(f: Callable, params: Any) -> jax.Array:
    """∂³f/∂θ_i³ for every i, by forward differentiation three times over."""
    theta, unravel = ravel_pytree(params)

    def along(i: jax.Array) -> jax.Array:
        def line(t: jax.Array) -> jax.Array:
            return f(unravel(theta.at[i].add(t)))

        return jax.jacfwd(jax.jacfwd(jax.jacfwd(line)))(jnp.zeros((), theta.dtype))

    every = jnp.arange(theta.size)
    return jax.jit(lambda at: jax.lax.map(along, at, batch_size=64))(every)


def summed(sweeps: list[Sweep], precision: str) -> Found:
    """The median over seeds, its least, and what it is at the steps of the theory."""
    mine = [s for s in sweeps if s.precision == precision]
    h, error = np.array(mine[0].h), np.median([s.error for s in mine], 0)
    low = error.argmin()

    def at(step: float) -> Step:
        log_error = np.interp(np.log(step), np.log(h), np.log(error))
        return Step(step, float(np.exp(log_error)))

    return Found(
        precision,
        best=Step(float(h[low]), float(error[low])),
        simple=at(mine[0].simple),
        refined=at(statistics.median(s.refined for s in mine)),
        rises=bool(min(error[0], error[-1]) > 3 * error[low]),
    )


def conclude(found: list[Found], seeds: int) -> str:
    """The sentence."""
    best = " and ".join(f"{f.best.h:.1e} in {f.precision}" for f in found)
    flat = [f.precision for f in found if not f.rises]
    shape = f"not a V in {' and '.join(flat)}" if flat else "a V"

    def held(steps: list[Step]) -> str:
        pairs = list(zip(steps, found, strict=True))
        sizes = " and ".join(f"{s.h / f.best.h:.2f}" for s, f in pairs)
        costs = " and ".join(f"{s.error / f.best.error:.1f}" for s, f in pairs)
        return f"is {sizes} times that and errs {costs} times as much"

    return (
        f"The error over h is {shape}; it is least at h = {best}, ε^(1/3) "
        f"{held([f.simple for f in found])}, and (3ε|f|/|f‴|)^(1/3) "
        f"{held([f.refined for f in found])} (medians of {seeds} seeds)."
    )


def draw(sweeps: list[Sweep], found: list[Found]) -> Figure:
    """Error over h: median and range over seeds, the theory, the steps it names."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4.6))
        axes = figure.subplots()
        for f, name, marker in zip(found, ("vermilion", "blue"), "s^", strict=True):
            mine = [s for s in sweeps if s.precision == f.precision]
            h, error = np.array(mine[0].h), np.array([s.error for s in mine])
            error[np.isinf(error)] = np.nan  # θ ± h was rounded to θ
            style = dict(color=OKABE_ITO[name], lw=1.2)
            axes.plot(h, np.median(error, 0), marker=marker, ms=3.5, **style,
                      label=f"{f.precision}, measured")  # fmt: skip
            axes.fill_between(h, *(error.min(0), error.max(0)), alpha=0.2, lw=0,
                              color=OKABE_ITO[name])  # fmt: skip
            expected = np.median([s.expected for s in mine], 0)
            axes.plot(h, expected, "--", **style, label=f"{f.precision}, expected")
        marks = {
            "best h": ("best", dict(marker="o", mfc="none", mew=1.5, ms=12)),
            "ε^(1/3)": ("simple", dict(marker="v", ms=7)),
            "(3ε|f| / |f‴|)^(1/3)": ("refined", dict(marker="D", ms=5)),
        }
        for label, (which, style) in marks.items():
            h, error = zip(*(getattr(f, which) for f in found), strict=True)
            axes.plot(h, error, color="black", ls="", label=label, zorder=3, **style)
        axes.text(3e-10, 3e-6, "rounding  ε|f| / h", rotation=-30, color="0.3")
        axes.text(4e-4, 6e-10, "truncation  h²|f‴| / 6", rotation=48, color="0.3")
        axes.text(
            1e-12, 0.7, "float32: θ ± h rounds to θ", color=OKABE_ITO["vermilion"]
        )
        axes.set(xscale="log", yscale="log", xlim=(7e-13, 1.5e-1), ylim=(5e-12, 20))
        axes.set(xlabel="step h", ylabel="largest error / largest gradient")
        axes.set_title(f"Central differences: median and range of {len(mine)} seeds")
        axes.legend(loc="lower left")
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
