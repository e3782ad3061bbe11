"""The audit under load: every planted bug found, no false alarm on random networks.

The script writes a line for each of them into scripts/soak/results/gradients.log, and a
summary. Its status is 1 if a bug was missed or an alarm was false.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from running import run

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))


def check_bug(index: int) -> tuple[str, str]:
    """Audit one planted bug; return the verdict and a line for the log."""
    from planted_bugs import BUGS
    from planting import audit

    bug = BUGS[index]
    report = audit(bug)
    found = report.first_divergence
    verdict = "found" if not report.passed and found == bug.found else "MISSED"
    return verdict, f"{verdict:6} {bug.name}: first divergence {found}"


def check_network(seed: int) -> tuple[str, str]:
    """Audit one random network; return the verdict and a line for the log."""
    from random_networks import random_trial

    return audit_trial(f"{seed:4}", seed, random_trial)


def check_images(seed: int) -> tuple[str, str]:
    """Audit one random network for images; return the verdict and a line."""
    from random_networks import random_image_trial

    return audit_trial(f"image {seed:4}", seed, random_image_trial)


def audit_trial(name: str, seed: int, make: Callable) -> tuple[str, str]:
    """Audit what `make(seed, dtype)` draws; return the verdict and a line."""
    import numpy as np

    import fnn

    dtype = np.dtype(np.float32 if seed % 2 else np.float64)
    net, loss, variables, batch, options = make(seed, dtype)
    report = fnn.compare_gradients(
        net, loss, variables, batch, **options, max_coordinates=16
    )
    verdict = "pass" if report.passed else "inconclusive"
    if report.first_divergence is not None:
        verdict = f"FALSE ALARM at {report.first_divergence}"
    rows = [row for row in report.rows if row.largest > 0]
    worst64 = max((row.scaled for row in rows), default=0)
    worst32 = max((row.engine32 for row in rows), default=0)
    numerical = max((row.autodiff_numerical for row in rows), default=0)
    kinks = sum(row.kinks for row in report.rows)
    return verdict.split(" at ")[0], (
        f"{name} {verdict}: {len(report.rows)} rows, x {dtype}, scaled errors "
        f"{worst64:.0e} float64, {worst32:.0e} float32, {numerical:.0e} numerical, "
        f"{kinks} kinks; {net!r}, {loss!r}"
    )


def main() -> int:
    """Run the command line."""
    from fnn.letters import make_stdout_printable

    make_stdout_printable()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bugs", type=int, help="the first so many, or all")
    parser.add_argument("--networks", type=int, default=500)
    parser.add_argument("--images", type=int, default=300, help="networks for images")
    parser.add_argument("--first", type=int, default=0, help="the first seed of both")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--log", type=Path, default=HERE / "results" / "gradients.log")
    options = parser.parse_args()
    from planted_bugs import BUGS

    bugs = len(BUGS) if options.bugs is None else options.bugs
    first, networks, images = options.first, options.networks, options.images
    work = [
        (check_bug, range(bugs)),
        (check_network, range(first, first + networks)),
        (check_images, range(first, first + images)),
    ]
    what = f"{bugs} bugs, {networks} networks, {images} image networks"
    return run(work, what, options.log, options.processes, maxtasksperchild=25)


if __name__ == "__main__":
    sys.exit(main())
