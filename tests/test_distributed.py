"""Several processes on this machine train as one does; if one dies, all end."""

import os
import re
import socket
import subprocess
import sys
import time
import warnings

import pytest
from breadth import some_of

from experiments import train_distributed

#: A run of one process, in this one.
ALONE = ["--coordinator", "none"]
HEARTBEAT = 10
LOSSES = re.compile(r"epoch +(\d+)  training loss ([\d.]+)  validation loss ([\d.]+)")


def start(processes, *options):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "experiments.train_distributed", *options]
    command += ["--coordinator", f"localhost:{port}", "--heartbeat", str(HEARTBEAT)]
    return [
        subprocess.Popen(
            [*command, "--processes", str(processes), "--id", str(i)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for i in range(processes)
    ]  # fmt: skip


def losses(printed):
    return {int(e): (float(a), float(b)) for e, a, b in LOSSES.findall(printed)}


def alone(capsys, *options):
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the run goes on in another environment")
        assert train_distributed.main([*ALONE, *options]) == 0
    return losses(capsys.readouterr().out)


def assert_close(got, want):
    for epoch, pair in got.items():
        assert pair == pytest.approx(want[epoch], abs=1e-4)


@pytest.mark.parametrize("processes", some_of([2, 4], [2]))
def test_several_processes_train_as_one_does(capsys, processes):
    runs = start(processes, "--epochs", "3")
    outs = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0] * processes, outs
    printed = outs[0][0]
    assert f"{processes} processes, {processes} devices" in printed
    got = losses(printed)
    assert len(got) == 3
    assert_close(got, alone(capsys, "--epochs", "3"))
    assert all("epoch" not in out for out, _ in outs[1:])


@pytest.mark.thorough
def test_two_train_as_one_where_one_dies_both_end_and_one_goes_on(tmp_path, capsys):
    folder = ["--checkpoints", str(tmp_path)]
    first, second = start(2, *folder, "--epochs", "100000")
    printed = ""
    # A checkpoint is begun only when the one before it is complete.
    while sum(path.name.isdigit() for path in tmp_path.iterdir()) < 2:
        printed += first.stdout.readline()
    second.kill()
    died = time.monotonic()
    out, error = first.communicate(timeout=60)
    second.communicate()
    assert first.returncode != 0
    assert time.monotonic() - died < 3 * HEARTBEAT
    assert "Another process has probably died" in error or "another task died" in error
    by_two = losses(printed + out)
    last = max(by_two)
    resumed = alone(capsys, *folder, "--epochs", str(last + 2))
    assert min(resumed) > 1  # it did not begin again
    assert max(resumed) == last + 2
    by_one = alone(capsys, "--epochs", str(last + 2))
    assert_close(by_two, by_one)
    assert_close(resumed, by_one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--heartbeat", "0"], "heartbeat must be at least 1"),
        (["--batch-size", "0"], "batch_size must be at least 1"),
        (["--learning-rate", "-1"], "learning_rate"),
    ],
)
def test_wrong_options(options, message, capsys):
    with pytest.raises(SystemExit) as caught:
        train_distributed.main([*ALONE, *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
