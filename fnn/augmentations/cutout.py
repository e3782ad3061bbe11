"""Cut-out: remove a part of the image.

Legend: N images, H × W pixels, C channels.
"""

import jax
import jax.numpy as jnp

from fnn.augmentations.checks import check_images, check_size
from fnn.pytree import pytree
from fnn.typing import Array, Bool, KeyArray

__all__ = ["CutOut"]


@pytree
class CutOut:
    """An augmentation that sets a square of s × s pixels of each image to zero.

        y_nijc = 0 where 0 ≤ i − a_n + h < s and 0 ≤ j − b_n + h < s, else x_nijc
        (a_n, b_n), the centre, uniform on the pixels of the image;    h = ⌊s/2⌋

    Near the border a part of the square is outside the image, and fewer pixels are
    removed: the authors found this important. They apply it to images from which the
    mean over the training set was subtracted, so that zero is the mean.

    Args:
        size: s, at most H and W.

    Raises:
        ValueError: s is not such a number; x is not of shape (N, H, W, C).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn.augmentations import CutOut
        >>> CutOut(2)(jax.random.key(3), jnp.ones((1, 3, 4, 1), int))[0, :, :, 0]
        Array([[0, 0, 1, 1],
               [0, 0, 1, 1],
               [1, 1, 1, 1]], dtype=int32)

    Source: DeVries and Taylor, arXiv:1708.04552 (s = 16 for CIFAR-10).
    """

    size: int

    def __post_init__(self) -> None:
        check_size(self, "size", least=1)

    def __call__(self, key: Array, x: Array) -> Array:
        key, x = check_images(self, key, x, side=self.size)
        row_key, column_key = jax.random.split(key)
        row = self._is_cut(row_key, len(x), x.shape[1])[:, :, None, None]
        column = self._is_cut(column_key, len(x), x.shape[2])[:, None, :, None]
        return jnp.where(row & column, jnp.zeros_like(x), x)

    def _is_cut(self, key: KeyArray, n: int, length: int) -> Bool[Array, "n length"]:
        """Return which rows, or columns, of each image belong to its square."""
        centre = jax.random.randint(key, (n, 1), 0, length, jnp.int32)
        i = jnp.arange(length, dtype=jnp.int32)[None] - centre + self.size // 2
        return (0 <= i) & (i < self.size)
