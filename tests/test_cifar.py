"""CIFAR-10 from files that the tests write. No test needs a network."""

import bz2
import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest

from fnn import data
from fnn.data import cifar, download

RECORDS = 3
FOLDER, ARCHIVE = "cifar-10-batches-bin", "cifar-10-binary.tar.gz"
NAMES = [f"data_batch_{i}.bin" for i in (1, 2, 3, 4, 5)] + ["test_batch.bin"]

# Read before the fixture `isolated` hides the setting from the tests.
REAL = Path(os.environ.get("FNN_DATA_DIR", "unset")) / FOLDER


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """Hide the network, the user's settings and cache; expect small files."""

    def refuse(url, timeout):
        raise URLError("no network in tests")

    monkeypatch.setattr(download, "urlopen", refuse)
    monkeypatch.delenv("FNN_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cifar, "RECORDS", RECORDS)


def batch(seed, n=RECORDS):
    """Return images, labels, and their bytes, pixel by pixel."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
    labels = rng.integers(0, 10, n).astype(np.uint8)
    content = bytearray()
    for image, label in zip(images, labels, strict=True):
        content.append(label)
        for channel in range(3):
            for row in range(32):
                for column in range(32):
                    content.append(image[row, column, channel])
    return images, labels, bytes(content)


BATCHES = {name: batch(seed) for seed, name in enumerate(NAMES)}
CONTENTS = {name: content for name, (_, _, content) in BATCHES.items()}


def write_files(folder, **changes):
    """Write the six files; `changes` replace a content, or with None leave it out."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (CONTENTS | changes).items():
        if content is not None:
            (folder / name).write_bytes(content)
    return folder


def tar(contents=CONTENTS, extra=(), folder=FOLDER):
    """Return a tar archive: first the `extra` members, then the files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member, content in extra:
            archive.addfile(member, io.BytesIO(content))
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def write_archive(folder, content=None, name=ARCHIVE):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(gzip.compress(tar()) if content is None else content)
    return folder


def assert_complete(dataset):
    """Assert that a data set has the images and labels of `BATCHES`, in order."""
    for (x, y), names in ((dataset.train, NAMES[:5]), (dataset.test, NAMES[5:])):
        images = np.concatenate([BATCHES[name][0] for name in names])
        labels = np.concatenate([BATCHES[name][1] for name in names])
        assert type(x) is np.ndarray
        assert x.flags.c_contiguous
        assert (x.dtype, y.dtype) == (np.float32, np.int32)
        np.testing.assert_allclose(x, images / 255, rtol=1e-7)
        np.testing.assert_array_equal(y, labels)


# ---- One file ---------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_batch_is_read(tmp_path, n):
    images, labels, content = batch(0, n)
    (tmp_path / "batch.bin").write_bytes(content)
    x, y = data.read_cifar_batch(tmp_path / "batch.bin")
    assert (x.dtype, y.dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(x, images)
    np.testing.assert_array_equal(y, labels)


ONE = CONTENTS[NAMES[0]]
MEND = "damaged or of another format; delete it and fetch it again"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "records of 3073 bytes, got 0 bytes, 0 records and 0 bytes"),
        (ONE[:3000], "got 3000 bytes, 0 records and 3000 bytes"),
        (ONE[:-1], "got 9218 bytes, 2 records and 3072 bytes"),
        (ONE + b"\0", "got 9220 bytes, 3 records and 1 bytes"),
        (ONE[:3073] + b"\x0a" + ONE[3074:], "labels 0 to 9, got 10 in record 1"),
        (ONE[:6146] + b"\xff" + ONE[6147:], "labels 0 to 9, got 255 in record 2"),
    ],
)
def test_a_damaged_batch_is_refused(tmp_path, content, message):
    path = tmp_path / "batch.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{message}.*{MEND}") as raised:
        data.read_cifar_batch(path)
    assert str(path) in str(raised.value)


def test_a_batch_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.bin"):
        data.read_cifar_batch(tmp_path / "nowhere.bin")


# ---- The folder -------------------------------------------------------------------


def test_the_six_files_become_a_dataset(tmp_path):
    assert_complete(data.cifar10(write_files(tmp_path)))


def test_the_files_have_their_published_size(tmp_path, monkeypatch):
    monkeypatch.undo()  # 10,000 records again
    write_files(tmp_path)
    with pytest.raises(ValueError, match=r"data_batch_1.bin: expected 30730000 bytes"):
        data.cifar10(tmp_path)


@pytest.mark.parametrize("write", [write_files, write_archive])
@pytest.mark.parametrize(
    "where", [f"elsewhere/{FOLDER}", "elsewhere", f"cache/fnn/{FOLDER}"]
)
def test_the_data_are_found(tmp_path, monkeypatch, write, where):
    write(tmp_path / where)
    if where.startswith("elsewhere"):
        monkeypatch.setenv("FNN_DATA_DIR", str(tmp_path / "elsewhere"))
    assert_complete(data.cifar10())


def test_the_subfolder_goes_before_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FNN_DATA_DIR", str(tmp_path))
    write_files(tmp_path / FOLDER)
    write_archive(tmp_path, b"not read")
    assert_complete(data.cifar10())


@pytest.mark.parametrize("missing", [NAMES[:1], NAMES[2:4], NAMES[1:]])
def test_missing_files_are_named(tmp_path, missing):
    write_files(tmp_path, **dict.fromkeys(missing))
    with pytest.raises(
        FileNotFoundError, match=r"incomplete.*take the other"
    ) as raised:
        data.cifar10(tmp_path)
    assert f"{tmp_path} has no {', '.join(missing)}. " in str(raised.value)
    assert_complete(data.cifar10(write_archive(tmp_path)))  # the archive has them all


def test_a_damaged_file_is_named(tmp_path):
    # Cut between two records, which the format itself does not show.
    write_files(tmp_path, **{NAMES[4]: ONE[:6146]})
    message = r"data_batch_5.bin: expected 9219 bytes, 3 records of .* got 6146"
    with pytest.raises(ValueError, match=message):
        data.cifar10(tmp_path)


# ---- The archive ------------------------------------------------------------------


def link(name, target):
    member = tarfile.TarInfo(f"{FOLDER}/{name}")
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member, b""


def other_member(name, content=b"evil"):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def test_only_the_six_files_are_read_and_nothing_is_written(tmp_path):
    extra = [
        other_member("../outside.bin"),
        other_member(str(tmp_path / "absolute.bin")),
        other_member(f"{FOLDER}/readme.html"),
        other_member(f"{FOLDER}/../{FOLDER}/{NAMES[0]}"),
        link(NAMES[0], "/etc/passwd"),
    ]
    write_archive(tmp_path / "own", gzip.compress(tar(extra=extra)))
    assert_complete(data.cifar10(tmp_path / "own"))
    assert [path.name for path in tmp_path.rglob("*")] == ["own", ARCHIVE]


def test_an_unzipped_archive_will_do(tmp_path):
    write_archive(tmp_path, tar(), name="cifar-10-binary.tar")
    assert_complete(data.cifar10(tmp_path))


def test_the_order_in_the_archive_does_not_matter(tmp_path):
    backwards = dict(reversed(CONTENTS.items()))
    assert_complete(data.cifar10(write_archive(tmp_path, bz2.compress(tar(backwards)))))


TAR = tar()
NO_TEST = {name: CONTENTS[name] for name in NAMES[:5]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "expected a complete tar archive"),
        (gzip.compress(b"<html>"), "expected a complete tar archive"),
        (gzip.compress(TAR)[:-9000], "expected a complete tar archive"),
        (gzip.compress(TAR[:12_000]), "expected a complete tar archive"),
        (TAR[:12_000], "expected a complete tar archive"),
        (
            gzip.compress(tar(NO_TEST)),
            f"six files of .* got no {FOLDER}/test_batch.bin:",
        ),
        (gzip.compress(tar(folder="cifar")), f"got no {FOLDER}/data_batch_1.bin, cif"),
        (
            gzip.compress(tar(extra=[link(NAMES[5], NAMES[0])], contents=NO_TEST)),
            f"got no {FOLDER}/test_batch.bin",
        ),
        (
            gzip.compress(tar(CONTENTS | {NAMES[1]: ONE[:3073]})),
            r"data_batch_2.bin: expected 9219 bytes, .* got 3073",
        ),
        (
            gzip.compress(tar(CONTENTS | {NAMES[1]: b"\x63" + ONE[1:]})),
            r"data_batch_2.bin: expected labels 0 to 9, got 99 in record 0",
        ),
    ],
    ids="text,zipped text,cut zip,cut tar,cut plain,missing,other folder,link,size,"
    "label".split(","),
)
def test_a_damaged_archive_is_refused(tmp_path, content, message):
    write_archive(tmp_path, content)
    with pytest.raises(ValueError, match=message) as raised:
        data.cifar10(tmp_path)
    assert str(tmp_path / ARCHIVE) in str(raised.value)
    assert MEND in str(raised.value)


# ---- Downloads --------------------------------------------------------------------


def serve(monkeypatch, archive, checksum=None):
    """Put the archive on a fake server; return the list of requested addresses."""
    requested = []

    def urlopen(url, timeout):
        requested.append(url)
        return io.BytesIO(archive)

    checksum = checksum or hashlib.md5(archive, usedforsecurity=False).hexdigest()
    source = cifar.CIFAR_10._replace(checksums={cifar.ARCHIVE: checksum})
    monkeypatch.setattr(cifar, "CIFAR_10", source)
    monkeypatch.setattr(download, "urlopen", urlopen)
    return requested


def test_the_archive_is_downloaded_once(tmp_path, monkeypatch):
    requested = serve(monkeypatch, gzip.compress(TAR))
    assert_complete(data.cifar10())
    assert requested == [f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"]
    folder = tmp_path / "cache/fnn" / FOLDER
    assert [path.name for path in folder.iterdir()] == [ARCHIVE]
    assert_complete(data.cifar10())
    assert len(requested) == 1


def test_a_wrong_checksum_stores_nothing(tmp_path, monkeypatch):
    published = cifar.CIFAR_10.checksums[cifar.ARCHIVE]
    assert published == "c32a1d4ab5d03f1284b67883e8d87530"
    serve(monkeypatch, gzip.compress(TAR), published)
    with pytest.raises(ValueError, match=f"expected md5 {published}, got .*Try again"):
        data.cifar10(tmp_path / "own")
    assert not (tmp_path / "own").exists()


def test_without_the_archive_it_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="no network in tests") as raised:
        data.cifar10(tmp_path / "own")
    message = str(raised.value)
    assert f"CIFAR-10 is incomplete: {cifar.ARCHIVE} is not in" in message
    assert f"Download {ARCHIVE} from https://www.cs.toronto.edu/~kriz/ by" in message
    assert f"by hand and put it into {tmp_path / 'own'}, or set FNN_DATA_" in message
    assert f"a folder that has it in its subfolder {FOLDER}" in message


@pytest.mark.skipif(
    not REAL.is_dir(), reason=f"FNN_DATA_DIR is not set, or has no folder {FOLDER}"
)
def test_the_real_cifar10(monkeypatch):
    monkeypatch.undo()
    dataset = data.cifar10(REAL)
    assert dataset.train[0].shape == (50_000, 32, 32, 3)
    assert dataset.test[0].shape == (10_000, 32, 32, 3)
    for _, y in dataset:
        assert (np.bincount(y) == len(y) // 10).all()
    assert dataset.train[1][:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert dataset.test[1][:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    means = dataset.train[0].mean((0, 1, 2), dtype=np.float64)
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=1e-4)
