"""Running a function operation by operation, so that operations can be exchanged."""

from collections.abc import Callable
from typing import Any

import jax

__all__ = ["Operation", "as_written", "interpret", "traced"]

#: Calls of a function within a program, which are entered.
CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"}

#: (primitive, inputs, params) -> outputs, a list.
Operation = Callable[[Any, list, dict], list]


def as_written(primitive: Any, inputs: list, params: dict) -> list:
    """The operation itself."""
    outputs = primitive.bind(*inputs, **params)
    return outputs if primitive.multiple_results else [outputs]


def traced(fn: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    """The program of fn at these arguments, and the structure of its result."""
    program, shape = jax.make_jaxpr(fn, return_shape=True)(*arguments)
    return program, jax.tree.structure(shape)


def interpret(program: Any, arguments: list, operation: Operation) -> list:
    """The results of a program, each operation of it done by `operation`.

    Functions that it calls are entered. The bodies of its loops are not: a loop is one
    operation.
    """
    jaxpr = program.jaxpr
    values = dict(zip(jaxpr.constvars, program.consts, strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        primitive, params = equation.primitive, equation.params
        if primitive.name in CALLS:
            inner = params["call_jaxpr" if "call_jaxpr" in params else "jaxpr"]
            outputs = interpret(inner, inputs, operation)
        else:
            outputs = operation(primitive, inputs, params)
        values |= zip(equation.outvars, outputs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]
