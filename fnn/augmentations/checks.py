"""What augmentations check: their own sizes at once, the images when they come."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from fnn.checks import check_key, expect_shape, is_integer

__all__ = ["check_images", "check_size"]


def check_size(augmentation: Any, name: str, least: int) -> None:
    """Make a field a Python integer; an error where it is none, or too small."""
    size = getattr(augmentation, name)
    if not is_integer(size) or size < least:
        raise ValueError(
            f"{type(augmentation).__name__}: {name} must be a number of pixels, an "
            f"integer of at least {least}, got {size!r}"
        )
    object.__setattr__(augmentation, name, int(size))


def check_images(
    augmentation: Any, key: Any, x: Any, side: int = 1
) -> tuple[Array, Array]:
    """A key, and images (N, H, W, C) with sides of at least so many pixels."""
    key, x = check_key(key), jnp.asarray(x)
    expect_shape(augmentation, x, ("N", "H", "W", "C"))
    if min(x.shape[1:3]) < side:
        raise ValueError(
            f"{augmentation!r} expected images with sides of {side} pixels or more, "
            f"got {x.shape[1]} × {x.shape[2]}: nothing might be left of them"
        )
    return key, x
