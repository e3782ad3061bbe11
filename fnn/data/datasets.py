"""The data sets of gray images: handwritten digits, small and large, and clothes.

Legend: N examples, H × W pixels, one channel. Images are `(N, H, W, 1)` float32 in
[0, 1], labels `(N,)` int32. All are NumPy arrays: they are moved to the device when
training starts.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fnn.data.download import Source, fetch_file, find_file, locate_folder
from fnn.data.idx import read_idx
from fnn.data.splitting import Examples, shuffled_split

__all__ = ["Dataset", "digits", "fashion_mnist", "mnist"]


class Dataset(NamedTuple):
    """The two parts of a published data set; `test` is for the final measurement only.

    For validation, set a part of `train` aside with `split`.
    """

    train: Examples
    test: Examples


MNIST = Source(
    title="MNIST",
    folder="mnist",
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    algorithm="sha256",
    checksum_of="content",
    checksums={
        "train-images-idx3-ubyte": (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        "train-labels-idx1-ubyte": (
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
        "t10k-images-idx3-ubyte": (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        "t10k-labels-idx1-ubyte": (
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
    },
)

FASHION_MNIST = Source(
    title="Fashion-MNIST",
    folder="fashion-mnist",
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    algorithm="md5",
    checksum_of="archive",
    checksums={
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    },
)


def digits(test_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """Return the 1,797 handwritten digits of 8 × 8 pixels that scikit-learn bundles.

    Nothing is downloaded. The data have no test set of their own: one is made as by
    `split(..., stratify=True)`, so every digit has its share in both parts, and the
    same seed returns the same parts.

    Args:
        test_fraction: The share of the examples that goes to `test`.
        seed: The seed of the shuffle.

    Returns:
        A `Dataset`, images `(N, 8, 8, 1)` and labels 0 to 9.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If `test_fraction` leaves one part empty.

    Example:
        >>> (x, y), (xt, yt) = digits()
        >>> x.shape, y.shape, xt.shape
        ((1438, 8, 8, 1), (1438,), (359, 8, 8, 1))

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
    Machine Learning Repository, 1998 (its test set).
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "digits() takes its images from scikit-learn, which is not installed: "
            "pip install 'fnn[experiments]'"
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    x = np.asarray(pixels, np.float32).reshape(-1, 8, 8, 1) / 16  # white is 16
    y = np.asarray(labels, np.int32)
    return Dataset(
        *shuffled_split(
            *(x, y, test_fraction, seed),
            stratify=True,
            name="test_fraction",
            seed_name="seed",
        )
    )


def mnist(folder: str | os.PathLike[str] | None = None) -> Dataset:
    """Return MNIST: 60,000 + 10,000 handwritten digits of 28 × 28 pixels.

    The folder is the first of these:

    1. `folder`, if given;
    2. if FNN_DATA_DIR is set: its subfolder `mnist`, or itself if it has the files;
    3. the user's cache: `$XDG_CACHE_HOME/fnn/mnist`, or `~/.cache/fnn/mnist`.

    Files that are missing there are downloaded (11 MB in all) and verified. Files may
    be plain or gzip-compressed.

    Args:
        folder: The folder with the four IDX files.

    Returns:
        A `Dataset`, images `(N, 28, 28, 1)` and labels 0 to 9.

    Raises:
        FileNotFoundError: If files are missing and cannot be downloaded.
        ValueError: If a file is damaged, or images and labels do not fit together.

    Example:
        Not run here, as it may download::

            (x, y), (x_test, y_test) = fnn.data.mnist()
            x.shape  # (60000, 28, 28, 1)

    Source: Y. LeCun, C. Cortes, C. J. C. Burges, http://yann.lecun.com/exdb/mnist/.
    """
    return _load(MNIST, locate_folder(MNIST, folder, _has_files))


def fashion_mnist(folder: str | os.PathLike[str] | None = None) -> Dataset:
    """Return Fashion-MNIST: as large as MNIST, with ten kinds of clothes; much harder.

    The files are found or downloaded (31 MB in all) as in `mnist`, in a folder
    `fashion-mnist`. Files in FNN_DATA_DIR itself are not used: MNIST's files have the
    same names and could be mistaken for them.

    Args:
        folder: The folder with the four IDX files.

    Returns:
        A `Dataset`, images `(N, 28, 28, 1)` and labels 0 to 9.

    Raises:
        FileNotFoundError: If files are missing and cannot be downloaded.
        ValueError: If a file is damaged, or images and labels do not fit together.

    Example:
        Not run here, as it may download::

            (x, y), (x_test, y_test) = fnn.data.fashion_mnist()
            x.shape  # (60000, 28, 28, 1)

    Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for
    Benchmarking Machine Learning Algorithms", arXiv:1708.07747.
    """
    return _load(FASHION_MNIST, locate_folder(FASHION_MNIST, folder))


def _has_files(folder: Path) -> bool:
    return all(find_file(name, folder) for name in MNIST.checksums)


def _load(source: Source, folder: Path) -> Dataset:
    """Read the four files of a data set in MNIST's format; download missing ones."""
    paths = [
        find_file(name, folder) or fetch_file(source, name, folder)
        for name in source.checksums
    ]
    train = _read_examples(paths[0], paths[1])
    test = _read_examples(paths[2], paths[3])
    if train[0].shape[1:] != test[0].shape[1:]:
        raise ValueError(
            f"{folder}: expected training and test images of one size, got "
            f"{train[0].shape[1:3]} and {test[0].shape[1:3]}: the files belong to "
            f"different data sets"
        )
    return Dataset(train, test)


def _read_examples(images_path: Path, labels_path: Path) -> Examples:
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.dtype != np.uint8:
        raise ValueError(
            f"{images_path}: expected images, shape (N, H, W) of uint8, got shape "
            f"{images.shape} of {images.dtype}: is this a file of labels, renamed?"
        )
    if labels.ndim != 1 or labels.dtype != np.uint8:
        raise ValueError(
            f"{labels_path}: expected labels, shape (N,) of uint8, got shape "
            f"{labels.shape} of {labels.dtype}: is this a file of images, renamed?"
        )
    if len(images) != len(labels):
        raise ValueError(
            f"expected one label per image, got {len(images)} images in {images_path} "
            f"and {len(labels)} labels in {labels_path}: the files belong to different "
            f"data sets"
        )
    # Divide into float32 at once: MNIST's 60,000 take 188 MB, not three times that.
    x = np.divide(images[..., None], 255, dtype=np.float32)
    return x, labels.astype(np.int32)
