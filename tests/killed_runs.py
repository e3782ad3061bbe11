"""A run that is killed again and again, and each time goes on from its checkpoints.

The run is this file as a program: `python killed_runs.py FOLDER` trains with
checkpoints in FOLDER, goes on from the last one there, and prints a digest of its
result.
"""

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import fnn

__all__ = ["digest_of", "kill_and_go_on", "uninterrupted"]

EPOCHS = 40


def train(folder: Path | None, on_epoch=None) -> fnn.FitResult:
    x = jax.random.normal(jax.random.key(0), (300, 8))
    y = (x[:, 0] * x[:, 1] > 0).astype(jnp.int32)
    net = fnn.serial(
        fnn.Dense(32), fnn.BatchNorm(), fnn.Relu(), fnn.Dropout(0.2), fnn.Dense(2)
    )
    return fnn.fit(
        net, fnn.losses.SoftmaxCrossEntropy(), fnn.optimizers.adam(1e-2),
        train=(x[:200], y[:200]), validation=(x[200:], y[200:]),
        key=jax.random.key(1), epochs=EPOCHS, batch_size=30,
        early_stopping=fnn.EarlyStopping(patience=EPOCHS),
        checkpoint_dir=folder, resume=folder is not None, on_epoch=on_epoch,
    )  # fmt: skip


def digest_of(result: fnn.FitResult) -> str:
    """Return a digest of every bit of the result, except for the seconds."""
    history = {k: v for k, v in result.history.items() if k != "seconds"}
    parts = result.variables, result.carry, result.stopping, history
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(parts):
        total.update(np.asarray(leaf).tobytes())
    return total.hexdigest()


def uninterrupted() -> str:
    """Return the digest of a run that is not killed, in a process of its own."""
    return _finish(None)


def kill_and_go_on(folder: Path, kills: int, seed: int) -> tuple[str, list[str]]:
    """Kill the run at random moments, then let it finish.

    Each moment is up to half a second after a run has printed that an epoch has ended:
    about half of that time is spent in saving.

    Returns:
        The digest, and the last line that each killed run has printed.
    """
    moments, last_lines = random.Random(seed), []
    for _ in range(kills):
        with _start(folder) as run:
            line = run.stdout.readline()
            time.sleep(moments.uniform(0, 0.5))
            run.kill()
            rest = run.stdout.read().splitlines()
            last_lines.append(rest[-1] if rest else line.strip())
            run.wait()
    return _finish(folder), last_lines


def _start(folder: Path | None) -> subprocess.Popen:
    command = [sys.executable, __file__, *([str(folder)] if folder else [])]
    # On a GPU each process would choose its own kernels, and other bits.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_FLAGS": flags},
    )


def _finish(folder: Path | None) -> str:
    with _start(folder) as run:
        out, _ = run.communicate()
    assert run.returncode == 0, out
    return out.splitlines()[-1]


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None

    def print_epoch(record: dict) -> None:
        print(f"epoch {record['epoch']}", flush=True)

    print(digest_of(train(folder, print_epoch)), flush=True)


if __name__ == "__main__":
    main()
