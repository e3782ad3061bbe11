"""Activations: y = g(x), element by element.

Those that are made of pieces with kinks, but for the ReLUs, are in `piecewise`, and
those that couple the entries of the last axis in `softmax`.

Each forward saves x or y, whichever makes the derivative cheaper: y where possible,
because the next layer saves it anyway. At the edges y and dx are fixed by convention,
the same in both engines:

    a kink      relu'(0) = 0, leaky_relu'(0) = negative_slope, elu'(0) = alpha; on the
                CPU, XLA takes denormal numbers for 0
    x = ±∞      y and dx are their limits, and so they are where x is merely huge
    x = NaN     y is NaN, and so is dx, except for three: a comparison takes NaN for a
                number that is not positive, hence relu'(NaN) = 0 and leaky_relu'(NaN) =
                negative_slope (as in JAX), and Identity passes dy on
"""

import math
from dataclasses import field
from typing import ClassVar

import jax
import jax.numpy as jnp

from fnn.checks import as_inputs
from fnn.core import Backward, Forward, Layer, layer, leaf
from fnn.layers.initializers import GlorotUniform, HeNormal, Initializer
from fnn.typing import Array, KeyArray, PyTree

__all__ = [
    "Elu",
    "Gelu",
    "Identity",
    "LeakyRelu",
    "Rectifying",
    "Relu",
    "Saturating",
    "Sigmoid",
    "Silu",
    "Softplus",
    "Tanh",
]


class Rectifying(Layer):
    """An activation that lets about half of the signal pass: He's initialiser suits."""

    suited_init: ClassVar[Initializer] = HeNormal()


class Saturating(Layer):
    """A bounded activation, nearly linear around 0: Glorot's initialiser suits."""

    suited_init: ClassVar[Initializer] = GlorotUniform()


def _limits(x: Array, far: float, between: Array, above: Array | float) -> Array:
    """Return 0 below −far, `above` beyond far, and what is given `between`.

    So x = ±∞ never meets a factor of 0, in the derivative either: that would be NaN.
    """
    return jnp.where(x > far, above, jnp.where(x < -far, 0, between))


def _near(x: Array, far: float) -> Array:
    """Return x, and 0 beyond ±far, where `_limits` replaces what is made of it."""
    return jnp.where(jnp.abs(x) > far, 0, x)


@layer
class Identity(Layer):
    """The identity: y = x, and dx = dy.

    Example:
        >>> import fnn
        >>> fnn.serial(fnn.Dense(2), fnn.Identity())
        serial(Dense(features=2), Identity())
    """

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        return Forward(x, saved=(), state=state)

    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        return Backward(dx=dy, dparams=())


