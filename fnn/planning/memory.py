"""How much memory a step takes: the compiler is asked, not guessed at.

Temporary memory is what a compiled program allocates besides its arguments and results.
Only compiling tells: which arrays are fused away, and which share a place, is decided
there. So the mode "memory" compiles a step of autodiff's, and then plans, the fastest
first, until one needs no more.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn.core import Layer, Variables

__all__ = ["step_by_autodiff", "step_by_hand", "temporary_bytes"]

Step = Callable[..., Any]


def step_by_autodiff(net: Layer) -> Step:
    """All gradients of Σ y, by JAX."""

    def step(variables: Variables, x: Any, key: Any) -> Any:
        def total(params: Any) -> Any:
            out = net.forward(params, variables.state, x, key=key, train=True)
            return out.y.sum(), out.state

        return jax.grad(total, has_aux=True)(variables.params)

    return step


def step_by_hand(net: Layer) -> Step:
    """The same by the layers' own backward."""

    def step(variables: Variables, x: Any, key: Any) -> Any:
        params, state = variables
        out = net.forward(params, state, x, key=key, train=True)
        return net.backward(params, out.saved, jnp.ones_like(out.y)).dparams, out.state

    return step


def temporary_bytes(
    step: Step, net: Layer, in_shape: tuple[int, ...], batch_size: int
) -> int:
    """What the compiled step allocates besides its arguments and results."""
    key = jax.random.key(0)
    variables = jax.eval_shape(lambda key: net.init(key, in_shape), key)
    x = jax.ShapeDtypeStruct((batch_size, *in_shape), jnp.zeros(()).dtype)
    compiled = jax.jit(step).lower(variables, x, key).compile()
    analysis: Any = compiled.memory_analysis()
    return analysis.temp_size_in_bytes
