"""Receptive fields: how much of the image does a unit see, and how much does it use?

`fnn.summary` computes the receptive field of every layer from windows and strides. Here
it is compared with the handwritten backward: with dy = 1 at one position in the middle
of a layer's output and 0 elsewhere, dx is ∂y/∂x, which is not 0 on the pixels that the
unit depends on. All weights are made positive for this, so that no path is cut by a
ReLU or cancelled by another one. Max-pooling still follows only one path, and so the
union over several random images is taken.

With the weights as drawn, the size of the gradient shows how much each pixel counts:
the effective receptive field, which is smaller. Its width is the root of the number of
pixels that have more than 4.55% of the largest gradient, as in Luo et al.,
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
from experiments.shared import answers, command_line, networks, run_folder
from experiments.shared.figures import OKABE_ITO, STYLE
from experiments.shared.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.receptive_fields"
Rows = tuple[fnn.SummaryRow, ...]

#: More pixels than any receptive field has, and the margin around the largest.
WIDE, MARGIN = 1001, 32

#: Pixels with more than this share of the largest gradient are used: 1 − 95.45%.
USED = 0.0455


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        networks: which ones, see `experiments/shared/networks.py`.
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
        config = command_line.parse(Config(), argv, PROG, __doc__)
        command_line.require_at_least(config, images=1, draws=1)
        if not config.networks:
            raise ValueError("there must be at least one network")
        options = {"resnet": {"blocks": config.blocks}}
        nets = {
            name: getattr(networks, name)(**options.get(name, {}))
            for name in config.networks
        }
        folder = run_folder.create(config.out, "receptive_fields")
    out, numbers, pictures = console(), [], {}
    for name, net in nets.items():
        x, rows = random_images(net, config)
        supports = gradient_supports(net, x, rows, config.seed)
        boxes = [bounding_box(support) for support in supports]
        for row, (start, end) in zip(rows, boxes, strict=True):
            sizes = tuple(int(b - a) for a, b in zip(start, end, strict=True))
            line = {"network": name, "layer": row.path, "computed": row.receptive_field}
            numbers.append(line | {"measured": sizes})
        last = max(i for i, row in enumerate(rows) if len(row.out_shape) == 3)
        strength = effective_field(net, x, rows, last, config)
        numbers[last - len(rows)]["effective"] = effective_width(strength)
        pictures[name] = draw(name, rows[: last + 1], boxes, strength)
    columns = ("layer", "computed", "measured")
    shown = [
        (n["layer"], size_text(n["computed"]), size_text(n["measured"]))
        for n in numbers
    ]
    out.print(table(columns, shown))
    answers.save_and_print(out, folder, config, numbers, pictures, conclude(numbers))
    return int(any(n["computed"] != n["measured"] for n in numbers))


# ---- Gradients -------------------------------------------------------------------


def random_images(net: fnn.Layer, config: Config) -> tuple[jax.Array, Rows]:
    """Draw images larger than any receptive field, and summarise the network for them.

    They are uniform noise, so that no two pixels are equal.
    """
    fields = [f for row in fnn.summary(net, (WIDE, WIDE, 1)).rows for f in row[-1]]
    size = max(f for f in fields if f < WIDE) + MARGIN
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    x = jax.random.uniform(key, (config.images, size, size, 1))
    return x, fnn.summary(net, x.shape[1:]).rows


def gradient_supports(
    net: fnn.Layer, x: jax.Array, rows: Rows, seed: int
) -> Iterator[Any]:
    """Yield for every layer the pixels (H, W) on which its middle unit depends."""
    variables = jax.tree.map(jnp.abs, net.init(jax.random.key(seed), x.shape[1:]))
    saved = net.forward(*variables, x).saved
    for i, (prefix, *parts) in enumerate(prefixes(net, variables.params, saved)):
        dx = prefix.backward(*parts, middle_dy(rows, i, len(x))).dx
        yield np.asarray((dx != 0).any((0, 3)))


def effective_field(
    net: fnn.Layer, x: jax.Array, rows: Rows, layer: int, config: Config
) -> np.ndarray:
    """Return the mean size (H, W) of a middle unit's gradient; the largest is 1."""

    @jax.jit
    def gradient_size(net: fnn.Layer, key: jax.Array) -> jax.Array:
        variables = net.init(key, x.shape[1:])
        saved = net.forward(*variables, x).saved
        prefix, *parts = list(prefixes(net, variables.params, saved))[layer]
        dx = prefix.backward(*parts, middle_dy(rows, layer, len(x))).dx
        return abs(dx).mean((0, 3))

    keys = jax.random.split(jax.random.key(config.seed), config.draws)
    total = sum(np.asarray(gradient_size(net, key)) for key in keys)
    return total / total.max()


