"""The Kolen-Pollack rule: feedback weights that learn to be the forward's.

    dx = dy Bᵀ,    dW = xᵀ dy,    dB = xᵀ dy

W and B get the same gradient and decay alike, so that W − B shrinks with every step:
for gradient descent of rate η with the penalty λ/(2n) Σ (W² + B²),

    W_t − B_t = (1 − η λ/n)ᵗ (W_0 − B_0)

and the rule becomes backpropagation, without W ever being sent to where B is.
"""

from typing import Any, NamedTuple

import jax
from jax import lax

from fnn.core import Backward, Forward, Layer, Variables, layer
from fnn.gradients.claims import Claim, claimed
from fnn.passes.rules.base import Rule, may_have_weight, rewrite
from fnn.passes.rules.feedback import draw_feedback
from fnn.passes.rules.keys import for_rule
from fnn.typing import Array, InShape, KeyArray, PyTree

__all__ = ["KolenPollack", "KolenPollackParams", "kolen_pollack"]


def kolen_pollack(net: Layer) -> Layer:
    """Make the network that learns by the Kolen-Pollack rule.

        dx = dy Bᵀ,    dW = dB = xᵀ dy

    B is a parameter beside W, drawn by `init` and updated by the optimizer. It falls
    under the penalty as W does. Without a penalty, or a decay, B does not approach W.

    Args:
        net: any network; its layers with a parameter `weight` get a B.

    Returns:
        A network with the forward of `net`, and with variables of its own: where `net`
        has a layer's `params`, it has `KolenPollackParams(params, feedback)`.

    Raises:
        TypeError: `net` is not a layer.

    Example:
        >>> import jax, fnn
        >>> net = fnn.serial(fnn.Dense(8), fnn.Tanh(), fnn.Dense(3))
        >>> rule = fnn.rules.kolen_pollack(net)
        >>> params, _ = rule.init(jax.random.key(0), (4,))
        >>> params[2].params.weight.shape, params[2].feedback.shape
        ((8, 3), (8, 3))

    Source: Kolen and Pollack, ICNN 1994; Akrout et al., arXiv:1904.05391, section 3.2,
    eqs. 16 and 17.
    """

    def change(layer: Layer, number: int) -> Layer:
        return KolenPollack(layer) if may_have_weight(layer) else layer

    return rewrite(net, change)


class KolenPollackParams(NamedTuple):
    """The wrapped layer's `params`, and the `feedback` weight B of W's shape."""

    params: PyTree
    feedback: Array


@layer
class KolenPollack(Rule):
    """A layer with a feedback weight B that gets the gradient of W."""

    @property
    def wrapped(self) -> Layer | None:
        return None  # it has more variables

    @property
    def penalized(self) -> tuple[str, ...]:
        return (*self.layer.penalized, "feedback")

    @property
    def takes_ids(self) -> bool:
        return self.layer.takes_ids

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        params, state = self.layer.init(key, in_shape)
        feedback = draw_feedback(params.weight, for_rule(key))
        return Variables(KolenPollackParams(params, feedback), state)

    def forward(
        self, params: KolenPollackParams, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        return self.layer.forward(params.params, state, x, key=key, train=train)

    def backward(
        self, params: KolenPollackParams, saved: PyTree, dy: Array
    ) -> Backward:
        inner, feedback = params
        dx = self.layer.backward(inner._replace(weight=feedback), saved, dy).dx
        dparams = self.layer.backward(inner, saved, dy).dparams
        return Backward(dx, KolenPollackParams(dparams, feedback=dparams.weight))

    def to_claim(self) -> Layer:
        return Claim(KolenPollack(claimed(self.layer)), _claim)


def _claim(
    rule: KolenPollack, params: KolenPollackParams, state: PyTree, x: Array,
    key: KeyArray | None, train: bool,
) -> tuple[Array, PyTree]:  # fmt: skip
    """Compute f(W, stop(x)), plus f(stop(B), x) and f(B, stop(x)), values removed."""
    stop, (inner, feedback) = lax.stop_gradient, params

    def run(params: Any, x: Array) -> Forward:
        return rule.layer.forward(params, state, x, key=key, train=train)

    out = run(inner, stop(x))
    fixed = jax.tree.map(stop, inner)
    to_x = run(fixed._replace(weight=stop(feedback)), x).y
    to_b = run(fixed._replace(weight=feedback), stop(x)).y
    return out.y + (to_x - stop(to_x)) + (to_b - stop(to_b)), out.state
