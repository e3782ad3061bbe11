"""A loss made of a function of one's own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn.describe import describe
from fnn.dtypes import widen
from fnn.losses.contract import Loss
from fnn.pytree import pytree
from fnn.typing import Array, InShape, Scalar

__all__ = ["Lambda"]


@pytree
class Lambda(Loss):
    """A loss made of a JAX function; its δ is the function's `jax.grad`.

        value   J = fn(z, y)
        delta   δ = ∂fn/∂z

    The audit compares δ with central differences of fn, as that of any loss. A δ of
    your own, to be compared with `jax.grad`, needs a class: see `fnn.losses.Loss`.

    Args:
        fn: a function of the outputs z (N, ...), in at least float32, and the labels y.
            It returns the mean over the batch, a scalar. Two losses are equal if it is
            the same function object: a lambda written inside a loop compiles again in
            each iteration.

    Raises:
        TypeError: fn is not a function, or does not return a scalar.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> quartic = fnn.losses.Lambda(lambda z, y: ((z - y) ** 4).mean())
        >>> z, y = jnp.array([[1.0], [2.0]]), jnp.zeros((2, 1))
        >>> print(quartic.value(z, y), quartic.delta(z, y).ravel())
        8.5 [ 2. 16.]
    """

    fn: Callable[[Array, Array], Array]

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(f"Lambda: fn must be a function, got {self.fn!r}")

    def value(self, z: Array, y: Array) -> Scalar:
        return self._value(widen(z), y)

    def delta(self, z: Array, y: Array) -> Array:
        return jax.grad(self._value)(widen(z), y).astype(z.dtype)

    def check(self, out_shape: InShape, y: Array) -> None:
        outputs = jax.ShapeDtypeStruct((y.shape[0], *out_shape), jnp.zeros(()).dtype)
        jax.eval_shape(self.value, outputs, jax.ShapeDtypeStruct(y.shape, y.dtype))

    def _value(self, z: Array, y: Array) -> Scalar:
        value: Any = self.fn(z, y)
        if jnp.shape(value) != () or not hasattr(value, "dtype"):
            raise TypeError(
                f"{self!r}: fn(z, y) must return the mean over the batch, a scalar, "
                f"got {describe(value)}. Write .mean() at its end."
            )
        return widen(value)
