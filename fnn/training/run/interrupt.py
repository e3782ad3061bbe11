"""Ctrl-C and SIGTERM, handled where nothing is lost."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

__all__ = ["deferred_interrupt"]

#: The signals that are deferred, with Python's own handlers of them. A machine that is
#: about to be taken away sends SIGTERM.
DEFAULT_HANDLERS: dict[int, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


@contextmanager
def deferred_interrupt() -> Generator[Callable[[], bool], None, None]:
    """Defer the first Ctrl-C or SIGTERM; let a second one through at once.

    An epoch donates its carry: interrupted between the call and its assignment, both
    the old and the new parameters would be gone. Only the handlers that Python starts
    with are replaced, and only in the main thread, the one that signals reach.

    Yields:
        A function that returns whether a signal was received.
    """
    received = threading.Event()
    replaced: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number, default in DEFAULT_HANDLERS.items():
            if signal.getsignal(number) == default:
                replaced[number] = default

    def handler(signum: int, frame: object) -> None:
        received.set()
        signal.signal(signum, replaced[signum])

    for number in replaced:
        signal.signal(number, handler)
    try:
        yield received.is_set
    finally:
        for number, default in replaced.items():
            signal.signal(number, default)
