"""Running a function with its primitive operations replaced by others."""

from collections.abc import Callable
from typing import Any

import jax

__all__ = ["Operation", "bind", "replace_operations"]

#: Operations that call a function; its own operations are replaced in turn.
CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"}

#: A function (primitive, inputs, params) -> outputs, in place of the primitive.
Operation = Callable[[Any, list[Any], dict[str, Any]], list[Any]]


def bind(primitive: Any, inputs: list[Any], params: dict[str, Any]) -> list[Any]:
    """Return the outputs of the primitive itself."""
    outputs = primitive.bind(*inputs, **params)
    return outputs if primitive.multiple_results else [outputs]


def replace_operations(
    fn: Callable[..., Any], operation: Operation
) -> Callable[..., Any]:
    """Make a function that computes fn, but each primitive by `operation`.

    Functions that fn calls are included. The bodies of its loops are not: a loop is one
    operation.
    """

    def replaced(*arguments: Any) -> Any:
        jaxpr, shapes = jax.make_jaxpr(fn, return_shape=True)(*arguments)
        results = _evaluate(jaxpr, jax.tree.leaves(arguments), operation)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return replaced


def _evaluate(
    closed_jaxpr: Any, arguments: list[Any], operation: Operation
) -> list[Any]:
    """Return the results of a jaxpr for these arguments."""
    jaxpr = closed_jaxpr.jaxpr
    values = dict(zip(jaxpr.constvars, closed_jaxpr.consts, strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        primitive, params = equation.primitive, equation.params
        if primitive.name in CALLS:
            called = params["call_jaxpr" if "call_jaxpr" in params else "jaxpr"]
            outputs = _evaluate(called, inputs, operation)
        else:
            outputs = operation(primitive, inputs, params)
        values |= zip(equation.outvars, outputs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]
