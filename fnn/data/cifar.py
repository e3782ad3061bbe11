"""CIFAR-10: small photographs of ten kinds of things.

The binary version: six files of 10,000 records. A record is 3,073 bytes:

    byte  0         the label, 0 to 9
    bytes 1-3072    the pixels: 1,024 red, 1,024 green, 1,024 blue, each row by row

Legend: N examples, 32 × 32 pixels, 3 channels.

Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
"""

import os
import zlib
from pathlib import Path

import numpy as np

from fnn.data.datasets import Dataset
from fnn.data.download import Source, fetch, find, locate
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

_MEND = "the file is damaged or of another format; delete it and fetch it again"


def cifar10(folder: str | os.PathLike[str] | None = None) -> Dataset:
    """CIFAR-10: 50,000 + 10,000 photographs of 32 × 32 pixels, ten kinds of things.

    In the order of the labels: airplane, automobile, bird, cat, deer, dog, frog, horse,
    ship, truck. Where the data are, in this order:

    1. `folder`, if given;
    2. if FNN_DATA_DIR is set: its subfolder `cifar-10-batches-bin`, or itself if the
       data lie there;
    3. the user's cache: `$XDG_CACHE_HOME/fnn/cifar-10-batches-bin`, or
       `~/.cache/fnn/cifar-10-batches-bin`.

    They are the six files `data_batch_1.bin` to `data_batch_5.bin` and
    `test_batch.bin`, or `cifar-10-binary.tar.gz`, which is read as it is: nothing is
    unpacked to the disk. If none of them is there, the archive is downloaded (170 MB)
    and checked.

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
    folder = locate(CIFAR_10, folder, _holds)
    if _missing(folder):
        batches = _read_archive(_archive(folder))
    else:
        batches = [_whole(folder / name) for name in BATCHES]
    return Dataset(_joined(batches[:-1]), _joined(batches[-1:]))


def read_cifar_batch(path: str | os.PathLike[str]) -> Examples:
    """Read one file of CIFAR-10's binary version, of any number of records.

    Args:
        path: The file, such as `data_batch_1.bin`.

    Returns:
        Images `(N, 32, 32, 3)` of uint8, as they are stored, and labels `(N,)` of
        int32.

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
    return _parsed(Path(path).read_bytes(), str(path))


# ---- Where the six files are -----------------------------------------------------


def _missing(folder: Path) -> list[str]:
    return [name for name in BATCHES if not (folder / name).is_file()]


def _holds(folder: Path) -> bool:
    return not _missing(folder) or find(ARCHIVE, folder) is not None


def _archive(folder: Path) -> Path:
    archive, missing = find(ARCHIVE, folder), _missing(folder)
    if archive is None and len(missing) < len(BATCHES):
        # Somebody put the others there: do not fetch 170 MB behind their back.
        raise FileNotFoundError(
            f"CIFAR-10 is incomplete: {folder} has no {', '.join(missing)}. Put what "
            "is missing there, or take the other files away: the archive is then "
            "downloaded"
        )
    return archive or fetch(CIFAR_10, ARCHIVE, folder)


def _whole(path: Path) -> Examples:
    _check_size(path.stat().st_size, str(path))
    return read_cifar_batch(path)


def _read_archive(path: Path) -> list[Examples]:
    """The six files in a tar archive; whatever else is in it is not looked at.

    Nothing is written to the disk, and no more bytes are read than a file can have.
    """
    import tarfile  # here, because it takes longer than all of fnn.data

    wanted = {f"{CIFAR_10.folder}/{name}": name for name in BATCHES}
    found: dict[str, Examples] = {}
    try:
        # As a stream: decompressed once, and only as far as the last of the six.
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                is_wanted = member.name in wanted and member.isfile()  # no link
                file = archive.extractfile(member) if is_wanted else None
                if file is not None:
                    place = f"{path}: {member.name}"
                    _check_size(member.size, place)
                    found[wanted[member.name]] = _parsed(file.read(), place)
                if len(found) == len(BATCHES):
                    break
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ValueError(
            f"{path}: expected a complete tar archive, got one that cannot be read "
            f"({error}): {_MEND}"
        ) from error
    if missing := [name for name in wanted if wanted[name] not in found]:
        raise ValueError(
            f"{path}: expected the six files of CIFAR-10's binary version, got no "
            f"{', '.join(missing)}: {_MEND}"
        )
    return [found[name] for name in BATCHES]


# ---- What is in them -------------------------------------------------------------


def _check_size(size: int, place: str) -> None:
    if size != RECORDS * _RECORD:
        raise ValueError(
            f"{place}: expected {RECORDS * _RECORD} bytes, {RECORDS} records of "
            f"{_RECORD} bytes, got {size}: {_MEND}"
        )


def _parsed(content: bytes, place: str) -> Examples:
    n, rest = divmod(len(content), _RECORD)
    if n == 0 or rest:
        raise ValueError(
            f"{place}: expected records of {_RECORD} bytes, got {len(content)} bytes, "
            f"{n} records and {rest} bytes: {_MEND}"
        )
    records = np.frombuffer(content, np.uint8).reshape(n, _RECORD)
    labels, planes = records[:, 0], records[:, 1:].reshape(n, _CHANNELS, _SIDE, _SIDE)
    if wrong := np.flatnonzero(labels >= _CLASSES).tolist():
        raise ValueError(
            f"{place}: expected labels 0 to {_CLASSES - 1}, got {labels[wrong[0]]} in "
            f"record {wrong[0]}: {_MEND}"
        )
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return images, labels.astype(np.int32)


def _joined(batches: list[Examples]) -> Examples:
    images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    # Divided into float32 at once: the 50,000 take 614 MB, not three times that.
    return np.divide(images, 255, dtype=np.float32), labels
