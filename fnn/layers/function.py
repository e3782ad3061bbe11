"""A layer for functions without a handwritten backward."""

from collections.abc import Callable
from dataclasses import field

import jax

from fnn.core import Backward, Forward, Layer, Variables, layer
from fnn.describe import shown
from fnn.typing import Array, InShape, KeyArray, PyTree

__all__ = ["Lambda"]


@layer
class Lambda(Layer):
    """A layer made of a JAX function; its backward is the function's `jax.vjp`.

        forward     y = fn(x)           or  fn(params, x)
        backward    dx = (∂fn/∂x)ᵀ dy       dparams = (∂fn/∂params)ᵀ dy

    The audit cannot check such a layer: both engines differentiate it by JAX.

    Args:
        fn: a function of the batch x, or, where `init_params` is given, of params
            and x. Two layers are equal if it is the same function object: a lambda
            written inside a loop compiles again in each iteration.
        init_params: `(key, in_shape) -> params`.
        trees: whether x and y may be trees of arrays, and not one array alone.

    Raises:
        TypeError: fn or init_params is not a function.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Dense(3), fnn.Lambda(jnp.sin))
        >>> net.init(jax.random.key(0), (2,)).params[1]
        ()
    """

    fn: Callable[..., Array]
    init_params: Callable[[KeyArray, InShape], PyTree] | None = None
    trees: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        for name, function in (("fn", self.fn), ("init_params", self.init_params)):
            if not callable(function) and (name == "fn" or function is not None):
                raise TypeError(
                    f"Lambda: {name} must be a function, got {shown(function)}"
                )

    @property
    def takes_trees(self) -> bool:
        return self.trees

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        if self.init_params is None:
            return Variables((), ())
        return Variables(self.init_params(key, in_shape), ())

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        return Forward(self._apply(params, x), saved=x, state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        # The forward is traced again; under `jit` XLA computes it once.
        _, vjp = jax.vjp(self._apply, params, saved)
        dparams, dx = vjp(dy)
        return Backward(dx=dx, dparams=dparams)

    def reach(self, in_shape: InShape) -> None:
        return None  # unknown

    def _apply(self, params: PyTree, x: Array) -> Array:
        return self.fn(x) if self.init_params is None else self.fn(params, x)
