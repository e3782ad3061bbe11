"""Runs that are killed fifty times, and must end with an uninterrupted run's bits.

Each kill is a SIGKILL at a random moment, up to half a second after a run has printed
that an epoch has ended; much of that time goes into saving. Each run writes a line into
scripts/soak/results/kills.log; a summary follows. The exit status is 1 if a bit
differs.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from running import open_log

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))


def main() -> int:
    """Parse the command line and kill the runs; return the exit status."""
    from fnn.letters import make_stdout_printable

    make_stdout_printable()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--each", type=int, default=5, help="kills of one run")
    parser.add_argument("--log", type=Path, default=HERE / "results" / "kills.log")
    options = parser.parse_args()
    from killed_runs import kill_and_go_on, uninterrupted

    start, survived, expected = time.time(), 0, uninterrupted()
    runs = -(-options.kills // options.each)
    with open_log(options.log) as write_line:
        for seed in range(runs):
            kills = min(options.each, options.kills - seed * options.each)
            with tempfile.TemporaryDirectory() as folder:
                digest, last_lines = kill_and_go_on(Path(folder) / "run", kills, seed)
            same = digest == expected
            survived += kills * same
            verdict = "same bits" if same else "DIFFERENT BITS"
            write_line(f"run {seed}: killed after {', '.join(last_lines)}: {verdict}")
        minutes = (time.time() - start) / 60
        total = options.kills
        write_line(f"{survived} of {total} kills survived; {minutes:.0f} minutes")
    return 0 if survived == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
