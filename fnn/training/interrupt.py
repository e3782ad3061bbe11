"""Ctrl-C, at a place where nothing is lost."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["deferred_interrupt"]


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Keep the first Ctrl-C until it is asked for; let a second one through at once.

    An epoch donates its carry: interrupted between the call and its assignment, both
    the old and the new parameters would be gone. Only Python's own handler is replaced,
    and only in the main thread, the one that Ctrl-C reaches.

    Yields:
        A function that says whether Ctrl-C was pressed.
    """
    previous = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or previous is not signal.default_int_handler:
        yield lambda: False
        return
    pressed = threading.Event()

    def handler(signum: int, frame: object) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, handler)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
