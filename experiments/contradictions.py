"""Where does the lecture contradict itself, and which of its readings is right?

Six statements of the lecture on neural networks that fnn grew out of cannot be as they
are written. Each is built twice, as written and as mended, and judged:

    10.1  cost y log h + (1 − y) log(1 − h), without its minus, and δ = a − y
    10.2  J has the penalty λ/(2n) Σ Θ²; D adds λ Θ to the gradient, not (λ/n) Θ
    10.3  Δ_ij += a_i δ_i, though i numbers the units of δ and j those of a
    10.4  the penalty's sum over Θ^(l)_ij: i to s_l, j to s_(l−1), a layer too low
    10.5  RMSProp with Nesterov divides by √r, not by √(ε + r)
    10.6  δ means an error, a small constant, a momentum and a change

Of 10.1 to 10.4 the gradient check is the judge: the gradient by hand against autodiff
and central differences of J. In 10.5 the gradient is right and the step is 0/0, for
every weight whose gradient has always been 0, such as those of a pixel that is black in
all images. 10.6 is about names; those of fnn are looked up in its own functions.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from rich.progress import track

import fnn
from experiments import answers, command_line, runs
from experiments.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.contradictions"
CROSS_ENTROPY = fnn.losses.SigmoidCrossEntropy()
WIDENS, NARROWS, LEVEL = (2, 3, 5), (5, 3, 2), (3, 4, 4)  # s_1, ..., s_L
RATE, DECAY, EPS = 0.01, 0.9, 1e-6
#: What the lecture calls δ, and what fnn calls it, as a parameter or a method of what.
MEANINGS = {
    "error of a unit, ∂J/∂z": ("delta", fnn.losses.SigmoidCrossEntropy),
    "small constant": ("eps", fnn.optimizers.rmsprop),
    "momentum coefficient": ("momentum", fnn.optimizers.rmsprop),
    "change of the weights": ("update", fnn.optimizers.RMSProp),
}


@dataclass(frozen=True)
class Config:
    """What a run depends on.

    Attributes:
        l2: λ of the penalty.
        examples: in the batch.
        seed: of the parameters and the examples.
        out: a new folder for the results; else the next free one below runs/.
    """

    l2: float = 1.0
    examples: int = 16
    seed: int = 0
    out: Path | None = None


class Verdict(NamedTuple):
    """What came of one statement, as the lecture has it or as mended."""

    section: str
    statement: str
    mended: bool
    holds: bool
    found: str


def main(argv: Sequence[str] | None = None) -> int:
    """Judge every statement; the exit status says whether fnn's are the right ones."""
    description = (__doc__ or "").partition("\n")[0]
    with command_line.plain_errors(PROG):
        config = command_line.options(Config(), argv, PROG, description)
        command_line.at_least(config, examples=2)  # of one example, λ/n is λ
        if not 0 < config.l2 < float("inf"):
            raise ValueError(
                f"l2 must be positive and finite, got {config.l2}: without a penalty "
                "10.2 and 10.4 say nothing"
            )
        folder = runs.new_folder(config.out, "contradictions")
    out = console()
    cases = track(CASES, "checking gradients", console=out)
    verdicts = [checked(case, config) for case in cases]
    verdicts += [*steps(config), *names()]
    rows = [
        (f"{v.section}  {v.statement}", "mended" if v.mended else "written", v.found)
        for v in verdicts
    ]
    out.print(table(("      statement", "", "found"), rows))
    out.print()
    meanings = [(meaning, "δ", name) for meaning, (name, _) in MEANINGS.items()]
    out.print(table(("what is meant", "lecture", "fnn"), meanings))
    lines = [v._asdict() for v in verdicts]
    answers.give(out, folder, config, lines, {}, conclude(verdicts))
    return int(any(v.holds != v.mended for v in verdicts))


# ---- 10.1 to 10.4: a gradient check ----------------------------------------------


@fnn.layer
class NoMinus(fnn.losses.SigmoidCrossEntropy):
    """The mean of Σ_k y log h + (1 − y) log(1 − h), and beside it δ = a − y."""

    def value(self, z, y):
        return -super().value(z, y)


@fnn.layer
class YMinusA(fnn.losses.SigmoidCrossEntropy):
    """The negative log-likelihood, and beside it δ = y − a."""

    def delta(self, z, y):
        return -super().delta(z, y)


def lambda_theta(net, loss, variables, batch, *, n, **how) -> fnn.Gradients:
    """Backpropagation that adds λ Θ: the (λ/n) Θ of an n that is 1."""
    right = fnn.manual(net, loss, variables, batch, n=n, **how)
    return right._replace(
        grads=fnn.manual(net, loss, variables, batch, n=1, **how).grads
    )


@fnn.layer
class SameIndex(fnn.Dense):
    """Δ_ij += a_i δ_i, the same for every j."""

    def backward(self, params, saved, dy):
        right = super().backward(params, saved, dy)
        row = (saved * dy).sum(0)  # over the examples
        weight = jnp.broadcast_to(row, params.weight.shape)
        return right._replace(dparams=right.dparams._replace(weight=weight))


def short_sum(net, loss, variables, batch, *, l2, **how) -> fnn.Gradients:
    """Backpropagation whose penalty has the limits i ≤ s_l and j ≤ s_(l−1).

    For Θ^(1) there is no s_0; it is granted to be 1.
    """
    right = fnn.manual(net, loss, variables, batch, l2=l2, **how)
    bare = fnn.manual(net, loss, variables, batch, l2=0.0, **how)
    unpenalised, inside, below = fnn.named_params(net, bare.grads), {}, 1
    for path, grad in unpenalised.items():
        if path.endswith(".weight"):  # (s_l, s_(l+1)), the transpose of Θ^(l)
            here, above = grad.shape
            if here > above:
                raise IndexError(f"row {here} of {above}")
            j, i = jnp.arange(here)[:, None], jnp.arange(above)
            inside[path], below = (j < below) & (i < here), here

    def shortened(path: str, _: fnn.Layer, grad: jax.Array) -> jax.Array:
        return jnp.where(inside.get(path, False), grad, unpenalised[path])

    return right._replace(grads=fnn.map_params(shortened, net, right.grads))


