"""Run the benchmarks, write them as JSON, print them as tables, and draw them.

python scripts/bench/main.py                      all of them
python scripts/bench/main.py layers epochs        only these
python scripts/bench/main.py epochs --only LeNet  only rows with that in their name
python scripts/bench/main.py --chart              draw what was measured before
python scripts/bench/main.py --check              do all peers compute the same?

Every row is written as soon as it is measured, and replaces only itself: a run that is
cut short, or that repeats a part, loses nothing. Each row says where it was measured.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import engines
import epochs
import floor
import imports
import layers
import plans
import runs
import sweeps
from tables import TABLES
from timing import machine

#: Each with its ROWS, what to measure by name, and with `measure(row, rounds)`.
BENCHMARKS = {
    "import": imports,
    "engines": engines,
    "layers": layers,
    "floor": floor,
    "plans": plans,
    "sweeps": sweeps,
    "runs": runs,
    "epochs": epochs,
}


def arguments() -> argparse.Namespace:
    """The command line."""
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


def chosen(part: str, only: str) -> dict:
    """The rows of a benchmark that have that in their name."""
    rows = BENCHMARKS[part].ROWS
    return {name: row for name, row in rows.items() if only.lower() in name.lower()}


def check(only: str) -> bool:
    """Whether all peers do the same work, on each network."""
    passed = True
    for name, network in chosen("epochs", only).items():
        print(f"{name}: losses of the first steps on one batch", flush=True)
        passed &= epochs.check(network)
    return passed


def results_file() -> Path:
    """One for each kind of machine."""
    where = machine()
    platform = str(where["device"]).split(":")[0]
    name = f"{platform}-{where['cores']}-cores.json"
    return Path(__file__).parent / "results" / name


def measure(part: str, asked: argparse.Namespace, results: dict, out: Path) -> None:
    """Measure the rows of one benchmark, each written at once."""
    options = {"rounds": asked.rounds} if asked.rounds else {}
    rows = results.setdefault(part, {})
    for name, row in chosen(part, asked.only).items():
        begun, where = time.perf_counter(), machine()
        rows[name] = {"machine": where} | BENCHMARKS[part].measure(row, **options)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=2) + "\n")
        print(f"{time.perf_counter() - begun:6.0f} s  {part}: {name}", flush=True)
    print(TABLES[part](rows), end="\n\n", flush=True)


def main() -> int:
    """Run what was asked for; the exit status."""
    asked = arguments()
    if asked.check:
        return 0 if check(asked.only) else 1
    out = asked.out or results_file()
    results = json.loads(out.read_text()) if out.exists() else {}
    everything = not asked.which and not asked.chart
    for part in BENCHMARKS if everything else asked.which:
        measure(part, asked, results, out)
    if asked.chart or everything:
        import chart  # needed for nothing else, and neither is matplotlib

        for figure in chart.draw(results, out.with_suffix(".png")):
            print(f"figure in {figure}")
    print(f"results in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
