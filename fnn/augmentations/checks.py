"""Checks of augmentations: of their sizes when they are built, of the images in use."""

from typing import Any

from fnn.checks import as_array, check_key, expect_shape, is_integer
from fnn.describe import shown
from fnn.typing import Array, KeyArray, Shaped

__all__ = ["check_images", "check_size"]


def check_size(augmentation: Any, name: str, least: int) -> None:
    """Turn a field into a Python integer, or raise if it is none, or too small."""
    size = getattr(augmentation, name)
    if not is_integer(size) or size < least:
        raise ValueError(
            f"{type(augmentation).__name__}: {name} must be a number of pixels, an "
            f"integer of at least {least}, got {shown(size)}"
        )
    object.__setattr__(augmentation, name, int(size))


def check_images(
    augmentation: Any, key: Any, x: Any, side: int = 1
) -> tuple[KeyArray, Shaped[Array, "N H W C"]]:
    """Return the key and the images as arrays, or raise if they are none.

    The sides of the images must have at least `side` pixels.
    """
    key, x = check_key(key), as_array("x", x)
    expect_shape(augmentation, x, ("N", "H", "W", "C"))
    if min(x.shape[1:3]) < side:
        raise ValueError(
            f"{augmentation!r} expected images with sides of {side} pixels or more, "
            f"got {x.shape[1]} × {x.shape[2]}: nothing might be left of them"
        )
    return key, x
