"""Backward rules: how far is what they send from the gradient, while they learn?

Six networks start from the same weights, and each learns by a rule of its own instead
of the true gradient. After every epoch, the angle between the rule's gradient and the
true one at the same weights is measured, for each layer. Below 90° a small step lowers
the loss. Of feedback alignment it is near 90° at first, and falls because the forward
weights come to agree with the feedback (Lillicrap et al. 2016, figure 1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure

import fnn
from experiments.shared import answers, command_line, run_folder
from experiments.shared.figures import OKABE_ITO, STYLE
from experiments.shared.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.rule_angles"
LOSS = fnn.losses.SoftmaxCrossEntropy()

#: The rules by name: functions of a network and a key.
RULES: dict[str, Callable[[fnn.Layer, jax.Array], fnn.Layer]] = {
    "feedback alignment": fnn.rules.feedback_alignment,
    "direct feedback": fnn.rules.direct_feedback_alignment,
    "uSF": lambda net, key: fnn.rules.sign_symmetric(net, key, "uSF"),
    "frSF": lambda net, key: fnn.rules.sign_symmetric(net, key, "frSF"),
    "meProp, k = 4": lambda net, key: fnn.rules.meprop(net, 4),
    "δ of 2 bits": lambda net, key: fnn.rules.quantized_delta(net, 2),
}


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        hidden: units of each hidden layer.
        epochs: how many.
        learning_rate: of plain descent with momentum 0.9.
        seed: of the weights, the feedback and the minibatches.
        out: a new folder for the results; else the next free one below runs/.
    """

    hidden: tuple[int, ...] = (64, 48)
    epochs: int = 30
    learning_rate: float = 0.02
    seed: int = 0
    out: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Train by each rule, and measure the angles."""
    with command_line.plain_errors(PROG):
        config = command_line.parse(Config(), argv, PROG, __doc__)
        command_line.require_at_least(config, epochs=1)
        if not config.hidden:
            raise ValueError("angles need a hidden layer to be sent to: give --hidden")
        folder = run_folder.create(config.out, "rule_angles")
    layers = [part for size in config.hidden for part in (fnn.Dense(size), fnn.Tanh())]
    net = fnn.serial(fnn.Flatten(), *layers, fnn.Dense(10))
    numbers = [measure(net, name, config) for name in RULES]
    out = console()
    paths = list(numbers[0]["angles"])
    rows = [
        (n["rule"], *(f"{n['angles'][p][-1]:.0f}°" for p in paths),
         f"{n['test_accuracy']:.1%}")
        for n in numbers
    ]  # fmt: skip
    columns = ("angle at the end", *paths, "test accuracy")
    out.print(table(columns, rows))
    answers.save_and_print(
        *(out, folder, config, numbers, {"rule_angles": draw(numbers)}),
        conclude(numbers),
    )
    return 0


def measure(net: fnn.Layer, name: str, config: Config) -> dict:
    """Train by one rule; the angles are lists over the epochs, by the layer's path."""
    key = jax.random.key(config.seed)
    rule = RULES[name](net, jax.random.fold_in(key, 1))

    def angles(variables: fnn.Variables, batch: tuple, *, key: jax.Array) -> dict:
        found = fnn.compare_rules(net, {name: rule}, LOSS, variables, batch, key=key)
        return found.angle[name]

    (train, test) = fnn.data.digits()
    result = fnn.fit(
        *(rule, LOSS, fnn.optimizers.sgd(config.learning_rate, momentum=0.9)),
        train=train, key=key, epochs=config.epochs, batch_size=64,
        observe={"angles": angles},
    )  # fmt: skip
    tested = fnn.evaluate(net, LOSS, result.variables, test)
    paths = sorted(result.observed["angles"], key=lambda p: int(p.partition("/")[0]))
    return {
        "rule": name,
        "angles": {p: result.observed["angles"][p].tolist() for p in paths},
        "test_accuracy": float(tested["accuracy"]),
    }


def conclude(numbers: list[dict]) -> str:
    """Return the sentence that answers the question."""
    first = next(iter(numbers[0]["angles"]))  # the layer that is farthest down
    ends = {n["rule"]: n["angles"][first] for n in numbers}
    order = sorted(ends, key=lambda name: ends[name][-1])
    shown = ", ".join(f"{name} {ends[name][-1]:.0f}°" for name in order)
    below = sum(angles[-1] < 90 for angles in ends.values())
    start, end = ends["feedback alignment"][0], ends["feedback alignment"][-1]
    way = "falls" if end < start else "rises"
    accuracies = [n["test_accuracy"] for n in numbers]
    return (
        f"At the end {below} of {len(numbers)} rules are within 90° of the gradient in "
        f"the first layer ({shown}); that of feedback alignment {way} from "
        f"{start:.0f}° after the first epoch to {end:.0f}°; the networks classify "
        f"{min(accuracies):.1%} to {max(accuracies):.1%} of the test digits."
    )


def draw(numbers: list[dict]) -> Figure:
    """Draw the angles of each layer over the epochs."""
    paths = list(numbers[0]["angles"])
    colours = [OKABE_ITO[name] for name in
               ("blue", "vermilion", "green", "purple", "orange", "sky")]  # fmt: skip
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(paths), 3.4))
        panels = figure.subplots(1, len(paths), sharey=True, squeeze=False)[0]
        for panel, path in zip(panels, paths, strict=True):
            for n, colour in zip(numbers, colours, strict=True):
                epochs = np.arange(1, len(n["angles"][path]) + 1)
                label = f"{n['rule']} ({n['test_accuracy']:.1%})"
                panel.plot(epochs, n["angles"][path], color=colour, label=label)
            panel.axhline(90, color="grey", linestyle=":")
            panel.set(title=path, xlabel="epoch")
        panels[0].set_ylabel("angle to the gradient [°]")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", fontsize=9)
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
