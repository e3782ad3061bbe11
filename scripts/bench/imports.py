"""The time of `import fnn` against that of the libraries it needs, in whole processes.

Modules are compiled to bytecode once, as after any installation. So Python is allowed
to keep bytecode even where the environment forbids it: fnn would else have none.
"""

import os
import subprocess
import sys

import numpy as np

from timing import interleave, ratio, seconds

__all__ = ["ROWS", "measure"]

ROWS = {"import": {"fnn": "import fnn", "libraries": "import jax, optax, chex"}}


def measure(statements: dict[str, str], rounds: int = 30) -> dict:
    """Measure the seconds of both, and their ratio."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}

    def run(statement: str) -> float:
        command = [sys.executable, "-c", statement]
        return seconds(lambda: subprocess.run(command, env=environment, check=True))

    runs = {
        name: lambda statement=statement: run(statement)
        for name, statement in statements.items()
    }
    for run_statement in runs.values():
        run_statement()  # brings the files into the cache
    times = interleave(runs, rounds)
    return {
        "seconds": {name: float(np.median(t)) for name, t in times.items()},
        "ratio": ratio(times["fnn"], times["libraries"])._asdict(),
    }
