"""The IDX format, in which MNIST and its relatives are published.

All numbers are big-endian:

    bytes 0-1   zero
    byte  2     the type of the elements (see `DTYPES`)
    byte  3     the number of dimensions, d
    4d bytes    the dimensions, as unsigned 32-bit integers
    the rest    the elements, the last dimension running fastest

Source: http://yann.lecun.com/exdb/mnist/, "The IDX file format".
"""

import gzip
import io
import math
import os
import zlib
from pathlib import Path

import numpy as np

__all__ = ["DTYPES", "read_idx"]

#: The type codes of the format, and how their elements lie in the file.
DTYPES = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}

# A bound on what a header may claim that every NumPy can hold.
_MOST_DIMENSIONS = 32

_MEND = "the file is damaged or of another format; delete it and fetch it again"


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one IDX file, plain or gzip-compressed (told apart by content, not name).

    The header is believed only as far as the bytes in the file bear it out, so a
    corrupt one cannot ask for more memory than the file itself has. And a compressed
    file is unpacked only as far as its header says, and a little to see that it ends.

    Args:
        path: The file.

    Returns:
        An array of the file's shape and type, in this machine's byte order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, corrupt, longer than it says, or not IDX.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "labels-idx1-ubyte"
        >>> header = bytes([0, 0, 0x08, 1]) + (3).to_bytes(4, "big")
        >>> _ = path.write_bytes(header + bytes([7, 2, 1]))
        >>> read_idx(path)
        array([7, 2, 1], dtype=uint8)
    """
    path = Path(path)
    raw = _decompressed(path)
    if len(raw) < 4:
        raise ValueError(
            f"{path}: expected an IDX header of at least 4 bytes, got {len(raw)} "
            f"bytes: {_MEND}"
        )
    if raw[:2] != b"\0\0":
        raise ValueError(
            f"{path}: expected an IDX file, which starts with two zero bytes, got "
            f"0x{raw[:2].hex()}: {_MEND}"
        )
    code, n_dims = raw[2], raw[3]
    if code not in DTYPES:
        known = ", ".join(f"0x{known:02X} ({DTYPES[known].name})" for known in DTYPES)
        raise ValueError(
            f"{path}: expected an IDX type code out of {known}, got 0x{code:02X}: "
            f"{_MEND}"
        )
    if not 1 <= n_dims <= _MOST_DIMENSIONS:
        raise ValueError(
            f"{path}: expected 1 to {_MOST_DIMENSIONS} dimensions, got {n_dims}: "
            f"{_MEND}"
        )
    start = 4 + 4 * n_dims
    if len(raw) < start:
        raise ValueError(
            f"{path}: expected a header of {start} bytes for {n_dims} dimensions, got "
            f"a file of {len(raw)} bytes: {_MEND}"
        )
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", n_dims, offset=4))
    dtype = DTYPES[code]
    # Python's integers: the product of corrupt dimensions overflows 64 bits.
    expected, got = math.prod(shape) * dtype.itemsize, len(raw) - start
    if expected == 0:
        raise ValueError(
            f"{path}: expected at least one element, got dimensions {shape}: {_MEND}"
        )
    if got != expected:
        fault = "truncated" if got < expected else "followed by other bytes"
        raise ValueError(
            f"{path}: expected {expected} bytes of data for dimensions {shape} of "
            f"{dtype.name}, got {got} (the data is {fault}, or the header corrupt): "
            f"{_MEND}"
        )
    data = np.frombuffer(raw, dtype, offset=start).reshape(shape)
    return data.astype(dtype.newbyteorder("="))


def _decompressed(path: Path) -> bytes:
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as stream:
            header = stream.read(4 + 4 * _MOST_DIMENSIONS)
            # What a file is packed from is at most 1032 times as long; and a little is
            # always read, so that damage is found that has spoilt the header.
            rest = min(_claimed(header), 1032 * len(raw)) - len(header)
            return header + stream.read(max(rest, 2**16) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}: expected a complete gzip file, got {len(raw)} bytes that do not "
            f"decompress ({error}): {_MEND}"
        ) from error


def _claimed(raw: bytes) -> int:
    """How long the file is by its header; 0 where that is not one."""
    if len(raw) < 4 or raw[2] not in DTYPES or len(raw) < 4 + 4 * raw[3]:
        return 0
    shape = np.frombuffer(raw, ">u4", raw[3], offset=4).tolist()
    return 4 + 4 * raw[3] + math.prod(shape) * DTYPES[raw[2]].itemsize
