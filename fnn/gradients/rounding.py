"""What rounding does to a gradient: measured by rounding, not guessed.

A function is run in float64 with the result of every arithmetic operation rounded to
float32's 24 significant bits. Its distance from the exact run is what float32 can lose,
whatever the function: a sum that cancels loses more, a ReLU nothing. (Monte Carlo
arithmetic: D. S. Parker, UCLA CSD-970002, 1997.)

Several draws round at different places, because one may be right by luck:

    round_c(a) = round₂₄(c a) / c,    1 ≤ c < 2, one c for each draw

Equal numbers stay equal, so that of two equal maxima the first one still wins.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

__all__ = ["lost_digits"]

#: c of each draw.
DRAWS = (1.0, 1.08, 1.19, 1.31, 1.43, 1.57, 1.71, 1.87)

#: Calls of a function within a program, which are entered and not rounded as a whole.
CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"}


def lost_digits(fn: Callable[..., Any], *arguments: Any) -> Any:
    """fn(*arguments) with all its arithmetic rounded to float32, minus the exact one.

    Args:
        fn: a function of float64 arrays.
        arguments: what to call it with.

    Returns:
        A tree like fn's result; each leaf has a first axis for the draws.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> with jax.enable_x64(True):
        ...     lost = lost_digits(lambda a: (a + 1e4) - 1e4, jnp.array(1 / 3))
        ...     bool(1e-5 < abs(lost).max() < 1e-3)
        True
    """
    program, shape = jax.make_jaxpr(fn, return_shape=True)(*arguments)
    leaves = jax.tree.leaves(arguments)
    exact = jax.tree.leaves(fn(*arguments))

    def change(c: Array) -> list[Array]:
        rounded = _run(program.jaxpr, program.consts, leaves, c)
        return [a - b for a, b in zip(rounded, exact, strict=True)]

    draws = jnp.asarray(DRAWS, jnp.float64)
    # One after the other: under `vmap` every number is another one for each draw, and
    # convolutions become grouped ones, which are slow.
    return jax.tree.unflatten(jax.tree.structure(shape), lax.map(change, draws))


def _run(jaxpr: Any, consts: list, arguments: list, c: Array) -> list:
    """The program, operation by operation, each result rounded."""
    values = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        primitive, params = equation.primitive, equation.params
        if primitive.name in CALLS:
            inner = params["call_jaxpr" if "call_jaxpr" in params else "jaxpr"]
            outputs = _run(inner.jaxpr, inner.consts, inputs, c)
        else:
            outputs = primitive.bind(*inputs, **params)
            outputs = outputs if primitive.multiple_results else [outputs]
            outputs = [_rounded(output, c) for output in outputs]
        values |= zip(equation.outvars, outputs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _rounded(number: Array, c: Array) -> Array:
    if number.dtype != jnp.float64:
        return number
    return lax.reduce_precision(number * c, exponent_bits=11, mantissa_bits=23) / c
