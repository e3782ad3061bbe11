"""A network whose gradients hold δ everywhere: at its input, and behind every layer."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from fnn.core import Backward, Forward, Layer, PyTree, Variables, kind, layer, leaf
from fnn.layers.probe import probe

__all__ = ["probe_all"]


class _InputParams(NamedTuple):
    params: PyTree
    x: Array


@layer
class _InputProbed(Layer):
    """A network whose ∂loss/∂x is the gradient of its parameter `x`, a zero."""

    layer: Layer = leaf()

    @property
    def kind(self):
        return kind(self.layer)

    @property
    def children(self):
        return {"": self.layer}

    def with_children(self, *layers):
        return _InputProbed(*layers)

    def forward(self, params, state, x, *, key=None, train=False):
        x = x + params.x
        (inner,) = state
        out = self.layer.forward(params.params, inner, x, key=key, train=train)
        return Forward(out.y, out.saved, (out.state,))

    def backward(self, params, saved, dy):
        dx, dparams = self.layer.backward(params.params, saved, dy)
        return Backward(dx, _InputParams(dparams, x=dx))


def probe_all(net: Layer, variables: Variables, x: Array) -> tuple[Layer, Variables]:
    """A probe on every layer's output, and one on the network's input."""
    probed, (params, state) = probe(net, variables, x)
    variables = Variables(_InputParams(params, jnp.zeros_like(x)), (state,))
    return _InputProbed(probed), variables
