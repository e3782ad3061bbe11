"""Segmentation: what do the shortcuts of a U-Net bring?

Two digits lie somewhere on a larger canvas, under noise. A network says for every pixel
whether it is background, or the stroke of a 0, 1, ... or 9. Grey pixels at the edge of
a stroke are neither: their label is ignored, in the loss and in the accuracy.

A U-Net (Ronneberger et al., arXiv:1505.04597) looks at the image coarser and coarser,
to know what it sees, then finer and finer again, to know where. Its shortcuts hand the
fine maps of the way down to the way up, where they are concatenated with the coarse
ones. The same network without them has only the coarse maps.

It is measured by the intersection over union of each class, Σ(both) / Σ(either),
averaged over the classes; that of a network that answers "background" is 1/11 of its
share of the background.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import matplotlib
import numpy as np
import optax
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

import fnn
from experiments.shared import answers, command_line, run_folder
from experiments.shared.figures import STYLE
from experiments.shared.terminal import console, table

__all__ = ["canvases", "main", "unet"]

PROG = "python -m experiments.segmentation"

#: The label of a pixel that does not count, and the number of classes.
UNCLEAR, CLASSES = -1, 11

#: The weight of background in the loss: most pixels are, and learning the strokes would
#: wait until it is learned.
BACKGROUND = 0.1

#: Stroke is what is at least so bright, background what is less than this.
BRIGHT, DARK = 0.5, 0.1


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        examples: canvases to train on, of digits for training.
        tests: canvases to measure, of other digits.
        side: pixels of a canvas, a multiple of 4.
        noise: standard deviation of the noise; strokes have 0.5 to 1.
        features: of the finest maps; the coarser ones have 2 and 4 times as many.
        epochs: how long to train.
        batch_size: canvases in a step.
        learning_rate: of Adam at first; it falls to 0 as a cosine.
        seeds: how many runs of each network.
        out: a new folder for the results; else the next free one below runs/.
    """

    examples: int = 1000
    tests: int = 300
    side: int = 16
    noise: float = 0.2
    features: int = 8
    epochs: int = 30
    batch_size: int = 50
    learning_rate: float = 0.01
    seeds: int = 3
    out: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Train both networks, measure them, and draw what they answer."""
    with command_line.plain_errors(PROG):
        config = command_line.parse(Config(), argv, PROG, __doc__)
        command_line.require_at_least(
            config, examples=1, tests=4, features=1, epochs=1, seeds=1
        )
        if config.side % 4 or config.side < 16:
            raise ValueError(f"side must be 16, 20, 24, ..., got {config.side}")
        folder = run_folder.create(config.out, "segmentation")
    digits = fnn.data.digits()
    train = canvases(digits.train, config.examples, config, seed=0)
    test = canvases(digits.test, config.tests, config, seed=1)
    weights = (BACKGROUND, *(1.0,) * (CLASSES - 1))
    loss = fnn.losses.SoftmaxCrossEntropy(ignore=UNCLEAR, class_weights=weights)
    metrics = {"iou": fnn.metrics.iou}
    numbers, outputs = [], {}
    for name, shortcuts in (("with shortcuts", True), ("without", False)):
        net = unet(config.features, shortcuts=shortcuts)
        for seed in range(config.seeds):
            result = fnn.fit(
                net,
                loss,
                fnn.optimizers.adam(falling_rate(config)),
                train=train,
                key=jax.random.key(seed),
                epochs=config.epochs,
                batch_size=config.batch_size,
            )
            z = fnn.predict(net, result.variables, test[0])
            counted = fnn.evaluate(net, loss, result.variables, test, metrics=metrics)
            numbers.append({"network": name, "seed": seed} | counted)
            outputs.setdefault(name, np.asarray(z))
    out = console()
    rows = [(name, *summary(numbers, name)) for name in outputs]
    out.print(table(("network", "IoU", "loss"), rows))
    picture = draw(test, outputs)
    answers.save_and_print(
        out, folder, config, numbers, {"segmentation": picture}, conclude(numbers)
    )
    return 0


# ---- Networks and data -----------------------------------------------------------


def unet(features: int, *, shortcuts: bool = True) -> fnn.Layer:
    """Build a U-Net of three scales for images (H, W, 1), H and W multiples of 4.

    Args:
        features: of the finest maps.
        shortcuts: whether the way up gets the maps of the way down.
    """

    def block(width: int) -> fnn.Layer:
        conv = fnn.Conv(width, 3, bias=False)
        return fnn.serial(conv, fnn.BatchNorm(), fnn.Relu())

    def coarser(width: int, inside: fnn.Layer) -> fnn.Layer:
        down = fnn.serial(fnn.MaxPool(2), block(width), inside, fnn.Upsample(2))
        if not shortcuts:
            return down
        return fnn.parallel(fnn.Identity(), down, merge="concatenate")

    coarsest = coarser(4 * features, block(4 * features))
    middle = fnn.serial(coarsest, block(2 * features))
    return fnn.serial(
        block(features),
        coarser(2 * features, middle),
        block(features),
        fnn.Conv(CLASSES, 1),
    )


def falling_rate(config: Config) -> optax.Schedule:
    """Return the learning rate as a function of the step."""
    steps = config.epochs * -(-config.examples // config.batch_size)
    return optax.cosine_decay_schedule(config.learning_rate, steps)


def canvases(
    digits: tuple[np.ndarray, np.ndarray], n: int, config: Config, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Put two digits on each of n noisy canvases, one to the left, one to the right.

    Returns:
        x (n, side, side, 1), and labels (n, side, side): 0 for background, k + 1 for
        the stroke of digit k, and `UNCLEAR`.
    """
    images, labels = (np.asarray(part) for part in digits)
    rng = np.random.default_rng(seed)
    side, size = config.side, images.shape[1]
    x = np.zeros((n, side, side, 1), np.float32)
    y = np.zeros((n, side, side), np.int32)
    for canvas, answer in zip(x, y, strict=True):
        for first in (0, side // 2):
            which = rng.integers(len(labels))
            top = rng.integers(side - size + 1)
            left = first + rng.integers(side // 2 - size + 1)
            place = np.s_[top : top + size, left : left + size]
            canvas[place], bright = images[which], images[which][..., 0]
            answer[place] = np.where(bright >= BRIGHT, labels[which] + 1, UNCLEAR)
            answer[place][bright < DARK] = 0
    return x + rng.normal(0, config.noise, x.shape).astype(np.float32), y


# ---- The results -----------------------------------------------------------------


def summary(numbers: list[dict], network: str) -> tuple[str, str]:
    """Return mean ± standard deviation of the IoU, and of the loss."""
    runs = [line for line in numbers if line["network"] == network]
    columns = ([run[name] for run in runs] for name in ("iou", "loss"))
    iou, loss = ((np.mean(c), np.std(c)) for c in columns)
    return f"{iou[0]:.1%} ± {iou[1]:.1%}", f"{loss[0]:.3f} ± {loss[1]:.3f}"


def conclude(numbers: list[dict]) -> str:
    """Return the sentence that answers the question."""
    with_them, without = (
        [line["iou"] for line in numbers if line["network"] == name]
        for name in ("with shortcuts", "without")
    )
    gain = np.mean(with_them) - np.mean(without)
    verb = "bring" if gain > 0 else "cost"
    always = "in every pair of runs" if min(with_them) > max(without) else "on average"
    if gain <= 0:
        always = "on average"
    return (
        f"Shortcuts {verb} {abs(gain) * 100:.0f} points of intersection over union, "
        f"{always}: {np.mean(with_them):.1%} with them, {np.mean(without):.1%} without "
        f"({len(with_them)} seeds)."
    )


def draw(test: tuple[np.ndarray, np.ndarray], outputs: dict[str, np.ndarray]) -> Figure:
    """Draw four canvases, their labels and the answers, a colour for each class."""
    x, y = (part[:4] for part in test)
    colours = np.vstack([[0.95] * 3, matplotlib.colormaps["tab10"].colors])
    classes = ListedColormap(colours)
    rows = {"image": x[..., 0], "labels": np.where(y == UNCLEAR, np.nan, y)}
    rows |= {name: z[:4].argmax(-1) for name, z in outputs.items()}
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(7, 7.4))
        grid = figure.subplots(len(rows), 4)
        for axes, (name, images) in zip(grid, rows.items(), strict=True):
            for ax, image in zip(axes, images, strict=True):
                is_image = name == "image"
                ax.imshow(
                    image,
                    "gray_r" if is_image else classes,
                    vmin=0,
                    vmax=1 if is_image else CLASSES - 1,
                    interpolation="nearest",
                )
                ax.set(xticks=[], yticks=[])
                for side in ax.spines.values():
                    side.set(visible=True, color="0.8")
            axes[0].set_ylabel(name)
        patches = [
            matplotlib.patches.Patch(color=c, label=str(k))
            for k, c in enumerate(colours[1:])
        ]
        figure.legend(
            handles=patches, loc="outside lower center", ncols=10,
            handlelength=1, columnspacing=1, title="stroke of (white: not counted)",
        )  # fmt: skip
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
