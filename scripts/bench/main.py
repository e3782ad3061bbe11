"""Run the benchmarks, print them as tables, and write them as JSON.

python scripts/bench/main.py [engines] [epochs] [import] [--rounds N] [--out FILE]
"""

import argparse
import json
from pathlib import Path

import engines
import epochs
import imports
from timing import Ratio, machine

BENCHMARKS = {
    "engines": engines.measure,
    "epochs": epochs.measure,
    "import": imports.measure,
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="fnn's benchmarks")
    parser.add_argument("which", nargs="*", choices=[*BENCHMARKS, []], default=[])
    parser.add_argument("--rounds", type=int, help="interleaved rounds of each")
    parser.add_argument("--out", type=Path, help="where the JSON file goes")
    arguments = parser.parse_args()
    where = machine()
    folder = Path(__file__).parent / "results"
    platform = str(where["device"]).split(":")[0]
    out = arguments.out or folder / f"{platform}-{where['cores']}-cores.json"
    results = json.loads(out.read_text()) if out.exists() else {}
    for name in arguments.which or BENCHMARKS:
        options = {"rounds": arguments.rounds} if arguments.rounds else {}
        results[name] = {"machine": machine()} | BENCHMARKS[name](**options)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=2) + "\n")
        print(TABLES[name](results[name]), flush=True)
    print(f"written to {out}")


def _engines(results: dict) -> str:
    lines = [
        "manual / autodiff, median of paired ratios [95% interval]",
        f"{'':22}{'time per step':>24}{'compile time':>24}{'memory':>9}",
    ]
    for name, row in results.items():
        if name != "machine":
            step, build = Ratio(**row["step_ratio"]), Ratio(**row["compile_ratio"])
            memory = row["memory_ratio"]
            lines.append(f"{name:22}{step!s:>24}{build!s:>24}{memory:>9.3f}")
    return "\n".join(lines)


def _epochs(results: dict) -> str:
    lines = [f"{'784-128-10, MNIST, batch 128, Adam':38}{'s / epoch':>10}{'× fnn':>24}"]
    for name, row in results.items():
        if name != "machine":
            relative = str(Ratio(**row["to_fnn"]))
            lines.append(f"{name:38}{row['seconds']:>10.3f}{relative:>24}")
    return "\n".join(lines)


def _import(results: dict) -> str:
    times = results["seconds"]
    return (
        f"import fnn {times['fnn']:.2f} s, import jax, optax, chex "
        f"{times['libraries']:.2f} s: ratio {Ratio(**results['ratio'])}"
    )


TABLES = {"engines": _engines, "epochs": _epochs, "import": _import}

if __name__ == "__main__":
    main()
