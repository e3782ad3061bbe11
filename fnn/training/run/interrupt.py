"""Ctrl-C and SIGTERM, at a place where nothing is lost."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["deferred_interrupt"]

#: What may come, and who handles it where nobody has said otherwise. SIGTERM is what a
#: machine that is about to be taken away sends.
EXPECTED = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Keep the first Ctrl-C or SIGTERM until it is asked for; let a second one through.

    An epoch donates its carry: interrupted between the call and its assignment, both
    the old and the new parameters would be gone. Only the handlers that Python starts
    with are replaced, and only in the main thread, the one that signals reach.

    Yields:
        A function that says whether one came.
    """
    came = threading.Event()
    replaced: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number, usual in EXPECTED.items():
            if signal.getsignal(number) == usual:
                replaced[number] = usual

    def handler(signum: int, frame: object) -> None:
        came.set()
        signal.signal(signum, replaced[signum])

    for number in replaced:
        signal.signal(number, handler)
    try:
        yield came.is_set
    finally:
        for number, usual in replaced.items():
            signal.signal(number, usual)
