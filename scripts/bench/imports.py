"""What `import fnn` costs on top of the libraries it stands on, in whole processes.

Modules are compiled to bytecode once, as after any installation: where the environment
forbids to keep that, the libraries would have theirs and fnn would not.
"""

import os
import subprocess
import sys

import numpy as np

from timing import interleave, ratio, seconds

__all__ = ["ROWS", "measure"]

ROWS = {"import": {"fnn": "import fnn", "libraries": "import jax, optax, chex"}}


def measure(statements: dict[str, str], rounds: int = 30) -> dict:
    """Seconds, and the ratio of the two."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}

    def run(statement: str) -> float:
        command = [sys.executable, "-c", statement]
        return seconds(lambda: subprocess.run(command, env=environment, check=True))

    runs = {
        name: lambda statement=statement: run(statement)
        for name, statement in statements.items()
    }
    for once in runs.values():
        once()  # the files into the cache
    times = interleave(runs, rounds)
    return {
        "seconds": {name: float(np.median(t)) for name, t in times.items()},
        "ratio": ratio(times["fnn"], times["libraries"])._asdict(),
    }
