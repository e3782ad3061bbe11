"""Rules that change δ on its way: dy becomes c(dy) before it enters a layer's backward.

    dx = (∂y/∂x)ᵀ c(dy),    dparams = (∂y/∂params)ᵀ c(dy)

    sparse (meProp)     the k largest entries of dy, and 0 elsewhere
    quantised           b bits, rounded at random so that E[c(dy)] = dy
    noisy               dy + σ rms(dy) ε,  ε ~ N(0, 1)
    clipped             dy min(1, C / ‖dy‖), example by example

Legend: N examples, O features (the last axis of dy).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from fnn.checks import positive_integer, require_key
from fnn.core import Backward, Forward, Layer, layer, leaf
from fnn.dtypes import widen
from fnn.gradients.claims import Claim, claimed
from fnn.passes.rules.base import Rule, may_have_weight, rewrite
from fnn.passes.rules.keys import for_rule
from fnn.pytree import pytree
from fnn.typing import Array, KeyArray, Number, PyTree

__all__ = [
    "ChangedDelta",
    "Clip",
    "Noise",
    "Quantize",
    "TopK",
    "change_delta",
    "clipped_delta",
    "meprop",
    "noisy_delta",
    "quantized_delta",
]

#: A pytree that is a function `(dy, key) -> dy` of the same shape. Its class says in
#: `random` whether it draws from the key; where it does not, the key is None.
Change = Callable[[Array, KeyArray | None], Array]


def change_delta(net: Layer, change: Any) -> Layer:
    """Make the network in which each layer with a weight gets a changed δ.

    Args:
        net: any network.
        change: `TopK(k)`, `Quantize(bits)`, `Noise(deviation)`, `Clip(norm)`, or an
            object of your own: a class decorated with `fnn.layer`, with a method
            `__call__(dy, key)` and a `ClassVar` `random`.

    Returns:
        A network with the variables and the forward of `net`.

    Example:
        >>> import fnn
        >>> net = fnn.serial(fnn.Dense(8), fnn.Tanh(), fnn.Dense(3))
        >>> rule = fnn.rules.change_delta(net, fnn.rules.Clip(1.0))
    """

    def wrap(layer: Layer, number: int) -> Layer:
        return ChangedDelta(layer, change) if may_have_weight(layer) else layer

    return rewrite(net, wrap)


def meprop(net: Layer, k: int) -> Layer:
    """Make the network that passes back the k largest entries of each δ alone.

        c(dy)_no = dy_no where |dy_no| is among the k largest of dy_n, else 0

    For images, the k largest features of each position. A layer of at most k features,
    as the last one mostly is, gets all of dy, as in the paper.

    Args:
        net: any network.
        k: how many entries are kept.

    Returns:
        A network with the variables and the forward of `net`.

    Raises:
        ValueError: k is not a positive integer.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> fnn.rules.TopK(2)(jnp.array([[3.0, -5.0, 1.0, 4.0]]), None)
        Array([[ 0., -5.,  0.,  4.]], dtype=float32)

    Source: Sun et al., arXiv:1706.06197, section 2.1, eqs. 3 to 6.
    """
    return change_delta(net, TopK(k))


def quantized_delta(net: Layer, bits: int) -> Layer:
    """Make the network in which each δ has b bits, rounded at random.

    With s_n = max |dy_n| of each example, L = 2ᵇ − 1 steps, and u ~ U[−½, ½) from the
    step's key:

        c(dy) = 2 s (round(L (dy/(2s) + ½) + u) / L − ½),    so that E[c(dy)] = dy

    Args:
        net: any network. A step needs a key.
        bits: b, at least 1 and at most 16.

    Returns:
        A network with the variables and the forward of `net`.

    Raises:
        ValueError: b is no such integer; or, in a step, there is no key.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> quantize = fnn.rules.Quantize(1)  # −s or s
        >>> quantize(jnp.array([[1.0, -1.0]]), jax.random.key(0))
        Array([[ 1., -1.]], dtype=float32)

    Source: Zhou et al., "DoReFa-Net", arXiv:1606.06160, eq. 12.
    """
    return change_delta(net, Quantize(bits))


def noisy_delta(net: Layer, deviation: Number) -> Layer:
    """Make the network in which noise is added to each δ.

        c(dy) = dy + σ rms(dy_n) ε,    ε ~ N(0, 1), rms over the entries of an example

    Args:
        net: any network. A step needs a key.
        deviation: σ ≥ 0, in units of the root mean square of an example's δ.

    Returns:
        A network with the variables and the forward of `net`.

    Raises:
        ValueError: σ is negative; or, in a step, there is no key.

    Example:
        >>> import fnn
        >>> rule = fnn.rules.noisy_delta(fnn.serial(fnn.Dense(3)), 0.1)

    Source: noise on gradients: Neelakantan et al., arXiv:1511.06807, section 3.
    """
    return change_delta(net, Noise(deviation))


def clipped_delta(net: Layer, norm: Number) -> Layer:
    """Make the network in which each δ is clipped, example by example.

        c(dy_n) = dy_n min(1, C / ‖dy_n‖)

    Args:
        net: any network.
        norm: C > 0. δ is divided by the batch size: C is on this scale.

    Returns:
        A network with the variables and the forward of `net`.

    Raises:
        ValueError: C is not positive.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> fnn.rules.Clip(1.0)(jnp.array([[3.0, 4.0], [0.3, 0.4]]), None)
        Array([[0.6, 0.8],
               [0.3, 0.4]], dtype=float32)

    Source: Pascanu, Mikolov and Bengio, arXiv:1211.5063, algorithm 1, applied to δ.
    """
    return change_delta(net, Clip(norm))


# ---- The changes -----------------------------------------------------------------


@pytree
class TopK:
    """A function that keeps the k largest entries along the last axis; see `meprop`."""

    k: int
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", positive_integer("meprop: k", self.k))

    def __call__(self, dy: Array, key: KeyArray | None) -> Array:
        if self.k >= dy.shape[-1]:
            return dy
        _, largest = lax.top_k(jnp.abs(dy), self.k)  # exactly k, also of equal ones
        kept = jnp.put_along_axis(
            jnp.zeros(dy.shape, bool), largest, True, axis=-1, inplace=False
        )
        return jnp.where(kept, dy, 0)


@pytree
class Quantize:
    """A function that rounds δ to b bits at random; see `quantized_delta`."""

    bits: int
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        bits = positive_integer("quantized_delta: bits", self.bits)
        if bits > 16:
            raise ValueError(
                f"quantized_delta: bits must be at most 16, got {bits}: float32 has 24"
            )
        object.__setattr__(self, "bits", bits)

    def __call__(self, dy: Array, key: KeyArray | None) -> Array:
        assert key is not None
        wide, steps = widen(dy), 2**self.bits - 1
        largest = jnp.abs(wide).max(tuple(range(1, dy.ndim)), keepdims=True)
        twice = jnp.where(largest == 0, 1, 2 * largest)
        u = jax.random.uniform(key, dy.shape, jnp.float32, -0.5, 0.5)
        exact = steps * (wide / twice + 0.5)
        step = jnp.clip(jnp.round(exact + u.astype(wide.dtype)), 0, steps)
        rounded = twice * (step / steps - 0.5)
        return jnp.where(largest == 0, 0, rounded).astype(dy.dtype)


@pytree
class Noise:
    """A function that adds normal noise to δ; see `noisy_delta`."""

    deviation: Number = leaf(0.1, shown=True)
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.deviation, float) and not self.deviation >= 0:
            raise ValueError(
                f"noisy_delta: deviation must be ≥ 0, got {self.deviation}"
            )

    def __call__(self, dy: Array, key: KeyArray | None) -> Array:
        assert key is not None
        wide, features = widen(dy), tuple(range(1, dy.ndim))
        rms = jnp.sqrt(jnp.square(wide).mean(features, keepdims=True))
        noise = jax.random.normal(key, dy.shape, jnp.float32).astype(wide.dtype)
        scale = jnp.asarray(self.deviation, wide.dtype) * rms
        return (wide + scale * noise).astype(dy.dtype)


@pytree
class Clip:
    """A function that clips the norm of each example's δ; see `clipped_delta`."""

    norm: Number = leaf(1.0, shown=True)
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.norm, float) and not self.norm > 0:
            raise ValueError(f"clipped_delta: norm must be > 0, got {self.norm}")

    def __call__(self, dy: Array, key: KeyArray | None) -> Array:
        wide, features = widen(dy), tuple(range(1, dy.ndim))
        norms = jnp.sqrt(jnp.square(wide).sum(features, keepdims=True))
        scale = jnp.minimum(1, jnp.asarray(self.norm, wide.dtype) / norms)
        return (wide * scale).astype(dy.dtype)


