"""A line on the terminal that says how far a long run is; none where there is none."""

import sys
import time
from types import TracebackType
from typing import TextIO

__all__ = ["Progress"]

#: Seconds before the first line, and between two.
FIRST, EVERY = 1.0, 0.2


class Progress:
    """A line that is written over and over, and wiped at the end, also after Ctrl-C.

    Args:
        wanted: whether to show it; None for: if the stream is a terminal.
        stream: where to; standard error by default.

    Example:
        >>> with Progress(False) as progress:
        ...     progress.show("differencing", 3, 10)
    """

    def __init__(
        self, wanted: bool | None = None, stream: TextIO | None = None
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._wanted = self._stream.isatty() if wanted is None else wanted
        self._started = time.monotonic()
        self._next = self._started + FIRST
        self._written = 0

    def show(self, what: str, done: int, total: int) -> None:
        """Say what is done, and about how many seconds are left at this speed."""
        now = time.monotonic()
        if not self._wanted or now < self._next:
            return
        self._next = now + EVERY
        left = (now - self._started) / done * (total - done) if done else 0
        text = f"{what} ({done} of {total}"
        self._write(text[:60] + (f", about {left:.0f} s left)" if left else ")"))

    def _write(self, text: str) -> None:
        self._stream.write("\r" + text.ljust(self._written))
        self._stream.flush()
        self._written = len(text)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._written:
            self._write("")
            self._stream.write("\r")
            self._stream.flush()