class Case(NamedTuple):
    """A statement, and the network, loss and engine that take it at its word."""

    section: str
    statement: str
    mended: bool = False
    sizes: tuple[int, ...] = WIDENS
    last: type[fnn.Dense] = fnn.Dense
    loss: Any = CROSS_ENTROPY
    engine: Any = "manual"


CASES = (
    Case("10.1", "Σ y log h + …, δ = a − y", loss=NoMinus()),
    Case("10.1", "−Σ y log h − …, δ = y − a", loss=YMinusA()),
    Case("10.1", "−Σ y log h − …, δ = a − y", mended=True),
    Case("10.2", "D = Δ/n + λ Θ", engine=lambda_theta),
    Case("10.2", "D = Δ/n + (λ/n) Θ", mended=True),
    Case("10.3", "a_i δ_i, s_l ≠ s_(l+1)", last=SameIndex),
    Case("10.3", "a_i δ_i, s_l = s_(l+1)", sizes=LEVEL, last=SameIndex),
    Case("10.3", "a_j δ_i, s_l = s_(l+1)", mended=True, sizes=LEVEL),
    Case("10.4", "i ≤ s_l, j ≤ s_(l−1), s grows", engine=short_sum),
    Case("10.4", "i ≤ s_l, j ≤ s_(l−1), s falls", sizes=NARROWS, engine=short_sum),
    Case("10.4", "i ≤ s_(l+1), j ≤ s_l, s falls", mended=True, sizes=NARROWS),
)


def checked(case: Case, config: Config) -> Verdict:
    """The verdict of the gradient check, and where it fails."""
    hidden = [part for s in case.sizes[1:-1] for part in (fnn.Dense(s), fnn.Sigmoid())]
    net = fnn.serial(*hidden, case.last(case.sizes[-1]))
    keys = jax.random.split(jax.random.key(config.seed), 3)
    x = jax.random.normal(keys[0], (config.examples, case.sizes[0]))
    y = jax.random.bernoulli(keys[1], 0.5, (config.examples, case.sizes[-1]))
    try:
        report = fnn.compare_gradients(
            *(net, case.loss, net.init(keys[2], case.sizes[:1]), (x, y.astype(float))),
            engine=case.engine,
            l2=config.l2,
            max_examples=config.examples,
        )
    except IndexError as error:
        return Verdict(*case[:3], holds=False, found=f"asks for {error}")
    found = "passes" if report.passed else f"fails at {report.first_divergence}"
    return Verdict(*case[:3], holds=report.passed, found=found)


# ---- 10.5: a step ----------------------------------------------------------------


def steps(config: Config) -> list[Verdict]:
    """The first step of RMSProp with Nesterov, without and with the small constant."""
    (x, y), _ = fnn.data.digits()
    net = fnn.serial(fnn.Flatten(), fnn.Dense(12), fnn.Sigmoid(), fnn.Dense(10))
    variables = net.init(jax.random.key(config.seed), x.shape[1:])
    batch = x[: config.examples], y[: config.examples]
    grads = fnn.value_and_grad(net, CROSS_ENTROPY)(variables, batch).grads
    g = np.asarray(ravel_pytree(grads)[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        written = -RATE / np.sqrt((1 - DECAY) * g * g) * g
    how = dict(decay=DECAY, eps=EPS, momentum=0.9, nesterov="lookahead")
    optimizer = fnn.optimizers.rmsprop(RATE, **how)
    mended, _ = optimizer.update(grads, optimizer.init(variables.params))
    verdicts = []
    for statement, update in (("α g / √r", written), ("α g / √(ε + r)", mended)):
        bad = int((~np.isfinite(ravel_pytree(update)[0])).sum())
        found = f"0/0 in {bad} of {g.size} weights" if bad else "every step is finite"
        verdicts.append(Verdict("10.5", statement, update is mended, not bad, found))
    return verdicts


# ---- 10.6: names -----------------------------------------------------------------


def names() -> list[Verdict]:
    """One letter for four things, and the names that fnn has instead."""
    found = {
        name for name, owner in MEANINGS.values()
        if name in inspect.signature(owner).parameters or hasattr(owner, name)
    }  # fmt: skip
    letter = Verdict(
        "10.6", "δ", False, len(MEANINGS) == 1, f"{len(MEANINGS)} meanings"
    )
    told = f"{len(found)} names for {len(MEANINGS)} meanings"
    apart = len(found) == len(MEANINGS)
    return [letter, Verdict("10.6", ", ".join(sorted(found)), True, apart, told)]


def conclude(verdicts: list[Verdict]) -> str:
    """The sentence."""
    written = [v for v in verdicts if not v.mended]
    mended = [v for v in verdicts if v.mended]
    sections = len({v.section for v in verdicts})
    parts = [
        f"Of {sections} contradictions, {sum(not v.holds for v in written)} of "
        f"{len(written)} readings as written are refuted and "
        f"{sum(v.holds for v in mended)} of {len(mended)} mended ones hold"
    ]
    parts += [
        f"{v.section} ({v.statement}) "
        + ("fails although mended" if v.mended else "holds as written")
        for v in verdicts
        if v.holds != v.mended
    ]
    return "; ".join(parts) + "."


if __name__ == "__main__":
    raise SystemExit(main())
