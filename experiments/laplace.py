"""A Laplace posterior of the last layer: does it know what it does not know?

Near the trained weights W* of the last layer, the posterior is a normal distribution
whose precision is the curvature of the loss: with KFAC's factors of that layer,

    p(W | data) ≈ N(W*, P⁻¹),    P = N (A ⊗ B) + τ 1

N the number of training examples, τ the precision of the prior. In the eigenvectors
of A and B, P is diagonal: N λ_i μ_j + τ. Answers are means over samples of W, and so
less sure where the data say little. τ is chosen by the log loss of examples that are
held out. See Daxberger et al., arXiv:2106.14806.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

import fnn
from experiments.shared import answers, command_line, run_folder
from experiments.shared.figures import OKABE_ITO, STYLE
from experiments.shared.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.laplace"
LOSS = fnn.losses.SoftmaxCrossEntropy()


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        hidden: units of each of the two hidden layers.
        epochs: how many, without any regularisation.
        learning_rate: of Adam.
        priors: τ, of which the best is chosen.
        held_out: the examples of the training data that it is chosen by.
        samples: of the last layer's weights.
        seed: of the weights, the minibatches and the samples.
        out: a new folder for the results; else the next free one below runs/.
    """

    hidden: int = 64
    epochs: int = 60
    learning_rate: float = 3e-3
    priors: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
    held_out: int = 200
    samples: int = 200
    seed: int = 0
    out: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Train, sample the last layer, and compare with the trained weights alone."""
    with command_line.plain_errors(PROG):
        config = command_line.parse(Config(), argv, PROG, __doc__)
        command_line.require_at_least(config, epochs=1, samples=2, hidden=1, held_out=1)
        if not config.priors or not min(config.priors) > 0:
            raise ValueError(f"priors must be positive, got {config.priors}")
        folder = run_folder.create(config.out, "laplace")
    hidden = [fnn.Dense(config.hidden), fnn.Relu()] * 2
    net = fnn.serial(fnn.Flatten(), *hidden, fnn.Dense(10))
    (x, y), (x_test, y_test) = fnn.data.digits()
    (x, y), held_out = (
        (x[: -config.held_out], y[: -config.held_out]),
        (x[-config.held_out :], y[-config.held_out :]),
    )
    result = fnn.fit(
        *(net, LOSS, fnn.optimizers.adam(config.learning_rate)),
        train=(x, y), key=jax.random.key(config.seed), epochs=config.epochs,
        batch_size=32,
    )  # fmt: skip
    variables = jax.tree.map(jnp.asarray, result.variables)
    prior, weights = posterior(net, variables, (x, y), held_out, config)
    strange = np.rot90(x_test, 2, axes=(1, 2))  # mostly no digits
    shares = [
        np.asarray(answer(net, variables, weights, jnp.asarray(part)))
        for part in (x_test, strange)
    ]
    names = "trained weights", "Laplace"
    numbers = [
        measure(name, known, other, y_test)
        for name, known, other in zip(names, *shares, strict=True)
    ]
    out = console()
    columns = "error", "log_loss", "calibration_error", "area"
    rows = [(n["answer"], *(f"{n[c]:.3f}" for c in columns)) for n in numbers]
    headings = "error", "log loss", "calibration error", "turned digits told apart"
    out.print(table(("answers by", *headings), rows))
    answers.save_and_print(
        *(out, folder, config, numbers, {"laplace": draw(numbers)}),
        conclude(numbers, prior),
    )
    return 0


def posterior(
    net: fnn.Layer, variables: fnn.Variables, train: tuple, held_out: tuple,
    config: Config,
) -> tuple[float, jax.Array]:  # fmt: skip
    """Choose τ, and return it with samples of the last layer's weights."""
    factors = jax.jit(fnn.curvature.kfac_factors(net, LOSS))(variables, train)
    last, key = factors[f"{len(net) - 1}/Dense"], jax.random.key(config.seed)

    def sampled(prior: float) -> jax.Array:
        arguments = variables.params[-1], last, len(train[0]), prior
        return sample_weights(*arguments, config.samples, key)

    def log_loss_of_held_out(prior: float) -> float:
        _, shares = answer(net, variables, sampled(prior), jnp.asarray(held_out[0]))
        return log_loss(np.asarray(shares), held_out[1])

    prior = min(config.priors, key=log_loss_of_held_out)
    return prior, sampled(prior)


