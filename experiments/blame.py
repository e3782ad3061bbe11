"""The blame flowing back: which units, and which layers, have a mistake's δ?

The blame of unit j in layer l is δ^(l)_j = ∂J/∂z^(l)_j, for one example:

    δ^(L) = a^(L) − y
    δ^(l) = (Θ^(l))ᵀ δ^(l+1) ⊙ g'(z^(l)),    g'(z) = a ⊙ (1 − a)

Over the connection from unit j to unit i flows Θ_ij δ_i: a unit passes its blame on to
those that feed it, in proportion to the weights, and what arrives is scaled by g',
which is at most 1/4. Where δ > 0, a smaller z would cost less. Units are counted from
0, so that output k is the one for the digit k.

A probe at every layer gives the δ that the network's own backward makes, which is the
one that the gradient check sees; the two lines above, in float64, must agree with it.
See Rumelhart, Hinton and Williams, Nature 323 (1986).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import fnn
from experiments import answers, command_line, runs
from experiments.figures import OKABE_ITO, STYLE
from experiments.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.blame"
LOSS = fnn.losses.SigmoidCrossEntropy()
#: How far the two may be apart, as a share of a layer's greatest δ, in float32.
TOLERANCE = 1e-4
#: Examples by their cost after training, "most" of all or "least" of the same digit,
#: and when their blame is looked at: colour, line and marker.
LOOKS = {
    ("most", "before"): ("black", "--o"),
    ("most", "after"): ("vermilion", "-o"),
    ("least", "after"): ("blue", "-s"),
}


@dataclass(frozen=True)
class Config:
    """What a run depends on.

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


class Blame(NamedTuple):
    """One example's blame; the lists are over the layers l = 2, .., L."""

    image: np.ndarray
    digit: int
    taken_for: int
    deltas: list[np.ndarray]  #: δ^(l), as the probes have it, of shape (s_l,)
    by_hand: list[np.ndarray]  #: δ^(l), by the recursion
    weights: list[np.ndarray]  #: what leads from a^(l) to z^(l+1), (s_l, s_(l+1))

    def __str__(self) -> str:
        if self.digit == self.taken_for:
            return f"{self.digit} that is right"
        return f"{self.digit} taken for {self.taken_for}"


def main(argv: Sequence[str] | None = None) -> int:
    """Send the blame back; the exit status is 1 where the recursion says otherwise."""
    description = (__doc__ or "").partition("\n")[0]
    with command_line.plain_errors(PROG):
        config = command_line.options(Config(), argv, PROG, description)
        command_line.at_least(config, epochs=1)
        if not config.hidden:
            raise ValueError("the blame needs a hidden layer to flow to: give --hidden")
        net, data = network(config), fnn.data.digits()
        before = trained(net, data.train, config, epochs=0)  # checks the options
        folder = runs.new_folder(config.out, "blame")
    after = trained(net, data.train, config, config.epochs)
    stages, chosen = {"before": before, "after": after}, extremes(net, after, data.test)
    found = {
        (cost, when): blamed(net, stages[when], data.test, chosen[cost])
        for cost, when in LOOKS
    }
    numbers = [line for case, blame in found.items() for line in measured(case, blame)]
    rows = [
        (blame, when, *(f"{np.abs(delta).sum():.2g}" for delta in blame.deltas))
        for (_, when), blame in found.items()
    ]
    layers = (f"layer {number + 2}" for number in range(len(config.hidden) + 1))
    out = console()
    out.print(table(("Σ|δ| of", "training", *layers), rows))
    picture = {"blame": draw(found)}
    answers.give(out, folder, config, numbers, picture, conclude(numbers))
    return int(not agree(numbers))


# ---- The network and its δ -------------------------------------------------------


def network(config: Config) -> fnn.Layer:
    """Sigmoids throughout; those of the outputs are in the loss."""
    pairs = [(fnn.Dense(units), fnn.Sigmoid()) for units in config.hidden]
    hidden = [layer for pair in pairs for layer in pair]
    return fnn.serial(fnn.Flatten(), *hidden, fnn.Dense(10))


