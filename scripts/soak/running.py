"""Many checks in several processes: a line of a log for each, and a summary."""

import collections
import multiprocessing
import time
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["run"]


def run(
    work: Iterable[tuple[Callable[[int], tuple[str, str]], range]],
    what: str,
    log: Path,
    processes: int,
    maxtasksperchild: int,
) -> int:
    """Every check on each of its numbers; it returns a verdict and a line.

    Returns the exit status: 1 if a bug was missed or an alarm was false.
    """
    start = time.time()
    counts: collections.Counter[str] = collections.Counter()
    log.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    # Fresh processes now and then: compiled programs pile up in memory.
    pool = context.Pool(processes, maxtasksperchild=maxtasksperchild)
    with pool, log.open("w") as file:

        def say(line: str) -> None:
            print(line, flush=True)
            print(line, file=file, flush=True)

        for check, numbers in work:
            for verdict, line in pool.imap(check, numbers):
                counts[verdict] += 1
                say(line)
        minutes = (time.time() - start) / 60
        said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        say(f"{what}: {said}; {minutes:.0f} minutes")
    return 1 if counts["MISSED"] or counts["FALSE ALARM"] else 0
