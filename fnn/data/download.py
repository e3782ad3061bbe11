"""Find the files of a public data set, or download them."""

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

from fnn.checks import as_path
from fnn.folders import user_cache

__all__ = ["DAMAGED", "Source", "fetch_file", "find_file", "locate_folder"]

#: The end of an error about a file that cannot be read.
DAMAGED = "the file is damaged or of another format; delete it and fetch it again"

#: Seconds for which the server may be silent before a download fails.
TIMEOUT = 30.0


class Source(NamedTuple):
    """A data set of gzip-compressed files at one address, with their checksums."""

    title: str  #: its name in error messages
    folder: str  #: the name of its folder, under FNN_DATA_DIR or the cache
    url: str  #: the address of the files, ending in a slash
    algorithm: str  #: the checksum, a name that hashlib knows
    checksum_of: Literal["archive", "content"]  #: before or after decompression
    checksums: Mapping[str, str]  #: by file name, without the ".gz"


def locate_folder(
    source: Source,
    folder: str | os.PathLike[str] | None,
    has_files: Callable[[Path], bool] | None = None,
) -> Path:
    """Return the folder of a data set, whether its files are there yet or not.

    Args:
        source: The data set.
        folder: The folder that the user named, if any.
        has_files: Returns whether a folder has the files. If it is given, FNN_DATA_DIR
            itself is used where it has them and its subfolder does not.

    Returns:
        `folder` if it was named; otherwise `source.folder` in FNN_DATA_DIR, or in the
        user's cache if FNN_DATA_DIR is not set.
    """
    if folder is not None:
        return as_path("folder", folder).expanduser()
    if root := os.environ.get("FNN_DATA_DIR"):
        parent = Path(root).expanduser()
        subfolder = parent / source.folder
        use_parent = has_files and has_files(parent) and not has_files(subfolder)
        return parent if use_parent else subfolder
    return user_cache() / source.folder


def find_file(name: str, folder: Path) -> Path | None:
    """Return the path of `name` or `name.gz` in the folder, or None without one."""
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def fetch_file(source: Source, name: str, folder: Path) -> Path:
    """Download one file of a data set into a folder, and verify its checksum.

    The file is written under a temporary name first and renamed when it is complete
    and its checksum is right. An interrupted or a second, simultaneous download can
    therefore do no harm.

    Args:
        source: The data set.
        name: One of `source.checksums`, without the ".gz".
        folder: The folder for the file; created if it does not exist.

    Returns:
        The path of the new file, `folder / f"{name}.gz"`.

    Raises:
        FileNotFoundError: If it cannot be fetched or stored, with what to do by hand.
        ValueError: If the file has another checksum.
    """
    url = f"{source.url}{name}.gz"
    target = folder / f"{name}.gz"
    try:
        with urlopen(url, timeout=TIMEOUT) as response:
            archive = response.read()
        of_archive = source.checksum_of == "archive"
        content = archive if of_archive else gzip.decompress(archive)
        _check_checksum(source, name, url, content)
        _write_then_rename(target, archive)
    # A login page, a lost connection and a full disk each raise their own exception.
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


def _check_checksum(source: Source, name: str, url: str, content: bytes) -> None:
    # An md5 protects against accidents, not against an attacker.
    hasher = hashlib.new(source.algorithm, content, usedforsecurity=False)
    expected, got = source.checksums[name], hasher.hexdigest()
    if got != expected:
        raise ValueError(
            f"{url}: expected {source.algorithm} {expected}, got {got} of "
            f"{len(content)} bytes; nothing was stored. Try again, or fetch "
            f"{source.title} from a source you trust and set FNN_DATA_DIR"
        )


def _write_then_rename(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    try:
        partial.write_bytes(content)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
