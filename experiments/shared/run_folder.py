"""The folder of a run: everything that one run of an experiment leaves behind."""

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
    "create",
    "environment",
    "read_config",
    "write_json",
]

RUNS = Path("runs")
C = TypeVar("C", bound=Any)


def create(out: Path | None, name: str) -> Path:
    """Create the folder of a run.

    Args:
        out: the folder. By default `runs/<name>`, or the first of `runs/<name>-2`,
            `runs/<name>-3`, ... that does not exist yet.
        name: of the run.

    Raises:
        FileExistsError: `out` exists and is not empty.
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
    """Write one JSON value, indented; dataclasses become objects, NaN and inf null."""
    text = json.dumps(_as_json(value), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def append_json_line(path: Path, record: Any) -> None:
    """Append a line to the file, which is closed again when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(_as_json(record), allow_nan=False) + "\n")


class JsonLines:
    """A file of JSON lines with a counter, for a run that may be resumed.

    A resumed run starts again at its checkpoint. Lines that were written after it are
    removed before the first new one.

    Args:
        path: of the file.
        counter: the key that counts up in the records, such as "epoch".
    """

    def __init__(self, path: Path, counter: str) -> None:
        """Set the path and the counter; nothing is read or written yet."""
        self.path, self.counter, self.started = path, counter, False

    def append(self, record: dict[str, Any]) -> None:
        """Append a record as one line."""
        if not self.started and self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            first = record[self.counter]
            kept = [line for line in lines if json.loads(line)[self.counter] < first]
            self.path.write_text("".join(f"{line}\n" for line in kept), "utf-8")
        self.started = True
        append_json_line(self.path, record)


def read_config(folder: Path, presets: Sequence[C]) -> C:
    """Read the config of a run that is to be resumed.

    Args:
        folder: of the run.
        presets: the defaults of the experiment, one for each dataset.

    Raises:
        FileNotFoundError, ValueError: the folder holds no run of this experiment.
    """
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"--resume {folder}: there is no run, no {path.name}")
    read = json.loads(path.read_text(encoding="utf-8"))
    for preset in presets:
        fields = {field.name for field in dataclasses.fields(preset)}
        if preset.dataset == read.get("dataset") and read.keys() <= fields:
            changed = {
                name: _from_json(value, getattr(preset, name))
                for name, value in read.items()
            }
            return dataclasses.replace(preset, **changed)
    raise ValueError(f"--resume {folder}: that is a run of another experiment")


def _from_json(value: Any, default: Any) -> Any:
    """Return the value of an option: JSON has lists for tuples, strings for paths."""
    if isinstance(value, list):
        return tuple(value)
    # The options that are paths are None by default.
    return Path(value) if default is None and isinstance(value, str) else value


def _as_json(value: Any) -> Any:
    """Return the value made of JSON's types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): _as_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(part) for part in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has neither NaN nor inf
    return value


def environment() -> dict[str, Any]:
    """Return the versions, the device and the command that a result depends on."""
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
    """Return the commit of this source tree, with "-dirty" where it has changes."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        run = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True
        )
    except OSError:  # no git
        return None
    return run.stdout.strip() or None
