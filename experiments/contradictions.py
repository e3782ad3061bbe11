"""Where does the lecture contradict itself, and which of its readings is right?

Six statements of the lecture that fnn grew out of, judged as written and as mended:

    10.1  cost y log h + (1 − y) log(1 − h), without its minus, and δ = a − y
    10.2  J has the penalty λ/(2n) Σ Θ²; D adds λ Θ to the gradient, not (λ/n) Θ
    10.3  Δ_ij += a_i δ_i, though i numbers the units of δ and j those of a
    10.4  the penalty's sum over Θ^(l)_ij: i to s_l, j to s_(l−1), a layer too low
    10.5  RMSProp with Nesterov divides by √r, not by √(ε + r)
    10.6  δ means an error, a small constant, a momentum and a change

The gradient check judges 10.1 to 10.4: loops of fnn.textbook against the differences of
J. In 10.5 the gradient is right and the step 0/0 for every weight whose gradient has
always been 0, as for a pixel that is black in all images. 10.6: fnn's names, looked up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fnn
from experiments import answers, command_line, runs
from experiments.terminal import console, table
from fnn.textbook import deltas, forward, gradients, initialise, numerical_gradients

__all__ = ["main"]

PROG = "python -m experiments.contradictions"
RMSPROP = fnn.optimizers.rmsprop(0.01, eps=1e-6, momentum=0.9, nesterov="lookahead")


@dataclass(frozen=True)
class Config:
    """What a run depends on.

    Attributes:
        examples: in the batch.
        seed: of the parameters and the examples.
        out: a new folder for the results; else the next free one below runs/.
    """

    examples: int = 16
    seed: int = 0
    out: Path | None = None


class Verdict(NamedTuple):
    """What came of one statement, as the lecture has it or as mended."""

    statement: str
    mended: bool
    holds: bool
    found: str


def main(argv: Sequence[str] | None = None) -> int:
    """Judge every statement; the exit status says whether fnn's are the right ones."""
    with command_line.plain_errors(PROG):
        config = command_line.options(Config(), argv, PROG, __doc__)
        command_line.at_least(config, examples=2, seed=0)  # of one example, λ/n is λ
        folder = runs.new_folder(config.out, "contradictions")
    out = console()
    verdicts = [*(checked(case, config) for case in CASES), *steps(config), *names()]
    out.print(table(Verdict._fields, verdicts))
    numbers = [v._asdict() for v in verdicts]
    answers.give(out, folder, config, numbers, {}, conclude(verdicts))
    return int(any(v.holds != v.mended for v in verdicts))


def y_minus_a(thetas, X, Y, lam):
    """Backpropagation from δ = y − a, without a penalty."""
    return [-D for D in gradients(thetas, X, Y)]


def lambda_theta(thetas, X, Y, lam):
    """Backpropagation that adds λ Θ, which is (nλ/n) Θ."""
    return gradients(thetas, X, Y, len(X) * lam)


def same_index(thetas, X, Y, lam):
    """Backpropagation with Δ_ij += a_i δ_i, the same for every j but the bias."""
    D = [D_l * np.eye(1, D_l.shape[1]) for D_l in gradients(thetas, X, Y)]  # the bias
    for x, y in zip(X, Y, strict=True):
        a = forward(thetas, x)
        for D_l, a_l, delta in zip(D, a[:-1], deltas(thetas, a, y), strict=True):
            for i in range(len(delta)):
                D_l[i, 1:] += a_l[i] * delta[i] / len(X)
    return D


def short_sum(thetas, X, Y, lam):
    """Backpropagation with a penalty of i ≤ s_l and j ≤ s_(l−1), as if s_0 were 1."""
    D, below = gradients(thetas, X, Y), 1
    for D_l, theta in zip(D, thetas, strict=True):
        here = theta.shape[1] - 1  # s_l: column 0 is the bias
        for i in range(here):
            D_l[i, 1 : below + 1] += lam / len(X) * theta[i, 1 : below + 1]
        below = here
    return D


class Case(NamedTuple):
    """A statement, the gradient it claims, of what network, and the λ and sign of J."""

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
    Case("10.4  i ≤ s_l, j ≤ s_(l−1), s grows", False, short_sum, lam=1),
    Case("10.4  i ≤ s_l, j ≤ s_(l−1), s falls", False, short_sum, (5, 3, 2), lam=1),
    Case("10.4  i ≤ s_(l+1), j ≤ s_l, s falls", True, sizes=(5, 3, 2), lam=1),
)


def checked(case: Case, config: Config) -> Verdict:
    """The gradient it claims, against central differences of J."""
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


def steps(config: Config) -> list[Verdict]:
    """The first step of RMSProp with Nesterov, without and with the small constant."""
    x, y = (part[: config.examples] for part in fnn.data.digits().train)
    thetas = initialise((64, 10), config.seed)
    (g,) = gradients(thetas, x.reshape(-1, 64), np.eye(10)[y])
    with np.errstate(invalid="ignore"):
        written = g / np.sqrt((1 - RMSPROP.decay) * g * g)
    mended, _ = RMSPROP.update(g, RMSPROP.init(g))
    verdicts = []
    for name, step in (("10.5  α g / √r", written), ("10.5  α g / √(ε + r)", mended)):
        bad = int((~np.isfinite(step)).sum())
        verdicts.append(Verdict(name, step is mended, not bad, f"{bad} weights: 0/0"))
    return verdicts


def names() -> list[Verdict]:
    """What are an error, a small constant, a momentum and a change called?"""
    have = {*dir(fnn.losses.SigmoidCrossEntropy), *dir(RMSPROP)}
    own = [name for name in ("delta", "eps", "momentum", "update") if name in have]
    verdicts = []
    for given in (["δ"] * 4, own):
        name, apart = f"10.6  {', '.join(given)}", len(set(given))
        verdicts.append(Verdict(name, given is own, apart == 4, f"{apart} of 4 apart"))
    return verdicts


def conclude(verdicts: list[Verdict]) -> str:
    """The sentence."""
    refuted = [not v.holds for v in verdicts if not v.mended]
    hold = [v.holds for v in verdicts if v.mended]
    odd = [v for v in verdicts if v.holds != v.mended]
    but = [f"; {v.statement} {'holds' if v.holds else 'fails'}" for v in odd]
    return (
        f"Of the readings as written {sum(refuted)} of {len(refuted)} are refuted, and "
        f"of the mended ones {sum(hold)} of {len(hold)} hold{''.join(but)}."
    )


if __name__ == "__main__":
    raise SystemExit(main())
