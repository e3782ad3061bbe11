"""A run that is killed fifty times ends with the bits of one that was left alone.

Each kill is a SIGKILL at a random moment, up to half a second after a run has printed
that an epoch has ended; much of it is spent in saving. Writes a line for each run into
scripts/soak/results/kills.log, and a summary. Ends with status 1 if any bit differs.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--each", type=int, default=5, help="kills of one run")
    parser.add_argument("--log", type=Path, default=HERE / "results" / "kills.log")
    options = parser.parse_args()
    from killed_runs import kill_and_go_on, undisturbed

    start, survived, expected = time.time(), 0, undisturbed()
    runs = -(-options.kills // options.each)
    with options.log.open("w") as log:

        def say(line: str) -> None:
            print(line, flush=True)
            print(line, file=log, flush=True)

        for seed in range(runs):
            kills = min(options.each, options.kills - seed * options.each)
            with tempfile.TemporaryDirectory() as folder:
                digest, said = kill_and_go_on(Path(folder) / "run", kills, seed)
            same = digest == expected
            survived += kills * same
            verdict = "same bits" if same else "DIFFERENT BITS"
            say(f"run {seed}: killed after {', '.join(said)}: {verdict}")
        minutes = (time.time() - start) / 60
        say(f"{survived} of {options.kills} kills survived; {minutes:.0f} minutes")
    return 0 if survived == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
