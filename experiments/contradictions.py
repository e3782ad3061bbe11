"""Where does the lecture contradict itself, and which of its readings is right?

Six statements of the lecture that fnn grew out of, judged as written and as corrected:

    10.1  cost y log h + (1 − y) log(1 − h), without its minus, and δ = a − y
    10.2  J has the penalty λ/(2n) Σ Θ²; D adds λ Θ to the gradient, not (λ/n) Θ
    10.3  Δ_ij += a_i δ_i, though i numbers the units of δ and j those of a
    10.4  the penalty's sum over Θ^(l)_ij: i to s_l, j to s_(l−1), a layer too low
    10.5  RMSProp with Nesterov divides by √r, not by √(ε + r)
    10.6  δ means an error, a small constant, a momentum and a change

The gradient check judges 10.1 to 10.4: loops of fnn.textbook against the differences of
J. In 10.5 the gradient is right, but the step is 0/0 for every weight whose gradient
has always been 0, as for a pixel that is black in all images. For 10.6 the names are
looked up in fnn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fnn
from experiments.shared import answers, command_line, run_folder
from experiments.shared.terminal import console, table
from fnn.textbook import deltas, forward, gradients, initialise, numerical_gradients

__all__ = ["main"]

PROG = "python -m experiments.contradictions"
RMSPROP = fnn.optimizers.rmsprop(0.01, eps=1e-6, momentum=0.9, nesterov="lookahead")


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        examples: images in the batch.
        seed: of the parameters and the examples.
        out: a new folder for the results; else the next free one below runs/.
    """

    examples: int = 16
    seed: int = 0
    out: Path | None = None


class Verdict(NamedTuple):
    """The verdict on one statement, as written in the lecture or as corrected.

    `mended` is True for a corrected statement, which should hold; `found` says why.
    """

    statement: str
    mended: bool
    holds: bool
    found: str


def main(argv: Sequence[str] | None = None) -> int:
    """Judge every statement; the exit status is 1 where a verdict is unexpected."""
    with command_line.plain_errors(PROG):
        config = command_line.parse(Config(), argv, PROG, __doc__)
        command_line.require_at_least(
            config, examples=2, seed=0
        )  # of one example, λ/n is λ
        folder = run_folder.create(config.out, "contradictions")
    out = console()
    verdicts = [check_gradient(case, config) for case in CASES]
    verdicts += [*check_steps(config), *check_names()]
    out.print(table(Verdict._fields, verdicts))
    numbers = [v._asdict() for v in verdicts]
    answers.save_and_print(out, folder, config, numbers, {}, conclude(verdicts))
    return int(any(v.holds != v.mended for v in verdicts))


def y_minus_a(thetas, X, Y, lam):
    """Compute backpropagation from δ = y − a, without a penalty."""
    return [-D for D in gradients(thetas, X, Y)]


def lambda_theta(thetas, X, Y, lam):
    """Compute backpropagation that adds λ Θ, which is (nλ/n) Θ."""
    return gradients(thetas, X, Y, len(X) * lam)


def same_index(thetas, X, Y, lam):
    """Compute backpropagation with Δ_ij += a_i δ_i, equal for every j but the bias."""
    D = [D_l * np.eye(1, D_l.shape[1]) for D_l in gradients(thetas, X, Y)]  # the bias
    for x, y in zip(X, Y, strict=True):
        a = forward(thetas, x)
        for D_l, a_l, delta in zip(D, a[:-1], deltas(thetas, a, y), strict=True):
            for i in range(len(delta)):
                D_l[i, 1:] += a_l[i] * delta[i] / len(X)
    return D


def penalty_a_layer_too_low(thetas, X, Y, lam):
    """Compute backpropagation with a penalty of i ≤ s_l, j ≤ s_(l−1), and s_0 = 1."""
    D, below = gradients(thetas, X, Y), 1
    for D_l, theta in zip(D, thetas, strict=True):
        here = theta.shape[1] - 1  # s_l: column 0 is the bias
        for i in range(here):
            D_l[i, 1 : below + 1] += lam / len(X) * theta[i, 1 : below + 1]
        below = here
    return D


