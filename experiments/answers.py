"""How an experiment that asks one question ends: numbers, figures, one sentence."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from experiments import figures, runs

__all__ = ["give"]


def give(
    out: Console,
    folder: Path,
    config: Any,
    numbers: Iterable[Mapping[str, Any]],
    pictures: Mapping[str, Figure],
    conclusion: str,
) -> None:
    """Write everything to the run folder, and print the conclusion.

    Args:
        out: where to print.
        folder: of the run: it gets config.json, numbers.jsonl with a line for each
            measurement, result.json with the conclusion and what it depends on, and
            figures/<name>.png.
        config: the options.
        numbers: the measurements.
        pictures: figures by name.
        conclusion: one sentence, made from the numbers.
    """
    runs.write_json(folder / "config.json", config)
    for record in numbers:
        runs.append_json_line(folder / "numbers.jsonl", record)
    for name, figure in pictures.items():
        figures.save(figure, folder / "figures" / f"{name}.png")
    result = {"conclusion": conclusion} | runs.environment()
    runs.write_json(folder / "result.json", result)
    out.print(f"\n[bold green]{conclusion}[/]")
    out.print(f"\nNumbers and figures: [bold]{folder}/[/]")