def trained(net: fnn.Layer, train: tuple, config: Config, epochs: int) -> fnn.Variables:
    """The variables after so many epochs."""
    result = fnn.fit(
        *(net, LOSS, fnn.optimizers.adam(config.learning_rate)),
        train=train,
        key=jax.random.key(config.seed),
        epochs=epochs,
        batch_size=32,
    )
    if result.stopped == "diverged":
        raise SystemExit(
            f"{PROG}: error: training diverged in epoch {result.epochs} with "
            f"learning_rate={config.learning_rate:g}: give a smaller --learning-rate"
        )
    return result.variables


def extremes(
    net: fnn.Layer, variables: fnn.Variables, examples: tuple
) -> dict[str, int]:
    """The image that costs most, and that of the same digit which costs least."""
    x, y = examples
    z = fnn.predict(net, variables, x)
    cost = np.asarray(jax.vmap(lambda z, y: LOSS.value(z[None], y[None]))(z, y))
    most = int(cost.argmax())
    return {"most": most, "least": int(np.where(y == y[most], cost, np.inf).argmin())}


def blamed(net: fnn.Layer, variables: fnn.Variables, examples: tuple, i: int) -> Blame:
    """The δ of example i, by the network's own backward and by the recursion."""
    x, y = (part[i : i + 1] for part in examples)
    probed, probed_variables = fnn.probe(net, variables, x)
    out = fnn.value_and_grad(probed, LOSS)(probed_variables, (x, y))
    grads = fnn.named_params(probed, out.grads)
    deltas = [np.asarray(g[0]) for n, g in grads.items() if n.endswith("Dense.delta")]
    seen = fnn.record(net, variables, x)
    _, *hidden = (s.x[0] for path, s in seen.items() if path.endswith("Dense"))
    _, *weights = (np.asarray(params.weight) for params in variables.params if params)
    a = np.asarray(jax.nn.sigmoid(out.outputs[0]))
    by_hand = recursion(weights, [*hidden, a], np.arange(len(a)) == y)
    pair = int(y[0]), int(a.argmax())
    return Blame(x[0], *pair, deltas, by_hand, weights)


def recursion(
    weights: list[np.ndarray], activations: list[np.ndarray], y: np.ndarray
) -> list[np.ndarray]:
    """δ^(2), .., δ^(L), from a^(2), .., a^(L) and the weights between them."""
    *hidden, outputs = (np.asarray(a, np.float64) for a in activations)
    deltas = [outputs - y]
    for weight, a in zip(reversed(weights), reversed(hidden), strict=True):
        theta = weight.T  # Θ_ij leads from unit j to unit i, as in the lecture
        deltas.insert(0, theta.T @ deltas[0] * a * (1 - a))
    return deltas


# ---- The answer ------------------------------------------------------------------


def measured(case: tuple[str, str], blame: Blame) -> list[dict]:
    """A line for each layer."""
    (cost, when), numbers = case, []
    for delta, by_hand in zip(blame.deltas, blame.by_hand, strict=True):
        size = np.abs(delta)
        line = {"example": str(blame), "cost": cost, "training": when}
        line |= {"layer": len(numbers) + 2, "blame": float(size.sum())}
        line |= {"unit": int(size.argmax()), "share": float(size.max() / size.sum())}
        line["error"] = float(np.abs(delta - by_hand).max() / np.abs(by_hand).max())
        numbers.append(line | {"delta": delta.tolist()})
    return numbers


def agree(numbers: list[dict]) -> bool:
    """Whether the recursion gives every δ; a NaN does not agree."""
    return all(n["error"] < TOLERANCE for n in numbers)


