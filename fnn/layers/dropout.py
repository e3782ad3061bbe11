"""Dropout: units are removed at random, hidden or visible.

Put it after a layer to drop its hidden units, or first in the network to drop visible
ones (pixels).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fnn.checks import as_inputs, require_key
from fnn.core import Backward, Forward, Layer, layer, leaf

__all__ = ["Dropout"]


class Drawn(NamedTuple):
    """Saved in training: the key from which the backward draws the mask again."""

    key: Array


class Kept(NamedTuple):
    """Saved in evaluation, when nothing is dropped."""


@layer
class Dropout(Layer):
    """Remove each unit with probability p in training; do nothing in evaluation.

    With u ~ U[0, 1) drawn from the key, one number an element:

        forward     y = x / (1 − p) where u ≥ p, else 0
        backward    dx = dy / (1 − p) where u ≥ p, else 0

    The division keeps the expectation E[y] = x, so that evaluation needs no factor
    ("inverted" dropout). The mask is not stored: the same key draws it again.

    Args:
        rate: p, the probability of DROPPING a unit, in [0, 1). A leaf: a sweep may
            vary it under `vmap` without compiling again.

    Raises:
        ValueError: a rate outside [0, 1); no key in training.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> dropout, x = fnn.Dropout(0.5), jnp.ones((1, 6))
        >>> dropout.forward((), (), x, key=jax.random.key(1), train=True).y
        Array([[2., 0., 2., 2., 2., 2.]], dtype=float32)
        >>> dropout.forward((), (), x).y
        Array([[1., 1., 1., 1., 1., 1.]], dtype=float32)

    Source: Srivastava et al., JMLR 15 (2014), section 4 and, for the factor, 10.
    """

    rate: float = leaf(0.5)

    def __post_init__(self) -> None:
        if isinstance(self.rate, float) and not 0 <= self.rate < 1:
            raise ValueError(
                "Dropout: rate is the probability of dropping a unit and must be in "
                f"[0, 1), got {self.rate}. For a probability q of keeping, pass 1 - q."
            )

    def forward(self, params, state, x, *, key=None, train=False):
        if not train:
            return Forward(x, saved=Kept(), state=state)
        key = require_key(self, key)
        return Forward(self._drop(as_inputs(x), key), saved=Drawn(key), state=state)

    def backward(self, params, saved, dy):
        dx = dy if isinstance(saved, Kept) else self._drop(dy, saved.key)
        return Backward(dx=dx, dparams=())

    def _drop(self, x: Array, key: Array) -> Array:
        # In float32 whatever x's dtype: the same key must give the same mask, and in
        # half precision a rate of 0.999 would round to 1.
        rate = jnp.asarray(self.rate, jnp.float32)
        scale = (1 / (1 - rate)).astype(x.dtype)
        return jnp.where(_uniform(key, x.shape) >= rate, x * scale, 0)


def _uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Float32 numbers in [0, 1) from JAX's threefry, drawn so that they can be shared.

    Forward and backward draw the same numbers, and the compiler should notice. With
    `jax.random.uniform` it does not inside a `lax.scan` on the CPU: XLA moves the
    constant counters of each draw out of the loop, separately, and then takes the two
    for different. Counters that start at a word of the key are not constant, stay,
    and are recognised. (One block gives two words here, so a draw is also cheaper.)
    """
    words = jax.random.key_data(key)
    size = math.prod(shape)
    counters = jax.lax.iota(jnp.uint32, size + size % 2) + words[0]
    # Imported here, because jax.extend brings Pallas along.
    from jax.extend.random import threefry_2x32

    bits = threefry_2x32((words[0], words[1]), counters)[:size]
    return ((bits >> 8).astype(jnp.float32) * 2.0**-24).reshape(shape)
