"""Which step h should a gradient check take, in float32 and in float64?

The central difference (f(θ + h) − f(θ − h)) / 2h has two errors. By Taylor's theorem
there is a truncation error h² f‴/6; rounding f to a relative ε adds ε |f| / h:

    error(h) ≈ h² |f‴| / 6 + ε |f| / h,    least at h* = (3 ε |f/f‴|)^(1/3)

On two logarithmic axes that is a V of slopes −1 and +2. Where f and f‴ are unknown, one
assumes that they are of the same size: h = ε^(1/3). (Press et al., Numerical Recipes,
section 5.7.) Here f is the cost J of a network with sigmoids on handwritten digits, f‴
its largest third derivative along a parameter, and the true gradient is that of
backpropagation in float64. The error is the largest one of all parameters, divided by
the largest entry of the gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from experiments.shared import answers, command_line, run_folder
from experiments.shared.figures import OKABE_ITO, STYLE
from experiments.shared.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.step_sizes"
LOSS = fnn.losses.SigmoidCrossEntropy()
STEPS = BEST, SIMPLE, REFINED = "best h", "ε^(1/3)", "(3ε|f/f‴|)^(1/3)"


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        hidden: sigmoid units in the hidden layer.
        examples: images over which J is the mean.
        seeds: draws of the initial parameters.
        out: a new folder for the results; else the next free one below runs/.
    """

    hidden: int = 8
    examples: int = 64
    seeds: int = 5
    out: Path | None = None


