"""Shifts, crops and flips: every pixel of the result is looked up in the image.

    y_nijc = x[n, rows_ni, columns_nj, c]

Draws decide on the rows and the columns, and one gather of C channels a pixel does the
rest; padded or mirrored images are never made. This is for speed on a CPU (two cores,
in a scan, microseconds for 64 images of 28×28×1 and 128 of 32×32×3, p = 2 and 4):

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

The loops are as fast or faster here, but on a GPU would launch kernels for each image.

Legend: N images, H × W pixels, C channels.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from fnn.augmentations.checks import check_images, check_size
from fnn.pytree import leaf, pytree

__all__ = ["Flip", "RandomCrop", "Shift"]


@pytree
class Shift:
    """Move each image by whole pixels, up to p in each direction; zeros come in.

        y_nijc = x_{n, i+a_n, j+b_n, c}, or 0 where that is outside the image
        a_n, b_n uniform on {−p, ..., p}

    The same as `RandomCrop(p)`, draw by draw.

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
        return _shifted(key, x, self.pixels, "zeros")


@pytree
class RandomCrop:
    """Pad each image on all sides, then crop it back to its size at a random place.

        y_nijc = z_{n, i+p+a_n, j+p+b_n, c},    z = x padded by p on all sides
        a_n, b_n uniform on {−p, ..., p}

    Args:
        padding: p, less than H and W. 0 is the identity.
        fill: "zeros", or "reflect": the image mirrored at its border pixels, which are
            not repeated (`numpy.pad` has the same name for it).

    Raises:
        ValueError: p or `fill` is none of these; x is not of shape (N, H, W, C).

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
        return _shifted(key, x, self.padding, self.fill)


@pytree
class Flip:
    """Mirror each image left to right, with probability p.

        y_nijc = x_{n, i, W−1−j, c} where u_n < p, else x_nijc        u_n ~ U[0, 1)

    For photographs. A mirrored digit or letter is another one, or none.

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
        rows, columns = _range(x.shape[1])[None], _range(x.shape[2])[None]
        is_flipped = u < jnp.asarray(self.probability, u.dtype)
        columns = jnp.where(is_flipped, x.shape[2] - 1 - columns, columns)
        return _looked_up(x, rows, columns)


# ---- Looking up ------------------------------------------------------------------


def _shifted(key: Array, x: Array, most: int, fill: str) -> Array:
    a, b = jax.random.randint(key, (2, len(x), 1), -most, most + 1, jnp.int32)
    height, width = x.shape[1:3]
    rows, columns = _range(height) + a, _range(width) + b
    if fill == "reflect":
        return _looked_up(x, _reflected(rows, height), _reflected(columns, width))
    y = _looked_up(x, rows.clip(0, height - 1), columns.clip(0, width - 1))
    row_is_in = (0 <= rows) & (rows < height)
    column_is_in = (0 <= columns) & (columns < width)
    is_in = row_is_in[:, :, None, None] & column_is_in[:, None, :, None]
    return jnp.where(is_in, y, jnp.zeros_like(y))


def _range(size: int) -> Array:
    return jnp.arange(size, dtype=jnp.int32)


def _reflected(i: Array, size: int) -> Array:
    """−1, −2, ... become 1, 2, ..., and size, ... become size − 2, ..."""
    last = size - 1
    return last - abs(last - abs(i))


def _looked_up(x: Array, rows: Array, columns: Array) -> Array:
    """y_nijc = x[n, rows_ni, columns_nj, c], for indices that are inside.

    Of shapes (N, H) and (N, W), or with 1 for N where all images have the same.
    """
    n = _range(len(x))[:, None, None]
    pixels = x.at[n, rows[:, :, None], columns[:, None, :]]
    return pixels.get(mode="promise_in_bounds")
