"""Losses: a value and a delta, side by side.

The last layer's output z is a logit (for regression, the prediction): the loss applies
sigmoid or softmax itself, together with the logarithm. Then nothing saturates, and
value and delta are finite for any finite z. A loss beyond the largest number of the
dtype becomes (nearly) that number, not inf.

    value(z, y)     J = (1/N) Σ_n L(z_n, y_n)           a scalar
    delta(z, y)     δ = ∂J/∂z, of z's shape             the δ that backward starts from

The value is computed in at least float32; delta has z's dtype.

Legend: N examples, K outputs; z (N, K); t (N, K) the targets that y stands for.
"""

from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks import expect_instance, expect_pytree, shown
from fnn.dtypes import at_least_float32, widen
from fnn.labels import (
    check_class_labels,
    check_real_labels,
    class_targets,
    is_concrete,
    real_targets,
)
from fnn.pytree import leaf, pytree
from fnn.typing import Array, Float, InShape, Scalar

__all__ = [
    "Huber",
    "Loss",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "expect_loss",
]


class Loss(Protocol):
    """The contract of a loss."""

    #: Whether the outputs score classes, so that accuracy makes sense.
    classifies: ClassVar[bool] = False

    def value(self, z: Array, y: Array) -> Scalar:
        """Return the mean loss of a batch."""
        ...

    def delta(self, z: Array, y: Array) -> Array:
        """Return the derivative of `value` with respect to z, of z's shape."""
        ...

    def check(self, out_shape: InShape, y: Array) -> None:
        """Raise where labels y cannot belong to outputs of shape (K,).

        Shapes and dtypes are always checked, numbers only where y is concrete.
        """
        ...


def expect_loss(loss: Any) -> None:
    """Raise unless `loss` has the methods of a loss and is a pytree.

    Raises:
        TypeError: it is a class, lacks a method, or is not registered with JAX.
    """
    expect_instance("loss", loss)
    missing = [name for name in _METHODS if not callable(getattr(loss, name, None))]
    if missing:
        raise TypeError(
            f"loss must have value(z, y), delta(z, y) and check(out_shape, y), got "
            f"{shown(loss)}, which has no {' and no '.join(missing)}. delta is the "
            "derivative of value with respect to z; check raises where labels y do not "
            "fit outputs of shape out_shape, and may do nothing."
        )
    expect_pytree("loss", loss)


_METHODS = ("value", "delta", "check")


def _mean(per_example: Float[Array, "N"]) -> Scalar:
    """Return (1/N) Σ_n L_n, with each L_n at most a quarter of the largest number.

    The division comes before the sum, which then cannot overflow; NaN stays NaN.
    """
    largest = jnp.finfo(per_example.dtype).max / 4
    return (jnp.minimum(per_example, largest) / per_example.size).sum()


def _sum_per_example(elements: Float[Array, "N ..."]) -> Float[Array, "N"]:
    """Sum over all axes but the batch."""
    return elements.reshape(elements.shape[0], -1).sum(1)


# ---- Classification --------------------------------------------------------------


@pytree
class SigmoidCrossEntropy(Loss):
    """The cross-entropy of K independent yes/no questions: the lecture's J.

    With a = σ(z) = 1/(1 + e⁻ᶻ), so that −log a = softplus(−z):

        value   J = −(1/N) Σ_n Σ_k [ t_nk log a_nk + (1 − t_nk) log(1 − a_nk) ]
        delta   δ = (a − t) / N

    Labels y: (N, K) targets in [0, 1]; or (N,) integers, which are class indices
    where K > 1 (t is one-hot) and 0 or 1 where K = 1.

    Raises:
        ValueError, TypeError: labels of another shape, dtype or range.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> z, y = jnp.array([[0.0], [1e4]]), jnp.array([1, 0])
        >>> loss = fnn.losses.SigmoidCrossEntropy()
        >>> print(loss.value(z, y), loss.delta(z, y).ravel())
        5000.3467 [-0.25  0.5 ]

    Source: Rumelhart et al., "Backpropagation: the basic theory" (1995), section 4.
    """

    classifies: ClassVar[bool] = True

    def value(self, z: Array, y: Array) -> Scalar:
        t = class_targets(self, z, y, at_least_float32(z.dtype), binary=True)
        z = widen(z)
        minus_log_a, minus_log_not_a = jax.nn.softplus(-z), jax.nn.softplus(z)
        return _mean(_sum_per_example(t * minus_log_a + (1 - t) * minus_log_not_a))

    def delta(self, z: Array, y: Array) -> Array:
        t = class_targets(self, z, y, at_least_float32(z.dtype), binary=True)
        return ((jax.nn.sigmoid(widen(z)) - t) / z.shape[0]).astype(z.dtype)

    def check(self, out_shape: InShape, y: Array) -> None:
        check_class_labels(self, out_shape, y, binary=True)


