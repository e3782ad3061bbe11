"""Shifts, crops and flips: each pixel of the result is a pixel of the image.

    y_nijc = x[n, rows_ni, columns_nj, c]

Rows and columns are drawn at random, and one gather of C channels per pixel makes the
result; no padded or mirrored image is made. This is the fastest way on a CPU (two
cores, in a scan, microseconds for 64 images of 28×28×1 and 128 of 32×32×3, p = 2, 4):

    shift or crop: this                                     15     220
        `vmap` of `dynamic_slice` on padded images          50     800
        a loop over the images, a slice each                60     310
        products with one-hot matrices                      90     700
        a select for each possible move                     95    1150
    flip: this                                              20     480
        a select between the image and its mirror image     60    1200
        a loop over the images, a branch each               40      80
    crop, then flip: this                                   40     510
        the select again, which computes the crop twice    260    3300

Loops are as fast or faster here, but on a GPU they would launch kernels per image.

Legend: N images, H × W pixels, C channels.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from fnn.augmentations.checks import check_images, check_size
from fnn.pytree import leaf, pytree
from fnn.typing import Array, Int, KeyArray, Shaped

__all__ = ["Flip", "RandomCrop", "Shift"]


@pytree
class Shift:
    """An augmentation that moves each image by up to p pixels; the rest is zero.

        y_nijc = x_{n, i+a_n, j+b_n, c}, or 0 where that is outside the image
        a_n, b_n uniform on {−p, ..., p}

    It returns the same images as `RandomCrop(p)`.

    Args:
        pixels: p, less than H and W. 0 is the identity.

    Raises:
        ValueError: p is not such a number; x is not of shape (N, H, W, C).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn.augmentations import Shift
        >>> x = jnp.arange(1, 10).reshape(1, 3, 3, 1)
        >>> Shift(1)(jax.random.key(5), x)[0, :, :, 0]
        Array([[0, 0, 0],
               [0, 1, 2],
               [0, 4, 5]], dtype=int32)

    Source: Simard, Steinkraus and Platt, ICDAR 2003, section 2 (translations of
    digits).
    """

    pixels: int

    def __post_init__(self) -> None:
        check_size(self, "pixels", least=0)

    def __call__(self, key: Array, x: Array) -> Array:
        key, x = check_images(self, key, x, side=self.pixels + 1)
        return _shift(key, x, self.pixels, "zeros")


@pytree
class RandomCrop:
    """An augmentation that pads each image, then crops it at a random position.

        y_nijc = z_{n, i+p+a_n, j+p+b_n, c},    z = x padded by p on all sides
        a_n, b_n uniform on {−p, ..., p}

    Args:
        padding: p, less than H and W. 0 is the identity.
        fill: "zeros", or "reflect": the image mirrored at its border pixels, which are
            not repeated, as in `numpy.pad`.

    Raises:
        ValueError: p or `fill` is not as above; x is not of shape (N, H, W, C).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn.augmentations import RandomCrop
        >>> x = jnp.arange(1, 10).reshape(1, 3, 3, 1)
        >>> RandomCrop(1, fill="reflect")(jax.random.key(5), x)[0, :, :, 0]
        Array([[5, 4, 5],
               [2, 1, 2],
               [5, 4, 5]], dtype=int32)

    Source: He et al., arXiv:1512.03385, section 4.2 (p = 4 and zeros, for CIFAR-10).
    """

    padding: int
    fill: Literal["zeros", "reflect"] = "zeros"

    def __post_init__(self) -> None:
        check_size(self, "padding", least=0)
        if self.fill not in ("zeros", "reflect"):
            raise ValueError(
                f"RandomCrop: fill must be 'zeros' or 'reflect', got {self.fill!r}"
            )

    def __call__(self, key: Array, x: Array) -> Array:
        key, x = check_images(self, key, x, side=self.padding + 1)
        return _shift(key, x, self.padding, self.fill)


@pytree
class Flip:
    """An augmentation that mirrors each image left to right, with probability p.

        y_nijc = x_{n, i, W−1−j, c} where u_n < p, else x_nijc        u_n ~ U[0, 1)

    Use it for photographs. A mirrored digit or letter is no longer the same digit.

    Args:
        probability: p, in [0, 1]. A leaf: a sweep may vary it.

    Raises:
        ValueError: p is outside [0, 1]; x is not of shape (N, H, W, C).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn.augmentations import Flip
        >>> x = jnp.arange(6).reshape(1, 2, 3, 1)
        >>> Flip(1.0)(jax.random.key(0), x)[0, :, :, 0]
        Array([[2, 1, 0],
               [5, 4, 3]], dtype=int32)

    Source: Krizhevsky, Sutskever and Hinton, NeurIPS 2012, section 4.1.
    """

    probability: float = leaf(0.5)

    def __post_init__(self) -> None:
        if isinstance(self.probability, float) and not 0 <= self.probability <= 1:
            raise ValueError(
                f"Flip: probability must be in [0, 1], got {self.probability}"
            )

    def __call__(self, key: Array, x: Array) -> Array:
        key, x = check_images(self, key, x)
        u = jax.random.uniform(key, (len(x), 1), jnp.float32)
        rows, columns = _indices(x.shape[1]), _indices(x.shape[2])
        is_flipped = u < jnp.asarray(self.probability, u.dtype)
        columns = jnp.where(is_flipped, x.shape[2] - 1 - columns, columns)
        return _gather_pixels(x, rows, columns)


# ---- Rows and columns ------------------------------------------------------------


def _shift(
    key: KeyArray, x: Shaped[Array, "N H W C"], p: int, fill: str
) -> Shaped[Array, "N H W C"]:
    a, b = jax.random.randint(key, (2, len(x), 1), -p, p + 1, jnp.int32)
    height, width = x.shape[1:3]
    rows, columns = _indices(height) + a, _indices(width) + b
    if fill == "reflect":
        return _gather_pixels(x, _reflect(rows, height), _reflect(columns, width))
    y = _gather_pixels(x, rows.clip(0, height - 1), columns.clip(0, width - 1))
    is_row_inside = (0 <= rows) & (rows < height)
    is_column_inside = (0 <= columns) & (columns < width)
    is_inside = is_row_inside[:, :, None, None] & is_column_inside[:, None, :, None]
    return jnp.where(is_inside, y, jnp.zeros_like(y))


def _indices(size: int) -> Int[Array, "1 size"]:
    return jnp.arange(size, dtype=jnp.int32)[None]


def _reflect(i: Int[Array, "N I"], size: int) -> Int[Array, "N I"]:
    """Mirror indices at 0 and at size − 1, so that all are inside the image."""
    last = size - 1
    return last - abs(last - abs(i))


def _gather_pixels(
    x: Shaped[Array, "N H W C"],
    rows: Int[Array, "#N H"],
    columns: Int[Array, "#N W"],
) -> Shaped[Array, "N H W C"]:
    """Return y_nijc = x[n, rows_ni, columns_nj, c], for indices that are inside.

    One row of indices may serve for all images.
    """
    n = _indices(len(x))[0, :, None, None]
    pixels = x.at[n, rows[:, :, None], columns[:, None, :]]
    return pixels.get(mode="promise_in_bounds")
