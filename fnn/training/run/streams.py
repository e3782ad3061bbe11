"""Data that does not fit into memory: batches from anything that can be iterated.

A thread reads ahead and stacks batches of one size into chunks; while the device
computes the steps of a chunk, in one program, the next one is being read.
"""

import base64
import inspect
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fnn.checks import as_numbers, positive_integer

__all__ = ["Batches", "Chunk", "as_batch", "as_batches"]

Batch = tuple[np.ndarray, np.ndarray]

#: A chunk has at most so many steps, and bytes: enough to make starting it cheap.
STEPS, BYTES = 64, 2**25


class Chunk(NamedTuple):
    """Some steps: x (k, B, ...), y (k, B, ...), and the number of the first."""

    x: np.ndarray
    y: np.ndarray
    first: int


class Batches:
    """Minibatches (x, y) for `fit`, read anew in every epoch.

    Args:
        source: what yields pairs (x, y) of arrays: anything that can be iterated over
            again and again (a torch DataLoader, a grain dataset, a list), or a function
            of nothing that returns an iterator, such as a generator function. An
            iterator itself only with `steps`.
        n: the number of examples, for the penalty λ/(2n) Σ Θ²; by default that of
            `source.dataset`, where there is one.
        steps: the batches of an epoch. One iterator then goes on from epoch to epoch,
            and its position, where it offers `get_state` and `set_state` (grain's do),
            is part of a checkpoint.
        ahead: how many chunks are read ahead of the device.

    Raises:
        TypeError, ValueError: what cannot be read twice.

    Example:
        >>> import numpy as np, fnn
        >>> def halves():
        ...     for i in range(2):
        ...         yield np.full((4, 3), i, np.float32), np.zeros(4, np.int32)
        >>> batches = fnn.Batches(halves)
        >>> [len(chunk.x) for chunk in batches.chunks()]  # both steps in one chunk
        [2]
    """

    def __init__(
        self,
        source: Iterable | Callable[[], Iterator],
        *,
        n: int | None = None,
        steps: int | None = None,
        ahead: int = 2,
    ) -> None:
        if not callable(source) and not hasattr(source, "__iter__"):
            raise TypeError(
                "Batches: source must be iterable, or a function that returns an "
                f"iterator, got {type(source).__name__}"
            )
        if steps is None and isinstance(source, Iterator):
            raise ValueError(
                f"Batches: a {type(source).__name__} can be read only once, and an "
                "epoch reads all of it: pass the function that makes it, or steps=, "
                "the number of batches in an epoch"
            )
        if callable(source):
            _check_callable(source)
        known: Any = getattr(source, "dataset", None)
        self.n = len(known) if n is None and hasattr(known, "__len__") else n
        for name, value in (("n", self.n), ("steps", steps), ("ahead", ahead)):
            if value is not None:
                positive_integer(f"Batches: {name}", value)
        self.source, self.steps, self.ahead = source, steps, ahead
        self._kept: Iterator | None = None
        self._seen: list[Batch] = []  # read from what can be read only once

    def __repr__(self) -> str:
        return f"Batches({type(self.source).__name__}, n={self.n}, steps={self.steps})"

    def first(self) -> Batch:
        """One batch, to see what they are like; nothing is lost by that."""
        once = isinstance(self.source, Iterator)
        for batch in self._kept_iterator() if once else self._opened():
            if once:
                self._seen.append(batch)
            return as_batch(batch)
        raise ValueError("train has no batches: its source is empty")

    def chunks(self) -> Iterator[Chunk]:
        """An epoch, read ahead in the background.

        An error in the source comes out here, with its own traceback.
        """
        read: queue.Queue = queue.Queue(self.ahead)
        done = threading.Event()

        def put(item: Any) -> bool:
            while not done.is_set():
                try:
                    read.put(item, timeout=0.1)
                    return True
                except queue.Full:
                    continue
            return False

        def work() -> None:
            try:
                all_taken = all(put(chunk) for chunk in _stacked(self._epoch()))
            except BaseException as error:
                put(error)
            else:
                if all_taken:
                    put(None)

        threading.Thread(target=work, daemon=True, name="fnn-batches").start()
        try:
            while (item := read.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            done.set()

    def position(self) -> Any:
        """Where the iterator is that goes on from epoch to epoch, if it says so.

        Bytes (grain's DataLoader has them) as text, since JSON has none.
        """
        kept: Any = self._kept
        state = kept.get_state() if hasattr(kept, "get_state") else None
        if isinstance(state, bytes):
            return {"base64": base64.b64encode(state).decode("ascii")}
        return state

    def seek(self, position: Any) -> None:
        """Go to such a position."""
        if position is None or self.steps is None:
            return
        if isinstance(position, dict) and position.keys() == {"base64"}:
            position = base64.b64decode(position["base64"])
        self._seen.clear()
        kept: Any = self._kept_iterator()
        kept.set_state(position)

    def _epoch(self) -> Iterator[Batch]:
        if self.steps is None:
            yield from self._opened()
            return
        for taken in range(self.steps):
            seen = self._seen.pop(0) if self._seen else None
            batch = seen or next(self._kept_iterator(), None)
            if batch is None:
                raise ValueError(
                    f"train ended after {taken} batches of an epoch of {self.steps}: "
                    "pass fewer steps, or a source that repeats"
                )
            yield batch

    def _kept_iterator(self) -> Iterator:
        if self._kept is None:
            self._kept = self._opened()
        return self._kept

    def _opened(self) -> Iterator:
        return iter(self.source() if callable(self.source) else self.source)


def _check_callable(source: Callable) -> None:
    """That a source which is called needs no arguments."""
    try:
        inspect.signature(source).bind()
    except TypeError as error:
        name = getattr(source, "__name__", type(source).__name__)
        raise TypeError(
            f"Batches: a source is called without arguments, but {name} is {error}. "
            f"Pass lambda: {name}(...)"
        ) from None
    except ValueError:
        pass  # built in, and says nothing of its arguments


def as_batches(train: Any) -> Batches | None:
    """What `fit` was given, if it is not a pair of arrays."""
    if isinstance(train, Batches):
        return train
    # A pair, a list of two, and fnn's named tuples are arrays, or meant to be.
    if isinstance(train, tuple | list | str | dict) or hasattr(train, "shape"):
        return None
    return Batches(train) if callable(train) or hasattr(train, "__iter__") else None


def as_batch(batch: Any) -> Batch:
    """A pair (x, y) of NumPy arrays with one entry an example in both."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise TypeError(
            f"train must yield pairs (x, y), got {type(batch).__name__}"
            + (f" of {len(batch)}" if isinstance(batch, tuple | list) else "")
        )
    x, y = (
        np.asarray(as_numbers(f"train: {name}", part))
        for name, part in zip("xy", batch, strict=True)
    )
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(x) == 0:
        raise ValueError(
            "train must yield batches with one entry an example in x and y, got "
            f"shapes {x.shape} and {y.shape}"
        )
    if x.dtype == np.uint8:
        raise TypeError(
            "train yields x of uint8, as images are stored: networks want numbers "
            "around 1. Yield x.astype('float32') / 255."
        )
    return x if np.issubdtype(x.dtype, np.floating) else x.astype(np.float32), y


def _stacked(batches: Iterator) -> Iterator[Chunk]:
    """Batches of one shape together, at most `STEPS` and `BYTES` of them."""
    waiting: list[Batch] = []
    first = 0
    for raw in batches:
        batch = as_batch(raw)
        if waiting and (_is_full(waiting) or _spec(batch) != _spec(waiting[0])):
            yield _chunk(waiting, first)
            first, waiting = first + len(waiting), []
        waiting.append(batch)
    if waiting:
        yield _chunk(waiting, first)


def _is_full(waiting: list[Batch]) -> bool:
    x, y = waiting[0]
    return len(waiting) == STEPS or len(waiting) * (x.nbytes + y.nbytes) > BYTES


def _spec(batch: Batch) -> tuple:
    return tuple((part.shape, part.dtype) for part in batch)


def _chunk(waiting: list[Batch], first: int) -> Chunk:
    x, y = (np.stack(parts) for parts in zip(*waiting, strict=True))
    return Chunk(x, y, first)
