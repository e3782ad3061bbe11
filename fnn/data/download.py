"""Where the files of a public data set are, and how they are fetched."""

import gzip
import hashlib
import http.client
import os
import uuid
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.request import urlopen

__all__ = ["Source", "fetch", "find", "locate"]

#: Seconds without a sign of life from the server before a download is given up.
TIMEOUT = 30.0


class Source(NamedTuple):
    """A data set of gzip-compressed files at one address, with their checksums."""

    title: str  #: what people call it
    folder: str  #: the name of its folder, under FNN_DATA_DIR or the cache
    url: str  #: the address of the files, ending in a slash
    algorithm: str  #: the checksum, a name that hashlib knows
    checksum_of: Literal["archive", "content"]  #: before or after decompression
    checksums: Mapping[str, str]  #: by file name, without the ".gz"


def locate(
    source: Source,
    folder: str | os.PathLike[str] | None,
    holds: Callable[[Path], bool] | None = None,
) -> Path:
    """The folder of a data set, whether its files are there yet or not.

    Args:
        source: The data set.
        folder: The folder that the user named, if any.
        holds: Says whether a folder has the files. With it, FNN_DATA_DIR itself is
            taken where its subfolder does not have them and it does.

    Returns:
        `folder`; without it, `source.folder` in FNN_DATA_DIR; where that is not set,
        `source.folder` in the user's cache.
    """
    if folder is not None:
        return Path(folder).expanduser()
    if root := os.environ.get("FNN_DATA_DIR"):
        itself = Path(root).expanduser()
        inside = itself / source.folder
        return itself if holds and holds(itself) and not holds(inside) else inside
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "fnn" / source.folder


def find(name: str, folder: Path) -> Path | None:
    """The file `name` or `name.gz` in the folder, or None."""
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def fetch(source: Source, name: str, folder: Path) -> Path:
    """Download one file of a data set into a folder, checked by its checksum.

    The file appears there under its name only when it is whole and its checksum is
    right: it is written under a temporary name first, then renamed. An interrupted or
    a second, simultaneous download can therefore do no harm.

    Args:
        source: The data set.
        name: One of `source.checksums`, without the ".gz".
        folder: Where to put it; created if need be.

    Returns:
        The path of the new file, `folder / f"{name}.gz"`.

    Raises:
        FileNotFoundError: If it cannot be fetched or stored; says what to do by hand.
        ValueError: If what came has another checksum.
    """
    url = f"{source.url}{name}.gz"
    target = folder / f"{name}.gz"
    try:
        with urlopen(url, timeout=TIMEOUT) as response:
            archive = response.read()
        content = archive if source.checksum_of == "archive" else _unzip(archive)
        _check(source, name, url, content)
        _write(target, archive)
    # A portal's login page, a cut line and a full disk each have their own exception.
    except (OSError, EOFError, zlib.error, http.client.HTTPException) as error:
        files = ", ".join(f"{file}.gz" for file in source.checksums)
        pronoun = "it" if len(source.checksums) == 1 else "them"
        raise FileNotFoundError(
            f"{source.title} is incomplete: {name} is not in {folder}, and fetching "
            f"{url} failed ({error or type(error).__name__}). Download {files} from "
            f"{source.url} by hand and put {pronoun} into {folder}, or set "
            f"FNN_DATA_DIR to a folder that has {pronoun} in its subfolder "
            f"{source.folder}"
        ) from error
    return target


def _unzip(archive: bytes) -> bytes:
    return gzip.decompress(archive)


def _check(source: Source, name: str, url: str, content: bytes) -> None:
    # The published md5 is guarded against accidents, not against an attacker.
    hasher = hashlib.new(source.algorithm, content, usedforsecurity=False)
    expected, got = source.checksums[name], hasher.hexdigest()
    if got != expected:
        raise ValueError(
            f"{url}: expected {source.algorithm} {expected}, got {got} of "
            f"{len(content)} bytes; nothing was stored. Try again, or fetch "
            f"{source.title} from a source you trust and set FNN_DATA_DIR"
        )


def _write(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    try:
        partial.write_bytes(content)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
