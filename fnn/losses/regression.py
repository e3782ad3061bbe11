"""Losses of regression: distances between the outputs and real-valued targets.

Legend: N examples, K outputs; z (N, K); t (N, K) the targets that y stands for.
"""

import jax.numpy as jnp

from fnn.dtypes import at_least_float32, widen
from fnn.labels import check_real_labels, real_targets
from fnn.losses.contract import Loss, mean, sum_per_example
from fnn.pytree import leaf, pytree
from fnn.typing import Array, InShape, Scalar

__all__ = ["Huber", "SquaredError"]


@pytree
class SquaredError(Loss):
    """The squared distance to the target.

        value   J = (1/N) Σ_n ½ Σ_k (z_nk − t_nk)²
        delta   δ = (z − t) / N

    The ½ makes δ the plain difference; PyTorch's and Keras' mean squared error also
    divides by K and has no ½.

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
        # Not error²: where it overflows, JAX's derivative 2 error × 0 would be NaN.
        return mean(sum_per_example(0.5 * error * error))

    def delta(self, z: Array, y: Array) -> Array:
        t = real_targets(self, z, y, at_least_float32(z.dtype))
        return ((widen(z) - t) / len(z)).astype(z.dtype)

    def check(self, out_shape: InShape, y: Array) -> None:
        check_real_labels(self, out_shape, y)


@pytree
class Huber(Loss):
    """An error that is squared near the target and absolute far from it.

    With e = z − t, and c = e clipped to [−d, d]:

        value   J = (1/N) Σ_n Σ_k c (e − ½ c)    = ½ e², and d |e| − ½ d² beyond d
        delta   δ = c / N

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
        return mean(sum_per_example(clipped * (error - 0.5 * clipped)))

    def delta(self, z: Array, y: Array) -> Array:
        _, clipped = self._error(z, y)
        return (clipped / len(z)).astype(z.dtype)

    def check(self, out_shape: InShape, y: Array) -> None:
        check_real_labels(self, out_shape, y)

    def _error(self, z: Array, y: Array) -> tuple[Array, Array]:
        error = widen(z) - real_targets(self, z, y, at_least_float32(z.dtype))
        threshold = jnp.asarray(self.threshold, error.dtype)
        return error, jnp.clip(error, -threshold, threshold)
