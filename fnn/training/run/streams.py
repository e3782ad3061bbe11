"""Data that does not fit into memory: batches from anything that can be iterated over.

A thread reads ahead and stacks batches of one size into chunks. While the device
computes the steps of a chunk, in one program, the thread reads the next one.

Legend: B batch size, k steps of a chunk.
"""

import base64
import inspect
import queue
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import takewhile
from typing import Any, NamedTuple

import jax
import numpy as np

from fnn.checks import as_labelled, as_pair, positive_integer
from fnn.shapes import count_examples, format_shapes

__all__ = ["Batches", "Chunk", "as_batch", "as_batches"]

#: A batch (x, y) in the host's memory; either is an array or a tree of arrays.
HostBatch = tuple[Any, Any]

#: A chunk has at most this many steps and bytes: enough to make starting it cheap.
MAX_STEPS, MAX_BYTES = 64, 2**25


class Chunk(NamedTuple):
    """The minibatches x (k, B, ...), y (k, B, ...) of k steps, from `first` on."""

    x: Any
    y: Any
    first: int


class Batches:
    """The minibatches (x, y) of a source, for `fit`, read anew in every epoch.

    Args:
        source: yields pairs (x, y) of arrays. It is anything that can be iterated over
            again and again (a torch DataLoader, a grain dataset, a list), or a function
            without arguments that returns an iterator, such as a generator function. An
            iterator itself needs `steps`.
        n: the number of examples, for the penalty λ/(2n) Σ Θ²; by default the length of
            `source.dataset`, where there is one.
        steps: the number of batches in an epoch. One iterator then continues from epoch
            to epoch, and its position is part of a checkpoint if it has `get_state` and
            `set_state` (grain's have).
        ahead: how many chunks are read ahead of the device.

    Raises:
        TypeError, ValueError: a source that cannot be read twice, or a wrong number.

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
        source: Iterable[Any] | Callable[[], Iterator[Any]],
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
        dataset: Any = getattr(source, "dataset", None)
        self.n = len(dataset) if n is None and hasattr(dataset, "__len__") else n
        for name, value in (("n", self.n), ("steps", steps), ("ahead", ahead)):
            if value is not None:
                positive_integer(f"Batches: {name}", value)
        self.source, self.steps, self.ahead = source, steps, ahead
        self._iterator: Iterator[Any] | None = None
        self._unused: list[Any] = []  # batches that `first` took from an iterator
        self.has_weights = (
            False  # whether batches are (x, y, weights), once one is read
        )

    def __repr__(self) -> str:
        return f"Batches({type(self.source).__name__}, n={self.n}, steps={self.steps})"

    def first(self) -> HostBatch:
        """Return one batch as a sample; an epoch still has all batches."""
        batch = self._first()
        self.has_weights = as_labelled(batch) is not batch
        return as_batch(batch)

    def _first(self) -> Any:
        """Return the first batch, as the source has it."""
        if isinstance(self.source, Iterator):
            for batch in self._one_iterator():
                self._unused.append(batch)
                return batch
        else:
            with _closed(self._open()) as batches:
                for batch in batches:
                    return batch
        raise ValueError("train has no batches: its source is empty")

    def chunks(self) -> Generator[Chunk, None, None]:
        """Yield the chunks of an epoch, read ahead in the background.

        An error in the source is raised here, with its own traceback. Close the
        generator where it is not read to the end: that ends the thread, which would
        else still be inside the source when the process ends.
        """
        read: queue.Queue[Any] = queue.Queue(self.ahead)
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
                with closing(self._epoch(done)) as batches:
                    all_taken = all(put(chunk) for chunk in _stack(batches))
            except BaseException as error:
                put(error)
            else:
                if all_taken:
                    put(None)

        reader = threading.Thread(target=work, daemon=True, name="fnn-batches")
        reader.start()
        try:
            while (item := read.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            done.set()
            _join(reader)

    def position(self) -> Any:
        """Return the position of the one iterator, None if there is none.

        Bytes, as from grain's DataLoader, are returned as text, since JSON has none.
        """
        iterator: Any = self._iterator
        state = iterator.get_state() if hasattr(iterator, "get_state") else None
        if isinstance(state, bytes):
            return {"base64": base64.b64encode(state).decode("ascii")}
        return state

    def seek(self, position: Any) -> None:
        """Set the one iterator to a position that `position` returned."""
        if position is None or self.steps is None:
            return
        if isinstance(position, dict) and position.keys() == {"base64"}:
            position = base64.b64decode(position["base64"])
        self._unused.clear()
        iterator: Any = self._one_iterator()
        iterator.set_state(position)

    def _epoch(self, done: threading.Event) -> Generator[Any, None, None]:
        """Yield the batches of an epoch, as the source has them, until it is done."""
        if self.steps is None:
            with _closed(self._open()) as batches:
                yield from takewhile(lambda _: not done.is_set(), batches)
            return
        for taken in range(self.steps):
            unused = self._unused.pop(0) if self._unused else None
            batch = unused or next(self._one_iterator(), None)
            if batch is None:
                raise ValueError(
                    f"train ended after {taken} batches of an epoch of {self.steps}: "
                    "pass fewer steps, or a source that repeats"
                )
            yield batch

    def _one_iterator(self) -> Iterator[Any]:
        """Return the iterator that continues from epoch to epoch."""
        if self._iterator is None:
            self._iterator = self._open()
        return self._iterator

    def _open(self) -> Iterator[Any]:
        return iter(self.source() if callable(self.source) else self.source)


#: Seconds that a source has to return the batch that it is making.
PATIENCE = 10.0


def _join(reader: threading.Thread) -> None:
    """Wait until a thread has ended, which is inside the source for one more batch.

    A process that ends while a thread is inside torch or JAX aborts.
    """
    reader.join(PATIENCE)
    if reader.is_alive():
        warnings.warn(
            f"the source of batches has not returned for {PATIENCE:.0f} s and is left "
            "alone: a process aborts that ends while it is inside torch or JAX",
            RuntimeWarning,
            stacklevel=2,
        )


@contextmanager
def _closed(batches: Iterator[Any]) -> Generator[Iterator[Any], None, None]:
    """Close a generator at the end; any other iterator has nothing to close."""
    try:
        yield batches
    finally:
        if isinstance(batches, Generator):
            batches.close()


def _check_callable(source: Callable[..., Any]) -> None:
    """Raise if a source that is called needs arguments."""
    try:
        inspect.signature(source).bind()
    except TypeError as error:
        name = getattr(source, "__name__", type(source).__name__)
        raise TypeError(
            f"Batches: a source is called without arguments, but {name} is {error}. "
            f"Pass lambda: {name}(...)"
        ) from None
    except ValueError:
        pass  # a built-in function, whose arguments are not known


def as_batches(train: Any) -> Batches | None:
    """Return the argument `train` of `fit` as batches, or None for a pair of arrays."""
    if isinstance(train, Batches):
        return train
    # Tuples and lists, and fnn's named tuples, are taken for a pair of arrays.
    if isinstance(train, (tuple, list, str, dict)) or hasattr(train, "shape"):
        return None
    return Batches(train) if callable(train) or hasattr(train, "__iter__") else None


def as_batch(batch: Any) -> HostBatch:
    """Return a pair (x, y) of NumPy arrays with one entry an example in both.

    A batch (x, y, weights) becomes x and (y, weights).
    """
    pair = as_pair("each batch of train", as_labelled(batch))
    x, y = jax.tree.map(np.asarray, pair)
    if count_examples(x) == 0:
        raise ValueError(
            f"train yields a batch without examples, x of shape {format_shapes(x)}"
        )
    return jax.tree.map(_as_floats, x), y


def _as_floats(x: np.ndarray) -> np.ndarray:
    if x.dtype == np.uint8:
        raise TypeError(
            "train yields x of uint8, as images are stored: networks want numbers "
            "around 1. Yield x.astype('float32') / 255."
        )
    return x if np.issubdtype(x.dtype, np.floating) else x.astype(np.float32)


def _stack(batches: Iterator[Any]) -> Iterator[Chunk]:
    """Yield chunks of batches of one shape: `MAX_STEPS`, or about `MAX_BYTES`."""
    waiting: list[HostBatch] = []
    first = 0
    for batch in map(as_batch, batches):
        if waiting and (_is_full(waiting) or not _same_shapes(batch, waiting[0])):
            yield _as_chunk(waiting, first)
            first += len(waiting)
            waiting.clear()
        waiting.append(batch)
    if waiting:
        yield _as_chunk(waiting, first)


def _is_full(waiting: list[HostBatch]) -> bool:
    size = len(waiting) * sum(a.nbytes for a in jax.tree.leaves(waiting[0]))
    return len(waiting) == MAX_STEPS or size > MAX_BYTES


def _same_shapes(a: HostBatch, b: HostBatch) -> bool:
    """Return whether shapes and dtypes are the same."""
    first, second = (
        [(part.shape, part.dtype) for part in jax.tree.leaves(batch)]
        for batch in (a, b)
    )
    return jax.tree.structure(a) == jax.tree.structure(b) and first == second


def _as_chunk(waiting: list[HostBatch], first: int) -> Chunk:
    x, y = jax.tree.map(lambda *parts: np.stack(parts), *waiting)
    return Chunk(x, y, first)
