"""Are published results on MNIST reproduced, within the spread over the seeds?

Each setting of `published` is trained with `fnn.fit` under a few seeds: with the
handwritten gradient, by another backward rule, or with differential privacy. A
published result is one run (or a few), so the question is whether it could be one of
our runs. With mean m and sample standard deviation s of n seeds, one further run lies
with a probability of 95% within

    m ± t s √(1 + 1/n)        t the 97.5% quantile of Student's t, n − 1 degrees

if accuracies are normal: the 1 is for the spread of that run, 1/n for that of m. Few
seeds make a wide interval: three can only show a large difference.

    python -m experiments.reproduce nielsen-1 nielsen-3
    python -m experiments.reproduce dropout-relu --epochs 20 --validate
    python -m experiments.reproduce biotorch-bp biotorch-fa --epochs 20 --seeds 1
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro
from rich.console import Console
from scipy import stats

import fnn
from experiments.shared import answers, command_line, problem, run_folder
from experiments.shared.published import SETTINGS
from experiments.shared.published_runs import (
    make_optimizer,
    split_images,
    train_and_measure,
)
from experiments.shared.seeds import mean_and_deviation
from experiments.shared.setting import Setting, shortened
from experiments.shared.terminal import console, epoch_bar, table

__all__ = ["main"]

PROG = "python -m experiments.reproduce"
Name = Literal[tuple(SETTINGS)]


@dataclass(frozen=True)
class Config:
    """The options of a run.

    Attributes:
        names: which results to reproduce, one after the other.
        data_dir: folder of MNIST's files; else FNN_DATA_DIR, or the user's cache.
        seeds: how many, from 0 on.
        epochs: how many, in place of those of the setting; the milestones of its
            learning rate move in proportion.
        learning_rate: in place of that of the setting.
        validate: measure on the last 10,000 training images and train on the others, to
            choose values that a source leaves open.
        out: a new folder for the results; else the next free one below runs/.
    """

    names: Annotated[tuple[Name, ...], tyro.conf.Positional]
    data_dir: Path | None = None
    seeds: int = 3
    epochs: int | None = None
    learning_rate: float | None = None
    validate: bool = False
    out: Path | None = None
    dataset: tyro.conf.Suppress[Literal["mnist", "fashion_mnist"]] = "mnist"


def main(argv: Sequence[str] | None = None) -> int:
    """Train every setting that is named, and compare with the published results."""
    with command_line.plain_errors(PROG):
        config = command_line.parse(Config(()), argv, PROG, __doc__)
        command_line.require_at_least(config, seeds=1)
        changes = overrides(config)
        if changes.get("epochs", 1) < 1 or not changes.get("learning_rate", 1) > 0:
            raise ValueError(
                f"epochs and learning_rate must be positive, got {changes}"
            )
        if not config.names:
            raise ValueError(f"name at least one of {', '.join(SETTINGS)}")
        settings = {name: changed(SETTINGS[name], changes) for name in config.names}
        images = {
            name: problem.load_dataset(replace(config, dataset=name))
            for name in sorted({setting.dataset for setting in settings.values()})
        }
        folder = run_folder.create(config.out, f"reproduce-{'-'.join(settings)}"[:80])
    out = console()
    rows = [
        reproduce(
            *(out, folder / "numbers.jsonl", name),
            *(setting, images[setting.dataset], config),
        )
        for name, setting in settings.items()
    ]
    columns = ("", "mean ± deviation", "published", "another run, 95%")
    out.print()
    out.print(table(columns, [table_row(row) for row in rows]))
    stars = "; * of another network" * any(row.setting.other_network for row in rows)
    short = any(differences(row.name, row.setting) for row in rows)
    note = "; (n/N): n epochs of N" if short else ""
    out.print(f"Mean ± sample standard deviation; seeds: {config.seeds}{stars}{note}.")
    answers.save_and_print(out, folder, config, (), {}, conclude(rows, config))
    return 0


def reproduce(
    out: Console,
    path: Path,
    name: str,
    setting: Setting,
    images: fnn.data.Dataset,
    config: Config,
) -> "Row":
    """Train a setting with every seed, and write a line for each as soon as it ends."""
    out.print(f"\n[bold]{name}[/], {setting.source}\nKnown: {setting.known}.")
    out.print(f"Chosen here: {setting.chosen}.")
    for difference in differences(name, setting):
        out.print(f"[yellow]Not as published: {difference}.[/]")
    split = split_images(setting, images, config.validate)
    # Once for all seeds: each new schedule, even an equal one, would compile again.
    optimizer = make_optimizer(setting, len(split.train[0]))
    numbers = []
    for seed in range(config.seeds):
        with epoch_bar(out, setting.epochs) as show_epoch:
            line = train_and_measure(setting, optimizer, split, seed, show_epoch)
        numbers.append({"name": name} | line)
        run_folder.append_json_line(path, numbers[-1])
    row = compare(name, setting, [n["test_accuracy"] for n in numbers])
    seconds = sum(n["seconds"] for n in numbers)
    published = published_text(setting)
    out.print(f"{result_text(row)}; published: {published}; {seconds:.0f} s")
    if setting.private is not None:
        out.print(privacy_text(setting, numbers[0]))
    return row


def changed(setting: Setting, changes: dict[str, Any]) -> Setting:
    """Return the setting with the options of the command line."""
    if "epochs" in changes:
        setting = shortened(setting, changes["epochs"])
    return replace(setting, **changes)


def overrides(config: Config) -> dict[str, Any]:
    """Return the options that replace values of the setting."""
    values = {"epochs": config.epochs, "learning_rate": config.learning_rate}
    return {name: value for name, value in values.items() if value is not None}


def differences(name: str, setting: Setting) -> list[str]:
    """Return how the training differs from the published one, in words."""
    own = SETTINGS[name]
    found = []
    if setting.epochs != own.epochs:
        moved = " and ".join(map(str, setting.milestones))
        when = f", the learning rate lowered after {moved}" if moved else ""
        found.append(f"{setting.epochs} of {own.epochs} epochs{when}")
    if setting.learning_rate != own.learning_rate:
        found.append(
            f"learning rate {setting.learning_rate:g}, not {own.learning_rate:g}"
        )
    return found


# ---- Comparison ------------------------------------------------------------------


class Row(NamedTuple):
    """A row of the table: mean and deviation of our accuracies, and the interval.

    `half_width` is half of the interval for one further run, NaN for a single seed.
    """

    name: str
    setting: Setting
    mean: float
    deviation: float
    half_width: float

    @property
    def gap(self) -> float:
        """Return our mean minus the published accuracy, the nearest one."""
        return min((self.mean - p for p in self.setting.published), key=abs)


def compare(name: str, setting: Setting, accuracies: list[float]) -> Row:
    """Compute mean, deviation and interval from the accuracies of all seeds."""
    mean, deviation = mean_and_deviation(accuracies)
    n, half_width = len(accuracies), math.nan
    if n > 1:
        t = float(stats.t.ppf(0.975, n - 1))
        half_width = t * deviation * math.sqrt(1 + 1 / n)
    return Row(name, setting, mean, deviation, half_width)


def conclude(rows: list[Row], config: Config) -> str:
    """Return the sentence that answers the question."""
    same = [row for row in rows if not row.setting.other_network]
    within = [row for row in same if abs(row.gap) <= row.half_width]
    parts = []
    if same and not math.isnan(same[0].half_width):
        widest = max(same, key=lambda row: row.half_width)
        parts.append(
            f"{len(within)} of {len(same)} published figures lie where 95% of our runs "
            f"are expected (at most ±{100 * widest.half_width:.2f} points from our "
            f"means: {label(widest)})"
        )
    parts += [gap_text(row) for row in same if row not in within]
    for row in rows:
        if other := row.setting.other_network:
            parts.append(
                f"{label(row)} has no published figure ({result_text(row)} here; "
                f"{other}: {published_text(row.setting)})"
            )
    notes = {text for row in rows for text in differences(row.name, row.setting)}
    changes = [*sorted(notes), *["on validation images"] * config.validate]
    note = f" (not as published: {'; '.join(changes)})" if changes else ""
    return "; ".join(parts) + f"{note}."


# ---- Texts -----------------------------------------------------------------------


def label(row: Row) -> str:
    """Return the name, and how much shorter than published the training is."""
    published, epochs = SETTINGS[row.name].epochs, row.setting.epochs
    return row.name if epochs == published else f"{row.name} ({epochs}/{published})"


def gap_text(row: Row) -> str:
    """Return how far our mean is from the published figure, in words."""
    better, deviation = row.gap > 0, row.setting.published_deviation
    text = (
        f"{label(row)} is {100 * abs(row.gap):.2f} points "
        f"{'better' if better else 'worse'} than published"
    )
    if deviation is None:
        return text
    return f"{text}, {abs(row.gap) / deviation:.1f} of the source's deviations"


def privacy_text(setting: Setting, line: dict[str, Any]) -> str:
    """Return ε by both accountants, and that of the source."""
    assert setting.private is not None
    return (
        f"ε = {line['epsilon_rdp']:.2f} by Rényi divergences (published: "
        f"{setting.published_epsilon:.2f}), {line['epsilon_pld']:.2f} by privacy loss "
        f"distributions; δ = {setting.private.delta:g}"
    )


def table_row(row: Row) -> tuple[str, str, str, str]:
    """Return the row as texts."""
    published = published_text(row.setting) + "*" * bool(row.setting.other_network)
    ends = row.mean - row.half_width, row.mean + row.half_width
    low, high = sorted(as_reported(row.setting, end) for end in ends)
    interval = f"{max(low, 0):.2%} to {min(high, 1):.2%}"
    if math.isnan(row.half_width):
        interval = "–"
    return label(row), result_text(row), published, interval


def result_text(row: Row) -> str:
    """Return our mean and deviation, as accuracy or error."""
    what = "error" if row.setting.reports_error else "accuracy"
    spread = "" if math.isnan(row.deviation) else f" ± {row.deviation:.2%}"
    return f"{what} {as_reported(row.setting, row.mean):.2%}{spread}"


def published_text(setting: Setting) -> str:
    """Return the published results, as accuracies or errors."""
    deviation = setting.published_deviation
    spread = "" if deviation is None else f" ± {deviation:.2%}"
    shown = ", ".join(f"{as_reported(setting, p):.2%}" for p in setting.published)
    return shown + spread


def as_reported(setting: Setting, accuracy: float) -> float:
    """Return the accuracy, or the error where the source reports errors."""
    return 1 - accuracy if setting.reports_error else accuracy


if __name__ == "__main__":
    raise SystemExit(main())
