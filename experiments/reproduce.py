"""Do published results on MNIST come out again, within what seeds make them differ by?

Each setting of `published` is trained with `fnn.fit` and the handwritten gradient, a
few seeds, one after the other. A published figure is one run (or two); so the question
is whether it might be a run of ours. With mean m and sample standard deviation s of n
seeds, another run falls with a probability of 95% within

    m ± t s √(1 + 1/n)        t the 97.5% quantile of Student's t, n − 1 degrees

if accuracies are normal: the run has its own spread, and m has one, too. Few seeds make
a wide interval: three tell a gross difference from none, and not more.

    python -m experiments.reproduce nielsen-1 nielsen-3
    python -m experiments.reproduce dropout-relu --epochs 20 --validate
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
from experiments import answers, command_line, problem, runs
from experiments.published import SETTINGS, Setting
from experiments.published_runs import optimizer, parts, run
from experiments.seeds import mean_and_deviation
from experiments.terminal import console, epoch_bar, table

__all__ = ["main"]

PROG = "python -m experiments.reproduce"
Name = Literal[tuple(SETTINGS)]


@dataclass(frozen=True)
class Config:
    """What a run depends on.

    Attributes:
        names: which results to reproduce, one after the other.
        data_dir: where MNIST's files lie; else FNN_DATA_DIR, or the user's cache.
        seeds: how many, from 0 on.
        epochs: how many, in place of those of the setting.
        learning_rate: in place of that of the setting.
        validate: measure on the last 10,000 training images and train on the others: to
            choose what a source leaves open.
        out: a new folder for the results; else the next free one below runs/.
    """

    names: Annotated[tuple[Name, ...], tyro.conf.Positional]
    data_dir: Path | None = None
    seeds: int = 3
    epochs: int | None = None
    learning_rate: float | None = None
    validate: bool = False
    out: Path | None = None
    dataset: tyro.conf.Suppress[Literal["mnist"]] = "mnist"


def main(argv: Sequence[str] | None = None) -> int:
    """Train everything that is named, and compare with what was published."""
    with command_line.plain_errors(PROG):
        config = command_line.options(Config(()), argv, PROG, __doc__)
        command_line.at_least(config, seeds=1)
        other = instead(config)
        if other.get("epochs", 1) < 1 or not other.get("learning_rate", 1) > 0:
            raise ValueError(f"epochs and learning_rate must be positive, got {other}")
        if not config.names:
            raise ValueError(f"name at least one of {', '.join(SETTINGS)}")
        images = problem.load(config)
        settings = {name: replace(SETTINGS[name], **other) for name in config.names}
        folder = runs.new_folder(config.out, f"reproduce-{'-'.join(settings)}"[:80])
    out = console()
    rows = [
        reproduced(out, folder / "numbers.jsonl", name, setting, images, config)
        for name, setting in settings.items()
    ]
    columns = ("", "mean ± deviation", "published", "another run, 95%")
    out.print()
    out.print(table(columns, [line(row) for row in rows]))
    stars = "; * of another network" * any(row.setting.stand_in for row in rows)
    out.print(f"Mean ± sample standard deviation; seeds: {config.seeds}{stars}.")
    answers.give(out, folder, config, (), {}, conclude(rows, config))
    return 0


def reproduced(
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
    data = parts(setting, images, config.validate)
    # Once for all seeds: another schedule, though an equal one, would compile again.
    made = optimizer(setting, len(data.train[0]))
    numbers = []
    for seed in range(config.seeds):
        with epoch_bar(out, setting.epochs) as show:
            numbers.append({"name": name} | run(setting, made, data, seed, show))
        runs.append_json_line(path, numbers[-1])
    row = compared(name, setting, [n["test_accuracy"] for n in numbers])
    seconds = sum(n["seconds"] for n in numbers)
    out.print(f"{shown(row)}; published: {published(setting)}; {seconds:.0f} s")
    return row


def instead(config: Config) -> dict[str, Any]:
    """What takes the place of the setting's own."""
    other = {"epochs": config.epochs, "learning_rate": config.learning_rate}
    return {name: value for name, value in other.items() if value is not None}


# ---- Comparison ------------------------------------------------------------------


class Row(NamedTuple):
    """Mean and deviation of our accuracies; half of the interval for another run."""

    name: str
    setting: Setting
    mean: float
    deviation: float
    half: float

    @property
    def gap(self) -> float:
        """Our mean minus the published accuracy, the nearest one."""
        return min((self.mean - p for p in self.setting.published), key=abs)


def compared(name: str, setting: Setting, accuracies: list[float]) -> Row:
    """What the seeds say."""
    mean, deviation = mean_and_deviation(accuracies)
    n, half = len(accuracies), math.nan
    if n > 1:
        half = float(stats.t.ppf(0.975, n - 1)) * deviation * math.sqrt(1 + 1 / n)
    return Row(name, setting, mean, deviation, half)


def conclude(rows: list[Row], config: Config) -> str:
    """The sentence."""
    same = [row for row in rows if not row.setting.stand_in]
    within = [row for row in same if abs(row.gap) <= row.half]
    said = []
    if same and not math.isnan(same[0].half):
        widest = max(same, key=lambda row: row.half)
        said.append(
            f"{len(within)} of {len(same)} published figures lie where 95% of our runs "
            f"are expected (at most ±{100 * widest.half:.2f} points from our means: "
            f"{widest.name})"
        )
    for row in same:
        if row not in within:
            better = "better" if row.gap > 0 else "worse"
            gap = f"{100 * abs(row.gap):.2f} points"
            said.append(f"{row.name} is {gap} {better} than published")
    for row in rows:
        if row.setting.stand_in:
            said.append(
                f"{row.name} has no published figure ({shown(row)} here; "
                f"{row.setting.stand_in}: {published(row.setting)})"
            )
    changes = [f"{name}={value}" for name, value in instead(config).items()]
    changes += ["on validation images"] * config.validate
    other = f" (not as published: {', '.join(changes)})" if changes else ""
    return "; ".join(said) + f"{other}."


# ---- Words -----------------------------------------------------------------------


def line(row: Row) -> tuple[str, str, str, str]:
    """A row of the table."""
    given = published(row.setting) + ("*" if row.setting.stand_in else "")
    low, high = sorted(reported(row.setting, row.mean + s * row.half) for s in (-1, 1))
    where = "–" if math.isnan(row.half) else f"{max(low, 0):.2%} to {min(high, 1):.2%}"
    return row.name, shown(row), given, where


def shown(row: Row) -> str:
    """Mean and deviation, as the source reports."""
    what = "error" if row.setting.as_error else "accuracy"
    spread = "" if math.isnan(row.deviation) else f" ± {row.deviation:.2%}"
    return f"{what} {reported(row.setting, row.mean):.2%}{spread}"


def published(setting: Setting) -> str:
    """The published figures, as the source reports."""
    return ", ".join(f"{reported(setting, p):.2%}" for p in setting.published)


def reported(setting: Setting, accuracy: float) -> float:
    """The accuracy or the error."""
    return 1 - accuracy if setting.as_error else accuracy


if __name__ == "__main__":
    raise SystemExit(main())
