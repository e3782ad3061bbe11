"""The end of an experiment with one question: numbers, figures and a sentence."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from experiments.shared import figures, run_folder

__all__ = ["save_and_print"]


def save_and_print(
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
        folder: the run folder. It receives config.json, numbers.jsonl with a line for
            each measurement, result.json with the conclusion and the versions it
            depends on, and figures/<name>.png.
        config: the options.
        numbers: the measurements.
        pictures: the figures by name.
        conclusion: one sentence, made from the numbers.
    """
    run_folder.write_json(folder / "config.json", config)
    for record in numbers:
        run_folder.append_json_line(folder / "numbers.jsonl", record)
    for name, figure in pictures.items():
        figures.save(figure, folder / "figures" / f"{name}.png")
    result = {"conclusion": conclusion} | run_folder.environment()
    run_folder.write_json(folder / "result.json", result)
    out.print(f"\n[bold green]{conclusion}[/]")
    out.print(f"\nNumbers and figures: [bold]{folder}/[/]")
