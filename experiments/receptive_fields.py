"""Receptive fields: how much of the image does a unit see, and how much does it use?

`fnn.summary` computes the receptive field of every layer from windows and strides. Here
it is held against what the handwritten backward says: with dy = 1 at one place in the
middle of a layer's output and 0 elsewhere, dx is ∂y/∂x, and differs from 0 on the
pixels that the unit depends on. All weights are made positive for this, so that no path
is cut by a ReLU or cancelled by another one; that leaves max-pooling, which follows one
path out of many, and so the union over several random images is taken.

With weights as they are drawn, the size of the gradient shows how much each pixel
counts: the effective receptive field, which is smaller. Its width is the root of the
number of pixels that have more than 4.55% of the largest gradient, as in Luo et al.,
arXiv:1701.04128, section 4.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import fnn
from experiments import answers, command_line, networks, runs
from experiments.figures import OKABE_ITO, STYLE
from experiments.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.receptive_fields"
Rows = tuple[fnn.SummaryRow, ...]


#: More pixels than any receptive field has, and how many to leave around the largest.
WIDE, MARGIN = 1001, 32

#: Pixels with more than this share of the largest gradient are used: 1 − 95.45%.
USED = 0.0455


@dataclass(frozen=True)
class Config:
    """What a run depends on.

    Attributes:
        networks: which ones, see `experiments/networks.py`.
        blocks: of the resnet, in each of its three stages.
        images: random images, at which the gradients are taken.
        draws: of the weights, over which the effective field is averaged.
        seed: of the weights and the images.
        out: a new folder for the results; else the next free one below runs/.
    """

    networks: tuple[Literal["lenet", "all_convolutional", "resnet"], ...] = (
        "lenet",
        "resnet",
    )
    blocks: int = 1
    images: int = 16
    draws: int = 16
    seed: int = 0
    out: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; the exit status is 1 where a field is not the gradient's support."""
    with command_line.plain_errors(PROG):
        config = command_line.options(Config(), argv, PROG, __doc__)
        command_line.at_least(config, images=1, draws=1)
        if not config.networks:
            raise ValueError("there must be at least one network")
        options = {"resnet": {"blocks": config.blocks}}
        nets = {
            name: getattr(networks, name)(**options.get(name, {}))
            for name in config.networks
        }
        folder = runs.new_folder(config.out, "receptive_fields")
    out, numbers, pictures = console(), [], {}
    for name, net in nets.items():
        x, rows = images(net, config)
        boxes = [box(support) for support in supports(net, x, rows, config.seed)]
        for row, (start, end) in zip(rows, boxes, strict=True):
            sizes = tuple(int(b - a) for a, b in zip(start, end, strict=True))
            line = {"network": name, "layer": row.path, "computed": row.receptive_field}
            numbers.append(line | {"measured": sizes})
        last = max(i for i, row in enumerate(rows) if len(row.out_shape) == 3)
        strength = effective(net, x, rows, last, config)
        numbers[last - len(rows)]["effective"] = width(strength)
        pictures[name] = draw(name, rows[: last + 1], boxes, strength)
    shown = [(n["layer"], times(n["computed"]), times(n["measured"])) for n in numbers]
    out.print(table(("layer", "computed", "measured"), shown))
    answers.give(out, folder, config, numbers, pictures, conclude(numbers))
    return int(any(n["computed"] != n["measured"] for n in numbers))


# ---- Gradients -------------------------------------------------------------------


def images(net: fnn.Layer, config: Config) -> tuple[jax.Array, Rows]:
    """Images in which nothing that a unit in the middle sees is cut off, and the rows.

    Uniform noise: no two pixels are equal.
    """
    fields = [f for row in fnn.summary(net, (WIDE, WIDE, 1)).rows for f in row[-1]]
    size = max(f for f in fields if f < WIDE) + MARGIN
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    x = jax.random.uniform(key, (config.images, size, size, 1))
    return x, fnn.summary(net, x.shape[1:]).rows


def supports(net: fnn.Layer, x: jax.Array, rows: Rows, seed: int) -> Iterator[Any]:
    """For every layer the pixels (H, W) on which its unit in the middle depends."""
    variables = jax.tree.map(jnp.abs, net.init(jax.random.key(seed), x.shape[1:]))
    saved = net.forward(*variables, x).saved
    for i, (end, *parts) in enumerate(ends(net, variables.params, saved)):
        dx = end.backward(*parts, in_the_middle(rows, i, len(x))).dx
        yield np.asarray((dx != 0).any((0, 3)))


def effective(
    net: fnn.Layer, x: jax.Array, rows: Rows, layer: int, config: Config
) -> np.ndarray:
    """Mean size (H, W) of the gradient of a layer's unit in the middle, largest 1."""

    @jax.jit
    def one(net: fnn.Layer, key: jax.Array) -> jax.Array:
        variables = net.init(key, x.shape[1:])
        saved = net.forward(*variables, x).saved
        end, *parts = list(ends(net, variables.params, saved))[layer]
        dx = end.backward(*parts, in_the_middle(rows, layer, len(x))).dx
        return abs(dx).mean((0, 3))

    keys = jax.random.split(jax.random.key(config.seed), config.draws)
    total = sum(np.asarray(one(net, key)) for key in keys)
    return total / total.max()


