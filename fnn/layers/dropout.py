"""Dropout, which sets units to zero at random.

Put it after a layer to drop hidden units, or first in the network to drop visible ones
(pixels).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Imported with the module: it adds settings to JAX, and a program that was traced
# before a setting existed is traced and compiled again at its next call.
from jax.extend.random import threefry_2x32

from fnn.checks import as_inputs, require_key
from fnn.core import Backward, Forward, Layer, layer, leaf
from fnn.dtypes import at_least_float32, widen
from fnn.typing import Array, Bool, KeyArray, PyTree

__all__ = ["Dropout", "Eval", "Train"]


class Train(NamedTuple):
    """The key, saved in training: the backward draws the mask from it again."""

    key: KeyArray


class Eval(NamedTuple):
    """An empty tuple, saved in evaluation, when nothing is dropped."""


@layer
class Dropout(Layer):
    """A layer that sets each unit to 0 with probability p in training.

    With u ~ U[0, 1) drawn from the key, one number per element:

        forward     y = x / (1 − p) where u ≥ p, else 0
        backward    dx = dy / (1 − p) where u ≥ p, else 0

    In evaluation y = x: the division keeps the expectation E[y] = x, so that no factor
    is needed ("inverted" dropout). The mask is not stored: the same key draws it again.
    The factor 1/(1 − p) is applied in at least float32, and is at most 2²⁴: in float16
    it may be infinite where y is not. (u has 24 bits; a rate nearer to 1 drops all.)

    Args:
        rate: p, the probability of DROPPING a unit, in [0, 1). A leaf: a sweep may
            vary it under `vmap` without compiling again.

    Raises:
        ValueError: the rate is outside [0, 1); there is no key in training.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> dropout, x = fnn.Dropout(0.5), jnp.ones((1, 6))
        >>> dropout.forward((), (), x, key=jax.random.key(1), train=True).y
        Array([[2., 0., 2., 2., 2., 2.]], dtype=float32)
        >>> dropout.forward((), (), x).y
        Array([[1., 1., 1., 1., 1., 1.]], dtype=float32)

    Source: Srivastava et al., JMLR 15 (2014), section 4 and, for the factor, 10.
    """

    rate: float = leaf(0.5, shown=True)

    def __post_init__(self) -> None:
        if isinstance(self.rate, float) and not 0 <= self.rate < 1:
            raise ValueError(
                "Dropout: rate is the probability of dropping a unit and must be in "
                f"[0, 1), got {self.rate}. For a probability q of keeping, pass 1 - q."
            )

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        if not train:
            return Forward(x, saved=Eval(), state=state)
        key, x = require_key(self, key), as_inputs(x)
        y = self.dropped(x, self.kept(key, x.shape))
        return Forward(y, saved=Train(key), state=state)

    def backward(self, params: PyTree, saved: Train | Eval, dy: Array) -> Backward:
        if isinstance(saved, Eval):
            return Backward(dx=dy, dparams=())
        dx = self.dropped(dy, self.kept(saved.key, dy.shape))
        return Backward(dx=dx, dparams=())

    def kept(self, key: KeyArray, shape: tuple[int, ...]) -> Bool[Array, "*S"]:
        """Return the mask that a key draws: u ≥ p."""
        # In float32 whatever x's dtype: the same key must draw the same mask, and in
        # half precision a rate of 0.999 would round to 1.
        return _uniform(key, shape) >= jnp.asarray(self.rate, jnp.float32)

    def dropped(self, x: Array, kept: Bool[Array, "*S"]) -> Array:
        """Return x / (1 − p) where it is kept, else 0."""
        rate = jnp.asarray(self.rate, jnp.float32)
        scale = 1 / jnp.maximum(1 - rate, 2.0**-24)  # not inf, which times 0 is NaN
        y = (widen(x) * scale.astype(at_least_float32(x.dtype))).astype(x.dtype)
        return jnp.where(kept, y, 0)


def _uniform(key: KeyArray, shape: tuple[int, ...]) -> Array:
    """Draw float32 numbers in [0, 1) by JAX's threefry, once for both passes.

    Forward and backward draw the same numbers, and XLA should compute them only once.
    With `jax.random.uniform` it does not do so inside a `lax.scan` on the CPU: it moves
    the constant counters of each draw out of the loop, and then takes them for
    different ones. Counters that start at a word of the key are not constant and stay,
    so that XLA sees that they are equal. (A draw is also cheaper: each threefry block
    makes two words.)
    """
    words = jax.random.key_data(key)
    size = math.prod(shape)
    counters = jax.lax.iota(jnp.uint32, size + size % 2) + words[0]
    bits = threefry_2x32((words[0], words[1]), counters)[:size]
    return ((bits >> 8).astype(jnp.float32) * 2.0**-24).reshape(shape)
