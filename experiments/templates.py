"""Templates moved over digits: where does each of them respond, and to which digits?

Edges in four directions, a blob, and a stroke cut out of one image are the weights of
an `fnn.Conv`, set by hand. Its response at position p is

    y_p = Σ_k x_(p+k) W_k        (zeros outside the image)

which is cross-correlation: the template is put on the image as it is. A convolution in
the mathematical sense would rotate it by 180° first. Deep learning leaves that out: it
would only rotate the weights that are learned.

Each template has mean 0, so that a uniform grey has response 0, and norm 1. The stroke
is the part of its image with the greatest contrast: by the inequality of Cauchy and
Schwarz no other position of that image can respond more. Other images may.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import fnn
from experiments.shared import answers, command_line, problem, run_folder
from experiments.shared.figures import OKABE_ITO, STYLE
from experiments.shared.terminal import console, table

__all__ = ["main"]

PROG = "python -m experiments.templates"
Templates = dict[str, np.ndarray]


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        dataset: the images.
        data_dir: folder of MNIST's files; else FNN_DATA_DIR, or the user's cache.
        digit: the stroke is cut from its first training image.
        size: pixels along each side of a template, an odd number.
        out: a new folder for the results; else the next free one below runs/.
    """

    dataset: Literal["digits", "mnist"] = "digits"
    data_dir: Path | None = None
    digit: Literal[0, 1, 2, 3, 4, 5, 6, 7, 8, 9] = 3
    size: int = 5
    out: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Convolve the digits with the templates, and compare the responses."""
    with command_line.plain_errors(PROG):
        config = command_line.parse(Config(), argv, PROG, __doc__)
        (x_train, y_train), (x, y) = problem.load_dataset(config)
        if config.size % 2 == 0 or not 3 <= config.size <= x.shape[1]:
            raise ValueError(
                f"size must be odd, from 3 to {x.shape[1]}, got {config.size}"
            )
        folder = run_folder.create(config.out, f"templates-{config.dataset}")
    source = x_train[y_train == config.digit][0]
    position, stroke = cut_stroke(source, config.size)
    templates = {**edges_and_blob(config.size), "stroke": stroke}
    greatest = responses(templates, x).max((1, 2))  # (N, T): of each image
    numbers = [
        {"template": name}
        | {str(k): roc_area(greatest[:, t], y == k) for k in range(10)}
        for t, name in enumerate(templates)
    ]
    both = {"stroke": stroke, "rotated": stroke[::-1, ::-1]}
    own = responses(both, source[None])[0]
    found = np.unravel_index(own[..., 0].argmax(), own.shape[:2])
    numbers.append({"cut_from": position, "found_at": tuple(map(int, found))})
    response, rotated = map(float, own[position])
    numbers[-1] |= {"response": response, "turned": rotated}

    out = console()
    out.print("How likely an image of a digit responds more than one of another digit:")
    rows = [[v if isinstance(v, str) else f"{v:.2f}" for v in line.values()]
            for line in numbers[:-1]]  # fmt: skip
    out.print(table(("\ntemplate", *map(str, range(10))), rows))
    others = [k for k in (0, 1, 4, 7, 8) if k != config.digit][:4]
    shown = np.stack([source, *(x[y == k][0] for k in (config.digit, *others))])
    maps = responses(templates, shown)
    picture = draw(templates, shown, maps, config.digit, position)
    conclusion = conclude(numbers, config.digit)
    answers.save_and_print(
        out, folder, config, numbers, {"responses": picture}, conclusion
    )
    return 0


def edges_and_blob(size: int) -> Templates:
    """Compute edges, brighter in the direction of their arrow, and a bright blob."""
    v, u = np.mgrid[:size, :size] - size // 2  # down, to the right
    blob = np.exp(-(u**2 + v**2) / (2 * (size / 4) ** 2))
    arrows = {"edge →": (1, 0), "edge ↘": (1, 1), "edge ↓": (0, 1), "edge ↙": (-1, 1)}
    edges = {name: (a * u + b * v) * blob for name, (a, b) in arrows.items()}
    return {name: normalise(t) for name, t in {**edges, "blob": blob}.items()}


def cut_stroke(image: np.ndarray, size: int) -> tuple[tuple[int, int], np.ndarray]:
    """Cut out the part with the greatest contrast.

    Outside the image is its background, 0.

    Returns:
        The position (row, column) of its middle, and the template.
    """
    padded = np.pad(image[..., 0], size // 2)
    parts = np.lib.stride_tricks.sliding_window_view(padded, (size, size))
    i, j = np.unravel_index(parts.std((2, 3)).argmax(), parts.shape[:2])
    return (int(i), int(j)), normalise(parts[i, j])


def normalise(template: np.ndarray) -> np.ndarray:
    """Return the template with mean 0 and norm 1."""
    template = template - template.mean()
    return (template / np.linalg.norm(template)).astype(np.float32)


def responses(templates: Templates, x: np.ndarray) -> np.ndarray:
    """Return the output (N, H, W, T) of an `fnn.Conv` with the templates as weights."""
    weight = jnp.stack([*templates.values()], axis=-1)[:, :, None, :]
    conv = fnn.Conv(weight.shape[-1], weight.shape[:2], bias=False)
    return np.asarray(conv.forward(fnn.ConvParams(weight, ()), (), x).y)


def roc_area(response: np.ndarray, of_digit: np.ndarray) -> float:
    """Return the probability that an image of the digit responds more than another.

    Ties count half. It is the area under the ROC curve, and 1/2 by chance.
    """
    others = np.sort(response[~of_digit])
    sides = [
        np.searchsorted(others, response[of_digit], side) for side in ("left", "right")
    ]
    return float(np.mean(sides) / len(others))


def conclude(numbers: list[dict], digit: int) -> str:
    """Return the sentence that answers the question."""
    *_, stroke, source = numbers
    own = source["found_at"] == source["cut_from"]
    at = "its own place" if own else "another place"
    likely = {int(k): v for k, v in stroke.items() if k != "template"}
    best = max(likely, key=likely.get)
    most = "" if best == digit else f", and to a {best} with {likely[best]:.2f}"
    return (
        f"In its own image the stroke of a {digit} responds most at {at} "
        f"({source['response']:.2f}; turned by 180°: {source['turned']:.2f}); in new "
        f"images it responds more to a {digit} than to another digit with probability "
        f"{likely[digit]:.2f} (chance: 0.50){most}."
    )


def draw(
    templates: Templates,
    x: np.ndarray,
    maps: np.ndarray,
    digit: int,
    position: tuple[int, int],
) -> Figure:
    """Draw a row for each image, a column for each template, rings at the maxima."""
    rows, columns = len(x) + 1, len(templates) + 1
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(1.15 * columns + 0.6, 1.15 * rows + 0.5))
        grid = figure.subplots(rows, columns)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color="0.8")
        grid[0, 0].set_axis_off()
        for axes, (name, template) in zip(grid[0, 1:], templates.items(), strict=True):
            axes.imshow(template, cmap="gray_r")
            axes.set_title(name)
        limit = np.abs(maps).max()
        by_template = np.moveaxis(maps, -1, 1)
        for row, image, own in zip(grid[1:], x, by_template, strict=True):
            row[0].imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
            for axes, response in zip(row[1:], own, strict=True):
                shown = axes.imshow(response, cmap="PuOr_r", vmin=-limit, vmax=limit)
                i, j = np.unravel_index(response.argmax(), response.shape)
                for colour, width in (("white", 3.5), ("black", 1.5)):
                    axes.plot(j, i, "o", color=colour, mfc="none", mew=width, ms=7)
        size = len(templates["stroke"])
        corner = (position[1] - size / 2, position[0] - size / 2)
        style = dict(fill=False, edgecolor=OKABE_ITO["vermilion"], lw=2, clip_on=False)
        grid[1, 0].add_patch(Rectangle(corner, size, size, **style))
        grid[1, 0].set_ylabel("cut from")
        grid[2, 0].set_ylabel(f"another {digit}")
        bar = figure.colorbar(shown, ax=grid[1:, :], shrink=0.5, aspect=30)
        bar.set_label("response; rings: the greatest of the image")
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
