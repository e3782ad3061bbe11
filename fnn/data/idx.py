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
from typing import Any, NamedTuple

import numpy as np

from fnn.checks import as_path
from fnn.data.download import DAMAGED

__all__ = ["DTYPES", "read_idx"]

#: The type codes of the format, and the dtypes of the elements in the file.
DTYPES = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}

# The most dimensions that every version of NumPy supports.
_MOST_DIMENSIONS = 32


class _Header(NamedTuple):
    """The header of an IDX file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    size: int  #: bytes of the header
    data_size: int  #: bytes of the elements that should follow


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one IDX file, plain or gzip-compressed, whatever its name.

    A corrupt header cannot ask for more memory than the bytes in the file justify. A
    compressed file is decompressed only as far as its header says, and a little more
    to see that it ends there.

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
    path = as_path("path", path)
    header, content = _read_content(path)
    got = len(content) - header.size
    if got != header.data_size:
        fault = "truncated" if got < header.data_size else "followed by other bytes"
        raise ValueError(
            f"{path}: expected {header.data_size} bytes of data for dimensions "
            f"{header.shape} of {header.dtype.name}, got {got} (the data is {fault}, "
            f"or the header corrupt): {DAMAGED}"
        )
    data = np.frombuffer(content, header.dtype, offset=header.size)
    return data.reshape(header.shape).astype(header.dtype.newbyteorder("="))


def _read_content(path: Path) -> tuple[_Header, bytes]:
    """Read the header and the whole content of a file, decompressed."""
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return _parse_header(path, raw), raw
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as stream:
            # A little is read before the header is parsed: damage that has changed the
            # header is reported as damage of the compressed file.
            start = stream.read(2**16)
            header = _parse_header(path, start)
            # gzip makes a file at most 1032 times as short. One byte more than expected
            # shows that the content does not end there.
            longest = min(header.size + header.data_size, 1032 * len(raw)) + 1
            return header, start + stream.read(max(longest - len(start), 0))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}: expected a complete gzip file, got {len(raw)} bytes that do not "
            f"decompress ({error}): {DAMAGED}"
        ) from error


def _parse_header(path: Path, raw: bytes) -> _Header:
    """Parse the header at the start of a file's content, or raise what is wrong."""
    if len(raw) < 4:
        raise ValueError(
            f"{path}: expected an IDX header of at least 4 bytes, got {len(raw)} "
            f"bytes: {DAMAGED}"
        )
    if raw[:2] != b"\0\0":
        raise ValueError(
            f"{path}: expected an IDX file, which starts with two zero bytes, got "
            f"0x{raw[:2].hex()}: {DAMAGED}"
        )
    code, n_dims = raw[2], raw[3]
    if code not in DTYPES:
        known = ", ".join(f"0x{known:02X} ({DTYPES[known].name})" for known in DTYPES)
        raise ValueError(
            f"{path}: expected an IDX type code out of {known}, got 0x{code:02X}: "
            f"{DAMAGED}"
        )
    if not 1 <= n_dims <= _MOST_DIMENSIONS:
        raise ValueError(
            f"{path}: expected 1 to {_MOST_DIMENSIONS} dimensions, got {n_dims}: "
            f"{DAMAGED}"
        )
    size = 4 + 4 * n_dims
    if len(raw) < size:
        raise ValueError(
            f"{path}: expected a header of {size} bytes for {n_dims} dimensions, got "
            f"a file of {len(raw)} bytes: {DAMAGED}"
        )
    shape = tuple(int(length) for length in np.frombuffer(raw, ">u4", n_dims, offset=4))
    # Python's integers: the product of corrupt dimensions overflows 64 bits.
    data_size = math.prod(shape) * DTYPES[code].itemsize
    if data_size == 0:
        raise ValueError(
            f"{path}: expected at least one element, got dimensions {shape}: {DAMAGED}"
        )
    return _Header(shape, DTYPES[code], size, data_size)
