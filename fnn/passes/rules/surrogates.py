"""Activations with jumps, and the slopes that stand in for theirs.

The derivative of a step is 0 wherever it exists, and nothing would be learned. The
backward takes the derivative of a function without jumps that looks alike:

    Sign        y = 1 where x ≥ 0, else −1      that of x clipped to [−1, 1]
    Quantized   y = round(L x) / L              that of x clipped to [0, 1]
    Spike       y = 1 where x > 0, else 0       that of ½ + x/(1 + β|x|)

The first two are straight-through estimators: dy passes as if nothing had been rounded.
"""

import jax.numpy as jnp
from jax import lax

from fnn.checks import as_inputs, positive_integer
from fnn.core import Backward, Forward, Layer, layer, leaf
from fnn.gradients.claims import Claim, Claiming
from fnn.typing import Array, KeyArray, Number, PyTree

__all__ = ["Quantized", "Sign", "Spike"]


@layer
class Sign(Claiming):
    """The sign with a straight-through backward.

        forward     y = 1 where x ≥ 0, else −1
        backward    dx = dy where |x| ≤ 1, else 0

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> sign, x = fnn.rules.Sign(), jnp.array([[-2.0, -0.5, 0.0, 3.0]])
        >>> y, saved, _ = sign.forward((), (), x)
        >>> print(y, sign.backward((), saved, jnp.ones_like(x)).dx)
        [[-1. -1.  1.  1.]] [[0. 1. 1. 0.]]

    Source: Bengio, Léonard and Courville, arXiv:1308.3432, section 4; Hubara et al.,
    arXiv:1602.02830, eq. 4.
    """

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        x = as_inputs(x)
        return Forward(self.step(x), saved=x, state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        x = saved
        return Backward(dx=jnp.where(jnp.abs(x) <= 1, dy, 0), dparams=())

    def to_claim(self) -> Layer:
        return Claim(self, _claim)

    def step(self, x: Array) -> Array:
        """Compute y."""
        return jnp.where(x >= 0, 1, -1).astype(x.dtype)

    def smooth(self, x: Array) -> Array:
        """Compute the function whose derivative the backward takes."""
        inside = jnp.abs(x) <= 1
        return jnp.where(inside, x, lax.stop_gradient(jnp.sign(x)))


@layer
class Quantized(Claiming):
    """An activation of b bits in [0, 1], with a straight-through backward.

    With L = 2ᵇ − 1 steps:

        forward     y = round(L c) / L,  c = x clipped to [0, 1]
        backward    dx = dy where 0 ≤ x ≤ 1, else 0

    Args:
        bits: b.

    Raises:
        ValueError: b is not a positive integer.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> x = jnp.array([[-1.0, 0.2, 0.6, 2.0]])
        >>> print(3 * fnn.rules.Quantized(2).forward((), (), x).y)
        [[0. 1. 2. 3.]]

    Source: Zhou et al., "DoReFa-Net", arXiv:1606.06160, eqs. 5, 6 and 11.
    """

    bits: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", positive_integer("Quantized: bits", self.bits))

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        x = as_inputs(x)
        return Forward(self.step(x), saved=x, state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        x = saved
        return Backward(dx=jnp.where((x >= 0) & (x <= 1), dy, 0), dparams=())

    def to_claim(self) -> Layer:
        return Claim(self, _claim)

    def step(self, x: Array) -> Array:
        """Compute y."""
        steps = 2**self.bits - 1
        return jnp.round(steps * self.smooth(x)) / steps

    def smooth(self, x: Array) -> Array:
        """Compute the function whose derivative the backward takes."""
        inside = (x >= 0) & (x <= 1)
        return jnp.where(inside, x, lax.stop_gradient(jnp.clip(x, 0, 1)))


@layer
class Spike(Claiming):
    """A neuron's spike with a surrogate gradient.

        forward     y = 1 where x > 0, else 0       x the potential above threshold
        backward    dx = dy / (1 + β|x|)²

    Args:
        slope: β, how fast the surrogate falls away from the threshold.

    Raises:
        ValueError: β is negative.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> spike, x = fnn.rules.Spike(1.0), jnp.array([[-1.0, 0.0, 1.0]])
        >>> y, saved, _ = spike.forward((), (), x)
        >>> print(y, spike.backward((), saved, jnp.ones_like(x)).dx)
        [[0. 0. 1.]] [[0.25 1.   0.25]]

    Source: Zenke and Ganguli, "SuperSpike", arXiv:1705.11146, section 3; Neftci,
    Mostafa and Zenke, arXiv:1901.09948.
    """

    slope: Number = leaf(10.0, shown=True)

    def __post_init__(self) -> None:
        if isinstance(self.slope, float) and not self.slope >= 0:
            raise ValueError(f"Spike: slope must be ≥ 0, got {self.slope}")

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        x = as_inputs(x)
        return Forward(self.step(x), saved=x, state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        x = saved
        slope = jnp.asarray(self.slope, x.dtype)
        return Backward(dx=dy / jnp.square(1 + slope * jnp.abs(x)), dparams=())

    def to_claim(self) -> Layer:
        return Claim(self, _claim)

    def step(self, x: Array) -> Array:
        """Compute y."""
        return jnp.where(x > 0, 1, 0).astype(x.dtype)

    def smooth(self, x: Array) -> Array:
        """Compute the function whose derivative the backward takes."""
        return x / (1 + jnp.asarray(self.slope, x.dtype) * jnp.abs(x))


def _claim(
    rule: Sign | Quantized | Spike, params: PyTree, state: PyTree, x: Array,
    key: KeyArray | None, train: bool,
) -> tuple[Array, PyTree]:  # fmt: skip
    """Compute the step, with the derivative of the smooth function."""
    x = as_inputs(x)
    smooth = rule.smooth(x)
    return smooth + lax.stop_gradient(rule.step(x) - smooth), state
