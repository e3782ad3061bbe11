"""Wrong and odd inputs by the thousand: each must be answered right, or refused.

hypothesis draws calls of fit, evaluate and predict, of layers and losses, files for the
readers, bad numbers in any position of the data, and command lines of the experiments
(tests/odd_*.py). No input is counted
twice. What went wrong is written into scripts/soak/results/inputs.log, with a line for
each family. The exit status is 1 if an input led to a raw error, to a wrong result, or
did not end.
"""

import argparse
import collections
import faulthandler
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from running import open_log

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "tests"), str(HERE.parents[1])]

#: The number of inputs of each family, and the seconds that one of them may take.
COUNTS = {
    "fit": 3000,
    "evaluate, predict": 1500,
    "layers": 2500,
    "numbers": 1000,
    "losses": 1000,
    "positions": 10_000,
    "files": 2500,
    "command lines": 300,
}
LONGEST = 60


def soak(name: str, count: int, seed: int, write_line: Callable[[str], None]) -> bool:
    """Run `count` inputs of one family; return whether all went well."""
    import jax
    import odd_commands
    import odd_inputs
    import odd_layers
    import odd_losses
    import odd_positions
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from odd_files import Wrong

    modules = (odd_inputs, odd_layers, odd_losses, odd_positions, odd_commands)
    [family] = [m.FAMILIES[name] for m in modules if name in m.FAMILIES]
    started = time.time()
    verdicts: collections.Counter[str] = collections.Counter()
    seen: set[str] = set()
    faults: set[str] = set()  # only one of each kind is reported

    @given(family.inputs)
    @settings(
        max_examples=20 * count, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @seeded(seed)
    def run_once(line: str) -> None:
        if line in seen or len(seen) == count:
            return
        seen.add(line)
        signal.alarm(LONGEST)
        try:
            verdicts[family.run(line)] += 1
        except (Wrong, NoEnd) as error:
            verdicts["WRONG"] += 1
            text = str(error) if isinstance(error, Wrong) else f"{line}\n    {error}"
            kind = re.sub(r"\d+", "", text.partition("\n")[2])[:100]
            if kind not in faults:
                faults.add(kind)
                write_line(f"WRONG {text}")
        finally:
            signal.alarm(0)
        if len(seen) % 500 == 0:
            jax.clear_caches()
            print(f"{name}: {len(seen):,} of {count:,}", flush=True)

    run_once()
    summary = ", ".join(f"{verdicts[v]:,} {v}" for v in sorted(verdicts))
    seconds = time.time() - started
    write_line(f"{name}: {len(seen):,} inputs: {summary}; {seconds:.0f} seconds")
    return len(seen) == count and not faults


class NoEnd(BaseException):
    """An input that took too long; code that catches `Exception` must not catch it."""


def raise_no_end(number: int, frame: object) -> None:
    """Raise when the clock rings."""
    raise NoEnd(f"no end after {LONGEST} seconds")


def main() -> int:
    """Parse the command line and run the inputs; return the exit status."""
    from fnn.letters import make_stdout_printable

    make_stdout_printable()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=COUNTS, help="only this one")
    parser.add_argument("--count", type=int, help="inputs of each family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=HERE / "results" / "inputs.log")
    options = parser.parse_args()
    import jax

    # The whole traceback, to see where an error was raised.
    jax.config.update("jax_traceback_filtering", "off")
    signal.signal(signal.SIGALRM, raise_no_end)
    names = [options.family] if options.family else list(COUNTS)
    counts = {name: options.count or COUNTS[name] for name in names}
    with open_log(options.log) as write_line:
        good = True
        for name, count in counts.items():
            faulthandler.dump_traceback_later(60 * LONGEST, exit=True)
            good &= soak(name, count, options.seed, write_line)
        verdict = "all well" if good else "FAILED"
        write_line(f"{sum(counts.values()):,} inputs: {verdict}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
