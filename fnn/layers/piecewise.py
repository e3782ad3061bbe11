"""Activations made of pieces: straight lines and parabolas that meet at kinks.

At a kink the derivative is fixed by convention, the same in both engines, and as in
PyTorch: the pieces that are not constant are open intervals.

    PRelu           the slope at 0 is the learned one
    Clip            0 at both bounds
    HardSigmoid     0 at −3 and 3
    HardSwish       0 at −3, 1 at 3

Legend: N examples, ... positions (often none), C features.
"""

from typing import NamedTuple

import jax.numpy as jnp

from fnn.checks import as_inputs, expect_params, expect_shape
from fnn.core import Backward, Forward, Variables, layer, leaf
from fnn.layers.activations import Rectifying, Saturating
from fnn.layers.features import per_feature
from fnn.pytree import exportable
from fnn.typing import Array, InShape, KeyArray, PyTree

__all__ = ["Clip", "HardSigmoid", "HardSwish", "PRelu", "PReluParams"]


@exportable
class PReluParams(NamedTuple):
    """The parameter `slope`: (C,), or () for one of all. It is not penalised."""

    slope: Array


@layer
class PRelu(Rectifying):
    """The rectifier with a learned slope: y = x where x > 0, else s x.

        backward    dx = dy where x > 0, else s dy
                    ds = Σ dy x where x ≤ 0         over all that share a slope

    Args:
        per_channel: whether each feature (of the last axis) has a slope of its own, or
            all have the same, as in PyTorch by default.
        initial_slope: what s is at first.

    Raises:
        ValueError: the last axis of x is not C.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> layer = fnn.PRelu()
        >>> params, _ = layer.init(jax.random.key(0), (3,))
        >>> layer.forward(params, (), jnp.array([[-1.0, 2.0, -4.0]])).y
        Array([[-0.25,  2.  , -1.  ]], dtype=float32)

    Source: He et al., arXiv:1502.01852, eqs. 1 to 3.
    """

    per_channel: bool = True
    initial_slope: float = leaf(default=0.25)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        if self.per_channel and not in_shape:
            raise ValueError(f"{self!r} expected examples of shape (..., C), got ()")
        shape = in_shape[-1:] if self.per_channel else ()
        slope = jnp.full(shape, self.initial_slope, jnp.zeros(()).dtype)
        return Variables(PReluParams(slope), ())

    def forward(
        self, params: PReluParams, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        expect_params(self, params, PReluParams)
        if self.per_channel:
            expect_shape(self, x, ("N", ..., *params.slope.shape))
        x = as_inputs(x)
        y = jnp.where(x > 0, x, self._slope(params, x) * x)
        return Forward(y, saved=x, state=state)

    def backward(self, params: PReluParams, saved: Array, dy: Array) -> Backward:
        x = saved
        shared = x.ndim - params.slope.ndim  # axes of positions that share a slope
        dslope = jnp.where(x > 0, 0, dy * x).sum(tuple(range(shared)))
        dx = jnp.where(x > 0, dy, self._slope(params, dy) * dy)
        return Backward(dx=dx, dparams=PReluParams(dslope))

    def _slope(self, params: PReluParams, x: Array) -> Array:
        return per_feature(params.slope, x) if self.per_channel else params.slope


@layer
class Clip(Saturating):
    """The clipped identity: y = x within bounds, and the bound beyond it.

        backward    dx = dy where low < x < high, else 0

    `Clip()` is PyTorch's Hardtanh, and `Clip(0, 6)` its ReLU6.

    Args:
        low: the lowest y.
        high: the highest y.

    Raises:
        ValueError: low is not below high.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> fnn.Clip().forward((), (), jnp.array([[-2.0, 0.5, 3.0]])).y
        Array([[-1. ,  0.5,  1. ]], dtype=float32)

    Source: Collobert, "Large Scale Machine Learning" (2004), for the hard tanh.
    """

    low: float = leaf(-1.0)
    high: float = leaf(1.0)

    def __post_init__(self) -> None:
        known = isinstance(self.low, float) and isinstance(self.high, float)
        if known and not self.low < self.high:
            raise ValueError(
                f"Clip: low must be below high, got {self.low} and {self.high}"
            )

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        x = as_inputs(x)
        low, high = (jnp.asarray(bound, x.dtype) for bound in (self.low, self.high))
        # Not jnp.clip, whose gradient at a bound is 1/2; NaN is beyond neither.
        y = jnp.where(x <= low, low, jnp.where(x >= high, high, x))
        return Forward(y, saved=y, state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        y = saved
        low, high = (jnp.asarray(bound, y.dtype) for bound in (self.low, self.high))
        return Backward(dx=jnp.where((low < y) & (y < high), dy, 0), dparams=())


@layer
class HardSigmoid(Saturating):
    """The sigmoid of straight lines: y = (x + 3)/6 within [0, 1], and 0 or 1 beyond.

        backward    dx = dy/6 where −3 < x < 3, else 0

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> x = jnp.array([[-1.0, 0.0, 1.0]])
        >>> print(fnn.HardSigmoid().forward((), (), x).y.round(2))
        [[0.32999998 0.5        0.66999996]]

    Source: Howard et al., arXiv:1905.02244, section 5.2.
    """

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        x = as_inputs(x)
        y = jnp.where(x <= -3, 0, jnp.where(x >= 3, 1, (x + 3) / 6))
        return Forward(y, saved=x, state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        x = saved
        return Backward(dx=jnp.where((-3 < x) & (x < 3), dy / 6, 0), dparams=())


@layer
class HardSwish(Rectifying):
    """The swish of a hard sigmoid: y = x (x + 3)/6 between −3 and 3, 0 below, x above.

        backward    dx = dy (2x + 3)/6 where −3 < x < 3, 0 below, dy above

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> x = jnp.array([[-1.0, 0.0, 1.0]])
        >>> print(fnn.HardSwish().forward((), (), x).y.round(2))
        [[-0.32999998  0.          0.66999996]]

    Source: Howard et al., arXiv:1905.02244, section 5.2.
    """

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        x = as_inputs(x)
        # The middle one must stay finite for all x, or its derivative 0 × inf is NaN.
        inside = jnp.clip(x, -3, 3)
        y = jnp.where(x <= -3, 0, jnp.where(x >= 3, x, inside * (inside + 3) / 6))
        return Forward(y, saved=x, state=state)

    def backward(self, params: PyTree, saved: Array, dy: Array) -> Backward:
        x = saved
        slope = jnp.where(x <= -3, 0, jnp.where(x >= 3, 1, (2 * x + 3) / 6))
        return Backward(dx=dy * slope, dparams=())
