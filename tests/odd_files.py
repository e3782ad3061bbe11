"""Readers of damaged files: each must raise an error, or return what the file holds.

Each function writes bytes to a file and reads it. It raises what the reader raises, and
`Wrong` where the reader returns something else than the file holds.
`scripts/soak/readers.py` fuzzes them; `odd_inputs` draws files for the tests.
"""

import gzip
import io
import linecache
import tarfile
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

import fnn
from fnn.data import cifar

#: The errors that fnn may raise for a wrong input.
REFUSALS = (ValueError, TypeError, OSError, ImportError, NotImplementedError)

FNN = str(Path(fnn.__file__).parent)


class Wrong(Exception):
    """A result that is not the right one."""


def raised_at(error: BaseException) -> tuple[str, int]:
    """Return the file and the line in which an error was raised."""
    *_, (frame, number) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename, number


def is_refusal(error: BaseException) -> bool:
    """Return whether a `raise` statement of fnn raised it, with a message."""
    if not isinstance(error, REFUSALS) or not str(error).strip():
        return False
    file, number = raised_at(error)
    statement = linecache.getline(file, number).strip()
    return file.startswith(FNN) and statement.startswith("raise ")


def read_idx(data: bytes, folder: Path) -> None:
    """Read an IDX file; the first byte says whether the rest is compressed."""
    content = data[1:]
    path = folder / "idx"
    path.write_bytes(gzip.compress(content, 1) if data[:1] == b"\1" else content)
    array = fnn.data.read_idx(path)
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    big = array.astype(array.dtype.newbyteorder(">")).tobytes()
    sizes = np.array(array.shape, ">u4").tobytes()
    kind = fnn.data.idx.DTYPES[content[2]].newbyteorder("=")
    if bytes([0, 0, content[2], array.ndim]) + sizes + big != content:
        raise Wrong(f"{content[:40]!r} was read as {array!r}")
    if array.dtype != kind:
        raise Wrong(f"type {content[2]} was read as {array.dtype}")


def read_cifar(data: bytes, folder: Path) -> None:
    """Read a file of CIFAR-10; the bytes are the file."""
    path = folder / "batch.bin"
    path.write_bytes(data)
    check_records(*fnn.data.read_cifar_batch(path), data)


def check_records(x: np.ndarray, y: np.ndarray, data: bytes) -> None:
    """Raise unless images and labels are the records in `data`."""
    planes = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    records = np.concatenate([y[:, None].astype(np.uint8), planes], 1)
    if records.tobytes() != data or x.shape[1:] != (32, 32, 3) or y.max() > 9:
        raise Wrong(f"{len(data)} bytes were read as {x.shape} and {y}")


def read_tar(data: bytes, folder: Path) -> None:
    """Read an archive of CIFAR-10, compressed if byte 0 is 1; a file has one record."""
    plain, packed = folder / cifar.ARCHIVE, folder / f"{cifar.ARCHIVE}.gz"
    plain.unlink(missing_ok=True)
    packed.unlink(missing_ok=True)
    if data[:1] == b"\1":
        packed.write_bytes(gzip.compress(data[1:], 1))
    else:
        plain.write_bytes(data[1:])
    with mock.patch.object(cifar, "RECORDS", 1):
        (x, y), (x_test, y_test) = fnn.data.cifar10(folder)
    records = [*zip(x, y, strict=True), *zip(x_test, y_test, strict=True)]
    if len(records) != 6:
        raise Wrong(f"{len(records)} images out of six files")
    for image, label in records:
        planes = np.round(image * 255).astype(np.uint8).transpose(2, 0, 1).tobytes()
        if bytes([label]) + planes not in data:
            raise Wrong("an image that is not in the archive")


LIKE = {
    "a": np.zeros((2, 3), np.float32),
    "b": np.zeros(2, np.int32),
    "half": np.zeros(3, np.uint16),
}


def read_npz(data: bytes, folder: Path) -> None:
    """Read an npz file; byte 0: the rest is a file, an entry, or the dtypes."""
    path, (kind, content) = folder / "net.npz", (data[:1], data[1:])
    if kind in (b"\1", b"\2"):
        fnn.save(path, LIKE)
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        entries["dtypes.json" if kind == b"\2" else "a.npy"] = content
        with zipfile.ZipFile(path, "w") as archive:
            for name, entry in entries.items():
                archive.writestr(name, entry)
    else:
        path.write_bytes(content)
    tree = fnn.load(path, LIKE)
    with zipfile.ZipFile(path) as archive:
        stored = {name: archive.read(f"{name}.npy") for name in LIKE}
    for name, leaf in tree.items():
        array = np.asarray(leaf)
        row, column = (array.tobytes(order) for order in "CF")
        if array.shape != LIKE[name].shape or array.dtype != LIKE[name].dtype:
            raise Wrong(f"{name} was read as {array.dtype}{array.shape}")
        if not stored[name].endswith((row, column, array.byteswap().tobytes())):
            raise Wrong(f"{name} was read as {array}, which is not in the file")


READERS: dict[str, Callable[[bytes, Path], None]] = {
    "idx": read_idx,
    "cifar": read_cifar,
    "tar": read_tar,
    "npz": read_npz,
}


# ---- Seeds of the fuzzer ---------------------------------------------------------


def seeds(reader: str, folder: Path) -> list[bytes]:
    """Return complete files, which the fuzzer starts from."""
    record = bytes([3]) + bytes(range(256)) * 12
    if reader == "idx":
        vector = bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9])
        reals = bytes([0, 0, 13, 2, 0, 0, 0, 1, 0, 0, 0, 2]) + bytes(8)
        files = [vector, reals]
        return [b"\0" + f for f in [*files, *map(gzip.compress, files)]] + [
            b"\1" + f for f in files
        ]
    if reader == "cifar":
        return [record, record * 2]
    if reader == "tar":
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as file:
            for name in fnn.data.cifar.BATCHES:
                info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                info.size = len(record)
                file.addfile(info, io.BytesIO(record))
        return [b"\0" + archive.getvalue(), b"\1" + archive.getvalue()]
    path = folder / "seed.npz"
    fnn.save(path, LIKE)
    with zipfile.ZipFile(path) as archive:
        entry, table = archive.read("a.npy"), archive.read("dtypes.json")
    np.savez_compressed(folder / "packed.npz", **LIKE)
    packed = (folder / "packed.npz").read_bytes()
    return [b"\0" + path.read_bytes(), b"\0" + packed, b"\1" + entry, b"\2" + table]
