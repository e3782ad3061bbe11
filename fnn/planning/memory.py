"""The temporary memory of a step, as the compiler reports it.

Temporary memory is what a compiled program allocates besides its arguments and results.
It cannot be computed without compiling: the compiler decides which arrays are fused
away, and which share a buffer. So the mode "memory" compiles a step of the plain
network by autodiff, and then plans, the fastest first, until one needs no more.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn.core import Layer, Variables
from fnn.shapes import abstract_batch
from fnn.typing import Array, InShape, KeyArray, PyTree

__all__ = ["autodiff_step", "manual_step", "temporary_bytes"]

#: A function from variables, a batch x and a key to gradients and the new state.
Step = Callable[[Variables, Array, KeyArray], tuple[PyTree, PyTree]]


def autodiff_step(net: Layer) -> Step:
    """Return a function that computes all gradients of Σ y by JAX."""

    def step(variables: Variables, x: Array, key: KeyArray) -> tuple[PyTree, PyTree]:
        def total(params: PyTree) -> tuple[Array, PyTree]:
            out = net.forward(params, variables.state, x, key=key, train=True)
            sums = [y.sum() for y in jax.tree.leaves(out.y)]
            return sum(sums[1:], start=sums[0]), out.state

        return jax.grad(total, has_aux=True)(variables.params)

    return step


def manual_step(net: Layer) -> Step:
    """Return a function that computes the same by the layers' own backward."""

    def step(variables: Variables, x: Array, key: KeyArray) -> tuple[PyTree, PyTree]:
        params, state = variables
        out = net.forward(params, state, x, key=key, train=True)
        ones = jax.tree.map(jnp.ones_like, out.y)
        return net.backward(params, out.saved, ones).dparams, out.state

    return step


def temporary_bytes(step: Step, net: Layer, in_shape: InShape, batch_size: int) -> int:
    """Compile a step, and return the bytes of its temporary memory."""
    key = jax.random.key(0)
    variables = jax.eval_shape(lambda key: net.init(key, in_shape), key)
    x = abstract_batch(in_shape, batch_size)
    compiled = jax.jit(step).lower(variables, x, key).compile()
    analysis: Any = compiled.memory_analysis()
    return analysis.temp_size_in_bytes
