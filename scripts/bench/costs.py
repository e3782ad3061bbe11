"""Measure the costs of layers and kernels on this machine, as a table for `fnn.plan`.

scripts/bench/costs                        keeps it for all later plans of this machine
scripts/bench/costs --out my_costs.json    and writes it to a file

    plan = fnn.plan(net, (28, 28, 1), costs=fnn.load_costs("my_costs.json"))

It takes a few minutes on two cores. `fnn.measure_costs()` measures in a minute the rows
that say most.
"""

import argparse
from pathlib import Path

import fnn
from fnn.letters import make_stdout_printable


def main() -> None:
    """Run the command line."""
    make_stdout_printable()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="a file for the table")
    parser.add_argument("--seconds", type=float, default=1e9, help="the time at most")
    options = parser.parse_args()
    costs = fnn.measure_costs(seconds=options.seconds, save=options.out is None)
    for name, ns in costs.elements.items():
        print(f"{name}: {ns:.3f} ns for an element")
    for work, ms in costs.blocks:
        print(work, {name: round(value, 3) for name, value in ms.items()})
    if options.out:
        costs.save(options.out)


if __name__ == "__main__":
    main()
