"""Layers whose backward is not the derivative of their forward, and what it claims.

A backward rule such as feedback alignment sends something else down than ∂loss/∂x. What
it claims to send can be written as a forward with the same y, whose derivative by JAX
is just that: for example, with "stop" for `lax.stop_gradient`,

    y = W stop(x) + B x − stop(B x)         has the derivative B, and the value W x

The audit compares the handwritten backward with JAX's derivative of this claim.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import jax

from fnn.core import Backward, Forward, Layer, layer, leaf
from fnn.layers.frozen import Frozen
from fnn.layers.shared import Shared
from fnn.layers.tied import Tied
from fnn.typing import Array, KeyArray, PyTree

__all__ = ["Claim", "Claiming", "claimed"]


class Claiming(Layer):
    """A layer whose backward is not the derivative of its forward, but claims one."""

    @abstractmethod
    def to_claim(self) -> Layer:
        """Return a layer with the same variables and y, whose derivative is the claim.

        Layers inside it are claims already.
        """


def claimed(net: Layer) -> Layer:
    """Return the network with every layer that claims something replaced by its claim.

    Args:
        net: any network.

    Returns:
        The network; `net` itself where every backward is meant to be the derivative.
    """
    if isinstance(net, Claiming):
        return net.to_claim()
    if isinstance(net, Frozen | Tied):
        inner = claimed(net.layer)
        return net if inner is net.layer else dataclasses.replace(net, layer=inner)
    if isinstance(net, Shared):
        inner = claimed(net.net)
        return net if inner is net.net else Shared(inner)
    before = list(net.children.values())
    after = [claimed(child) for child in before]
    same = all(a is b for a, b in zip(before, after, strict=True))
    return net if same else net.with_children(*after)


@layer
class Claim(Layer):
    """A layer that is differentiated by JAX: the claim of `rule`.

    Args:
        rule: the layer that claims.
        function: the forward, a function `(rule, params, state, x, key, train)` that
            returns y and the new state.
    """

    rule: Layer = leaf()
    function: Callable[..., tuple[Array, PyTree]] | None = None

    @property
    def kind(self) -> str:
        return self.rule.kind

    @property
    def children(self) -> dict[str, Layer]:
        return self.rule.children

    @property
    def takes_ids(self) -> bool:
        return self.rule.takes_ids

    @property
    def takes_trees(self) -> bool:
        return self.rule.takes_trees

    def with_children(self, *layers: Layer) -> Layer:
        return Claim(self.rule.with_children(*layers), self.function)

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        def run(params: PyTree, x: Array) -> tuple[Array, PyTree]:
            function: Any = self.function
            return function(self.rule, params, state, x, key, train)

        y, new_state = run(params, x)
        _, pull_back = jax.vjp(lambda params, x: run(params, x)[0], params, x)
        return Forward(y, saved=pull_back, state=new_state)

    def backward(self, params: PyTree, saved: Any, dy: Array) -> Backward:
        dparams, dx = saved(dy)
        return Backward(dx, dparams)
