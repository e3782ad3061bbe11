"""Rules that send δ down by another weight than the forward's: feedback weights B.

    backpropagation         dx = dy Wᵀ
    feedback                dx = dy Bᵀ,     dW = xᵀ dy as ever

    alignment               B drawn once
    sign-symmetric          B = M ∘ sign(W), with the magnitudes M
        uniform (uSF)           √(2/(fan_in + fan_out)), the same for all
        fixed (frSF)            drawn once
        random (brSF)           drawn anew in every step

The layer's own backward, handed B in place of W, computes dx: so the equation serves
convolutions, and any other layer that is linear in a parameter called `weight`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.checks import require_key
from fnn.core import Backward, Forward, Layer, layer, leaf
from fnn.describe import shown
from fnn.gradients.claims import Claim, claimed
from fnn.passes.rules.base import Rule, map_weights, may_have_weight, rewrite
from fnn.passes.rules.keys import FixedKey, for_rule
from fnn.typing import Array, KeyArray, PyTree

__all__ = ["Feedback", "draw_feedback", "feedback_alignment", "sign_symmetric"]


def feedback_alignment(net: Layer, key: Array) -> Layer:
    """Make the network that learns by feedback alignment: fixed random weights go back.

        dx = dy Bᵀ      B drawn once, by Glorot's initialiser, for each layer

    Weights W learn to agree with B, so that dy Bᵀ comes to point within 90° of dy Wᵀ.

    Args:
        net: any network; dense and convolutional layers get feedback weights.
        key: the key that B is drawn from.

    Returns:
        A network with the variables and the forward of `net`.

    Raises:
        TypeError: `net` is not a layer, or `key` no key.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Dense(8), fnn.Tanh(), fnn.Dense(3))
        >>> rule = fnn.rules.feedback_alignment(net, jax.random.key(1))
        >>> variables = rule.init(jax.random.key(0), (4,))
        >>> x = jax.random.normal(jax.random.key(2), (5, 4))
        >>> batch, loss = (x, jnp.zeros((5, 3))), fnn.losses.SquaredError()
        >>> ours = jax.jit(fnn.value_and_grad(rule, loss))(variables, batch).grads
        >>> true = jax.jit(fnn.value_and_grad(net, loss))(variables, batch).grads
        >>> [bool(jnp.allclose(ours[i].weight, true[i].weight)) for i in (0, 2)]
        [False, True]

    Source: Lillicrap et al., Nature Communications 7:13276 (2016), eq. 2.
    """
    return _with_feedback(net, key, "alignment")


#: The names of the papers, for the kinds of sign-symmetric feedback.
KINDS = {"uSF": "uniform", "frSF": "fixed", "brSF": "random"}


def sign_symmetric(net: Layer, key: Array, kind: str = "uniform") -> Layer:
    """Make the network whose feedback has the signs of the weights, not their sizes.

        dx = dy Bᵀ      B = M ∘ sign(W)

    Args:
        net: any network; dense and convolutional layers get feedback weights.
        key: the key that magnitudes are drawn from, as absolute values by Glorot's
            initialiser.
        kind: "uniform" or "uSF", all magnitudes √(2/(fan_in + fan_out)); "fixed" or
            "frSF", drawn once; "random" or "brSF", drawn anew in every step, from the
            key of the forward.

    Returns:
        A network with the variables and the forward of `net`.

    Raises:
        ValueError: the kind is unknown; or, in a step, "random" is given no key.

    Example:
        >>> import jax, fnn
        >>> net = fnn.serial(fnn.Dense(8), fnn.Tanh(), fnn.Dense(3))
        >>> rule = fnn.rules.sign_symmetric(net, jax.random.key(1), "fixed")
        >>> rule.init(jax.random.key(0), (4,)).params[2].weight.shape
        (8, 3)

    Source: Liao, Leibo and Poggio, arXiv:1510.05067, section 3; the uniform magnitude:
    Xiao et al., arXiv:1811.03567, section 3.
    """
    kind = KINDS.get(kind, kind)
    if kind not in KINDS.values():
        raise ValueError(
            f"sign_symmetric: kind must be {', '.join(map(repr, KINDS.values()))}, or "
            f"{', '.join(map(repr, KINDS))}, got {shown(kind)}"
        )
    return _with_feedback(net, key, kind)


def _with_feedback(net: Layer, key: Array, kind: str) -> Layer:
    fixed = FixedKey.of(key)

    def change(layer: Layer, number: int) -> Layer:
        if not may_have_weight(layer):
            return layer
        return Feedback(layer, fixed.child(number), kind)

    return rewrite(net, change)


# ---- The weights B ---------------------------------------------------------------


def draw_feedback(weight: Array, key: KeyArray) -> Array:
    """Draw feedback weights of a weight's shape, by Glorot's uniform initialiser.

    They are drawn in float32 whatever the dtype: the same key must draw the same B. And
    they are independent of weights that an initialiser draws from the same key.
    """
    bound = math.sqrt(6 / _sum_of_fans(weight))
    drawn = jax.random.uniform(for_rule(key), weight.shape, jnp.float32, -bound, bound)
    return drawn.astype(weight.dtype)


def _sum_of_fans(weight: Array) -> int:
    """Return fan_in + fan_out."""
    *kernel, inputs, outputs = (1,) * (2 - weight.ndim) + weight.shape
    return math.prod(kernel) * (inputs + outputs)


def _signed(weight: Array, key: KeyArray) -> Array:
    return jnp.abs(draw_feedback(weight, key)) * jnp.sign(weight)


def _uniform(weight: Array, key: KeyArray) -> Array:
    size = math.sqrt(2 / _sum_of_fans(weight))
    return jnp.sign(weight) * jnp.asarray(size, weight.dtype)


WEIGHTS: dict[str, Callable[[Array, KeyArray], Array]] = {
    "alignment": draw_feedback,
    "uniform": _uniform,
    "fixed": _signed,
    "random": _signed,
}


@layer
class Feedback(Rule):
    """A layer with feedback weights: dx by B, dparams by the layer itself.

    Args:
        layer: the wrapped layer.
        key: the key of B, where it is fixed.
        kind: how B is made: "alignment", "uniform", "fixed" or "random".
    """

    key: FixedKey = leaf(FixedKey((0, 0)))
    weights: str = "alignment"

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        out = super().forward(params, state, x, key=key, train=train)
        return out._replace(saved=(out.saved, self._step_key(key, train)))

    def backward(self, params: PyTree, saved: Any, dy: Array) -> Backward:
        inner, step_key = saved
        feedback = self.feedback(params, step_key)
        return Backward(
            dx=self.layer.backward(feedback, inner, dy).dx,
            dparams=self.layer.backward(params, inner, dy).dparams,
        )

    def feedback(self, params: PyTree, step_key: KeyArray | None) -> PyTree:
        """Return the parameters with B in place of W."""
        key = self.key.key if step_key is None else step_key

        def draw(weight: Array, number: int) -> Array:
            numbered = jax.random.fold_in(key, number)
            return WEIGHTS[self.weights](weight, numbered)

        return map_weights(draw, params)

    def to_claim(self) -> Layer:
        return Claim(self, _claim)

    def _step_key(self, key: KeyArray | None, train: bool) -> KeyArray | None:
        if self.weights != "random" or (key is None and not train):
            return None
        return for_rule(require_key(self, key))


def _claim(
    rule: Feedback, params: PyTree, state: PyTree, x: Array, key: KeyArray | None,
    train: bool,
) -> tuple[Array, PyTree]:  # fmt: skip
    """Compute f(W, stop(x)) + f(stop(B), x) − stop(f(B, x))."""
    stop, inner = lax.stop_gradient, claimed(rule.layer)
    out = inner.forward(params, state, stop(x), key=key, train=train)
    feedback = stop(rule.feedback(params, rule._step_key(key, train)))
    other = inner.forward(feedback, state, x, key=key, train=train).y
    return out.y + (other - stop(other)), out.state
