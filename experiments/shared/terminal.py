"""The output of a running experiment: steps, tables, a progress bar."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import fnn
from fnn.letters import printable

__all__ = [
    "coloured_report",
    "console",
    "epoch_bar",
    "print_step",
    "print_value",
    "stop_message",
    "table",
]


def console() -> Console:
    """Return a console as wide as the terminal, or as COLUMNS says."""
    return Console(highlight=False, soft_wrap=False)


def print_step(out: Console, number: int, title: str) -> None:
    """Print the heading of a step."""
    out.print(f"\n[bold cyan]{number}[/]  [bold]{title}[/]")


def print_value(out: Console, name: str, value: object) -> None:
    """Print one line: a name and its value."""
    out.print(f"{name:<30}{value}")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Build a table whose first column holds names, the others numbers."""
    built = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, name in enumerate(columns):
        built.add_column(printable(name), justify="right" if i else "left")
    for row in rows:
        built.add_row(*(printable(str(cell)) for cell in row))
    return built


def coloured_report(report: object) -> str:
    """Return a gradient check as text, with its verdicts in colour."""
    colours = {"pass": "green", "PASSED:": "bold green"}
    colours |= dict.fromkeys(("FAIL", "FAIL:", "FAILED:"), "bold red")
    colours |= dict.fromkeys(("inconclusive", "INCONCLUSIVE:"), "yellow")
    lines = []
    for line in escape(str(report)).splitlines():
        first, last = line.partition(" ")[0], line.rpartition(" ")[2]
        if last in colours:
            line = line.removesuffix(last) + f"[{colours[last]}]{last}[/]"
        elif first in colours:
            line = f"[{colours[first]}]{line}[/]"
        lines.append(line)
    return "\n".join(lines)


@contextmanager
def epoch_bar(out: Console, epochs: int) -> Iterator[Callable[[dict], None]]:
    """Show a progress bar; its function takes the record of every epoch.

        with epoch_bar(out, epochs) as show_epoch:
            fnn.fit(..., on_epoch=show_epoch)

    It shows the training loss, the validation loss and accuracy, and the best epoch so
    far by validation loss.
    """
    progress = Progress(
        TextColumn("epoch {task.completed:>3}/{task.total}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[numbers]}"),
        TimeElapsedColumn(),
        console=out,
        expand=True,
        refresh_per_second=5,
    )
    best = (math.inf, 0)
    with progress:
        task = progress.add_task("", total=epochs, numbers="compiling")

        def show_epoch(record: dict) -> None:
            nonlocal best
            numbers = f"train {record['train_loss']:.4f}"
            if "validation_loss" in record:
                best = min(best, (record["validation_loss"], record["epoch"]))
                numbers += f"  val {record['validation_loss']:.4f}"
            if "validation_accuracy" in record:
                numbers += f" {record['validation_accuracy']:.2%}"
            if best[1]:
                numbers += f"  best {best[0]:.4f} @ {best[1]}"
            progress.update(task, completed=record["epoch"], numbers=numbers)

        yield show_epoch


def stop_message(result: fnn.FitResult, patience: int) -> str:
    """Return a sentence that says why the training ended."""
    sentences = {
        "patience": f"Stopped early: {patience} epochs without a better validation "
        "loss.",
        "epochs": f"All {result.epochs} epochs are done.",
        "diverged": "[bold red]Diverged[/]: try a smaller --learning-rate.",
        "interrupted": f"[yellow]Interrupted[/] after epoch {result.epochs}.",
    }
    return sentences[result.stopped]
