"""Mislabelled digits: do the norms of single gradients find them?

A share of the training labels is replaced by other digits. A network is trained for a
few epochs, in which it learns what most examples agree on. Then the examples are sorted
by ‖g_n‖, the norm of the gradient of each one's loss: those that the network would have
to change most for come first.

One walk back gives all norms (`fnn.per_example.norms`). See Paul, Ganguli and
Dziugaite, arXiv:2107.07075, who rank examples by them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure

import fnn
from experiments.shared import answers, command_line, run_folder
from experiments.shared.figures import OKABE_ITO, STYLE
from experiments.shared.seeds import plus_minus
from experiments.shared.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.mislabelled"
LOSS = fnn.losses.SoftmaxCrossEntropy()


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        share: the part of the training labels that is replaced.
        hidden: units of the hidden layer.
        epochs: how many, before the norms are taken.
        learning_rate: of Adam.
        seeds: how many runs, each with other wrong labels.
        out: a new folder for the results; else the next free one below runs/.
    """

    share: float = 0.02
    hidden: int = 64
    epochs: int = 10
    learning_rate: float = 3e-3
    seeds: int = 5
    out: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Replace labels, train, and look for them."""
    with command_line.plain_errors(PROG):
        config = command_line.parse(Config(), argv, PROG, __doc__)
        command_line.require_at_least(config, epochs=1, seeds=1, hidden=1)
        if not 0 < config.share < 1:
            raise ValueError(f"share must be between 0 and 1, got {config.share}")
        folder = run_folder.create(config.out, "mislabelled")
    x, y = fnn.data.digits().train
    runs = [measure(config, x, y, seed) for seed in range(config.seeds)]
    numbers = [run["numbers"] for run in runs]
    out = console()
    columns = ("seed", "replaced", "found first", "with 2 × as many", "area")
    rows = [
        (n["seed"], n["replaced"], f"{n['found']:.0%}", f"{n['found_in_twice']:.0%}",
         f"{n['area']:.3f}")
        for n in numbers
    ]  # fmt: skip
    out.print(table(columns, rows))
    answers.save_and_print(
        *(out, folder, config, numbers, {"mislabelled": draw(runs[0], x)}),
        conclude(numbers, config),
    )
    return 0


def measure(config: Config, x: np.ndarray, y: np.ndarray, seed: int) -> dict:
    """Make one run: norms, and how many of the wrong labels they find."""
    given, wrong = with_wrong_labels(y, config.share, seed)
    net = fnn.serial(fnn.Flatten(), fnn.Dense(config.hidden), fnn.Relu(), fnn.Dense(10))
    result = fnn.fit(
        *(net, LOSS, fnn.optimizers.adam(config.learning_rate)),
        train=(x, given), key=jax.random.key(seed), epochs=config.epochs,
        batch_size=32,
    )  # fmt: skip
    norms = jax.jit(fnn.per_example.norms(net, LOSS))(result.variables, (x, given))
    norms = np.asarray(norms.total)
    order, count = np.argsort(-norms), int(wrong.sum())
    return {
        "norms": norms, "labels": given, "wrong": wrong, "order": order,
        "numbers": {
            "seed": seed,
            "replaced": count,
            "found": float(wrong[order[:count]].mean()),
            "found_in_twice": float(wrong[order[: 2 * count]].sum() / count),
            "area": roc_area(norms, wrong),
        },
    }  # fmt: skip


def with_wrong_labels(
    y: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Replace a share of the labels by other digits; return them, and which."""
    draw, wrong = np.random.default_rng(seed), np.zeros(len(y), bool)
    count = max(1, round(share * len(y)))
    wrong[draw.choice(len(y), count, replace=False)] = True
    shift = draw.integers(1, 10, len(y), dtype=np.int32)
    return np.where(wrong, (y + shift) % 10, y).astype(np.int32), wrong


def roc_area(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the probability that a positive example has the larger score."""
    ranks = np.argsort(np.argsort(scores))
    count = positive.sum()
    above = ranks[positive].sum() - count * (count - 1) / 2
    return float(above / (count * (len(scores) - count)))


def conclude(numbers: list[dict], config: Config) -> str:
    """Return the sentence that answers the question."""
    found, area = ([n[name] for n in numbers] for name in ("found", "area"))
    guess = config.share
    verdict = "find them" if np.mean(found) > 0.5 else "do not find them"
    return (
        f"The norms {verdict}: of as many examples as there are wrong labels "
        f"({guess:.0%} of all), those with the largest norms hold {plus_minus(found)} "
        f"of the wrong ones (by chance {guess:.0%}); a wrong label has a larger norm "
        f"than a right one with probability {plus_minus(area)} "
        f"({len(numbers)} seeds)."
    )


def draw(run: dict, x: np.ndarray) -> Figure:
    """Draw the norms of right and wrong labels, and the first of the list."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.4))
        above, below = figure.subfigures(2, 1, height_ratios=(1.5, 1))
        axes = above.subplots()
        norms = np.maximum(run["norms"], 1e-6)
        edges = np.geomspace(norms.min(), norms.max(), 40)
        for label, which, colour in (
            ("right labels", ~run["wrong"], OKABE_ITO["blue"]),
            ("wrong labels", run["wrong"], OKABE_ITO["vermilion"]),
        ):
            weights = np.full(which.sum(), 1 / which.sum())
            axes.hist(norms[which], edges, weights=weights, alpha=0.7, label=label,
                      color=colour)  # fmt: skip
        axes.set(xscale="log", xlabel="‖g‖ of an example", ylabel="share of them")
        axes.legend()
        for panel, i in zip(below.subplots(1, 12), run["order"], strict=False):
            panel.imshow(x[i, ..., 0], cmap="gray_r")
            panel.set(xticks=[], yticks=[])
            is_wrong = run["wrong"][i]
            colour = OKABE_ITO["vermilion" if is_wrong else "blue"]
            panel.set_title(f"“{run['labels'][i]}”", color=colour)
        below.supxlabel("the largest norms, with the labels that were given", size=10)
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
