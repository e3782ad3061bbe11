"""The folder where fnn keeps what it has downloaded or measured."""

import os
import tempfile
from pathlib import Path

__all__ = ["user_cache", "write_whole"]


def user_cache() -> Path:
    """Return `$XDG_CACHE_HOME/fnn`, or `~/.cache/fnn`; it need not exist."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "fnn"


def write_whole(path: Path, text: str) -> None:
    """Write a file so that another process reads all of it, or that before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, delete=False
    ) as file:
        file.write(text)
    os.replace(file.name, path)
