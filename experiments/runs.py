"""The run folder: everything that one run of an experiment leaves behind."""

import dataclasses
import json
import math
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import jax

__all__ = [
    "JsonLines",
    "append_json_line",
    "environment",
    "new_folder",
    "read_config",
    "write_json",
]

RUNS = Path("runs")
C = TypeVar("C", bound=Any)


def new_folder(out: Path | None, name: str) -> Path:
    """Make the folder of a run; never one that already holds something.

    Args:
        out: where to. By default `runs/<name>`, or the first of `runs/<name>-2`,
            `runs/<name>-3`, ... that is not there yet.
        name: of the run.

    Raises:
        FileExistsError: `out` is there and is not empty.
    """
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise FileExistsError(
                f"{out} already holds something, perhaps another run: choose another "
                "--out, or remove it"
            )
        out.mkdir(parents=True, exist_ok=True)
        return out
    for number in count(1):
        folder = RUNS / (name if number == 1 else f"{name}-{number}")
        try:  # not `exists` first: two runs may start at the same time
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable: count() does not end")


def write_json(path: Path, value: Any) -> None:
    """One JSON value, indented; dataclasses become objects, NaN and inf null."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def append_json_line(path: Path, record: Any) -> None:
    """One more line; it is on the disk when this returns, whatever comes after."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(_plain(record), allow_nan=False) + "\n")


class JsonLines:
    """Lines that count up; where a run goes on, those after its checkpoint go first.

    Args:
        path: of the file.
        counter: what counts up in the records, such as "epoch".
    """

    def __init__(self, path: Path, counter: str) -> None:
        """Nothing is read or written yet."""
        self.path, self.counter, self.begun = path, counter, False

    def append(self, record: dict[str, Any]) -> None:
        """One more line."""
        if not self.begun and self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            least = record[self.counter]
            kept = [line for line in lines if json.loads(line)[self.counter] < least]
            self.path.write_text("".join(f"{line}\n" for line in kept), "utf-8")
        self.begun = True
        append_json_line(self.path, record)


def read_config(folder: Path, presets: Sequence[C]) -> C:
    """The config of a run that is to go on: of the preset for its dataset.

    Raises:
        FileNotFoundError, ValueError: no run of this experiment is there.
    """
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"--resume {folder}: there is no run, no {path.name}")
    read = json.loads(path.read_text(encoding="utf-8"))
    for preset in presets:
        fields = {field.name for field in dataclasses.fields(preset)}
        if preset.dataset == read.get("dataset") and read.keys() <= fields:
            changed = {name: _as(getattr(preset, name), read[name]) for name in read}
            return dataclasses.replace(preset, **changed)
    raise ValueError(f"--resume {folder}: that is a run of another experiment")


def _as(like: Any, value: Any) -> Any:
    """JSON has lists for tuples; and paths, which are None by default, as strings."""
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if like is None and isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """The value in what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has neither NaN nor inf
    return value


def environment() -> dict[str, Any]:
    """What a result depends on besides the config: versions, device, command."""
    packages = ("jax", "jaxlib", "numpy", "optax", "scikit-learn")
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "fnn": _commit() or _version("fnn"),
        "device": jax.devices()[0].device_kind,
        "platform": platform.platform(),
        "command": sys.argv,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this source tree, with "-dirty" where it has been changed."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        run = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True
        )
    except OSError:  # no git
        return None
    return run.stdout.strip() or None
