"""Audit random planned networks: each against autodiff of the plain one.

There are 300 convolutional networks, planned by random costs so that every rewrite and
every kernel occurs next to every other. The script writes a line for each to
scripts/soak/results/plans.log, and a summary. It exits with status 1 if one fails.
"""

import argparse
import sys
from pathlib import Path

from gradients import HERE, audit_trial
from running import run


def check_plan(seed: int) -> tuple[str, str]:
    """Audit one random plan in float32 and float64; return (verdict, line)."""
    from random_plans import random_plan_trial

    return audit_trial(f"plan {seed:4}", seed, random_plan_trial)


def main() -> int:
    """Run the command line."""
    from fnn.letters import make_stdout_printable

    make_stdout_printable()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--log", type=Path, default=HERE / "results" / "plans.log")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.plans)
    what = f"{options.plans} planned networks"
    work = [(check_plan, seeds)]
    return run(work, what, options.log, options.processes, maxtasksperchild=15)


if __name__ == "__main__":
    sys.exit(main())
