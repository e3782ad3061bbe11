"""A folder that one process at a time writes to.

The lock is the operating system's. It ends with the process, however that ends, and so
nothing is left to be cleaned up.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["locked"]


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Generator[None, None, None]:
    """Lock a folder, which is made if it does not exist.

    Raises:
        RuntimeError: another run has locked it.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = _lock(path)
    except OSError:
        raise RuntimeError(
            f"{path} is in use: another run writes its checkpoints there. Wait until "
            "it ends, or pass another checkpoint_dir."
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)  # which unlocks it


def _lock(folder: Path) -> int:
    """Lock a folder, or raise OSError where another run has; return a descriptor."""
    try:
        import fcntl
    except ImportError:  # on Windows, where a folder cannot be opened
        import msvcrt

        windows: Any = msvcrt
        beside = folder.with_name(f".{folder.name}.lock")
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT)
        lock = partial(windows.locking, descriptor, windows.LK_NBLCK, 1)
    else:
        descriptor = os.open(folder, os.O_RDONLY)
        lock = partial(fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        lock()
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
