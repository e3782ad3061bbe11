"""The blame for a mistake: how much δ does each unit, and each layer, get?

The blame of unit j in layer l is δ^(l)_j = ∂J/∂z^(l)_j, for one example:

    δ^(L) = a^(L) − y
    δ^(l) = (Θ^(l))ᵀ δ^(l+1) ⊙ g'(z^(l)),    g'(z) = a ⊙ (1 − a)

A unit i passes blame to every unit j that feeds it, in proportion to the weights:
Θ_ij δ_i flows over their connection. The sum is scaled by g', which is at most 1/4.
Where δ > 0, a smaller z would cost less. Units are counted from 0, so that output k is
the one for the digit k.

A probe at every layer records the δ of the network's own backward, which is the one
that the gradient check sees. It must agree with the equations above, computed by the
loops of `fnn.textbook` in float64. See Rumelhart, Hinton and Williams, Nature 323
(1986).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from pathlib import Path

import jax
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

import fnn
from experiments.shared import answers, command_line, run_folder
from experiments.shared.figures import OKABE_ITO, STYLE
from experiments.shared.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.blame"
LOSS = fnn.losses.SigmoidCrossEntropy()
#: The largest allowed error in float32, as a share of the greatest δ in a layer.
TOLERANCE = 1e-4
#: The lines of the three examples.
LINE_STYLES = ("black", "--o"), ("vermilion", "-o"), ("blue", "-s")
#: Colours for δ > 0, where z should fall, and for δ < 0, where it should rise.
FALL, RISE = OKABE_ITO["vermilion"], OKABE_ITO["blue"]


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        hidden: units of each hidden layer.
        epochs: how many, between "before training" and "after".
        learning_rate: of Adam.
        seed: of the weights and the minibatches.
        out: a new folder for the results; else the next free one below runs/.
    """

    hidden: tuple[int, ...] = (16, 12)
    epochs: int = 30
    learning_rate: float = 3e-3
    seed: int = 0
    out: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the blame; the exit status is 1 where the recursion disagrees."""
    with command_line.plain_errors(PROG):
        config = command_line.parse(Config(), argv, PROG, __doc__)
        command_line.require_at_least(config, epochs=1)
        if not config.hidden:
            raise ValueError("the blame needs a hidden layer to flow to: give --hidden")
        hidden = chain(*((fnn.Dense(s), fnn.Sigmoid()) for s in config.hidden))
        net = fnn.serial(fnn.Flatten(), *hidden, fnn.Dense(10))  # the last g: in LOSS
        (train, test), key = fnn.data.digits(), jax.random.key(config.seed)
        adam = fnn.optimizers.adam(config.learning_rate)
        fit = partial(fnn.fit, net, LOSS, adam, train=train, key=key, batch_size=32)
        before = fit(epochs=0)  # checks the options
        folder = run_folder.create(config.out, "blame")
    after = fit(epochs=config.epochs)
    if after.stopped == "diverged":
        raise SystemExit(f"{PROG}: error: diverged: give a smaller --learning-rate")
    most, least = extreme_examples(net, after.variables, test)
    cases = ("before", before, most), ("after", after, most), ("after", after, least)
    numbers = [
        measure_blame(when, net, run.variables, which) for when, run, which in cases
    ]
    out = console()
    rows = [(n["example"], *map("{:.2g}".format, n["blame"])) for n in numbers]
    layers = [f"layer {number + 2}" for number in range(len(config.hidden) + 1)]
    out.print(table(("Σ|δ| of", *layers), rows))
    error = float(np.max([n["error"] for n in numbers]))  # NaN if one is
    conclusion = conclude(numbers, error)
    answers.save_and_print(
        out, folder, config, numbers, {"blame": draw(numbers)}, conclusion
    )
    return int(not error < TOLERANCE)


def extreme_examples(
    net: fnn.Layer, variables: fnn.Variables, test: tuple
) -> list[tuple]:
    """Return the example that costs most, and the cheapest one of the same digit."""
    x, y = test
    z = fnn.predict(net, variables, x)
    cost = np.array(jax.vmap(lambda z, y: LOSS.value(z[None], y[None]))(z, y))
    least = np.where(y == y[cost.argmax()], cost, np.inf).argmin()
    return [(x[[i]], y[[i]]) for i in (cost.argmax(), least)]


def measure_blame(
    when: str, net: fnn.Layer, variables: fnn.Variables, example: tuple
) -> dict:
    """Measure one example; the lists are over the layers l = 2, .., L."""
    x, y = example
    probed, probed_variables = fnn.probe(net, variables, x)
    grads = fnn.value_and_grad(probed, LOSS)(probed_variables, example).grads
    named = fnn.named_params(probed, grads).items()
    deltas = [np.asarray(grad[0]) for n, grad in named if n.endswith("Dense.delta")]
    thetas = [np.column_stack([p.bias, p.weight.T]) for p in variables.params if p]
    activations = fnn.textbook.forward(thetas, x.ravel())
    by_hand = fnn.textbook.deltas(thetas, activations, np.arange(10) == y)
    pairs = zip(deltas, by_hand, strict=True)
    flows = [t[:, 1:] * d[:, None] for t, d in zip(thetas, deltas, strict=True)]
    guess = activations[-1].argmax()
    verdict = "that is right" if guess == y else f"taken for {guess}"
    return {
        "example": f"{y[0]} {verdict}, {when} training",
        "image": x[0, ..., 0].tolist(),
        "delta": [delta.tolist() for delta in deltas],
        "flow": [flow.tolist() for flow in flows],  # Θ_ij δ_i, from layer l to l − 1
        "blame": [float(np.abs(delta).sum()) for delta in deltas],
        "error": [float(np.abs(d - h).max() / np.abs(h).max()) for d, h in pairs],
    }


def conclude(numbers: list[dict], error: float) -> str:
    """Return the sentence that answers the question."""
    before, after, _ = (n["blame"] for n in numbers)
    ways = [
        f"{'grows' if first > last else 'shrinks'} from {last:.2g} to {first:.2g}"
        for first, *_, last in (before, after)
    ]
    most = int(np.argmax(after))
    size = np.abs(numbers[1]["delta"][most])
    verdict = "the same δ as" if error < TOLERANCE else "another δ than"
    return (
        "On its way back from the outputs to the first hidden layer the blame Σ|δ| for "
        f"the digit that costs most {ways[0]} before training and {ways[1]} after it, "
        f"when most is in layer {most + 2} ({size.max() / size.sum():.0%} of that with "
        f"unit {size.argmax()}); the backward has {verdict} the recursion (off by at "
        f"most {error:.0e} of the greatest in a layer)."
    )


def draw(numbers: list[dict]) -> Figure:
    """Draw the networks with their blame, and the sums of each layer."""
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(12, 3.8))
        nets, sums = figure.subfigures(1, 2, width_ratios=(3.4, 1))
        axes, panels = sums.subplots(), nets.subplots(1, len(numbers))
        for panel, n, (colour, line) in zip(panels, numbers, LINE_STYLES, strict=True):
            draw_network(panel, n)
            layers = [str(number + 2) for number in range(len(n["blame"]))]
            style = dict(color=OKABE_ITO[colour], label=n["example"])
            axes.plot(layers, n["blame"], line, **style)
        key = "▼ δ > 0: z should fall    ▲ δ < 0: z should rise    area: |δ|"
        nets.supxlabel(f"{key}, each layer to its greatest", fontsize=10)
        axes.set(yscale="log", xlabel="layer", ylabel="blame of the layer, Σ|δ|")
        axes.grid(visible=True)
        sums.legend(loc="outside upper center", fontsize=9, handlelength=3)
    return figure


def draw_network(axes: Axes, line: dict) -> None:
    """Draw the units in columns, and between them the flows Θ_ij δ_i."""
    heights = [np.linspace(1, 0, len(delta)) for delta in line["delta"]]
    for column, delta in enumerate(map(np.array, line["delta"])):
        area = 140 * np.abs(delta) / np.abs(delta).max()
        for marker, colour, mine in (("v", FALL, delta > 0), ("^", RISE, delta < 0)):
            style = dict(marker=marker, color=colour, ec="white", lw=0.4, zorder=3)
            position = np.full(mine.sum(), column), heights[column][mine]
            axes.scatter(*position, area[mine], **style)
        text = f"layer {column + 2}\nΣ|δ| = {line['blame'][column]:.2g}"
        axes.text(column, -0.07, text, ha="center", va="top", fontsize=9)
        if column:
            flow = np.ravel(line["flow"][column])
            ends = product(heights[column], heights[column - 1])
            lines = [[(column, i), (column - 1, j)] for i, j in ends]
            # Squared, so that the many weak flows do not hide the strong ones.
            alpha = np.abs(flow / np.abs(flow).max()) ** 2
            colours = np.where(flow > 0, FALL, RISE)
            axes.add_collection(LineCollection(lines, colors=colours, alpha=alpha))
    for digit, height in enumerate(heights[-1]):
        axes.text(column + 0.12, height, str(digit), va="center", fontsize=9)
    inset = axes.inset_axes((0, 0.42, 0.18, 0.35))
    inset.imshow(line["image"], cmap="gray_r")
    inset.set(xticks=[], yticks=[])
    inset.spines[:].set(visible=True, color="0.8")
    axes.set(xlim=(-0.7, column + 0.3), ylim=(-0.3, 1.05), title=line["example"])
    axes.set_axis_off()


if __name__ == "__main__":
    raise SystemExit(main())