@pytree
class SoftmaxCrossEntropy(Loss):
    """The cross-entropy of a choice among K classes.

    With a_k = e^(z_k) / Σ_j e^(z_j), and t smoothed to (1 − s) t + s/K:

        value   J = −(1/N) Σ_n Σ_k t_nk log a_nk
        delta   δ = (a − t) / N

    Labels y: (N,) integer classes 0 .. K−1; or (N, K) rows that sum to 1.

    Args:
        label_smoothing: s in [0, 1], the part of the target that is spread evenly.

    Raises:
        ValueError, TypeError: labels of another shape, dtype or range.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> z, y = jnp.array([[0.0, 0.0], [1e4, -1e4]]), jnp.array([1, 0])
        >>> loss = fnn.losses.SoftmaxCrossEntropy()
        >>> print(loss.value(z, y), loss.delta(z, y).tolist())
        0.3465736 [[0.25, -0.25], [0.0, 0.0]]

    Source: Bridle 1990, "Probabilistic interpretation of feedforward classification
    network outputs"; smoothing: Szegedy et al., arXiv:1512.00567, section 7.
    """

    label_smoothing: float = leaf(0.0)
    classifies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        smoothing = self.label_smoothing
        if isinstance(smoothing, float) and not 0 <= smoothing <= 1:
            raise ValueError(
                "SoftmaxCrossEntropy: label_smoothing is a share and must be in "
                f"[0, 1], got {smoothing}"
            )

    def value(self, z: Array, y: Array) -> Scalar:
        t = self._targets(z, y)
        z = widen(z)
        z = z - jax.lax.stop_gradient(z.max(-1, keepdims=True))
        # log a_k = z_k − log Σ_j e^(z_j). Σ_k t_k is taken to be 1, not computed: then
        # δ is a − t to the last digit, also where float32 labels sum to 1 ± 1e-7.
        log_sum = jnp.log(jnp.exp(z).sum(-1))
        # Where t is 0, z does not count, not even −inf: 0 × inf would be NaN.
        return _mean(log_sum - jnp.where(t == 0, 0, t * z).sum(-1))

    def delta(self, z: Array, y: Array) -> Array:
        t = self._targets(z, y)
        a = jax.nn.softmax(widen(z), axis=-1)
        return ((a - t) / z.shape[0]).astype(z.dtype)

    def check(self, out_shape: InShape, y: Array) -> None:
        check_class_labels(self, out_shape, y)
        if y.ndim == 2 and is_concrete(y):
            sums = np.asarray(y, np.float64).sum(1)
            if np.abs(sums - 1).max(initial=0) > 1e-3:
                row = int(np.abs(sums - 1).argmax())
                raise ValueError(
                    f"{self!r} expected label rows that sum to 1, got {sums[row]:.4g} "
                    f"in row {row}. For several yes/no labels an example use "
                    "SigmoidCrossEntropy."
                )

    def _targets(self, z: Array, y: Array) -> Float[Array, "N K"]:
        t = class_targets(self, z, y, at_least_float32(z.dtype))
        smoothing = jnp.asarray(self.label_smoothing, t.dtype)
        return (1 - smoothing) * t + smoothing / z.shape[-1]


# ---- Regression ------------------------------------------------------------------


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
        return _mean(_sum_per_example(0.5 * error * error))

    def delta(self, z: Array, y: Array) -> Array:
        t = real_targets(self, z, y, at_least_float32(z.dtype))
        return ((widen(z) - t) / z.shape[0]).astype(z.dtype)

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
        return _mean(_sum_per_example(clipped * (error - 0.5 * clipped)))

    def delta(self, z: Array, y: Array) -> Array:
        _, clipped = self._error(z, y)
        return (clipped / z.shape[0]).astype(z.dtype)

    def check(self, out_shape: InShape, y: Array) -> None:
        check_real_labels(self, out_shape, y)

    def _error(self, z: Array, y: Array) -> tuple[Array, Array]:
        error = widen(z) - real_targets(self, z, y, at_least_float32(z.dtype))
        threshold = jnp.asarray(self.threshold, error.dtype)
        return error, jnp.clip(error, -threshold, threshold)
