"""Random numbers for parameters, with few compilations.

Drawing an array compiles for its shape, and an array of four axes takes XLA some five
times as long as a flat one: seconds for LeNet. So the numbers are drawn flat, in rows
of few lengths, and an array takes the first ones of a row. With JAX's default generator
(threefry, partitionable) these are the numbers of an array that is drawn by itself:
number i depends on the key and on i alone.

Inside `jit` or `vmap` the numbers are drawn flat and to measure: the program is
compiled as a whole.

Legend: v the variance, U a uniform number in [-1, 1), T a normal number that is cut off
at ±2, of standard deviation 0.8796.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.typing import Array, KeyArray, Number

__all__ = ["filled", "normal", "truncated_normal", "uniform"]

#: A function (key, shape) -> Array.
_Draw = Callable[[KeyArray, tuple[int, ...]], Array]

#: The shortest row; longer ones are a power of 2 long.
SHORTEST_ROW = 2**16

#: The standard deviation of a standard normal number that is cut off at ±2.
CUT_OFF_STDDEV = 0.87962566103423978


def filled(key: KeyArray, shape: tuple[int, ...], value: Number) -> Array:
    """Return an array with the same value in all entries; traced if the key is."""
    if _is_local(key) and isinstance(value, float):
        return jnp.asarray(np.full(shape, value, _dtype()))
    return jnp.full(shape, value, _dtype())


def normal(key: KeyArray, shape: tuple[int, ...], stddev: Number) -> Array:
    """Draw numbers of N(0, stddev²)."""
    return _scaled(jax.random.normal, key, shape, jnp.asarray(stddev, _dtype()))


def truncated_normal(key: KeyArray, shape: tuple[int, ...], variance: float) -> Array:
    """Draw numbers T √v / 0.8796, of variance v."""
    dtype = _dtype()
    stddev = np.sqrt(dtype.type(variance)) / dtype.type(CUT_OFF_STDDEV)
    return _scaled(_cut_off_normal, key, shape, stddev)


def uniform(key: KeyArray, shape: tuple[int, ...], variance: float) -> Array:
    """Draw numbers U √(3v), of variance v."""
    dtype = _dtype()
    bound = np.sqrt(dtype.type(3) * dtype.type(variance))
    return _scaled(_symmetric_uniform, key, shape, bound)


def _cut_off_normal(key: KeyArray, shape: tuple[int, ...]) -> Array:
    return jax.random.truncated_normal(key, -2, 2, shape)


def _symmetric_uniform(key: KeyArray, shape: tuple[int, ...]) -> Array:
    return jax.random.uniform(key, shape, minval=-1)


def _scaled(draw: _Draw, key: KeyArray, shape: tuple[int, ...], scale: Any) -> Array:
    """Draw numbers and multiply them."""
    size = math.prod(shape)
    if (
        not _is_local(key)
        or not _has_prefixes(key)
        or isinstance(scale, jax.core.Tracer)
    ):
        return draw(key, (size,)).reshape(shape) * scale
    length = max(SHORTEST_ROW, 1 << (size - 1).bit_length())
    row = jax.device_get(_row(draw, length, key))
    return jnp.asarray(row[:size].reshape(shape) * np.asarray(scale))


@partial(jax.jit, static_argnums=(0, 1))
def _row(draw: _Draw, length: int, key: KeyArray) -> Array:
    return draw(key, (length,))


def _dtype() -> Any:
    """Return the dtype of parameters: float32, or float64 where x64 is enabled."""
    return jax.dtypes.canonicalize_dtype(float)


def _is_local(key: KeyArray) -> bool:
    """Return whether nothing is traced, and the key is where arrays are made."""
    if isinstance(key, jax.core.Tracer) or not jax.sharding.get_abstract_mesh().empty:
        return False
    made = jnp.zeros(())
    return not isinstance(made, jax.core.Tracer) and key.devices() == made.devices()


def _has_prefixes(key: KeyArray) -> bool:
    """Return whether a shorter row is the beginning of a longer one."""
    is_threefry = jax.random.key_impl(key) == "threefry2x32"
    return is_threefry and bool(jax.threefry_partitionable.value)