# ---- The layer -------------------------------------------------------------------


@layer
class ChangedDelta(Rule):
    """A layer whose backward is given c(dy).

    Args:
        layer: the wrapped layer.
        change: c.
    """

    change: Any = leaf(Clip(1.0))

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        out = super().forward(params, state, x, key=key, train=train)
        return out._replace(saved=(out.saved, self._step_key(key, train)))

    def backward(self, params: PyTree, saved: Any, dy: Array) -> Backward:
        inner, step_key = saved
        return self.layer.backward(params, inner, self.change(dy, step_key))

    def to_claim(self) -> Layer:
        return Claim(self, _claim)

    def _step_key(self, key: KeyArray | None, train: bool) -> KeyArray | None:
        if not self.change.random:
            return None
        if key is None and not train:  # a forward alone, which draws nothing
            return jax.random.key(0)
        return for_rule(require_key(self, key))


def _claim(
    rule: ChangedDelta, params: PyTree, state: PyTree, x: Array, key: KeyArray | None,
    train: bool,
) -> tuple[Array, PyTree]:  # fmt: skip
    """Compute y, and let its δ go through c."""
    inner = claimed(rule.layer)
    out = inner.forward(params, state, x, key=key, train=train)
    return _through(rule.change, out.y, rule._step_key(key, train)), out.state


@partial(jax.custom_vjp)
def _through(change: Any, y: Array, key: KeyArray | None) -> Array:
    return y


_through.defvjp(
    lambda change, y, key: (y, (change, key)),
    lambda saved, dy: (None, saved[0](dy, saved[1]), None),
)
