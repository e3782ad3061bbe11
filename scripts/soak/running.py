"""Many checks in several processes, with a line in a log for each, and a summary."""

import collections
import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

__all__ = ["open_log", "run"]


@contextlib.contextmanager
def open_log(path: Path) -> Iterator[Callable[[str], None]]:
    """Open a log; yield a function that prints a line and writes it into the log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:

        def write_line(line: str) -> None:
            print(line, flush=True)
            print(line, file=file, flush=True)

        yield write_line


def run(
    work: Iterable[tuple[Callable[[int], tuple[str, str]], range]],
    title: str,
    log: Path,
    processes: int,
    maxtasksperchild: int,
) -> int:
    """Run every check on each of its numbers; a check returns a verdict and a line.

    Returns the exit status: 1 if a bug was missed or an alarm was false.
    """
    start = time.time()
    counts: collections.Counter[str] = collections.Counter()
    context = multiprocessing.get_context("spawn")
    # Processes are replaced now and then, as compiled programs fill their memory.
    pool = context.Pool(processes, maxtasksperchild=maxtasksperchild)
    with pool, open_log(log) as write_line:
        for check, numbers in work:
            for verdict, line in pool.imap(check, numbers):
                counts[verdict] += 1
                write_line(line)
        minutes = (time.time() - start) / 60
        summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        write_line(f"{title}: {summary}; {minutes:.0f} minutes")
    return 1 if counts["MISSED"] or counts["FALSE ALARM"] else 0
