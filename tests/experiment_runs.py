"""What tests of experiments share: reading a run folder, and images in small."""

import json
from pathlib import Path

import numpy as np

import fnn

__all__ = ["conclusion", "json_lines", "small_mnist"]


def json_lines(path: Path) -> list[dict]:
    """Read a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def conclusion(folder: Path) -> str:
    """Read the sentence that answers the experiment's question."""
    return json.loads((folder / "result.json").read_text())["conclusion"]


def small_mnist(monkeypatch) -> fnn.data.Dataset:
    """Replace MNIST by enlarged digits: 240 for training, 60 for the test."""

    def enlarged(part):
        x, y = part
        return np.pad(x.repeat(3, 1).repeat(3, 2), ((0, 0), (2, 2), (2, 2), (0, 0))), y

    digits = fnn.data.digits()
    (x, y), (x_test, y_test) = map(enlarged, digits)
    small = fnn.data.Dataset((x[:240], y[:240]), (x_test[:60], y_test[:60]))
    monkeypatch.setattr(fnn.data, "mnist", lambda folder=None: small)
    monkeypatch.setenv("COLUMNS", "80")
    return small
