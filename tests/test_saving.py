"""Saving and loading: the same numbers come back, and foreign files are refused."""

import io
import os
import zipfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import fnn
from fnn.core import Variables
from fnn.training.store.npz import load, save


class Named(NamedTuple):
    weight: object
    rest: object


def net_variables():
    net = fnn.serial(fnn.Dense(3), fnn.BatchNorm(), fnn.Relu())
    return net.init(jax.random.key(0), (2,))


TREES = {
    "variables": net_variables(),
    "empty": Variables((), ()),
    "one array": jnp.arange(6.0).reshape(2, 3),
    "named": Named(jnp.ones(2), {"file": jnp.zeros(()), "self": [jnp.ones((0, 3))]}),
    "bfloat16": jnp.array([1.0, jnp.nan, -jnp.inf, 3.1415926], jnp.bfloat16),
    "bfloat16 scalar": jnp.asarray(0.1, jnp.bfloat16),
    "float8": jnp.array([0.5, -2.0], jnp.float8_e4m3fn),
    "int4": jnp.array([-8, 7], jnp.int4),
    "float16": jnp.array([1e-7, 65504.0], jnp.float16),
    "float64": np.array([1 / 3, 1e300]),
    "integers": Named(jnp.array([-1, 2]), np.array([2**63], np.uint64)),
    "bool": jnp.array([True, False]),
    "complex": jnp.array([1 + 2j], jnp.complex64),
    "key": Named(jax.random.key(7), jax.random.split(jax.random.key(8), 3)),
    "rbg key": jax.random.key(7, impl="rbg"),
    "fortran order": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
}


def bits(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES.keys())
def test_every_bit_comes_back(tree, tmp_path):
    save(tmp_path / "x.npz", tree)
    again = load(tmp_path / "x.npz", like=tree)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(tree), strict=True):
        assert (a.dtype, a.shape, bits(a)) == (b.dtype, b.shape, bits(b))


def test_like_may_be_shapes_only(tmp_path):
    variables = net_variables()
    save(tmp_path / "x.npz", variables)
    shapes = jax.eval_shape(net_variables)
    again = load(tmp_path / "x.npz", like=shapes)
    assert isinstance(again, Variables)
    assert isinstance(again.params[0].weight, jax.Array)
    assert (again.params[0].weight == variables.params[0].weight).all()


def test_numpy_opens_it_and_names_are_places(tmp_path):
    variables = net_variables()
    save(tmp_path / "x.npz", variables)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as archive:
        weight = archive["params/0/weight"]
        assert "state/1/mean" in archive.files
    assert (weight == variables.params[0].weight).all()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.npz"
    save(path, jnp.ones(2))
    save(path, jnp.zeros(2))
    assert (load(path, jnp.ones(2)) == 0).all()
    with pytest.raises(TypeError, match=r"cannot save 1: expected an array .*str"):
        save(path, [jnp.ones(2), "no array"])
    assert (load(path, jnp.ones(2)) == 0).all()
    assert os.listdir(tmp_path) == ["x.npz"]


def test_a_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    save(path, jnp.ones(2))

    def full(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        save(path, jnp.zeros(2))
    assert (load(path, jnp.ones(2)) == 1).all()
    assert os.listdir(tmp_path) == ["x.npz"]


@pytest.mark.parametrize(
    ("like", "lines"),
    [
        ({"a": np.ones(2)}, ["extra: b/0 int32[3]"]),
        (
            {"a": np.ones(2), "b": [np.ones(3, np.int32)], "c": np.ones((), bool)},
            ["missing: c bool[]"],
        ),
        (
            {"a": np.ones((2, 1)), "b": [np.ones(3, np.int16)]},
            [
                "different: a expected float64[2, 1], got float64[2]",
                "different: b/0 expected int16[3], got int32[3]",
            ],
        ),
    ],
    ids=["extra", "missing", "different"],
)
def test_the_error_lists_what_does_not_match(like, lines, tmp_path):
    path = tmp_path / "x.npz"
    save(path, {"a": np.ones(2), "b": [np.ones(3, np.int32)]})
    with pytest.raises(ValueError, match="does not hold what `like`") as error:
        load(path, like)
    for line in lines:
        assert line in str(error.value)


def test_two_leaves_of_one_name_are_refused(tmp_path):
    tree = {"a": {"b": np.ones(1)}, "a/b": np.zeros(1)}
    with pytest.raises(ValueError, match="two leaves of the tree have the name 'a/b'"):
        save(tmp_path / "x.npz", tree)


# ---- Files that are something else -----------------------------------------------


def saved() -> bytes:
    file = io.BytesIO()
    np.savez(file, value=np.arange(1000.0))
    return file.getvalue()


def archive(entries: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, content in entries.items():
            made.writestr(name, content)
    return file.getvalue()


def npy(array, allow_pickle=False) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


class Bomb:
    def __reduce__(self):
        return exec, ("import os; os.environ['FNN_BOMB'] = 'went off'",)


PICKLE = npy(np.array([Bomb()], dtype=object), allow_pickle=True)

FOREIGN = {
    "empty": b"",
    "text": b"weights = 3\n",
    "pickle": PICKLE,
    "another npz": saved(),
    "pickle inside": archive({"dtypes.json": b'{"v": "float32"}', "v.npy": PICKLE}),
    "not an npy": archive({"dtypes.json": b'{"v": "float32"}', "v.npy": b"1.0"}),
    "too long": archive(
        {"dtypes.json": b'{"v": "float32"}', "v.npy": npy(np.float32([1])) + b"more"}
    ),
    "an entry too many": archive({"dtypes.json": b"{}", "v.npy": npy(np.ones(1))}),
    "an entry too few": archive({"dtypes.json": b'{"v": "float32"}'}),
    "no such dtype": archive(
        {"dtypes.json": b'{"v": "f99"}', "v.npy": npy(np.ones(1))}
    ),
    "the wrong dtype": archive(
        {"dtypes.json": b'{"v": "bfloat16"}', "v.npy": npy(np.ones(1))}
    ),
    "dtypes no table": archive({"dtypes.json": b"[1]"}),
    "dtype no text": archive({"dtypes.json": b'{"v": 1}', "v.npy": npy(np.ones(1))}),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_refuses_foreign_files(content, tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.npz is not a checkpoint .* or it is dam"):
        load(path, like=jnp.ones(1))
    assert "FNN_BOMB" not in os.environ


def test_refuses_damaged_files(tmp_path):
    path, like = tmp_path / "x.npz", {"a": jnp.arange(50.0), "b": jnp.ones(3)}
    save(path, like)
    whole = path.read_bytes()
    middle = whole.index(np.float32(25).tobytes())
    damaged = [whole[:n] for n in (10, 200, len(whole) // 2, len(whole) - 1)]
    damaged.append(whole[:middle] + b"\x07" + whole[middle + 1 :])  # one byte changed
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a checkpoint"):
            load(path, like)


def test_a_missing_file_is_called_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.npz", like=jnp.ones(1))


def test_ml_dtypes_are_what_jax_uses():
    # `save` relies on it that such dtypes have kind "V" or NumPy's own letter.
    assert np.dtype(ml_dtypes.bfloat16).kind == "V"
