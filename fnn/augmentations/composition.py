"""Compose augmentations, and make augmentations of functions."""

from collections.abc import Callable
from typing import Any

import jax

from fnn.checks import check_key, expect_instance
from fnn.describe import shown
from fnn.pytree import holds_numbers, leaf, pytree
from fnn.typing import Array

__all__ = ["Augmentation", "Compose", "Function", "as_augmentation", "compose"]

#: `augment(key, x) -> x`, a batch (N, H, W, C) to one of the same shape and dtype.
Augmentation = Callable[[Array, Array], Array]
"""The type of an augmentation: a function of a key and of images (N, H, W, C)."""


def compose(*augmentations: Augmentation) -> "Compose":
    """Apply augmentations one after the other, in this order.

    Args:
        *augmentations: augmentations of fnn, or functions `(key, x) -> x`. Without any,
            the result is the identity.

    Returns:
        An augmentation of images (N, H, W, C).

    Raises:
        TypeError: one of them is not a function.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> from fnn.augmentations import Flip, RandomCrop, compose
        >>> augment = compose(RandomCrop(4), Flip(), lambda key, x: 1 - x)
        >>> augment(jax.random.key(0), jnp.ones((2, 32, 32, 3))).shape
        (2, 32, 32, 3)
    """
    return Compose(augmentations)


@pytree
class Compose:
    """A sequence of augmentations, applied in order; built by `compose`.

        x_0 = x,    x_i = f_i(fold_in(key, i − 1), x_{i−1}),    y = x_L

    Args:
        steps: f_1 ... f_L.
    """

    steps: tuple[Augmentation, ...] = leaf()

    def __post_init__(self) -> None:
        steps = tuple(as_augmentation(step) for step in self.steps)
        object.__setattr__(self, "steps", steps)

    def __call__(self, key: Array, x: Array) -> Array:
        key = check_key(key)
        for i, step in enumerate(self.steps):
            x = step(jax.random.fold_in(key, i), x)
        return x


@pytree
class Function:
    """A function as a pytree without leaves: the function is compiled in.

    Args:
        function: `(key, x) -> x`.
    """

    function: Augmentation

    def __call__(self, key: Array, x: Array) -> Array:
        return self.function(key, x)


def as_augmentation(augment: Any) -> Augmentation:
    """Return an augmentation that can be an argument of a compiled function.

    A registered pytree of numbers, such as fnn's own, is returned unchanged; any other
    function is wrapped in a `Function`. Define yours once: a lambda that is created
    again for each run is another function, and compiles again.

    Args:
        augment: a function `(key, x) -> x`.

    Returns:
        An augmentation of images (N, H, W, C).

    Raises:
        TypeError: it is not a function, or cannot be compiled in.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> def darker(key, x):
        ...     return x / 2
        >>> augment = fnn.augmentations.as_augmentation(darker)
        >>> float(augment(jax.random.key(0), jnp.ones((1, 2, 2, 1))).max())
        0.5
    """
    expect_instance("augment", augment)
    if not callable(augment):
        raise TypeError(
            "augment must be a function augment(key, x) -> x, such as "
            f"fnn.augmentations.Flip(), got {shown(augment)}"
        )
    if holds_numbers(augment):
        return augment
    try:
        hash(augment)
    except TypeError as error:
        raise TypeError(
            "augment is compiled in and must be hashable, "
            f"got {shown(augment)}: make it a "
            "function or a frozen dataclass"
        ) from error
    return Function(augment)
