"""The frozen layer: no gradient of its parameters, and no statistics that move.

    forward     y = f(x; Θ) in evaluation mode, also where the network trains
    backward    dx = (∂f/∂x)ᵀ dy,       dΘ = 0, which is not computed

Legend: Θ the parameters of a layer.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jaxprs

from fnn.core import Backward, Forward, Layer, layer, leaf
from fnn.typing import KeyArray, PyTree

__all__ = ["Frozen"]


@layer
class Frozen(Layer):
    """A layer whose parameters get no gradient; built by `fnn.frozen`.

    It has the variables, the path and the key of the layer inside.

    Args:
        layer: f.
    """

    layer: Layer = leaf()

    penalized = ()

    @property
    def wrapped(self) -> Layer:
        return self.layer

    @property
    def suited_init(self) -> Any:  # pyrefly: ignore[bad-override]
        return self.layer.suited_init

    def with_children(self, *layers: Layer) -> Layer:
        inner = self.layer.with_children(*layers) if layers else self.layer
        return dataclasses.replace(self, layer=inner)

    def forward(
        self, params: PyTree, state: PyTree, x: PyTree, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        # Only its own parameters are constants: a child may be a probe.
        own = len(self.children)
        children, constants = _split(params, own)
        params = _join(params, children, jax.lax.stop_gradient(constants))
        return self.layer.forward(params, state, x, key=key, train=False)

    def backward(self, params: PyTree, saved: PyTree, dy: PyTree) -> Backward:
        own = len(self.children)
        _, constants = _split(params, own)
        zeros = jax.tree.map(jnp.zeros_like, constants)
        if not own:
            return Backward(_dx_alone(self.layer, params, saved, dy), zeros)
        out = self.layer.backward(params, saved, dy)
        children, _ = _split(out.dparams, own)
        return Backward(out.dx, _join(params, children, zeros))

    def __repr__(self) -> str:
        return f"frozen({self.layer!r})"


def _split(params: PyTree, children: int) -> tuple[tuple[Any, ...], PyTree]:
    """Split params into the children's, which come first, and the layer's own."""
    if not children:
        return (), params
    return tuple(params[:children]), tuple(params[children:])


def _join(like: PyTree, children: tuple[Any, ...], own: PyTree) -> PyTree:
    """Join what `_split` returned to a tree like `like`."""
    if not children:
        return own
    return getattr(like, "_make", tuple)([*children, *own])


def _dx_alone(layer: Layer, params: PyTree, saved: PyTree, dy: PyTree) -> PyTree:
    """Compute the dx of a layer's backward, and nothing that dx does not need."""

    def dx(params: PyTree, saved: PyTree, dy: PyTree) -> PyTree:
        return layer.backward(params, saved, dy).dx

    arguments = params, saved, dy
    closed, shapes = jax.make_jaxpr(dx, return_shape=True)(*arguments)
    needed = {id(var) for var in closed.jaxpr.outvars}
    kept: list[Any] = []
    for equation in reversed(closed.jaxpr.eqns):
        if equation.effects or any(id(var) in needed for var in equation.outvars):
            kept.append(equation)
            needed |= {id(var) for var in equation.invars}
    jaxpr = closed.jaxpr.replace(eqns=kept[::-1])
    run = jaxprs.jaxpr_as_fun(jaxprs.ClosedJaxpr(jaxpr, closed.consts))
    leaves = run(*jax.tree.leaves(arguments))
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)
