"""Run the benchmarks, write them as JSON, print them as tables, and draw them.

python scripts/bench/main.py                      all of them
python scripts/bench/main.py layers epochs        only these
python scripts/bench/main.py epochs --only LeNet  only rows with that in their name
python scripts/bench/main.py --chart              draw what was measured before
python scripts/bench/main.py --check              do all peers compute the same?

Every row is written as soon as it is measured, and replaces only its old figures: a run
that is interrupted, or that repeats a part, loses nothing. Each row names its machine.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import anchors
import audits
import curvature
import engines
import epochs
import first_epoch
import floor
import imports
import layers
import per_example
import plans
import runs
import scale
import sweeps
import zoo
from fnn.letters import make_stdout_printable
from tables import TABLES
from timing import machine

#: Each has ROWS, which maps names to what is measured, and `measure(row, rounds)`.
BENCHMARKS = {
    "import": imports,
    "audits": audits,
    "engines": engines,
    "layers": layers,
    "floor": floor,
    "plans": plans,
    "sweeps": sweeps,
    "runs": runs,
    "epochs": epochs,
    "first_epoch": first_epoch,
    "zoo": zoo,
    "per_example": per_example,
    "anchors": anchors,
    "curvature": curvature,
    "scale": scale,
}


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="fnn's benchmarks")
    parser.add_argument("which", nargs="*", choices=[*BENCHMARKS, []], default=[])
    parser.add_argument("--only", default="", help="rows with this in their name")
    parser.add_argument("--rounds", type=int, help="interleaved rounds of each")
    parser.add_argument("--out", type=Path, help="where the JSON file goes")
    parser.add_argument(
        "--check", action="store_true", help="compare the peers' losses, and no more"
    )
    parser.add_argument(
        "--chart", action="store_true", help="draw; measure only what is named"
    )
    return parser.parse_args()


def selected_rows(part: str, only: str) -> dict:
    """Return the rows of a benchmark that have `only` in their name."""
    rows = BENCHMARKS[part].ROWS
    return {name: row for name, row in rows.items() if only.lower() in name.lower()}


def check(only: str) -> bool:
    """Return whether all peers do the same work on each network."""
    passed = True
    for part in ("epochs", "zoo"):
        for name, network in selected_rows(part, only).items():
            print(f"{name}: losses of the first steps on one batch", flush=True)
            passed &= BENCHMARKS[part].check(network)
    return passed


def results_file() -> Path:
    """Return the path of the results of this kind of machine."""
    here = machine()
    platform = str(here["device"]).split(":")[0]
    name = f"{platform}-{here['cores']}-cores.json"
    return Path(__file__).parent / "results" / name


def measure(part: str, options: argparse.Namespace, results: dict, out: Path) -> None:
    """Measure the rows of one benchmark; write each as soon as it is measured."""
    rounds = {"rounds": options.rounds} if options.rounds else {}
    rows = results.setdefault(part, {})
    for name, row in selected_rows(part, options.only).items():
        start, here = time.perf_counter(), machine()
        rows[name] = {"machine": here} | BENCHMARKS[part].measure(row, **rounds)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=2) + "\n")
        print(f"{time.perf_counter() - start:6.0f} s  {part}: {name}", flush=True)
    if rows:
        print(TABLES[part](rows), end="\n\n", flush=True)


def main() -> int:
    """Do what the command line says; return the exit status."""
    make_stdout_printable()
    options = arguments()
    if options.check:
        return 0 if check(options.only) else 1
    out = options.out or results_file()
    results = json.loads(out.read_text()) if out.exists() else {}
    everything = not options.which and not options.chart
    for part in BENCHMARKS if everything else options.which:
        measure(part, options, results, out)
    if options.chart or everything:
        import chart  # with matplotlib, which nothing else here needs

        for figure in chart.draw(results, out.with_suffix(".png")):
            print(f"figure in {figure}")
    print(f"results in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