def sample_weights(
    params: fnn.DenseParams, factors: fnn.curvature.KroneckerFactors, n: int,
    prior: float, samples: int, key: jax.Array,
) -> jax.Array:  # fmt: skip
    """Draw the last layer's weights (S, I + 1, O), the bias as the last row."""
    (a, left), (b, right) = (jnp.linalg.eigh(factor) for factor in factors)
    # Factors have no negative eigenvalues but by rounding.
    precision = n * jnp.maximum(a, 0)[:, None] * jnp.maximum(b, 0) + prior
    mean = jnp.concatenate([params.weight, params.bias[None]])
    noise = jax.random.normal(key, (samples, *mean.shape)) / jnp.sqrt(precision)
    return mean + jnp.einsum("ij,sjk,lk->sil", left, noise, right)


@jax.jit
def answer(
    net: fnn.Layer, variables: fnn.Variables, weights: jax.Array, x: jax.Array
) -> jax.Array:
    """Return the shares of the classes (2, N, K): by the mean weights, and by all."""
    below = net[:-1]
    features = below.forward(variables.params[:-1], variables.state[:-1], x).y
    rows = jnp.concatenate([features, jnp.ones_like(features[:, :1])], axis=1)
    params = variables.params[-1]
    alone = features @ params.weight + params.bias
    sampled = jax.nn.softmax(jnp.einsum("ni,sik->snk", rows, weights)).mean(0)
    return jnp.stack([jax.nn.softmax(alone), sampled])


def measure(name: str, known: np.ndarray, other: np.ndarray, y: np.ndarray) -> dict:
    """Measure answers for the test digits, and how they differ for turned ones."""
    sure, right = known.max(1), known.argmax(1) == y
    groups = np.minimum((sure * 10).astype(int), 9)
    gaps = [
        (groups == g).mean() * abs(sure[groups == g].mean() - right[groups == g].mean())
        for g in np.unique(groups)
    ]
    entropies = [-(p * np.log(np.maximum(p, 1e-30))).sum(1) for p in (known, other)]
    larger = entropies[1][:, None] > entropies[0]
    equal = entropies[1][:, None] == entropies[0]
    return {
        "answer": name,
        "error": float(1 - right.mean()),
        "log_loss": log_loss(known, y),
        "calibration_error": float(np.sum(gaps)),
        "area": float((larger + 0.5 * equal).mean()),
        "entropies": [e.tolist() for e in entropies],
    }


def log_loss(shares: np.ndarray, y: np.ndarray) -> float:
    """Return the mean of −log of the share of the right class."""
    right = np.maximum(shares[np.arange(len(y)), y], 1e-30)
    return float(-np.log(right).mean())


def conclude(numbers: list[dict], prior: float) -> str:
    """Return the sentence that answers the question."""
    alone, laplace = numbers

    def change(name: str) -> str:
        before, after = f"{alone[name]:.3f}", f"{laplace[name]:.3f}"
        way = "falls" if laplace[name] < alone[name] else "rises"
        return (
            f"stays {after}" if before == after else f"{way} from {before} to {after}"
        )

    verdict = "knows better" if laplace["log_loss"] < alone["log_loss"] else "does not"
    return (
        f"The posterior {verdict} (τ = {prior:g}): the log loss of the test digits "
        f"{change('log_loss')} and the calibration error "
        f"{change('calibration_error')}, with an error of {laplace['error']:.1%} "
        f"({alone['error']:.1%} without it); "
        "the probability that a digit turned upside down has the larger entropy "
        f"{change('area')}."
    )


def draw(numbers: list[dict]) -> Figure:
    """Draw the entropies of test digits and of turned ones."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.2))
        panels = figure.subplots(1, 2, sharey=True)
        edges = np.linspace(0, np.log(10), 24)
        for panel, n in zip(panels, numbers, strict=True):
            for label, values, colour in zip(
                ("test digits", "upside down"), n["entropies"],
                ("blue", "vermilion"), strict=True,
            ):  # fmt: skip
                weights = np.full(len(values), 1 / len(values))
                panel.hist(values, edges, weights=weights, alpha=0.7, label=label,
                           color=OKABE_ITO[colour])  # fmt: skip
            panel.set(title=n["answer"], xlabel="entropy of the answer", yscale="log")
        panels[0].set_ylabel("share of images")
        panels[0].legend()
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