def prefixes(net: fnn.Layer, params: Any, saved: Any) -> Iterator[tuple]:
    """Yield the part of the network up to each layer, in forward order.

    With it come its params and its saved values, which its backward needs.
    """
    if isinstance(net, fnn.Serial):
        for i, layer in enumerate(net.layers):
            for prefix, *parts in prefixes(layer, params[i], saved[i]):
                part = fnn.serial(*net.layers[:i], prefix)
                yield part, (*params[:i], parts[0]), (*saved[:i], parts[1])
    elif isinstance(net, fnn.Residual):
        yield from prefixes(net.body, params.body, saved.body)
        yield from prefixes(net.projection, params.projection, saved.projection)
    else:
        yield net, params, saved


def middle_dy(rows: Rows, layer: int, n: int) -> jax.Array:
    """Return the dy of a layer: 1 for all features at its middle position, else 0."""
    shape = rows[layer].out_shape
    image = next(r.out_shape for r in rows[layer::-1] if len(r.out_shape) == 3)
    if np.prod(shape) != np.prod(image):
        return jnp.ones((n, *shape))  # this output has no positions
    dy = jnp.zeros((n, *image)).at[:, image[0] // 2, image[1] // 2].set(1)
    return dy.reshape(n, *shape)  # also right for a flattened image


# ---- The results -----------------------------------------------------------------


def bounding_box(support: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return first and last + 1 (row, column) of the smallest rectangle around it."""
    pixels = np.argwhere(support)
    return pixels.min(0), pixels.max(0) + 1


def effective_width(strength: np.ndarray) -> float:
    """Return the width of a square of as many pixels as the effective field."""
    return float(np.sqrt((strength > USED).sum()))


def size_text(sizes: Sequence[float]) -> str:
    """Return sizes as text, such as `5×5`."""
    return "×".join(f"{size:.3g}" for size in sizes)


def conclude(numbers: list[dict]) -> str:
    """Return the sentence that answers the question."""
    wrong = [n for n in numbers if n["computed"] != n["measured"]]
    verdict = f"The computed receptive fields of all {len(numbers)} layers are"
    if wrong:
        names = ", ".join(n["layer"] for n in wrong)
        verdict = f"Of {len(numbers)} computed receptive fields {len(wrong)} are not"
        verdict = f"{verdict} ({names})"
    used = ", ".join(
        f"{n['effective']:.1f} of {n['computed'][0]} pixels ({n['network']})"
        for n in numbers
        if "effective" in n
    )
    return (
        f"{verdict} the supports of the gradients; along each axis the last layer with "
        f"places uses {used}."
    )


def draw(name: str, rows: Rows, boxes: list[tuple], strength: np.ndarray) -> Figure:
    """Draw the fields inside each other, and how much of the last one is used."""
    middle = len(strength) / 2  # pixels are counted from there
    first = {}  # of the layers with the same field, only the first is drawn
    for row, (start, end) in zip(rows, boxes[: len(rows)], strict=True):
        first.setdefault(row.receptive_field, (row.path, start - middle, end - start))
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(9, 5))
        figure.suptitle(f"{name}, up to {rows[-1].path}")
        seen, used = figure.subplots(1, 2, sharex=True, sharey=True)
        colours = matplotlib.colormaps["viridis"](np.linspace(0.9, 0, len(first)))
        # Where edges coincide, the inner one is thinner, and on top.
        for i, (size, (path, (top, left), (h, w))) in enumerate(first.items()):
            style = dict(fill=False, edgecolor=colours[i], zorder=9 - i)
            label = f"{size_text(size)}: {path}"
            style |= dict(label=label, lw=1.5 + 3 * i / len(first))
            seen.add_patch(Rectangle((left, top), w, h, **style))
        used.add_patch(Rectangle((left, top), w, h, fill=False, linewidth=2))
        fine = np.kron(strength, np.ones((8, 8)))  # so that the line is around pixels
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
