"""Losses of regression: distances between the outputs and real-valued targets.

J is a mean over the N examples, and a sum over all outputs of an example: over the K
numbers of a vector, and over the positions and features of an image. PyTorch's and
Keras' losses also divide by the number of outputs.

Legend: N examples, K outputs; z (N, K); t (N, K) the targets that y stands for.
"""

import math

import jax
import jax.numpy as jnp

from fnn.dtypes import at_least_float32, widen
from fnn.labels import check_real_labels, real_targets
from fnn.losses.contract import Loss, mean
from fnn.pytree import leaf, pytree
from fnn.typing import Array, InShape, Scalar

__all__ = ["AbsoluteError", "Huber", "Poisson", "SquaredError"]


@pytree
class SquaredError(Loss):
    """The squared distance to the target.

        value   J = (1/N) Σ_n ½ Σ_k (z_nk − t_nk)²
        delta   δ = (z − t) / N

    The ½ makes δ the plain difference; PyTorch's and Keras' mean squared error also
    divides by K and has no ½. Where z is infinite, so are J and δ.

    Labels y: of z's shape; or (N,) where K = 1.

    Raises:
        ValueError, TypeError: labels of another shape or dtype.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> print(fnn.losses.SquaredError().value(jnp.zeros((1, 2)), jnp.ones((1, 2))))
        1.0

    Source: Rumelhart, Hinton and Williams, Nature 323 (1986), eq. 3.
    """

    def value(self, z: Array, y: Array) -> Scalar:
        t = real_targets(self, z, y, at_least_float32(z.dtype))
        error = widen(z) - t
        # Divided before it is squared: a mean that float32 can hold does not overflow.
        return (0.5 * error * (error / z.shape[0])).sum()

    def delta(self, z: Array, y: Array) -> Array:
        t = real_targets(self, z, y, at_least_float32(z.dtype))
        return ((widen(z) - t) / z.shape[0]).astype(z.dtype)

    def check(self, out_shape: InShape, y: Array) -> None:
        check_real_labels(self, out_shape, y)


@pytree
class AbsoluteError(Loss):
    """The absolute distance to the target.

        value   J = (1/N) Σ_n Σ_k |z_nk − t_nk|
        delta   δ = sign(z − t) / N,            sign(0) = 0

    Labels y: of z's shape; or (N,) where K = 1.

    Raises:
        ValueError, TypeError: labels of another shape or dtype.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> z, y = jnp.array([[3.0, -1.0]]), jnp.array([[1.0, 1.0]])
        >>> loss = fnn.losses.AbsoluteError()
        >>> print(loss.value(z, y), loss.delta(z, y))
        4.0 [[ 1. -1.]]

    Source: Boscovich 1757; see Koenker and Bassett, Econometrica 46 (1978), section 2.
    """

    def value(self, z: Array, y: Array) -> Scalar:
        t = real_targets(self, z, y, at_least_float32(z.dtype))
        return mean(jnp.abs(widen(z) - t), z.shape[0])

    def delta(self, z: Array, y: Array) -> Array:
        t = real_targets(self, z, y, at_least_float32(z.dtype))
        return (jnp.sign(widen(z) - t) / z.shape[0]).astype(z.dtype)

    def check(self, out_shape: InShape, y: Array) -> None:
        check_real_labels(self, out_shape, y)


@pytree
class Huber(Loss):
    """An error that is squared near the target and absolute far from it.

    With e = z − t, and c = e clipped to [−d, d]:

        value   J = (1/N) Σ_n Σ_k c (e − ½ c)    = ½ e², and d |e| − ½ d² beyond d
        delta   δ = c / N

    Where z is infinite, J is inf, and δ is ±d / N.

    Labels y: of z's shape; or (N,) where K = 1.

    Args:
        threshold: d > 0, the |e| from which on the error is absolute; in y's units.

    Raises:
        ValueError, TypeError: labels of another shape or dtype.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> print(fnn.losses.Huber().value(jnp.zeros((1, 1)), jnp.array([[3.0]])))
        2.5

    Source: Huber, Annals of Mathematical Statistics 35 (1964), section 3.
    """

    threshold: float = leaf(1.0)

    def __post_init__(self) -> None:
        if isinstance(self.threshold, float) and not self.threshold > 0:
            raise ValueError(f"Huber: threshold must be > 0, got {self.threshold}")

    def value(self, z: Array, y: Array) -> Scalar:
        error, clipped = self._error(z, y)
        return (clipped / z.shape[0] * (error - 0.5 * clipped)).sum()

    def delta(self, z: Array, y: Array) -> Array:
        _, clipped = self._error(z, y)
        return (clipped / z.shape[0]).astype(z.dtype)

    def check(self, out_shape: InShape, y: Array) -> None:
        check_real_labels(self, out_shape, y)

    def _error(self, z: Array, y: Array) -> tuple[Array, Array]:
        error = widen(z) - real_targets(self, z, y, at_least_float32(z.dtype))
        threshold = jnp.asarray(self.threshold, error.dtype)
        # Not jnp.clip: its derivative beyond d multiplies by 0, and 0 × inf is NaN.
        return error, jax.lax.clamp(-threshold, error, threshold)


@pytree
class Poisson(Loss):
    """The loss of counts: t is drawn from a Poisson distribution of mean e^z.

    It is −log p(t | z) without log t!, which does not depend on z:

        value   J = (1/N) Σ_n Σ_k (e^(z_nk) − t_nk z_nk)
        delta   δ = (e^z − t) / N

    The output is the logarithm of the mean, as in PyTorch's `PoissonNLLLoss`; Keras'
    `Poisson` takes the mean itself. J can be negative; it is smallest where e^z = t.
    Where e^z exceeds a quarter of the largest number of z's dtype, it goes on as a
    straight line, so that δ is finite.

    Labels y: counts, of z's shape; or (N,) where K = 1.

    Raises:
        ValueError, TypeError: labels of another shape or dtype, or below 0.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> z, y = jnp.log(jnp.array([[2.0, 3.0]])), jnp.array([[2, 5]])
        >>> print(fnn.losses.Poisson().delta(z, y).round(5))
        [[ 0. -2.]]

    Source: McCullagh and Nelder, "Generalized Linear Models" (1989), section 6.2.
    """

    def value(self, z: Array, y: Array) -> Scalar:
        t = real_targets(self, z, y, at_least_float32(z.dtype))
        limit = _largest_exponent(z)
        z = widen(z)
        # Not minimum, whose derivative would meet 0 × inf.
        c = jnp.where(z > limit, limit, z)
        slope = jnp.exp(c) - t
        return mean(jnp.exp(c) - t * c + slope * (z - c), z.shape[0])

    def delta(self, z: Array, y: Array) -> Array:
        t = real_targets(self, z, y, at_least_float32(z.dtype))
        mean_count = jnp.exp(jnp.minimum(widen(z), _largest_exponent(z)))
        return ((mean_count - t) / z.shape[0]).astype(z.dtype)

    def check(self, out_shape: InShape, y: Array) -> None:
        check_real_labels(self, out_shape, y, lowest=0)


def _largest_exponent(z: Array) -> float:
    """Return the z where e^z is a quarter of the largest number of its dtype."""
    return math.log(float(jnp.finfo(z.dtype).max) / 4)
