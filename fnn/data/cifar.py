"""CIFAR-10: small photographs of ten kinds of things.

The binary version has six files of 10,000 records. A record has 3,073 bytes:

    byte  0         the label, 0 to 9
    bytes 1-3072    the pixels: 1,024 red, 1,024 green, 1,024 blue, each row by row

Legend: N examples, 32 × 32 pixels, 3 channels.

Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
"""

import os
import zlib
from pathlib import Path

import numpy as np

from fnn.checks import as_path
from fnn.data.datasets import Dataset
from fnn.data.download import DAMAGED, Source, fetch_file, find_file, locate_folder
from fnn.data.splitting import Examples

__all__ = ["cifar10", "read_cifar_batch"]

CIFAR_10 = Source(
    title="CIFAR-10",
    folder="cifar-10-batches-bin",
    url="https://www.cs.toronto.edu/~kriz/",
    algorithm="md5",
    checksum_of="archive",
    checksums={"cifar-10-binary.tar": "c32a1d4ab5d03f1284b67883e8d87530"},
)

ARCHIVE = "cifar-10-binary.tar"
BATCHES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")

#: Records in each of the six files.
RECORDS = 10_000

_CHANNELS, _SIDE, _CLASSES = 3, 32, 10
_RECORD = 1 + _CHANNELS * _SIDE * _SIDE


def cifar10(folder: str | os.PathLike[str] | None = None) -> Dataset:
    """Return CIFAR-10: 50,000 + 10,000 photographs of 32 × 32 pixels, ten classes.

    The labels 0 to 9 are airplane, automobile, bird, cat, deer, dog, frog, horse, ship,
    truck. The folder is the first of these:

    1. `folder`, if given;
    2. if FNN_DATA_DIR is set: its subfolder `cifar-10-batches-bin`, or itself if it
       has the data;
    3. the user's cache: `$XDG_CACHE_HOME/fnn/cifar-10-batches-bin`, or
       `~/.cache/fnn/cifar-10-batches-bin`.

    The data are the six files `data_batch_1.bin` to `data_batch_5.bin` and
    `test_batch.bin`, or the archive `cifar-10-binary.tar.gz`, which is not unpacked to
    the disk. If none of them is there, the archive is downloaded (170 MB) and verified.

    Args:
        folder: The folder with the six files or the archive.

    Returns:
        A `Dataset`, images `(N, 32, 32, 3)` and labels 0 to 9.

    Raises:
        FileNotFoundError: If files are missing and cannot be downloaded.
        ValueError: If a file is damaged.

    Example:
        Not run here, as it may download::

            (x, y), (x_test, y_test) = fnn.data.cifar10()
            x.shape  # (50000, 32, 32, 3)

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images",
    2009, https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    folder = locate_folder(CIFAR_10, folder, _has_files)
    if _missing(folder):
        batches = _read_archive(_find_or_fetch_archive(folder))
    else:
        batches = [_read_full_batch(folder / name) for name in BATCHES]
    return Dataset(_concatenate(batches[:-1]), _concatenate(batches[-1:]))


def read_cifar_batch(path: str | os.PathLike[str]) -> Examples:
    """Read one file of CIFAR-10's binary version, of any number of records.

    Args:
        path: The file, such as `data_batch_1.bin`.

    Returns:
        Images `(N, 32, 32, 3)` of uint8, as stored, and labels `(N,)` of int32.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is empty or truncated, or a label is not 0 to 9.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "one.bin"
        >>> red, green, blue = bytes([255] * 1024), bytes(1024), bytes([128] * 1024)
        >>> _ = path.write_bytes(bytes([7]) + red + green + blue)
        >>> x, y = read_cifar_batch(path)
        >>> x.shape, x[0, 0, 0].tolist(), y.tolist()
        ((1, 32, 32, 3), [255, 0, 128], [7])
    """
    path = as_path("path", path)
    return _parse_records(path.read_bytes(), str(path))


# ---- Find the six files ----------------------------------------------------------


def _missing(folder: Path) -> list[str]:
    return [name for name in BATCHES if not (folder / name).is_file()]


def _has_files(folder: Path) -> bool:
    return not _missing(folder) or find_file(ARCHIVE, folder) is not None


def _find_or_fetch_archive(folder: Path) -> Path:
    archive, missing = find_file(ARCHIVE, folder), _missing(folder)
    if archive is None and len(missing) < len(BATCHES):
        # Somebody put the other files there, and may not want a download of 170 MB.
        raise FileNotFoundError(
            f"CIFAR-10 is incomplete: {folder} has no {', '.join(missing)}. Put what "
            "is missing there, or take the other files away: the archive is then "
            "downloaded"
        )
    return archive or fetch_file(CIFAR_10, ARCHIVE, folder)


def _read_full_batch(path: Path) -> Examples:
    _check_size(path.stat().st_size, str(path))
    return read_cifar_batch(path)


def _read_archive(path: Path) -> list[Examples]:
    """Read the six files in a tar archive, and ignore all others.

    Nothing is written to the disk, and no more bytes are read than a file can have.
    """
    import tarfile  # here, because it takes longer than all of fnn.data

    wanted = {f"{CIFAR_10.folder}/{name}": name for name in BATCHES}
    found: dict[str, Examples] = {}
    try:
        # A stream is decompressed once, and only as far as the last of the six files.
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                is_wanted = member.name in wanted and member.isfile()  # not a link
                file = archive.extractfile(member) if is_wanted else None
                if file is not None:
                    name = f"{path}: {member.name}"
                    _check_size(member.size, name)
                    found[wanted[member.name]] = _parse_records(file.read(), name)
                if len(found) == len(BATCHES):
                    break
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ValueError(
            f"{path}: expected a complete tar archive, got one that cannot be read "
            f"({error}): {DAMAGED}"
        ) from error
    if missing := [name for name in wanted if wanted[name] not in found]:
        raise ValueError(
            f"{path}: expected the six files of CIFAR-10's binary version, got no "
            f"{', '.join(missing)}: {DAMAGED}"
        )
    return [found[name] for name in BATCHES]


# ---- Parse a file ----------------------------------------------------------------


def _check_size(size: int, file: str) -> None:
    if size != RECORDS * _RECORD:
        raise ValueError(
            f"{file}: expected {RECORDS * _RECORD} bytes, {RECORDS} records of "
            f"{_RECORD} bytes, got {size}: {DAMAGED}"
        )


def _parse_records(content: bytes, file: str) -> Examples:
    n, rest = divmod(len(content), _RECORD)
    if n == 0 or rest:
        raise ValueError(
            f"{file}: expected records of {_RECORD} bytes, got {len(content)} bytes, "
            f"{n} records and {rest} bytes: {DAMAGED}"
        )
    records = np.frombuffer(content, np.uint8).reshape(n, _RECORD)
    labels, planes = records[:, 0], records[:, 1:].reshape(n, _CHANNELS, _SIDE, _SIDE)
    if wrong := np.flatnonzero(labels >= _CLASSES).tolist():
        raise ValueError(
            f"{file}: expected labels 0 to {_CLASSES - 1}, got {labels[wrong[0]]} in "
            f"record {wrong[0]}: {DAMAGED}"
        )
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return images, labels.astype(np.int32)


def _concatenate(batches: list[Examples]) -> Examples:
    images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    # Divide into float32 at once: the 50,000 take 614 MB, not three times that.
    return np.divide(images, 255, dtype=np.float32), labels
