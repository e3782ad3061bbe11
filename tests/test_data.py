"""Data sets, the files they come from, and toy problems. No test needs a network."""

import gzip
import hashlib
import io
import os
import sys
import tracemalloc
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import URLError

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import data
from fnn.data import datasets, download

NAMES = tuple(datasets.MNIST.checksums)

# Read before the fixture `isolated` hides the setting from the tests.
REAL_MNIST = Path(os.environ.get("FNN_DATA_DIR", "unset")) / "mnist"


def idx_bytes(array, code=0x08, dtype=">u1"):
    array = np.asarray(array)
    dims = np.asarray(array.shape, ">u4").tobytes()
    return bytes([0, 0, code, array.ndim]) + dims + array.astype(dtype).tobytes()


def write_images(folder, n_train=5, n_test=3, compressed=False, size=(4, 6)):
    """Write a small data set in MNIST's format; return its arrays by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    shapes = [(n_train, *size), (n_train,), (n_test, *size), (n_test,)]
    arrays = {
        name: rng.integers(0, 256 if len(shape) == 3 else 10, shape, np.uint8)
        for name, shape in zip(NAMES, shapes, strict=True)
    }
    for name, array in arrays.items():
        content = idx_bytes(array)
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return arrays


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """Hide the network, the user's settings and the user's cache."""

    def refuse(url, timeout):
        raise URLError("no network in tests")

    monkeypatch.setattr(download, "urlopen", refuse)
    monkeypatch.delenv("FNN_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# ------------------------------------------------- read_idx


@pytest.mark.parametrize(
    ("code", "dtype"),
    [
        (0x08, np.uint8),
        (0x09, np.int8),
        (0x0B, np.int16),
        (0x0C, np.int32),
        (0x0D, np.float32),
        (0x0E, np.float64),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_read_idx_returns_every_type_in_native_order(tmp_path, code, dtype, compressed):
    # 0x0102 reads as 0x0201 where the byte order is missed.
    large = 100 if np.dtype(dtype).itemsize == 1 else 0x0102
    array = np.arange(large, large + 24).reshape(2, 3, 4).astype(dtype)
    content = idx_bytes(array, code, np.dtype(dtype).newbyteorder(">"))
    path = tmp_path / "array"
    path.write_bytes(gzip.compress(content) if compressed else content)
    read = data.read_idx(path)
    assert read.dtype == dtype
    assert read.dtype.isnative
    assert read.flags.writeable
    np.testing.assert_array_equal(read, array)


LABELS = idx_bytes([1, 2, 3])
ZIPPED = gzip.compress(idx_bytes(np.arange(250)), mtime=0)
HUGE = bytes([0, 0, 0x0E, 4]) + b"\xff" * 16 + bytes(64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header of at least 4 bytes, got 0 bytes"),
        (LABELS[:3], "header of at least 4 bytes, got 3 bytes"),
        (LABELS[:6], "header of 8 bytes for 1 dimensions, got a file of 6 bytes"),
        (LABELS[:-1], r"3 bytes of data for dimensions \(3,\) of uint8, got 2.*trunc"),
        (LABELS + b"\0\0", r"expected 3 bytes .*got 5 .*followed by other bytes"),
        (b"<html>", "starts with two zero bytes, got 0x3c68"),
        (b"\0\1" + LABELS[2:], "starts with two zero bytes, got 0x0001"),
        (b"\0\0\x0a" + LABELS[3:], r"out of 0x08 \(uint8\), .*, got 0x0A"),
        (bytes([0, 0, 8, 0]), "1 to 32 dimensions, got 0"),
        (bytes([0, 0, 8, 200]) + b"\0\0\0\1" * 200 + b"a", "dimensions, got 200"),
        (HUGE, rf"{(2**32 - 1) ** 4 * 8} bytes of data .*got 64 .*header corrupt"),
        (bytes([0, 0, 8, 2, *bytes(4), *b"\xff" * 4]), r"one element, got dim.*\(0, "),
        (ZIPPED[:-20], rf"complete gzip file, got {len(ZIPPED) - 20} bytes"),
        (ZIPPED[:20] + bytes(40) + ZIPPED[60:], "bytes that do not decompress"),
        (ZIPPED[:10] + b"\xff" * 30, "do not decompress .*invalid block type"),
        (b"\x1f\x8b" + bytes(30), "bytes that do not decompress"),
    ],
)
def test_read_idx_refuses_a_damaged_file(tmp_path, content, message):
    path = tmp_path / "damaged-idx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        data.read_idx(path)
    assert str(path) in str(raised.value)
    assert "delete it and fetch it again" in str(raised.value)


def test_a_small_file_does_not_unpack_to_a_large_one(tmp_path):
    path = tmp_path / "bomb-idx.gz"
    path.write_bytes(gzip.compress(LABELS + bytes(50_000_000)))
    tracemalloc.start()
    with pytest.raises(ValueError, match="followed by other bytes"):
        data.read_idx(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
    path.write_bytes(gzip.compress(HUGE))
    with pytest.raises(ValueError, match="truncated"):
        data.read_idx(path)


# ------------------------------------------------- where the files are


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("load", [data.mnist, data.fashion_mnist])
def test_a_folder_of_idx_files_becomes_a_dataset(tmp_path, load, compressed):
    arrays = write_images(tmp_path / "own", compressed=compressed)
    dataset = load(tmp_path / "own")
    for (x, y), images, labels in (
        (dataset.train, NAMES[0], NAMES[1]),
        (dataset.test, NAMES[2], NAMES[3]),
    ):
        assert isinstance(x, np.ndarray)
        assert (x.dtype, y.dtype) == (np.float32, np.int32)
        assert x.shape == (*arrays[images].shape, 1)
        np.testing.assert_allclose(x[..., 0], arrays[images] / 255, rtol=1e-7)
        np.testing.assert_array_equal(y, arrays[labels])


@pytest.mark.parametrize(
    ("load", "where", "n_train"),
    [
        (data.mnist, "elsewhere/mnist", 7),
        (data.mnist, "elsewhere", 6),
        (data.mnist, "cache/fnn/mnist", 5),
        (data.fashion_mnist, "elsewhere/fashion-mnist", 7),
        (data.fashion_mnist, "cache/fnn/fashion-mnist", 5),
    ],
)
def test_the_files_are_found(tmp_path, monkeypatch, load, where, n_train):
    write_images(tmp_path / where, n_train=n_train)
    if where.startswith("elsewhere"):
        monkeypatch.setenv("FNN_DATA_DIR", str(tmp_path / "elsewhere"))
    assert len(load().train[0]) == n_train


def test_the_subfolder_goes_before_the_folder_unless_it_is_incomplete(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("FNN_DATA_DIR", str(tmp_path))
    write_images(tmp_path, n_train=5)
    write_images(tmp_path / "mnist", n_train=7)
    assert len(data.mnist().train[0]) == 7
    (tmp_path / "mnist" / NAMES[2]).unlink()
    assert len(data.mnist().train[0]) == 5


def test_the_home_folder_holds_the_cache_by_default(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_images(tmp_path / "home/.cache/fnn/mnist", n_train=9)
    assert len(data.mnist().train[0]) == 9


def test_mnist_in_the_data_folder_is_not_taken_for_fashion(tmp_path, monkeypatch):
    monkeypatch.setenv("FNN_DATA_DIR", str(tmp_path))
    write_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="Fashion-MNIST is incomplete"):
        data.fashion_mnist()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (NAMES[1], np.zeros(4), "5 images in .* and 4 labels in .*different data sets"),
        (NAMES[0], np.zeros(5), r"expected images, .*got shape \(5,\).*file of labels"),
        (NAMES[3], np.zeros((3, 2, 2)), r"expected labels, .*got shape \(3, 2, 2\)"),
        (NAMES[2], np.zeros((3, 9, 9)), r"of one size, got \(4, 6\) and \(9, 9\)"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(tmp_path, name, array, message):
    write_images(tmp_path)
    (tmp_path / name).write_bytes(idx_bytes(array))
    with pytest.raises(ValueError, match=message):
        data.mnist(tmp_path)


@pytest.mark.skipif(
    not REAL_MNIST.is_dir(),
    reason="FNN_DATA_DIR is not set, or has no folder mnist",
)
def test_the_real_mnist():
    dataset = data.mnist(REAL_MNIST)
    assert dataset.train[0].shape == (60_000, 28, 28, 1)
    assert dataset.test[0].shape == (10_000, 28, 28, 1)
    assert dataset.train[1][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert dataset.test[1][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert dataset.train[0].min() == 0.0
    assert dataset.train[0].max() == 1.0
    assert dataset.train[0].mean() == pytest.approx(0.1307, abs=1e-4)


# ------------------------------------------------- downloads


class Server:
    """A fake `urlopen`, which serves archives by address and keeps a log."""

    def __init__(self, archives):
        self.archives = archives
        self.requested = []

    def __call__(self, url, timeout):
        assert timeout > 0
        self.requested.append(url)
        return io.BytesIO(self.archives[url.rsplit("/", 1)[1]])


def serve(monkeypatch, tmp_path, which):
    """Put a small data set on a fake server, with its true checksums."""
    write_images(tmp_path / "server", compressed=True)
    archives = {
        path.name: path.read_bytes() for path in (tmp_path / "server").iterdir()
    }
    source = getattr(datasets, which)
    checksums = {
        name: hashlib.new(
            source.algorithm,
            archives[f"{name}.gz"]
            if source.checksum_of == "archive"
            else gzip.decompress(archives[f"{name}.gz"]),
        ).hexdigest()
        for name in source.checksums
    }
    monkeypatch.setattr(datasets, which, source._replace(checksums=checksums))
    server = Server(archives)
    monkeypatch.setattr(download, "urlopen", server)
    return server


@pytest.mark.parametrize(
    ("load", "which", "folder"),
    [
        (data.mnist, "MNIST", "mnist"),
        (data.fashion_mnist, "FASHION_MNIST", "fashion-mnist"),
    ],
)
def test_missing_files_are_downloaded_once(tmp_path, monkeypatch, load, which, folder):
    server = serve(monkeypatch, tmp_path, which)
    first = load()
    url = getattr(datasets, which).url
    assert server.requested == [f"{url}{name}.gz" for name in NAMES]
    stored = sorted(path.name for path in (tmp_path / "cache/fnn" / folder).iterdir())
    assert stored == sorted(f"{name}.gz" for name in NAMES)  # and no temporary file
    second = load()
    assert len(server.requested) == 4
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_only_the_missing_file_is_downloaded(tmp_path, monkeypatch):
    server = serve(monkeypatch, tmp_path, "MNIST")
    write_images(tmp_path / "own")
    (tmp_path / "own" / NAMES[1]).unlink()
    data.mnist(tmp_path / "own")
    assert [url.rsplit("/", 1)[1] for url in server.requested] == [f"{NAMES[1]}.gz"]


@pytest.mark.parametrize("which", ["MNIST", "FASHION_MNIST"])
def test_a_wrong_checksum_stores_nothing(tmp_path, monkeypatch, which):
    server = serve(monkeypatch, tmp_path, which)
    name, source = NAMES[0], getattr(datasets, which)
    tampered = gzip.compress(idx_bytes(np.zeros((5, 4, 6))))
    server.archives[f"{name}.gz"] = tampered
    folder = tmp_path / "own"
    expected = source.checksums[name]
    with pytest.raises(
        ValueError, match=rf"expected {source.algorithm} {expected}, got .*Try again"
    ):
        download.fetch_file(source, name, folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (URLError("Name or service not known"), "Name or service not known"),
        (TimeoutError("timed out"), "timed out"),
        (IncompleteRead(b"half"), "IncompleteRead"),
        (b"<html>Please log in</html>", "Not a gzipped file"),
        (gzip.compress(b"cut" * 99, mtime=0)[:-9], "end-of-stream marker"),
        (ZIPPED[:10] + b"\xff" * 30, "invalid block type"),
    ],
    ids=["no network", "timeout", "cut off", "login page", "cut file", "noise"],
)
def test_without_the_files_it_says_what_to_do(tmp_path, monkeypatch, trouble, reason):
    def urlopen(url, timeout):
        if isinstance(trouble, Exception):
            raise trouble
        return io.BytesIO(trouble)

    monkeypatch.setattr(download, "urlopen", urlopen)
    with pytest.raises(FileNotFoundError, match=reason) as raised:
        data.mnist(tmp_path / "own")
    message = str(raised.value)
    assert f"{NAMES[0]} is not in {tmp_path / 'own'}" in message
    assert "Download " + ", ".join(f"{name}.gz" for name in NAMES) in message
    assert "from https://ossci-datasets.s3.amazonaws.com/mnist/ by hand" in message
    assert f"put them into {tmp_path / 'own'}" in message
    assert (
        "set FNN_DATA_DIR to a folder that has them in its subfolder mnist" in message
    )


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path, monkeypatch):
    serve(monkeypatch, tmp_path, "MNIST")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileNotFoundError, match=r"Not a directory.*by hand"):
        data.mnist(tmp_path / "file" / "mnist")


def test_an_interrupted_write_leaves_no_file(tmp_path, monkeypatch):
    serve(monkeypatch, tmp_path, "MNIST")

    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.mnist(tmp_path / "own")
    assert list((tmp_path / "own").iterdir()) == []


# ------------------------------------------------- digits and split


def test_digits_are_images_in_the_unit_interval():
    dataset = data.digits()
    for (x, y), n in ((dataset.train, 1438), (dataset.test, 359)):
        assert x.shape == (n, 8, 8, 1)
        assert y.shape == (n,)
        assert (x.dtype, y.dtype) == (np.float32, np.int32)
        assert (x.min(), x.max()) == (0.0, 1.0)
        assert set(y.tolist()) == set(range(10))


def test_digits_split_is_stratified_and_complete():
    from sklearn.datasets import load_digits

    (x, y), (xt, yt) = data.digits(test_fraction=0.3)
    shares = np.bincount(yt) / np.bincount(np.concatenate([y, yt]))
    np.testing.assert_allclose(shares, 0.3, atol=1 / 170)
    everything = np.concatenate([x, xt]).reshape(-1, 64) * 16
    pixels = load_digits().data
    np.testing.assert_array_equal(
        np.unique(everything, axis=0), np.unique(pixels, axis=0)
    )


def test_digits_split_follows_the_seed():
    jax.tree.map(
        np.testing.assert_array_equal, data.digits(seed=3), data.digits(seed=3)
    )
    assert (data.digits(seed=3).test[1] != data.digits(seed=4).test[1]).any()


def test_digits_without_scikit_learn_say_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'fnn\[experiments\]'"):
        data.digits()


def rows(n):
    """Return examples that hold their own index, of three classes of unequal size."""
    index = np.arange(n)
    return np.stack([index, index], axis=1), np.where(index % 10 < 7, 0, index % 3)


@pytest.mark.parametrize("stratify", [False, True])
@pytest.mark.parametrize("fraction", [0.1, 0.25, 1 / 3, 0.9])
def test_split_parts_are_disjoint_complete_and_of_the_right_size(fraction, stratify):
    x, y = rows(53)
    (xt, yt), (xv, yv) = data.split(x, y, fraction, stratify=stratify)
    assert len(xv) == round(fraction * 53)
    assert sorted([*xt[:, 0], *xv[:, 0]]) == list(range(53))
    np.testing.assert_array_equal(y[xt[:, 0]], yt)
    np.testing.assert_array_equal(y[xv[:, 0]], yv)


def test_split_shuffles_both_parts():
    (xt, _), (xv, _) = data.split(*rows(53), 0.4)
    for part in (xt[:, 0], xv[:, 0]):
        assert (np.diff(part) < 0).sum() > len(part) / 4
    (_, yt), (_, yv) = data.split(*rows(53), 0.4, stratify=True)
    for labels in (yt, yv):  # not class after class
        assert (np.diff(labels) < 0).sum() > 2


@pytest.mark.parametrize("key", range(5))
def test_split_stratified_gives_every_class_its_share(key):
    x, y = rows(60)
    (_, yt), (_, yv) = data.split(x, y, 0.3, key, stratify=True)
    assert (np.abs(np.bincount(yv) - 0.3 * np.bincount(y)) < 1).all()
    assert (np.abs(np.bincount(yt) - 0.7 * np.bincount(y)) < 1).all()


def test_split_follows_the_key_and_takes_a_seed_for_one():
    x, y = rows(40)
    one, same = data.split(x, y, 0.5, 7), data.split(x, y, 0.5, jax.random.key(7))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert (one.train[0] != data.split(x, y, 0.5, 8).train[0]).any()
    with jax.enable_x64(True):  # the split does not depend on the precision
        jax.tree.map(np.testing.assert_array_equal, one, data.split(x, y, 0.5, 7))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.split(*rows(9), 0.0), "fraction must lie .* got 0.0: .*as 0.2"),
        (lambda: data.split(*rows(9), 1.0), "fraction must lie .* got 1.0"),
        (lambda: data.split(*rows(9), -0.1), "fraction must lie .* got -0.1"),
        (lambda: data.split(*rows(9), float("nan")), "fraction must lie .* got nan"),
        (lambda: data.split(*rows(9), 0.01), r"leaves one part empty \(9 and 0\)"),
        (lambda: data.split(*rows(9), 0.99), r"leaves one part empty \(0 and 9\)"),
        (lambda: data.split([], [], 0.5), "two or more examples to split, got 0"),
        (lambda: data.split([[1.0]], [1], 0.5), "two or more examples .*got 1"),
        (
            lambda: data.split(np.zeros((5, 2)), np.zeros(4), 0.5),
            r"got shapes \(5, 2\) and \(4,\): their first axes must be equal",
        ),
        (lambda: data.split(3.0, 4.0, 0.5), r"one row per example, got shapes \(\)"),
        (
            lambda: data.split(np.zeros((4, 2)), np.eye(4), 0.5, stratify=True),
            r"labels, shape \(N,\), got shape \(4, 4\): use y.argmax",
        ),
        (lambda: data.digits(test_fraction=2), "test_fraction must lie .* got 2"),
    ],
)
def test_split_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ------------------------------------------------- toy problems

TOYS = {
    "xor": (data.xor, 2),
    "two_moons": (data.two_moons, 2),
    "spirals": (data.spirals, 3),
}


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize(("make", "classes"), TOYS.values(), ids=TOYS)
def test_toys_are_pure_functions_of_the_key(make, classes, x64):
    x, y = make(jax.random.key(0), 30)
    with jax.enable_x64(x64):
        again = jax.jit(make, static_argnums=1)(jax.random.key(0), 30)
    assert (x.shape, x.dtype) == ((30, 2), jnp.float32)
    assert (y.shape, y.dtype) == ((30,), jnp.int32)
    assert (again[0].dtype, again[1].dtype) == (jnp.float32, jnp.int32)
    np.testing.assert_allclose(x, again[0], atol=1e-6)
    assert (np.asarray(make(jax.random.key(1), 30)[0]) != np.asarray(x)).all()
    assert np.bincount(y).tolist() == [30 // classes] * classes


def test_xor_without_noise_is_the_truth_table():
    x, y = data.xor(jax.random.key(0), 8, noise=0.0)
    points = np.asarray(x, int)
    np.testing.assert_array_equal(np.asarray(y), points[:, 0] ^ points[:, 1])
    assert len(np.unique(points, axis=0)) == 4


def test_xor_noise_is_its_standard_deviation():
    clean, _ = data.xor(jax.random.key(0), 4000, noise=0.0)
    noisy, _ = data.xor(jax.random.key(0), 4000, noise=0.3)
    assert np.asarray(noisy - clean).std() == pytest.approx(0.3, rel=0.05)


def test_two_moons_are_on_their_half_circles():
    x, y = data.two_moons(jax.random.key(0), 200, noise=0.0)
    x, y = np.asarray(x), np.asarray(y)
    upper, lower = x[y == 0], x[y == 1]
    np.testing.assert_allclose(np.linalg.norm(upper, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(lower - [1, 0.5], axis=1), 1, atol=1e-5)
    assert upper[:, 1].min() > -1e-6
    assert lower[:, 1].max() < 0.5 + 1e-6


def test_spirals_are_on_their_arms():
    x, y = data.spirals(jax.random.key(0), 300, classes=5, noise=0.0)
    x, y = np.asarray(x), np.asarray(y)
    radius = np.linalg.norm(x, axis=1)
    phi = 2 * np.pi * y / 5 + 4 * radius
    expected = radius[:, None] * np.stack([np.cos(phi), np.sin(phi)], axis=1)
    np.testing.assert_allclose(x, expected, atol=1e-5)
    assert radius.max() <= 1.0
    assert radius.max() - radius.min() > 0.9


# ------------------------------------------------- targets

TARGETS = {
    "bowl": data.ill_conditioned_bowl(50.0, 4),
    "rosenbrock": data.rosenbrock(),
    "rosenbrock in 5 dimensions": data.rosenbrock(5),
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_targets_have_their_minimum_where_they_say(target):
    assert target.start.dtype == target.minimum.dtype == np.float32
    assert target.f(target.minimum) == 0.0
    assert target.f(target.start) > 1.0
    np.testing.assert_array_equal(jax.jit(jax.grad(target.f))(target.minimum), 0.0)
    hessian = jax.jit(jax.hessian(target.f))(target.minimum)
    assert np.linalg.eigvalsh(hessian).min() > 0.1


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_targets_work_in_the_precision_of_their_argument(target):
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            assert jax.eval_shape(target.f, target.start.astype(dtype)).dtype == dtype


@pytest.mark.parametrize("condition_number", [1.0, 30.0, 1e4])
def test_bowl_has_its_condition_number(condition_number):
    bowl = data.ill_conditioned_bowl(condition_number, dim=3)
    hessian = np.asarray(jax.jit(jax.hessian(bowl.f))(bowl.start))
    assert np.linalg.cond(hessian) == pytest.approx(condition_number, rel=1e-5)


def test_rosenbrock_at_a_known_point():
    assert float(data.rosenbrock(3).f(jnp.array([2.0, 3.0, 5.0]))) == 101 + 1604


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.xor(jax.random.key(0), 0), "at least one point, got n=0"),
        (lambda: data.two_moons(jax.random.key(0), 5, -1.0), "noise .* got -1.0"),
        (lambda: data.spirals(jax.random.key(0), 5, 1), "two or more .* classes=1"),
        (lambda: data.spirals(jax.random.key(0), -5), "one point, got n=-5"),
        (lambda: data.ill_conditioned_bowl(0.5), "at least 1, got 0.5: .* curvature"),
        (lambda: data.ill_conditioned_bowl(float("inf")), "finite .*got inf"),
        (lambda: data.ill_conditioned_bowl(10.0, 1), "coordinates, got dim=1"),
        (lambda: data.rosenbrock(1), "coordinates, got dim=1"),
        (
            lambda: data.rosenbrock().f(jnp.zeros((7, 2))),
            r"shape \(2,\), got shape \(7, 2\): .*jax.vmap\(target.f\)",
        ),
    ],
)
def test_toy_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
