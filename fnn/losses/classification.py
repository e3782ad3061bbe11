"""Losses of classification: cross-entropies of classes and of yes/no questions.

The last layer's output z is a logit: the loss applies sigmoid or softmax itself,
together with the logarithm. Then nothing saturates, and value and delta are finite for
any finite z. A loss beyond the largest number of the dtype becomes (nearly) that
number, not inf.

Legend: N examples, K outputs; z (N, K); t (N, K) the targets that y stands for.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from fnn.dtypes import at_least_float32, widen
from fnn.labels import check_class_labels, class_targets, is_concrete
from fnn.losses.contract import Loss, mean, sum_per_example
from fnn.pytree import leaf, pytree
from fnn.typing import Array, Float, InShape, Scalar

__all__ = ["SigmoidCrossEntropy", "SoftmaxCrossEntropy"]


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
        return mean(sum_per_example(t * minus_log_a + (1 - t) * minus_log_not_a))

    def delta(self, z: Array, y: Array) -> Array:
        t = class_targets(self, z, y, at_least_float32(z.dtype), binary=True)
        return ((jax.nn.sigmoid(widen(z)) - t) / len(z)).astype(z.dtype)

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
        return mean(log_sum - jnp.where(t == 0, 0, t * z).sum(-1))

    def delta(self, z: Array, y: Array) -> Array:
        t = self._targets(z, y)
        a = jax.nn.softmax(widen(z), axis=-1)
        return ((a - t) / len(z)).astype(z.dtype)

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