def conclude(numbers: list[dict]) -> str:
    """The sentence."""
    costly = [n for n in numbers if n["cost"] == "most"]
    ways = []
    for when in ("before", "after"):
        first, *_, last = (n["blame"] for n in costly if n["training"] == when)
        verb = "grows" if first > last else "shrinks"
        ways.append(f"{verb} from {last:.2g} to {first:.2g} {when} training")
    after = [n for n in costly if n["training"] == "after"]
    most = max(after, key=lambda n: n["blame"])
    off = max(numbers, key=lambda n: n["error"])
    verdict = "the same δ as" if agree(numbers) else "another δ than"
    return (
        "On its way back from the outputs to the first hidden layer the blame Σ|δ| for "
        f"the digit that costs most {' and '.join(ways)}; of the {after[0]['example']} "
        f"most is then in layer {most['layer']}, {most['share']:.0%} of that with unit "
        f"{most['unit']}; the backward has {verdict} the recursion (off by at most "
        f"{off['error']:.0e} of the greatest in a layer, in layer {off['layer']})."
    )


# ---- The picture -----------------------------------------------------------------


def draw(found: dict[tuple[str, str], Blame]) -> Figure:
    """The networks with their blame, and its sum over the layers."""
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(12, 3.8))
        nets, sums = figure.subfigures(1, 2, width_ratios=(3.4, 1))
        places, axes = nets.subplots(1, len(found)), sums.subplots()
        for place, (case, blame) in zip(places, found.items(), strict=True):
            (colour, line), (_, when) = LOOKS[case], case
            draw_network(place, blame)
            place.set_title(f"{when} training: {blame}")
            total = [np.abs(delta).sum() for delta in blame.deltas]
            look = dict(color=OKABE_ITO[colour], label=f"{when}: {blame}")
            axes.plot(np.arange(len(total)) + 2, total, line, **look)
        nets.supxlabel(
            "▼ δ > 0: z should fall    ▲ δ < 0: z should rise    "
            "area: |δ|, each layer to its greatest",
            fontsize=10,
        )
        axes.set(yscale="log", xlabel="layer", ylabel="blame of the layer, Σ|δ|")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True)
        sums.legend(loc="outside upper center", fontsize=9, handlelength=3)
    return figure


def draw_network(axes: Axes, blame: Blame) -> None:
    """The units in columns, and between them the strongest flows Θ_ij δ_i."""
    places = [np.linspace(1, 0, len(delta)) for delta in blame.deltas]
    for column, weight in enumerate(blame.weights):
        flow = weight * blame.deltas[column + 1]  # entry ji is Θ_ij δ_i
        flow = flow / np.abs(flow).max()
        ends = np.argwhere(np.abs(flow) > 0.3)  # of the strongest; all would be a felt
        lines = [
            ((column, places[column][j]), (column + 1, places[column + 1][i]))
            for j, i in ends
        ]
        colours = [to_rgba(sign_colour(f), abs(f)) for f in flow[tuple(ends.T)]]
        axes.add_collection(LineCollection(lines, colors=colours, linewidths=1))
    for column, (delta, place) in enumerate(zip(blame.deltas, places, strict=True)):
        area = 140 * np.abs(delta) / np.abs(delta).max()
        for marker, sign in (("v", 1), ("^", -1)):
            mine = np.sign(delta) == sign
            look = dict(marker=marker, color=sign_colour(sign), ec="white", lw=0.4)
            axes.scatter(np.full(mine.sum(), column), place[mine], area[mine], zorder=3,
                         **look)  # fmt: skip
        text = f"layer {column + 2}\nΣ|δ| = {np.abs(delta).sum():.2g}"
        axes.text(column, -0.07, text, ha="center", va="top", fontsize=9)
    for digit, place in enumerate(places[-1]):
        axes.text(column + 0.12, place, str(digit), va="center", fontsize=9)
    inset = axes.inset_axes((0, 0.42, 0.18, 0.35))
    inset.imshow(blame.image[..., 0], cmap="gray_r")
    inset.set(xticks=[], yticks=[])
    inset.spines[:].set(visible=True, color="0.8")
    axes.set(xlim=(-0.7, column + 0.3), ylim=(-0.3, 1.05))
    axes.set_axis_off()


def sign_colour(sign: float) -> str:
    """Of what makes z fall, and of what makes it rise."""
    return OKABE_ITO["vermilion" if sign > 0 else "blue"]


if __name__ == "__main__":
    raise SystemExit(main())
