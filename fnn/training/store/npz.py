"""Trees of arrays that are saved and loaded without pickle.

A file is an npz archive: a zip archive with one `.npy` entry a leaf, named by the
leaf's path in the tree, such as `params/0/weight.npy`. NumPy can open it. Dtypes that
NumPy has no name for, such as bfloat16 and random keys, are stored as unsigned integers
of the same bits, and the entry `dtypes.json` holds their names.
"""

import io
import json
import math
import os
import secrets
import struct
import tokenize
import zipfile
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.lib import format as npy

from fnn.checks import as_path, is_key
from fnn.host_arrays import as_host_array
from fnn.named_leaves import differences, leaves_by_name
from fnn.training.store.trees import expect_tree_of_arrays
from fnn.typing import PyTree

__all__ = ["load", "save"]

DTYPES = "dtypes.json"


def save(path: str | os.PathLike[str], variables: PyTree) -> None:
    """Write variables, or any tree of arrays, to a file.

    The file appears whole or not at all: it is written under another name in the same
    folder, and renamed.

    Args:
        path: the file's name; nothing is added to it. An existing file is replaced.
        variables: for instance `net.init(...)`, `result.variables` or `result.carry`.

    Raises:
        TypeError: a leaf is not an array or a number; or the tree is a layer, a loss,
            a result or the like, and not its variables.

    Example:
        >>> import jax, fnn, pathlib, tempfile
        >>> net = fnn.serial(fnn.Dense(3))
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "net.npz"
        ...     save(path, variables)
        ...     again = load(path, like=variables)
        >>> bool((again.params[0].weight == variables.params[0].weight).all())
        True
    """
    path = as_path("path", path)
    expect_tree_of_arrays("fnn.save", variables)
    dtypes: dict[str, str] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, leaf in leaves_by_name(variables).items():
        arrays[name], dtypes[name] = _to_bits(name, leaf)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr(DTYPES, json.dumps(dtypes, indent=1))
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                        npy.write_array(entry, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())  # the rename must not reach the disk first
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], like: PyTree) -> PyTree:
    """Read a file that `save` wrote, into a tree of known structure.

    Nothing in the file is executed or unpickled, and no dtype is converted.

    Args:
        path: the file.
        like: a tree of the same structure, shapes and dtypes: arrays, whose numbers do
            not matter, or `jax.ShapeDtypeStruct`s, as
            `jax.eval_shape(lambda: net.init(key, in_shape))` returns them.

    Returns:
        A tree like `like` of JAX arrays, or of NumPy arrays where JAX, without x64,
        would lose digits.

    Raises:
        ValueError: the file is not a checkpoint, or is damaged; or its names, shapes or
            dtypes are not those of `like`: the message lists what is missing, extra or
            different.

    Example: see `save`.
    """
    path = as_path("path", path)
    expect_tree_of_arrays("fnn.load", like)
    with open(path, "rb") as file:  # here, where a missing file is called missing
        try:
            with zipfile.ZipFile(file) as archive:
                dtypes = _read_dtypes(archive)
                arrays = {name: _read(archive, name) for name in dtypes}
            stored = {name: _from_bits(arrays[name], dtypes[name]) for name in dtypes}
        except _DAMAGE_ERRORS as error:
            raise ValueError(
                f"{path} is not a checkpoint that fnn.save wrote, or it is damaged: "
                f"{str(error) or type(error).__name__}"
            ) from error
    expected = leaves_by_name(like)
    if wrong := differences(expected, stored):
        raise ValueError(
            f"{path} does not hold what `like` describes:\n  " + "\n  ".join(wrong)
        )
    return jax.tree.unflatten(
        jax.tree.structure(like), [_to_jax(stored[name]) for name in expected]
    )


#: The errors that zipfile, json and NumPy raise for unexpected bytes.
_DAMAGE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    MemoryError,  # brackets nested too deep
    OSError,  # an offset before the beginning of the file
    OverflowError,
    RuntimeError,  # an encrypted entry, recursion
    SyntaxError,
    tokenize.TokenError,  # NumPy reads a header once more as Python 2's
    TypeError,
    ValueError,
)


def _to_bits(name: str, leaf: Any) -> tuple[np.ndarray, str]:
    """Return an array whose dtype NumPy can store, and the name of the leaf's dtype."""
    if is_key(leaf):
        implementation = jax.random.key_impl(leaf)
        return np.asarray(jax.random.key_data(leaf)), f"key:{implementation}"
    if isinstance(leaf, jax.core.Tracer):
        raise TypeError(
            f"cannot save {name}, which is traced and has no numbers yet: call "
            "fnn.save outside of jax.jit"
        )
    array = as_host_array(f"cannot save {name}: it", leaf)
    if array.dtype.kind in "biufc":
        return array, array.dtype.name
    if array.dtype.kind == "V" and jnp.issubdtype(array.dtype, np.number):
        return array.view(f"u{array.dtype.itemsize}"), array.dtype.name
    raise TypeError(
        f"cannot save {name}: expected an array of numbers, got {type(leaf).__name__} "
        f"of dtype {array.dtype}"
    )


def _from_bits(array: np.ndarray, dtype: str) -> Any:
    """Return the array or the keys that are stored as this array."""
    if dtype.startswith("key:"):
        return jax.random.wrap_key_data(
            jnp.asarray(array), impl=dtype.removeprefix("key:")
        )
    wanted = jnp.dtype(dtype)
    if array.dtype != wanted and array.dtype != np.dtype(f"u{wanted.itemsize}"):
        raise ValueError(f"an entry of dtype {array.dtype} cannot stand for {dtype}")
    return array if array.dtype == wanted else array.view(wanted)


def _read_dtypes(archive: zipfile.ZipFile) -> dict[str, str]:
    """Return the dtypes by name, of an archive with just these entries."""
    if any(info.compress_type not in _COMPRESSIONS for info in archive.infolist()):
        raise ValueError("an entry is compressed in a way that NumPy does not write")
    dtypes = json.loads(archive.read(DTYPES))
    is_table = isinstance(dtypes, dict)
    if not is_table or not all(isinstance(dtype, str) for dtype in dtypes.values()):
        raise ValueError(f"{DTYPES} does not map names to dtypes")
    entries = {DTYPES, *(f"{name}.npy" for name in dtypes)}
    if entries != set(archive.namelist()):
        raise ValueError(f"its entries are not those that {DTYPES} lists")
    return dtypes


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Return the array of an entry, whose header must match its size."""
    content = archive.read(f"{name}.npy")  # all of it, which checks the checksum
    entry = io.BytesIO(content)
    version = npy.read_magic(entry)
    if version not in _HEADERS:
        raise ValueError(f"{name} is of version {version} of the npy format")
    shape, _, dtype = _HEADERS[version](entry)
    # NumPy would trust the header, and ask for as much memory as it claims.
    expected, got = math.prod(shape) * dtype.itemsize, len(content) - entry.tell()
    if expected != got:
        raise ValueError(f"{name} has {got} bytes, where its header says {expected}")
    entry.seek(0)
    return npy.read_array(entry, allow_pickle=False)


#: The compressions that NumPy uses: none, or zlib.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def _to_jax(leaf: Any) -> Any:
    """Return a JAX array, or the leaf itself if JAX would lose digits of it."""
    if is_key(leaf) or jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
        return leaf
    return jnp.asarray(leaf)
