"""Event files: TensorBoard's own reader finds the records of a run."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import (
    EventMultiplexer,
)

import fnn

ROOT = Path(__file__).parent.parent


def read(folder):
    reader = EventAccumulator(str(folder), size_guidance={"histograms": 0})
    return reader.Reload()


def scalars(reader):
    return {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def test_a_run_is_in_the_file(tmp_path):
    x = np.linspace(-1, 1, 24, dtype=np.float32).reshape(12, 2)
    y = np.arange(12) % 2
    records = []
    with fnn.TensorBoard(tmp_path / "new" / "run") as board:

        def on_epoch(record):
            records.append(record)
            board(record)

        fnn.fit(
            fnn.serial(fnn.Dense(2)),
            fnn.losses.SoftmaxCrossEntropy(),
            fnn.optimizers.sgd(0.1),
            train=(x, y),
            validation=(x, y),
            key=jax.random.key(0),
            epochs=2,
            batch_size=12,
            on_epoch=on_epoch,
        )
    shown = scalars(read(tmp_path / "new" / "run"))
    names = {
        "train_loss": "train/loss",
        "seconds": "seconds",
        "validation_loss": "validation/loss",
        "validation_accuracy": "validation/accuracy",
    }
    assert set(names) | {"epoch"} <= set(records[0])
    for name, tag in names.items():
        expected = [(each["epoch"], np.float32(each[name])) for each in records]
        assert shown[tag] == expected


def test_a_process_that_dies_leaves_its_last_record(tmp_path):
    code = (
        "import fnn, os, sys; board = fnn.TensorBoard(sys.argv[1]); "
        "board({'epoch': 1, 'many': dict.fromkeys(map(str, range(5000)), 0.5)}); "
        "os._exit(3)"
    )
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    assert died.returncode == 3
    assert scalars(read(tmp_path))["many/4999"] == [(1, 0.5)]


def test_arrays_are_histograms_and_dicts_are_groups(tmp_path):
    weights = np.array([[0.0, 1.0], [15.0, 30.0]])  # on the edges of bins
    record = {
        "epoch": 3,
        "health": {"0/Dense.weight": {"norm": 2.5, "dead": True}, "1/Relu": (1, 2)},
        "weights": weights,
        "half": jnp.ones(2, jnp.bfloat16),
        "zero": jnp.float32(4),
        "nothing": None,
        "empty": np.zeros((0, 2)),
    }
    with fnn.TensorBoard(tmp_path) as board:
        board(record)
    reader = read(tmp_path)
    assert scalars(reader) == {
        "health/0/Dense.weight/dead": [(3, 1)],
        "health/0/Dense.weight/norm": [(3, 2.5)],
        "health/1/Relu/0": [(3, 1)],
        "health/1/Relu/1": [(3, 2)],
        "zero": [(3, 4)],
    }
    assert reader.Tags()["histograms"] == ["half", "weights"]
    [event] = reader.Histograms("half")  # all numbers are one: a single bin
    assert event.histogram_value.bucket == [2]
    assert event.histogram_value.bucket_limit == [1]
    [event] = reader.Histograms("weights")
    got = event.histogram_value
    assert (event.step, got.min, got.max, got.num) == (3, 0, 30, 4)
    assert (got.sum, got.sum_squares) == (46, 1126)
    counts, edges = np.histogram(weights, 30)
    assert list(got.bucket) == counts.tolist()
    assert got.bucket_limit == pytest.approx(edges[1:])


def test_neighbours_in_float64_have_a_histogram(tmp_path):
    with fnn.TensorBoard(tmp_path) as board:
        board({"epoch": 1, "a": np.array([1, np.nextafter(1, 2), np.nextafter(1, 2)])})
    [event] = read(tmp_path).Histograms("a")
    assert sum(event.histogram_value.bucket) == 3


def test_numbers_that_are_not_finite_are_counted(tmp_path):
    with fnn.TensorBoard(tmp_path) as board:
        board({"epoch": 1, "a": np.array([1.0, np.nan, np.inf]), "b": [np.nan]})
        board({"epoch": 2, "a": np.array([np.nan]), "b": 1e300})
    reader = read(tmp_path)
    [event] = reader.Histograms("a")
    assert (event.step, event.histogram_value.num) == (1, 1)
    shown = scalars(reader)
    assert shown["a/not_finite"] == [(1, 2), (2, 1)]
    assert np.isnan(shown["b/0"][0][1])  # a list has parts, an array has entries
    assert shown["b"] == [(2, np.inf)]  # what it is in float32


def test_a_figure_is_an_image(tmp_path):
    figure = Figure(figsize=(3, 2), dpi=20)
    figure.subplots().plot([1, 2])
    with fnn.TensorBoard(tmp_path) as board:
        board.figure("weights/0", figure, step=7)
    [event] = read(tmp_path).Images("weights/0")
    assert (event.step, event.width, event.height) == (7, 60, 40)
    png = event.encoded_image_string
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert png[12:16] == b"IHDR"
    assert struct.unpack(">II", png[16:24]) == (60, 40)
    assert struct.unpack(">I", png[29:33])[0] == zlib.crc32(png[12:29])


def test_tensorboard_shows_it(tmp_path):
    """The reader of its server finds scalars, histograms and images."""
    with fnn.TensorBoard(tmp_path) as board:
        board({"epoch": 1, "train_loss": 0.5, "weights": np.arange(5.0)})
        board.figure("picture", Figure(figsize=(1, 1)), step=1)
    with fnn.TensorBoard(tmp_path) as board:  # a run that goes on
        board({"epoch": 2, "train_loss": 0.25})
    server = EventMultiplexer({"run": str(tmp_path)}).Reload()
    plugins = {
        plugin: set(server.PluginRunToTagToContent(plugin).get("run", {}))
        for plugin in ("scalars", "histograms", "images")
    }
    assert plugins == {
        "scalars": {"train/loss"},
        "histograms": {"weights"},
        "images": {"picture"},
    }
    assert {event.step for event in server.Tensors("run", "train/loss")} == {1, 2}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"train_loss": 1.0}, "number of its epoch"),
        ({"epoch": 1.0}, "number of its epoch"),
        ([("epoch", 1)], "number of its epoch"),
        ({"epoch": 1, "run": "a"}, "run must be a number or an array of numbers"),
        ({"epoch": 1, "f": print}, "f must be a number or an array of numbers"),
    ],
)
def test_a_value_that_is_no_record_is_refused(tmp_path, record, message):
    with fnn.TensorBoard(tmp_path) as board, pytest.raises(TypeError, match=message):
        board(record)


def test_a_value_that_is_no_figure_is_refused(tmp_path):
    with fnn.TensorBoard(tmp_path) as board:
        with pytest.raises(TypeError, match=r"must be a Matplotlib figure, got list"):
            board.figure("picture", [1, 2], step=1)


def test_a_closed_file_cannot_be_written(tmp_path):
    board = fnn.TensorBoard(tmp_path)
    board.close()
    board.close()
    with pytest.raises(ValueError, match="has been closed"):
        board({"epoch": 1})


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="got the file"):
        fnn.TensorBoard(tmp_path / "file")


def test_without_tensorboard_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(
        sys.modules, "tensorboard.summary.writer.event_file_writer", None
    )
    with pytest.raises(ImportError, match=r"pip install 'fnn\[tensorboard\]'"):
        fnn.TensorBoard(tmp_path)