def ends(net: fnn.Layer, params: Any, saved: Any) -> Iterator[tuple]:
    """For every layer, in forward order, the part of the network that it ends.

    Each with its params and what it saved, which is all that its backward needs.
    """
    if isinstance(net, fnn.Serial):
        for i, layer in enumerate(net.layers):
            for end, *parts in ends(layer, params[i], saved[i]):
                part = fnn.serial(*net.layers[:i], end)
                yield part, (*params[:i], parts[0]), (*saved[:i], parts[1])
    elif isinstance(net, fnn.Residual):
        yield from ends(net.body, params.body, saved.body)
        yield from ends(net.projection, params.projection, saved.projection)
    else:
        yield net, params, saved


def in_the_middle(rows: Rows, layer: int, n: int) -> jax.Array:
    """The dy of that layer: 1 for all features at its middle place, 0 elsewhere."""
    shape = rows[layer].out_shape
    image = next(r.out_shape for r in rows[layer::-1] if len(r.out_shape) == 3)
    if np.prod(shape) != np.prod(image):
        return jnp.ones((n, *shape))  # no places any more
    dy = jnp.zeros((n, *image)).at[:, image[0] // 2, image[1] // 2].set(1)
    return dy.reshape(n, *shape)  # as a flattened image has it


# ---- What comes out --------------------------------------------------------------


def box(support: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest rectangle around it: where it starts, and where it has ended."""
    places = np.argwhere(support)
    return places.min(0), places.max(0) + 1


def width(strength: np.ndarray) -> float:
    """Of the effective receptive field, if it were a square."""
    return float(np.sqrt((strength > USED).sum()))


def times(sizes: Sequence[float]) -> str:
    return "×".join(f"{size:.3g}" for size in sizes)


def conclude(numbers: list[dict]) -> str:
    """The sentence."""
    wrong = [n for n in numbers if n["computed"] != n["measured"]]
    said = f"The computed receptive fields of all {len(numbers)} layers are"
    if wrong:
        said = f"Of {len(numbers)} computed receptive fields {len(wrong)} are not"
        said = f"{said} ({', '.join(n['layer'] for n in wrong)})"
    used = ", ".join(
        f"{n['effective']:.1f} of {n['computed'][0]} pixels ({n['network']})"
        for n in numbers
        if "effective" in n
    )
    return (
        f"{said} the supports of the gradients; along each axis the last layer with "
        f"places uses {used}."
    )


def draw(name: str, rows: Rows, boxes: list[tuple], strength: np.ndarray) -> Figure:
    """The fields inside each other, and how much of the last one is used."""
    middle = len(strength) / 2  # pixels are counted from there
    first = {}  # of the layers that see the same, the first stands for all
    for row, (start, end) in zip(rows, boxes[: len(rows)], strict=True):
        first.setdefault(row.receptive_field, (row.path, start - middle, end - start))
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(9, 5))
        figure.suptitle(f"{name}, up to {rows[-1].path}")
        seen, used = figure.subplots(1, 2, sharex=True, sharey=True)
        colours = matplotlib.colormaps["viridis"](np.linspace(0.9, 0, len(first)))
        # Of edges that coincide the inner one is thinner, and on top.
        for i, (size, (path, (top, left), (h, w))) in enumerate(first.items()):
            style = dict(fill=False, edgecolor=colours[i], zorder=9 - i)
            style |= dict(label=f"{times(size)}: {path}", lw=1.5 + 3 * i / len(first))
            seen.add_patch(Rectangle((left, top), w, h, **style))
        used.add_patch(Rectangle((left, top), w, h, fill=False, linewidth=2))
        fine = np.kron(strength, np.ones((8, 8)))  # for a line around whole pixels
        grid = (np.arange(len(fine)) + 0.5) / 8 - middle
        extent = (-middle, middle, middle, -middle)
        image = used.imshow(strength, "magma_r", vmin=0, vmax=1, extent=extent)
        used.contour(grid, grid, fine, [USED], colors=OKABE_ITO["blue"])
        bar = figure.colorbar(image, ax=used, shrink=0.7)
        bar.set_label("gradient, share of the largest")
        reach = 1.1 * max(abs(top), abs(left), top + h, left + w)
        seen.set(title="seen", ylabel="pixels from the middle")
        used.set(title=f"used: within the line, more than {USED:.2%}")
        for axes in (seen, used):
            axes.set(xlabel="pixels from the middle", aspect="equal")
            axes.set(xlim=(-reach, reach), ylim=(reach, -reach))
            axes.locator_params(integer=True)
        figure.legend(*seen.get_legend_handles_labels(), loc="outside lower center",
                      ncols=3, fontsize=9)  # fmt: skip
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
