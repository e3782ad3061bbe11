"""Direct feedback alignment: the network's own error goes to every layer at once.

With e = ∂loss/∂z, the δ of the network's output, and x_l the input of layer l, which is
what the layers below it have made,

    backpropagation     dx_l = dy_l W_lᵀ
    direct feedback     dx_l = e B_l            B_l (K, features of x_l), drawn once

for every layer l with a weight. What is between, activations and pools, is passed as
ever: dy of a layer is dx of the next one with a weight, through their derivatives. No
error has to wait for the layers above.

Legend: N examples, K outputs of the network.
"""

import math
from collections.abc import Callable
from dataclasses import field

import jax
import jax.numpy as jnp
from jax import lax

from fnn.core import Backward, Forward, Layer, layer, leaf
from fnn.gradients.claims import Claim, Claiming, claimed
from fnn.passes.rules.base import Rule, has_weight, may_have_weight, rewrite
from fnn.passes.rules.keys import FixedKey, for_rule
from fnn.typing import Array, Float, KeyArray, PyTree

__all__ = ["DirectFeedback", "direct_feedback_alignment"]


def direct_feedback_alignment(net: Layer, key: Array) -> Layer:
    """Make the network that learns by direct feedback alignment.

        dx_l = e B_l        e = ∂loss/∂z, B_l (K, features of x_l) drawn once

    The entries of B_l are drawn from N(0, 1/features), so that e B_l is about as long
    as e. In a residual block the shortcut passes δ on as ever.

    Args:
        net: any network; all of its layers with a weight get the error.
        key: the key that the B_l are drawn from.

    Returns:
        A network with the variables and the forward of `net`.

    Raises:
        TypeError: `net` is not a layer, or `key` no key.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Dense(8), fnn.Tanh(), fnn.Dense(3))
        >>> rule = fnn.rules.direct_feedback_alignment(net, jax.random.key(1))
        >>> variables = rule.init(jax.random.key(0), (4,))
        >>> grad = jax.jit(fnn.value_and_grad(rule, fnn.losses.SquaredError()))
        >>> grad(variables, (jnp.ones((5, 4)), jnp.zeros((5, 3)))).grads[0].weight.shape
        (4, 8)

    Source: Nøkland, arXiv:1609.01596, section 3, eq. 6.
    """
    settled = rewrite(net, lambda layer, number: layer)  # with its initialisers
    return DirectFeedback(settled, FixedKey.of(key))


@layer
class DirectFeedback(Claiming):
    """A network whose backward hands its own dy to all layers with a weight.

    Its children are those of the network.

    Args:
        net: the network.
        key: the key of all B_l.
    """

    net: Layer = leaf()
    key: FixedKey = leaf(FixedKey((0, 0)))

    @property
    def wrapped(self) -> Layer:
        return self.net

    @property
    def penalized(self) -> tuple[str, ...]:  # pyrefly: ignore[bad-override]
        return self.net.penalized

    def with_children(self, *layers: Layer) -> Layer:
        return DirectFeedback(self.net.with_children(*layers), self.key)

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        return self.net.forward(params, state, x, key=key, train=train)

    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        return _told(self, dy).backward(params, saved, dy)

    def to_claim(self) -> Layer:
        return Claim(DirectFeedback(claimed(self.net), self.key), _claim)


def _weights(key: KeyArray, outputs: int, x: Array) -> Array:
    """Draw B (K, features of x), so that e B has about the length of e."""
    features = math.prod(x.shape[1:])
    drawn = jax.random.normal(for_rule(key), (outputs, features), jnp.float32)
    return (drawn / math.sqrt(features)).astype(x.dtype)


def _rows(x: Array) -> Float[Array, "N F"]:
    return x.reshape(len(x), math.prod(x.shape[1:]))


@layer
class _Told(Rule):
    """A layer that was told the error e; it exists only while a backward is traced."""

    key: FixedKey = leaf(FixedKey((0, 0)))
    error: Array = leaf(0.0)

    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        dx, dparams = self.layer.backward(params, saved, dy)
        if has_weight(params):
            e = _rows(self.error)
            projected = e @ _weights(self.key.key, e.shape[1], dx)
            dx = projected.reshape(dx.shape).astype(dx.dtype)
        return Backward(dx, dparams)

    def to_claim(self) -> Layer:
        return self


def _told(rule: DirectFeedback, error: Array) -> Layer:
    """Return the network whose layers with a weight know the error."""

    def tell(layer: Layer, number: int) -> Layer:
        if not may_have_weight(layer):
            return layer
        return _Told(layer, rule.key.child(number), error)

    return rewrite(rule.net, tell)


# ---- The claim -------------------------------------------------------------------


@layer
class _Tapped(Rule):
    """A layer cut off from what is below it, whose input is reported."""

    report: Callable[[Array], None] = field(kw_only=True)

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        if has_weight(params):
            self.report(x)
            x = lax.stop_gradient(x)
        return super().forward(params, state, x, key=key, train=train)

    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        return self.layer.backward(params, saved, dy)

    def to_claim(self) -> Layer:
        return self


def _claim(
    rule: DirectFeedback, params: PyTree, state: PyTree, x: Array,
    key: KeyArray | None, train: bool,
) -> tuple[Array, PyTree]:  # fmt: skip
    """Compute z + Σ_l (x_l B_lᵀ − stop(x_l B_lᵀ)), every layer cut off from below."""
    inputs: list[tuple[FixedKey, Array]] = []

    def tap(layer: Layer, number: int) -> Layer:
        if not may_have_weight(layer):
            return layer
        fixed = rule.key.child(number)
        return _Tapped(layer, report=lambda x: inputs.append((fixed, x)))

    net = rewrite(rule.net, tap)
    out = net.forward(params, state, x, key=key, train=train)
    z, outputs = out.y, math.prod(out.y.shape[1:])
    for fixed, x_l in inputs:
        fed = _rows(x_l) @ _weights(fixed.key, outputs, x_l).T
        z = z + (fed - lax.stop_gradient(fed)).reshape(z.shape).astype(z.dtype)
    return z, out.state