class Sweep(NamedTuple):
    """A sweep over h: the error, measured and expected, and the theory's two steps."""

    precision: str
    h: list[float]
    error: list[float]
    expected: list[float]
    simple: float
    refined: float

    def steps(self) -> dict[str, tuple[float, float]]:
        """Return the h of each of the STEPS, and the error there."""
        chosen = self.h[np.argmin(self.error)], self.simple, self.refined
        error = np.exp(np.interp(np.log(chosen), np.log(self.h), np.log(self.error)))
        return dict(zip(STEPS, zip(chosen, error.tolist(), strict=True), strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    """Sweep over h, and compare the best h with the steps of the theory."""
    with command_line.plain_errors(PROG):
        config = command_line.parse(Config(), argv, PROG, __doc__)
        command_line.require_at_least(config, hidden=1, examples=1, seeds=1)
        folder = run_folder.create(config.out, "step_sizes")
    out = console()
    seeds = track(range(config.seeds), "sweeping over h", console=out)
    sweeps = list(zip(*(sweep_h(seed, config) for seed in seeds), strict=True))
    medians = [median(group) for group in sweeps]  # float32, float64
    rows = [(s, *(f"{v:.1e}" for m in medians for v in m.steps()[s])) for s in STEPS]
    out.print(table(("step", "h, float32", "error", "h, float64", "error"), rows))
    numbers = [{"seed": i} | s._asdict() for g in sweeps for i, s in enumerate(g)]
    picture = {"errors": draw(sweeps, medians)}
    answers.save_and_print(
        out, folder, config, numbers, picture, conclude(medians, config.seeds)
    )
    return 0


def sweep_h(seed: int, config: Config) -> list[Sweep]:
    """Measure the error for each h in both precisions, with the same parameters."""
    x, y = (part[: config.examples] for part in fnn.data.digits().train)
    hidden = fnn.Dense(config.hidden), fnn.Sigmoid()
    net = fnn.serial(fnn.Flatten(), *hidden, fnn.Dense(10))
    start = net.init(jax.random.key(seed), x.shape[1:])

    def cast(tree: Any, precision: str) -> Any:
        return jax.tree.map(lambda part: part.astype(precision), tree)

    with jax.enable_x64(True):
        exact, images = cast((start, x), "float64")
        loss, *_, gradient = fnn.value_and_grad(net, LOSS)(exact, (images, y))
        f = fnn.objective(net, LOSS, exact, (images, y))
        third = float(abs(third_derivatives(f, exact.params)).max())
        largest = float(abs(ravel_pytree(gradient)[0]).max())
        found = []
        for precision in ("float32", "float64"):
            here, grads, images = cast((start, gradient, x), precision)
            f = fnn.objective(net, LOSS, here, (images, y))
            v = fnn.h_sweep(f, here.params, grads, coordinates=10**9)  # all
            rounding = float(jnp.finfo(precision).eps) * float(loss)
            expected = (v.h**2 * third / 6 + rounding / v.h) / largest
            curves = (curve.tolist() for curve in (v.h, v.error, expected))
            refined = (3 * rounding / third) ** (1 / 3)
            found.append(Sweep(precision, *curves, v.theory, refined))
    return found


def third_derivatives(f: Callable, params: Any) -> jax.Array:
    """Compute ∂³f/∂θ_i³ for every i, by three nested forward differentiations."""
    theta, unravel = ravel_pytree(params)

    def line(t: float, axis: jax.Array) -> jax.Array:
        return f(unravel(theta + t * axis))

    third = jax.jacfwd(jax.jacfwd(jax.jacfwd(line)))
    return jax.lax.map(lambda i: third(0.0, i), jnp.eye(theta.size), batch_size=64)


def median(sweeps: Sequence[Sweep]) -> Sweep:
    """Return the median over seeds, of the error for each h and of all other fields."""
    precision, *parts = zip(*sweeps, strict=True)
    return Sweep(precision[0], *(np.median(part, 0).tolist() for part in parts))


def conclude(medians: Sequence[Sweep], seeds: int) -> str:
    """Return the sentence that answers the question."""
    rises = all(min(m.error[0], m.error[-1]) > 3 * min(m.error) for m in medians)
    shape = "a V" if rises else "not a V in both"
    best = " and ".join(f"{m.steps()[BEST][0]:.1e} in {m.precision}" for m in medians)
    theory = []
    for step in (SIMPLE, REFINED):
        ratios = [np.divide(m.steps()[step], m.steps()[BEST]) for m in medians]
        sizes = " and ".join(f"{h:.2f}" for h, _ in ratios)
        errors = " and ".join(f"{error:.1f}" for _, error in ratios)
        theory.append(f"{step} is {sizes} times that and errs {errors} times as much")
    return (
        f"The error over h is {shape}; it is least at h = {best}, "
        f"{', and '.join(theory)} (medians of {seeds} seeds)."
    )


def draw(sweeps: Sequence[Sequence[Sweep]], medians: Sequence[Sweep]) -> Figure:
    """Draw the error over h: median and range over seeds, the theory, its steps."""
    with matplotlib.rc_context(STYLE | {"lines.linewidth": 1.2}):
        figure = Figure(figsize=(7, 4.6))
        axes = figure.subplots()
        styles = (OKABE_ITO["vermilion"], "s"), (OKABE_ITO["blue"], "^")
        for group, m, (colour, marker) in zip(sweeps, medians, styles, strict=True):
            ends = np.sort([s.error for s in group], axis=0)[[0, -1]]
            axes.fill_between(m.h, *ends, color=colour, alpha=0.2, lw=0)
            points = dict(marker=marker, ms=3.5, label=f"{m.precision}, measured")
            axes.plot(m.h, m.error, color=colour, **points)
            dashes = dict(ls="--", label=f"{m.precision}, expected")
            axes.plot(m.h, m.expected, color=colour, **dashes)
        ring = dict(marker="o", mfc="none", mew=1.5, ms=12)
        marks = ring, dict(marker="v", ms=7), dict(marker="D", ms=5)
        for step, mark in zip(STEPS, marks, strict=True):
            h, error = zip(*(m.steps()[step] for m in medians), strict=True)
            axes.plot(h, error, color="black", ls="", label=step, zorder=3, **mark)
        axes.text(3e-10, 3e-6, "rounding  ε|f| / h", rotation=-30, color="0.3")
        axes.text(4e-4, 6e-10, "truncation  h²|f‴| / 6", rotation=48, color="0.3")
        axes.text(1e-12, 0.7, "float32: θ ± h rounds to θ", color=styles[0][0])
        axes.set(xscale="log", yscale="log", xlim=(7e-13, 1.5e-1), ylim=(5e-12, 20))
        axes.set(xlabel="step h", ylabel="largest error / largest gradient")
        axes.set_title(f"Central differences: median and range of {len(group)} seeds")
        axes.legend(loc="lower left")
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
