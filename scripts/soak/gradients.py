"""The audit under load: every planted bug found, no false alarm on random networks.

Writes a line for each of them into scripts/soak/results/gradients.log, and a summary.
Ends with status 1 if a bug was missed or an alarm was false.
"""

import argparse
import collections
import multiprocessing
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))


def check_bug(index: int) -> tuple[str, str]:
    """Audit one planted bug: (verdict, line)."""
    from planted_bugs import BUGS, audit

    bug = BUGS[index]
    report = audit(bug)
    found = report.first_divergence
    verdict = "found" if not report.passed and found == bug.found else "MISSED"
    return verdict, f"{verdict:6} {bug.name}: first divergence {found}"


def check_network(seed: int) -> tuple[str, str]:
    """Audit one random network in float32 and float64: (verdict, line)."""
    import numpy as np
    from random_networks import random_trial

    import fnn

    dtype = np.dtype(np.float32 if seed % 2 else np.float64)
    net, loss, variables, batch, options = random_trial(seed, dtype)
    report = fnn.compare_gradients(
        net, loss, variables, batch, **options, max_coordinates=16
    )
    verdict = "pass" if report.passed else "inconclusive"
    if report.first_divergence is not None:
        verdict = f"FALSE ALARM at {report.first_divergence}"
    rows = [row for row in report.rows if row.largest > 0]
    worst64 = max(row.scaled for row in rows)
    worst32 = max(row.engine32 for row in rows)
    numerical = max(row.autodiff_numerical for row in rows)
    kinks = sum(row.kinks for row in report.rows)
    return verdict.split(" at ")[0], (
        f"{seed:4} {verdict}: {len(report.rows)} rows, x {dtype}, scaled errors "
        f"{worst64:.0e} float64, {worst32:.0e} float32, {numerical:.0e} numerical, "
        f"{kinks} kinks; {net!r}, {loss!r}"
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--log", type=Path, default=HERE / "results" / "gradients.log")
    options = parser.parse_args()
    from planted_bugs import BUGS

    start = time.time()
    counts: collections.Counter[str] = collections.Counter()
    options.log.parent.mkdir(parents=True, exist_ok=True)
    seeds = range(options.first, options.first + options.networks)
    context = multiprocessing.get_context("spawn")
    # Fresh processes now and then: compiled programs pile up in memory.
    pool = context.Pool(options.processes, maxtasksperchild=25)
    with pool, options.log.open("w") as log:

        def say(line: str) -> None:
            print(line, flush=True)
            print(line, file=log, flush=True)

        for verdict, line in pool.imap(check_bug, range(len(BUGS))):
            counts[verdict] += 1
            say(line)
        for verdict, line in pool.imap(check_network, seeds):
            counts[verdict] += 1
            say(line)
        minutes = (time.time() - start) / 60
        said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        say(f"{len(BUGS)} bugs, {len(seeds)} networks: {said}; {minutes:.0f} minutes")
    return 1 if counts["MISSED"] or counts["FALSE ALARM"] else 0


if __name__ == "__main__":
    sys.exit(main())