class Case(NamedTuple):
    """A statement, the gradient that it claims, the network, λ, and the sign of J."""

    statement: str
    mended: bool = False
    claimed: Callable = gradients
    sizes: tuple[int, int, int] = (2, 3, 5)  # s_1, s_2, s_3
    lam: float = 0.0
    sign: int = 1


CASES = (
    Case("10.1  Σ y log h + …, δ = a − y", sign=-1),
    Case("10.1  −Σ y log h − …, δ = y − a", False, y_minus_a),
    Case("10.1  −Σ y log h − …, δ = a − y", True),
    Case("10.2  D = Δ/n + λ Θ", False, lambda_theta, lam=1),
    Case("10.2  D = Δ/n + (λ/n) Θ", True, lam=1),
    Case("10.3  a_i δ_i, s_l ≠ s_(l+1)", False, same_index),
    Case("10.3  a_i δ_i, s_l = s_(l+1)", False, same_index, (4, 4, 4)),
    Case("10.3  a_j δ_i, s_l ≠ s_(l+1)", True),
    Case("10.4  i ≤ s_l, j ≤ s_(l−1), s grows", False, penalty_a_layer_too_low, lam=1),
    Case(
        "10.4  i ≤ s_l, j ≤ s_(l−1), s falls",
        False,
        penalty_a_layer_too_low,
        (5, 3, 2),
        lam=1,
    ),
    Case("10.4  i ≤ s_(l+1), j ≤ s_l, s falls", True, sizes=(5, 3, 2), lam=1),
)


def check_gradient(case: Case, config: Config) -> Verdict:
    """Compare the claimed gradient with central differences of J."""
    rng = np.random.default_rng(config.seed)
    X, Y = (rng.random((config.examples, units)) for units in case.sizes[::2])
    problem = initialise(case.sizes, config.seed), X, Y, case.lam
    try:
        claimed = case.claimed(*problem)
    except IndexError:
        return Verdict(case.statement, case.mended, False, "index out of bounds")
    pairs = zip(claimed, numerical_gradients(*problem), strict=True)
    error = float(max(abs(D - case.sign * slope).max() for D, slope in pairs))
    return Verdict(case.statement, case.mended, error < 1e-6, f"off by {error:.0e}")


def check_steps(config: Config) -> list[Verdict]:
    """Take the first step of RMSProp with Nesterov, without and with ε."""
    x, y = (part[: config.examples] for part in fnn.data.digits().train)
    thetas = initialise((64, 10), config.seed)
    (g,) = gradients(thetas, x.reshape(-1, 64), np.eye(10)[y])
    with np.errstate(invalid="ignore"):
        without_eps = g / np.sqrt((1 - RMSPROP.decay) * g * g)
    with_eps, _ = RMSPROP.update(g, RMSPROP.init(g))
    steps = {"10.5  α g / √r": without_eps, "10.5  α g / √(ε + r)": with_eps}
    verdicts = []
    for name, step in steps.items():
        bad = int((~np.isfinite(step)).sum())
        verdicts.append(Verdict(name, step is with_eps, not bad, f"{bad} weights: 0/0"))
    return verdicts


def check_names() -> list[Verdict]:
    """Count the names of an error, a small constant, a momentum and a change."""
    have = {*dir(fnn.losses.SigmoidCrossEntropy), *dir(RMSPROP)}
    own = [name for name in ("delta", "eps", "momentum", "update") if name in have]
    verdicts = []
    for names in (["δ"] * 4, own):
        statement, count = f"10.6  {', '.join(names)}", len(set(names))
        text = f"{count} of 4 apart"
        verdicts.append(Verdict(statement, names is own, count == 4, text))
    return verdicts


def conclude(verdicts: list[Verdict]) -> str:
    """Return the sentence that answers the question."""
    refuted = [not v.holds for v in verdicts if not v.mended]
    hold = [v.holds for v in verdicts if v.mended]
    unexpected = [v for v in verdicts if v.holds != v.mended]
    but = [f"; {v.statement} {'holds' if v.holds else 'fails'}" for v in unexpected]
    return (
        f"Of the readings as written {sum(refuted)} of {len(refuted)} are refuted, and "
        f"of the mended ones {sum(hold)} of {len(hold)} hold{''.join(but)}."
    )


if __name__ == "__main__":
    raise SystemExit(main())