@layer
class Sigmoid(Saturating):
    """The logistic sigmoid: y = 1 / (1 + e⁻ˣ), and dx = dy y (1 − y).

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> fnn.Sigmoid().forward((), (), jnp.zeros((1, 2))).y
        Array([[0.5, 0.5]], dtype=float32)
    """

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        x = as_inputs(x)
        y = jax.nn.sigmoid(x)
        return Forward(y, saved=y, state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        y = saved
        return Backward(dx=dy * y * (1 - y), dparams=())


@layer
class Tanh(Saturating):
    """The hyperbolic tangent: y = tanh x, and dx = dy (1 − y²).

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> print(fnn.Tanh().forward((), (), jnp.array([-1.0, 0.0, 1.0])).y.round(2))
        [-0.76  0.    0.76]
    """

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        x = as_inputs(x)
        y = jnp.tanh(x)
        return Forward(y, saved=y, state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        y = saved
        return Backward(dx=dy * (1 - y) * (1 + y), dparams=())


@layer
class Relu(Rectifying):
    """The rectifier: y = max(x, 0), and dx = dy where y > 0, else 0; so relu'(0) = 0.

    At NaN y is NaN and dx is 0.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> print(fnn.Relu().forward((), (), jnp.array([-1.0, 0.0, 1.0])).y.round(2))
        [0. 0. 1.]

    Source: Nair and Hinton, ICML 2010.
    """

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        # Not jnp.maximum, whose gradient at 0 is 1/2; not jnp.where, which hides NaN.
        y = jax.nn.relu(x)
        return Forward(y, saved=y, state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        y = saved
        return Backward(dx=jnp.where(y > 0, dy, 0), dparams=())


@layer
class LeakyRelu(Rectifying):
    """The leaky ReLU: y = x where x > 0, else s x; dx = dy where x > 0, else s dy.

    At NaN y is NaN and dx is s dy.

    Args:
        negative_slope: s.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> x = jnp.array([[-1.0, 0.0, 1.0]])
        >>> print(fnn.LeakyRelu(0.5).forward((), (), x).y.round(2))
        [[-0.5  0.   1. ]]

    Source: Maas, Hannun and Ng, ICML 2013.
    """

    negative_slope: float = leaf(0.01)

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        x = as_inputs(x)
        slope = jnp.asarray(self.negative_slope, x.dtype)
        # For s = 0 the limit is 0, and not 0 × −∞.
        negative = jnp.where((slope == 0) & jnp.isinf(x), 0, slope * x)
        return Forward(jnp.where(x > 0, x, negative), saved=x, state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        x = saved
        slope = jnp.asarray(self.negative_slope, dy.dtype)
        return Backward(dx=jnp.where(x > 0, dy, slope * dy), dparams=())


@layer
class Elu(Rectifying):
    """The ELU: y = x where x > 0, else α (eˣ − 1); dx = dy where x > 0, else dy α eˣ.

    Args:
        alpha: α, minus the limit for x → −∞.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> print(fnn.Elu().forward((), (), jnp.array([-1.0, 0.0, 1.0])).y.round(2))
        [-0.63  0.    1.  ]

    Source: Clevert, Unterthiner and Hochreiter, arXiv:1511.07289, eq. 15.
    """

    alpha: float = leaf(1.0)

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        x = as_inputs(x)
        alpha = jnp.asarray(self.alpha, x.dtype)
        # The branch not taken must stay finite, or its derivative inf × 0 is NaN.
        negative = alpha * jnp.expm1(jnp.where(x > 0, 0, x))
        return Forward(jnp.where(x > 0, x, negative), saved=x, state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        x = saved
        alpha = jnp.asarray(self.alpha, dy.dtype)
        slope = alpha * jnp.exp(jnp.where(x > 0, 0, x))
        return Backward(dx=dy * jnp.where(x > 0, 1, slope), dparams=())


@layer
class Gelu(Rectifying):
    """The GELU: y = x Φ(x), with Φ the distribution function of N(0, 1).

        exact          Φ(x) = ½ (1 + erf(x/√2))     Φ'(x) = e^(−x²/2) / √(2π)
        approximate    Φ(x) ≈ ½ (1 + tanh u),       u = √(2/π) (x + 0.044715 x³)
                       Φ'(x) = ½ (1 − tanh² u) u'   u' = √(2/π) (1 + 3·0.044715 x²)
        both           dx = dy (Φ(x) + x Φ'(x))

    Args:
        approximate: whether to use the tanh approximation of Φ.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> x = jnp.array([[-1.0, 0.0, 1.0]])
        >>> print(fnn.Gelu().forward((), (), x).y.round(2))
        [[-0.16  0.    0.84]]

    Source: Hendrycks and Gimpel, arXiv:1606.08415, section 2.
    """

    approximate: bool = field(default=False, kw_only=True)

    #: |x| from which on Φ is 0 or 1 and Φ' is 0 in any precision. Its cube is the
    #: largest number in `_phi`, and float16 can hold it.
    far: ClassVar[float] = 40.0

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        x = as_inputs(x)
        near = _near(x, self.far)
        distribution, _ = self._phi(near)
        y = _limits(x, self.far, near * distribution, above=x)
        return Forward(y, saved=x, state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        x = saved
        near = _near(x, self.far)
        distribution, density = self._phi(near)
        slope = _limits(x, self.far, distribution + near * density, above=1)
        return Backward(dx=dy * slope, dparams=())

    def _phi(self, x: Array) -> tuple[Array, Array]:
        """Return Φ(x) and Φ'(x)."""
        if not self.approximate:
            # erfc, not 1 + erf, which cancels for x far below 0.
            distribution = 0.5 * jax.scipy.special.erfc(-x * math.sqrt(0.5))
            return distribution, jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        scale, cubic = math.sqrt(2 / math.pi), 0.044715
        tanh = jnp.tanh(scale * (x + cubic * x**3))
        du = scale * (1 + 3 * cubic * x * x)
        return 0.5 * (1 + tanh), 0.5 * (1 - tanh) * (1 + tanh) * du


@layer
class Silu(Rectifying):
    """The SiLU or swish: y = x σ(x), and dx = dy σ(x) (1 + x (1 − σ(x))).

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> print(fnn.Silu().forward((), (), jnp.array([-1.0, 0.0, 1.0])).y.round(2))
        [-0.26999998  0.          0.72999996]

    Source: Elfwing, Uchibe and Doya, arXiv:1702.03118, eqs. 4 and 5.
    """

    #: |x| from which on σ is 0 or 1 in any precision.
    far: ClassVar[float] = 800.0

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        x = as_inputs(x)
        near = _near(x, self.far)
        y = _limits(x, self.far, near * jax.nn.sigmoid(near), above=x)
        return Forward(y, saved=x, state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        x = saved
        near = _near(x, self.far)
        sigmoid = jax.nn.sigmoid(near)
        slope = _limits(x, self.far, sigmoid * (1 + near * (1 - sigmoid)), above=1)
        return Backward(dx=dy * slope, dparams=())


@layer
class Softplus(Rectifying):
    """The softplus: y = log(1 + eˣ), and dx = dy σ(x).

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> x = jnp.array([[-1.0, 0.0, 1.0]])
        >>> print(fnn.Softplus().forward((), (), x).y.round(2))
        [[0.31 0.69 1.31]]
    """

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        x = as_inputs(x)
        return Forward(jax.nn.softplus(x), saved=x, state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        x = saved
        return Backward(dx=dy * jax.nn.sigmoid(x), dparams=())
