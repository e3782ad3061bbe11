"""Reading the run folder of an experiment."""

import json
from pathlib import Path

__all__ = ["conclusion", "json_lines"]


def json_lines(path: Path) -> list[dict]:
    """Read a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def conclusion(folder: Path) -> str:
    """Read the sentence that answers the experiment's question."""
    return json.loads((folder / "result.json").read_text())["conclusion"]
