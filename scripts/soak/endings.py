"""A hundred scripts that end in the middle of a run: none may abort or hang.

Each script trains in a process of its own and ends in one of eight ways (an error, an
exit, a signal, a bad label ...) while a thread reads batches, while another device
validates, or while checkpoints are saved. A process that ends while a thread is inside
JAX aborts with SIGABRT. Last, 2, 4 and 8 processes start at the same moment in one
folder: one trains, the others say why they do not. Each script writes a line into
scripts/soak/results/endings.log, with its exit status and its last line.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from running import open_log

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LONGEST = 180  # seconds that a script may take

SCRIPT = """
import itertools, os, signal, sys, time, warnings
import jax, jax.numpy as jnp, numpy as np, fnn

warnings.simplefilter("ignore")
x, y = np.ones((8, 3), np.float32), np.array([0, 1] * 4)


def numpy_batches():
    while True:
        yield np.ones((8, 3), np.float32) @ np.ones((3, 3), np.float32), y


def jax_batches():
    while True:
        yield jax.device_get(jnp.ones((8, 3)) @ jnp.ones((3, 3))), y


def slow_batches():
    while True:
        time.sleep(0.02)
        yield x, y


def ends_badly(what):
    for i in itertools.count():
        if i == 12:
            if what == "error":
                raise RuntimeError("mine")
            yield x, y + 7
        yield x, y


def on_epoch(record):
    {action}


fnn.fit(
    fnn.serial(fnn.Dense(2)),
    fnn.losses.SoftmaxCrossEntropy(),
    fnn.optimizers.sgd(0.1),
    train={train},
    key=jax.random.key(0),
    epochs=3,
    on_epoch=on_epoch,
    {around}
)
print("returned")
"""

#: The training data of a script.
DATA = {
    "arrays": "(x, y), batch_size=4",
    "NumPy stream": "fnn.Batches(numpy_batches(), steps=20)",
    "JAX stream": "fnn.Batches(jax_batches(), steps=20)",
    "slow stream": "fnn.Batches(slow_batches(), steps=20)",
}
#: What else happens during the run.
AROUND = {
    "alone": "",
    "validating elsewhere": (
        "validation=(x, y), validation_device=jax.devices()[1], "
        "early_stopping=fnn.EarlyStopping(patience=50),"
    ),
    "saving": "checkpoint_dir=sys.argv[1],",
}
#: Each way to end: the line in `on_epoch`, the exit status, and the last words.
ENDS = {
    "the end of the script": ("pass", 0, "returned"),
    "stop": ("return True", 0, "returned"),
    "an error": ("raise RuntimeError('mine')", 1, "RuntimeError: mine"),
    "exit": ("sys.exit(3)", 3, ""),
    "Ctrl-C": ("os.kill(os.getpid(), signal.SIGINT)", 0, "returned"),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", 0, "returned"),
}
#: Sources that end a run themselves.
SOURCES = {
    "an error in the source": ("'error'", "RuntimeError: mine"),
    "a bad label in the source": ("'label'", "expected every label"),
}


def scripts() -> list[tuple[str, str, int, str]]:
    """Return every script: its name, its text, its exit status and its last words."""
    found = []
    for data, around, end in itertools.product(DATA, AROUND, ENDS):
        action, status, words = ENDS[end]
        text = SCRIPT.format(action=action, train=DATA[data], around=AROUND[around])
        found.append((f"{data}, {around}, {end}", text, status, words))
    for (name, (what, words)), around, steps in itertools.product(
        SOURCES.items(), AROUND, (5, 6, 12, 13, 40)
    ):
        train = f"fnn.Batches(ends_badly({what}), steps={steps})"
        text = SCRIPT.format(action="pass", train=train, around=AROUND[around])
        found.append((f"{name}, {around}, {steps} steps", text, 1, words))
    return found


def start(text: str, folder: str) -> subprocess.Popen[str]:
    """Start a script with two devices."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    return subprocess.Popen(
        [sys.executable, "-c", text, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | flags | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return a script's exit status and what it printed; kill one that hangs."""
    try:
        printed, _ = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        return -9, f"no end after {LONGEST} s: {process.communicate()[0]}"
    return process.returncode, printed


def last_line(printed: str) -> str:
    """Return the last line that is not empty, of at most 60 characters."""
    return ([line for line in printed.splitlines() if line.strip()] or [""])[-1][:60]


def run(script: tuple[str, str, int, str]) -> tuple[bool, str]:
    """Run one script; return whether it ended as it should, and its line in the log."""
    name, text, status, words = script
    with tempfile.TemporaryDirectory() as folder:
        got, printed = finish(start(text, folder + "/run"))
    right = got == status and words in printed
    verdict = "ok   " if right else f"WRONG (expected {status}, {words!r})"
    return right, f"{verdict} {name}: exit {got}, {last_line(printed)}"


def run_together(count: int) -> tuple[bool, str]:
    """Start `count` processes in one folder; one alone may train there."""
    slow = "time.sleep(1.0)"
    text = SCRIPT.format(action=slow, train=DATA["arrays"], around=AROUND["saving"])
    with tempfile.TemporaryDirectory() as folder:
        ends = [finish(p) for p in [start(text, folder + "/run") for _ in range(count)]]
        left = sorted(path.name for path in Path(folder, "run").iterdir())
    said = [last_line(printed) for _, printed in ends]
    trained = [status for status, _ in ends if status == 0]
    refused = [
        printed
        for status, printed in ends
        if status == 1
        and ("is in use" in printed or "holds checkpoints of a run" in printed)
    ]
    numbers_only = all(name.isdigit() or name.startswith(".") for name in left)
    right = len(trained) == 1 and len(refused) == count - 1 and numbers_only
    verdict = "ok   " if right else "WRONG"
    return right, f"{verdict} {count} processes in one folder: {said}, left {left}"


def main() -> int:
    """Run all scripts; return 1 if one did not end as it should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2, help="at a time")
    parser.add_argument("--every", type=int, default=1, help="take each n-th script")
    parser.add_argument("--log", type=Path, default=HERE / "results" / "endings.log")
    options = parser.parse_args()
    began, wrong = time.time(), 0
    chosen = scripts()[:: options.every]
    with open_log(options.log) as write_line:
        with ThreadPoolExecutor(options.processes) as pool:
            for right, line in pool.map(run, chosen):
                wrong += not right
                write_line(line)
        for count in (2, 4, 8):
            right, line = run_together(count)
            wrong += not right
            write_line(line)
        seconds = time.time() - began
        write_line(f"{len(chosen)} scripts, {wrong} wrong, {seconds:.0f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
