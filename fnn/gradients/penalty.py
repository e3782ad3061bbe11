"""The penalty λ/(2n) Σ Θ² on the weights, value and derivative side by side.

It falls on the leaves that a layer declares as `penalized`: those called `weight`,
unless it says otherwise; never on biases, nor on scales of normalisations.
"""

import warnings
from typing import Any

import jax.numpy as jnp

from fnn.checks import check_l2
from fnn.core import Layer
from fnn.dtypes import at_least_float32, widen
from fnn.network import map_params
from fnn.typing import Array, Number, PyTree, Scalar

__all__ = ["check_penalty", "has_penalty", "penalty", "penalty_grads"]


def has_penalty(l2: Number) -> bool:
    """Return whether to compute a penalty; true for a traced λ, which is unknown."""
    return not (isinstance(l2, int | float) and l2 == 0)


def penalty(net: Layer, params: PyTree, l2: Number, n: Number) -> Scalar:
    """Compute λ/(2n) Σ Θ² over the leaves that layers declare as `penalized`."""
    squares: list[Array] = []

    def add(path: str, layer: Layer, leaf: Array) -> None:
        if _is_penalized(path, layer):  # summed in float32, as the loss's value is
            squares.append(jnp.square(widen(leaf)).sum())

    map_params(add, net, params)
    total = sum(squares[1:], start=squares[0]) if squares else jnp.zeros(())
    return jnp.asarray(l2, total.dtype) / (2 * jnp.asarray(n, total.dtype)) * total


def penalty_grads(net: Layer, params: PyTree, l2: Number, n: Number) -> PyTree:
    """Compute (λ/n) Θ for the weights, 0 elsewhere; a tree like `params`.

    λ Θ would be wrong: the gradient check fails with it.
    """

    def grad(path: str, layer: Layer, leaf: Array) -> Array:
        if not _is_penalized(path, layer):
            return jnp.zeros_like(leaf)
        # λ/n in at least float32: in float16, n = 70,000 is infinite.
        wide = at_least_float32(leaf.dtype)
        factor = jnp.asarray(l2, wide) / jnp.asarray(n, wide)
        return (factor * leaf.astype(wide)).astype(leaf.dtype)

    return map_params(grad, net, params)


def check_penalty(l2: Any, net: Layer, params: PyTree) -> float | None:
    """Return λ, or None for 0; warn of weights that it would silently pass over."""
    checked = check_l2(l2)
    if checked is None:
        return None
    passed_over: list[str] = []

    def visit(path: str, layer: Layer, leaf: Array) -> None:
        undeclared = type(layer).penalized is Layer.penalized
        if leaf.ndim > 1 and undeclared and not _is_penalized(path, layer):
            passed_over.append(path)

    map_params(visit, net, params)
    if passed_over:
        names = ", ".join(passed_over)
        warnings.warn(
            f"l2={l2} does not fall on {names}: name the parameters that it is for in "
            'the layer\'s class, penalized = ("kernel",), or () for none',
            stacklevel=4,  # of the caller of `fit`, which is wrapped
        )
    return checked


def _is_penalized(path: str, layer: Layer) -> bool:
    return path.rpartition(".")[2] in layer.penalized
