"""Wrong and odd inputs by the thousand: a right answer, or fnn's own plain words.

hypothesis draws calls of fit, evaluate and predict, of layers and losses, files for the
readers, and command lines of the experiments (tests/odd_*.py). No input is counted
twice. Writes what went wrong into scripts/soak/results/inputs.log, with a line for each
family. Ends with status 1 if an input gave a raw error, a wrong result, or no end.
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

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "tests"), str(HERE.parents[1])]

#: How many inputs of each family, and the seconds that one of them may take.
COUNTS = {
    "fit": 3000,
    "evaluate, predict": 1500,
    "layers": 2500,
    "numbers": 1000,
    "losses": 1000,
    "files": 2500,
    "command lines": 300,
}
LONGEST = 60


def soak(name: str, count: int, seed: int, say: Callable[[str], None]) -> bool:
    """So many inputs of one family; whether all went well."""
    import jax
    import odd_commands
    import odd_inputs
    import odd_layers
    import odd_losses
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from odd_files import Wrong

    modules = (odd_inputs, odd_layers, odd_losses, odd_commands)
    [family] = [m.FAMILIES[name] for m in modules if name in m.FAMILIES]
    started = time.time()
    verdicts: collections.Counter[str] = collections.Counter()
    seen: set[str] = set()
    faults: set[str] = set()  # one of each kind is said

    @given(family.inputs)
    @settings(
        max_examples=20 * count, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @seeded(seed)
    def one(line: str) -> None:
        if line in seen or len(seen) == count:
            return
        seen.add(line)
        signal.alarm(LONGEST)
        try:
            verdicts[family.run(line)] += 1
        except (Wrong, NoEnd) as error:
            verdicts["WRONG"] += 1
            said = str(error) if isinstance(error, Wrong) else f"{line}\n    {error}"
            kind = re.sub(r"\d+", "", said.partition("\n")[2])[:100]
            if kind not in faults:
                faults.add(kind)
                say(f"WRONG {said}")
        finally:
            signal.alarm(0)
        if len(seen) % 500 == 0:
            jax.clear_caches()

    one()
    said = ", ".join(f"{verdicts[v]:,} {v}" for v in sorted(verdicts))
    say(f"{name}: {len(seen):,} inputs: {said}; {time.time() - started:.0f} seconds")
    return len(seen) == count and not faults


class NoEnd(BaseException):
    """An input that took too long; nothing that catches exceptions may catch it."""


def ring(number: int, frame: object) -> None:
    """What the clock does."""
    raise NoEnd(f"no end after {LONGEST} seconds")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=COUNTS, help="only this one")
    parser.add_argument("--count", type=int, help="in place of the usual numbers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=HERE / "results" / "inputs.log")
    options = parser.parse_args()
    import jax

    jax.config.update("jax_traceback_filtering", "off")  # where it was really raised
    signal.signal(signal.SIGALRM, ring)
    names = [options.family] if options.family else list(COUNTS)
    counts = {name: options.count or COUNTS[name] for name in names}
    with options.log.open("w") as log:

        def say(line: str) -> None:
            print(line, flush=True)
            print(line, file=log, flush=True)

        good = True
        for name, count in counts.items():
            faulthandler.dump_traceback_later(60 * LONGEST, exit=True)
            good &= soak(name, count, options.seed, say)
        say(f"{sum(counts.values()):,} inputs: {'all well' if good else 'FAILED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
