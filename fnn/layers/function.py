"""The way in for what has no handwritten backward yet."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from fnn.core import Backward, Forward, Layer, Variables, layer

__all__ = ["Lambda"]


@layer
class Lambda(Layer):
    """Any JAX function as a layer; its backward is `jax.vjp` of it.

        forward     y = fn(x)           or  fn(params, x)
        backward    dx = (∂fn/∂x)ᵀ dy       dparams = (∂fn/∂params)ᵀ dy

    The audit can say nothing about such a layer: both engines ask JAX.

    Args:
        fn: a function of the batch x, or, where `init_params` is given, of params
            and x. Two layers are equal if it is the same function object: a lambda
            written inside a loop compiles again in each round.
        init_params: `(key, in_shape) -> params`.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Dense(3), fnn.Lambda(jnp.sin))
        >>> net.init(jax.random.key(0), (2,)).params[1]
        ()
    """

    fn: Callable[..., Array]
    init_params: Callable[[Array, tuple[int, ...]], Any] | None = None

    def __post_init__(self) -> None:
        for name, function in (("fn", self.fn), ("init_params", self.init_params)):
            if not callable(function) and (name == "fn" or function is not None):
                raise TypeError(f"Lambda: {name} must be a function, got {function!r}")

    def init(self, key, in_shape):
        if self.init_params is None:
            return Variables((), ())
        return Variables(self.init_params(key, in_shape), ())

    def forward(self, params, state, x, *, key=None, train=False):
        return Forward(self._apply(params, x), saved=x, state=state)

    def backward(self, params, saved, dy):
        # The forward is traced again, and under jit is the same computation.
        _, vjp = jax.vjp(self._apply, params, saved)
        dparams, dx = vjp(dy)
        return Backward(dx=dx, dparams=dparams)

    def reach(self, in_shape):
        return None  # nobody knows

    def _apply(self, params: Any, x: Array) -> Array:
        return self.fn(x) if self.init_params is None else self.fn(params, x)
