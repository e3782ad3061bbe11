"""Losses of classification: cross-entropies of classes and of yes/no questions.

The last layer's output z is a logit: the loss applies sigmoid or softmax itself,
together with the logarithm. Then nothing saturates.

**Positions.** Outputs are (N, K), or (N, ..., K) with K at each position: a token, a
pixel. The mean is over all M = N × positions, and δ is divided by M as well.

**Ignored labels.** A label that equals `ignore` (an integer of your choice, such as −1)
does not count: neither in the sum nor in the divisor. Its δ is exactly 0, also where z
is NaN or infinite. Where all labels of a batch are ignored, J and δ are 0. A mask is an
ignored label: `y = jnp.where(mask, y, -1)`.

**Class weights.** J is the weighted mean: each loss times its weight, divided by the
sum of the weights of the labels that count. So the unit of the weights does not matter.

    the divisor                 fnn             PyTorch         Keras
    all labels count            M               M               M
    some are ignored            those counted   those counted   those counted
    class weights               Σ of weights    Σ of weights    M
    the same, labels are rows   Σ of weights    M               M
    all are ignored             J = 0           J = NaN         J = 0

`fnn.fit` reports the mean of the minibatches' J, each times its number of examples, and
`fnn.evaluate` that of its batches. With ignored labels or class weights this is not
exactly the J of all examples: a batch counts by its examples, not by its labels.

Legend: N examples, ... positions (often none), M = N × positions, K outputs;
z (N, ..., K); t (N, ..., K) the targets that y stands for.
"""

from dataclasses import field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from fnn.dtypes import at_least_float32, widen
from fnn.labels import (
    are_rows,
    check_class_labels,
    check_rows_sum_to_one,
    class_targets,
    counted,
)
from fnn.losses.contract import Loss, mean
from fnn.losses.weights import as_ignore, as_weights, mean_factor, weight_array
from fnn.pytree import leaf, pytree
from fnn.typing import Array, InShape, Number, Scalar

__all__ = ["KullbackLeibler", "SigmoidCrossEntropy", "SoftmaxCrossEntropy"]


@pytree
class SigmoidCrossEntropy(Loss):
    """The cross-entropy of K independent yes/no questions: the lecture's J.

    With a = σ(z) = 1/(1 + e⁻ᶻ), so that −log a = softplus(−z), and M = N × positions:

        value   J = −(1/M) Σ_n Σ_k [ t_nk log a_nk + (1 − t_nk) log(1 − a_nk) ]
        delta   δ = (a − t) / M

    It is the loss for multi-label data, where an example has any number of K labels.
    An infinite logit is a certain answer: it adds 0 where it is right, else inf.
    J is summed over K; PyTorch's and Keras' binary cross-entropies also divide by K.

    With weights w₀ of "no" and w₁ of "yes", an answer's weight is v = w₁ t + w₀ (1 − t)
    and J is K times the weighted mean of all answers; v = 0 where one is ignored:

        value   J = −(K / Σ v) Σ_nk [ w₁ t log a + w₀ (1 − t) log(1 − a) ]
        delta   δ = (v a − w₁ t) K / Σ v

    Labels y: (N, ..., K) targets in [0, 1]; or (N, ...) integers, which are class
    indices where K > 1 (t is one-hot) and 0 or 1 where K = 1.

    Args:
        ignore: the integer that stands for no answer, at one place of a row, or in
            place of a class; None for none.
        class_weights: (w₀, w₁), a tuple or an array; None for ones.

    Raises:
        ValueError, TypeError: labels of another shape, dtype or range.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> z, y = jnp.array([[0.0], [1e4]]), jnp.array([1, 0])
        >>> loss = fnn.losses.SigmoidCrossEntropy()
        >>> print(loss.value(z, y), loss.delta(z, y).ravel())
        5000.3467 [-0.25  0.5 ]
        >>> rows = jnp.array([[1, 0, -1], [-1, 1, 1]])  # two answers are not known
        >>> loss = fnn.losses.SigmoidCrossEntropy(ignore=-1)
        >>> print(loss.delta(jnp.zeros((2, 3)), rows))
        [[-0.375  0.375  0.   ]
         [ 0.    -0.375 -0.375]]

    Source: Rumelhart et al., "Backpropagation: the basic theory" (1995), section 4.
    """

    ignore: int | None = field(default=None, kw_only=True)
    class_weights: Any = leaf(None, kw_only=True)
    classifies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_options(self)

    def value(self, z: Array, y: Array) -> Scalar:
        z, yes, no, _ = self._weigh(z, y)
        minus_log_a, minus_log_not_a = jax.nn.softplus(-z), jax.nn.softplus(z)
        # Where an answer has the share 0, its logarithm does not count: 0 × inf is NaN.
        yes = jnp.where(yes == 0, 0, yes * minus_log_a)
        no = jnp.where(no == 0, 0, no * minus_log_not_a)
        return mean(yes + no, _positions(z))

    def delta(self, z: Array, y: Array) -> Array:
        wide, yes, _, total = self._weigh(z, y)
        delta = (total * jax.nn.sigmoid(wide) - yes) / _positions(z)
        return delta.astype(z.dtype)

    def check(self, out_shape: InShape, y: Array) -> None:
        check_class_labels(self, out_shape, y, binary=True, ignore=self.ignore)
        if self.class_weights is not None:
            weight_array(self, self.class_weights, 2, jnp.float32)

    def _weigh(self, z: Array, y: Array) -> tuple[Array, Array, Array, Number | Array]:
        """Return z in at least float32, and the weights of "yes", of "no", of both.

        Where an answer is ignored, all of them are 0.
        """
        t = class_targets(self, z, y, at_least_float32(z.dtype), binary=True)
        z = widen(z)
        if self.ignore is None and self.class_weights is None:
            return z, t, 1 - t, 1.0  # 1, not t + (1 − t)
        yes, no = t, 1 - t
        if self.class_weights is not None:
            weight = weight_array(self, self.class_weights, 2, t.dtype)
            yes, no = weight[1] * yes, weight[0] * no
        if self.ignore is not None:
            counts = counted(y, self.ignore)
            counts = counts if are_rows(z.shape[1:], y) else counts[..., None]
            z, yes, no = (jnp.where(counts, part, 0) for part in (z, yes, no))
        factor = mean_factor(yes + no)
        return z, factor * yes, factor * no, factor * (yes + no)


@pytree
class SoftmaxCrossEntropy(Loss):
    """The cross-entropy of a choice among K classes.

    With a_k = e^(z_k) / Σ_j e^(z_j), t smoothed to (1 − s) t + s/K, and M = N ×
    positions:

        value   J = −(1/M) Σ_n Σ_k t_nk log a_nk
        delta   δ = (a − t) / M

    A logit of −∞ rules its class out (a masked action, say). With label smoothing every
    class has a share of t, and J is inf. A row with +∞ or NaN, or of nothing but −∞,
    has no softmax: J and this row of δ are NaN.

    With class weights w, the weight of a label is v = Σ_k w_k t_nk before smoothing:
    w_y for class y. It is v = 0 where the label is ignored:

        value   J = −(1 / Σ v) Σ_n Σ_k w_k t_nk log a_nk
        delta   δ = (a Σ_j w_j t_j − w t) / Σ v

    Labels y: (N, ...) integer classes 0 .. K−1; or (N, ..., K) rows that sum to 1. A
    row is ignored where each of its entries is `ignore`.

    Args:
        label_smoothing: s in [0, 1], the part of the target that is spread evenly.
        ignore: the integer that stands for no label; None for none.
        class_weights: w, K numbers, a tuple or (better for many) an array; None for
            ones.

    Raises:
        ValueError, TypeError: labels of another shape, dtype or range. (Compiled, a
            label out of range makes J and its row of δ NaN.)

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> z, y = jnp.array([[0.0, 0.0], [1e4, -1e4]]), jnp.array([1, 0])
        >>> loss = fnn.losses.SoftmaxCrossEntropy()
        >>> print(loss.value(z, y), loss.delta(z, y).tolist())
        0.3465736 [[0.25, -0.25], [0.0, 0.0]]
        >>> tokens = jnp.array([[0, 1, 255]])  # one example of three positions
        >>> loss = fnn.losses.SoftmaxCrossEntropy(ignore=255)
        >>> print(loss.delta(jnp.zeros((1, 3, 2)), tokens)[0])
        [[-0.25  0.25]
         [ 0.25 -0.25]
         [ 0.    0.  ]]

    Source: Bridle 1990, "Probabilistic interpretation of feedforward classification
    network outputs"; smoothing: Szegedy et al., arXiv:1512.00567, section 7.
    """

    label_smoothing: float = leaf(0.0)
    ignore: int | None = field(default=None, kw_only=True)
    class_weights: Any = leaf(None, kw_only=True)
    classifies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_options(self)
        smoothing = self.label_smoothing
        if isinstance(smoothing, float) and not 0 <= smoothing <= 1:
            raise ValueError(
                "SoftmaxCrossEntropy: label_smoothing is a share and must be in "
                f"[0, 1], got {smoothing}"
            )

    def value(self, z: Array, y: Array) -> Scalar:
        z, t, total = self._weigh(z, y)
        # log a_k = z_k − log Σ_j e^(z_j). Σ_k t_k is taken to be 1, not computed: then
        # δ is a − t to the last digit, also where float32 labels sum to 1 ± 1e-7.
        log_sum, half = _log_sum_and_half(z)
        return mean(total * log_sum, _positions(z)) - _shares(t, half)

    def delta(self, z: Array, y: Array) -> Array:
        wide, t, total = self._weigh(z, y)
        a = jax.nn.softmax(wide, axis=-1)
        return ((total * a - t) / _positions(z)).astype(z.dtype)

    def check(self, out_shape: InShape, y: Array) -> None:
        check_class_labels(self, out_shape, y, ignore=self.ignore)
        if self.class_weights is not None:
            weight_array(self, self.class_weights, out_shape[-1], jnp.float32)
        if are_rows(out_shape, y):
            check_rows_sum_to_one(self, y, self.ignore)

    def _weigh(self, z: Array, y: Array) -> tuple[Array, Array, Number | Array]:
        """Return z in at least float32, w t, and its sum over the classes.

        Where a label is ignored, all of them are 0.
        """
        plain = class_targets(self, z, y, at_least_float32(z.dtype))
        smoothing = jnp.asarray(self.label_smoothing, plain.dtype)
        t = (1 - smoothing) * plain + smoothing / z.shape[-1]
        z = widen(z)
        if self.ignore is None and self.class_weights is None:
            return z, t, 1.0
        v = total = jnp.ones((*z.shape[:-1], 1), t.dtype)
        if self.class_weights is not None:
            weight = weight_array(self, self.class_weights, z.shape[-1], t.dtype)
            weight = jax.lax.expand_dims(weight, range(t.ndim - 1))
            v = (weight * plain).sum(-1, keepdims=True)
            t = weight * t
            total = t.sum(-1, keepdims=True)
        if self.ignore is not None:
            counts = counted(y, self.ignore)
            rows = are_rows(z.shape[1:], y)
            counts = counts.any(-1, keepdims=True) if rows else counts[..., None]
            z, t, total, v = (jnp.where(counts, part, 0) for part in (z, t, total, v))
        factor = mean_factor(v)
        return z, factor * t, factor * total


@pytree
class KullbackLeibler(Loss):
    """The divergence of the softmax's distribution a from a distribution t of labels.

    With a_k = e^(z_k) / Σ_j e^(z_j), and M = N × positions:

        value   J = (1/M) Σ_n Σ_k t_nk log(t_nk / a_nk)         0 log 0 = 0
        delta   δ = (a − t) / M

    It is the cross-entropy minus the entropy of t, and so 0 where a = t; δ is the same.
    PyTorch's `KLDivLoss` takes log a for z, and with reduction="batchmean" divides by N
    alone where there are positions.

    Labels y: (N, ..., K) rows that sum to 1.

    Raises:
        ValueError, TypeError: labels of another shape or range.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> z, y = jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]])
        >>> loss = fnn.losses.KullbackLeibler()
        >>> print(loss.value(z, y), loss.delta(z, y))
        0.6931472 [[-0.5  0.5]]

    Source: Kullback and Leibler, Annals of Mathematical Statistics 22 (1951), eq. 2.4.
    """

    classifies: ClassVar[bool] = True

    def value(self, z: Array, y: Array) -> Scalar:
        t = self._targets(z, y)
        log_sum, half = _log_sum_and_half(widen(z))
        entropy = t * jnp.log(jnp.where(t == 0, 1, t))  # minus it
        # Σ_k t_k is taken to be 1, as above.
        positions = _positions(z)
        return mean(log_sum, positions) + mean(entropy, positions) - _shares(t, half)

    def delta(self, z: Array, y: Array) -> Array:
        t = self._targets(z, y)
        a = jax.nn.softmax(widen(z), axis=-1)
        return ((a - t) / _positions(z)).astype(z.dtype)

    def check(self, out_shape: InShape, y: Array) -> None:
        self._expect_rows(out_shape, y)
        check_class_labels(self, out_shape, y)
        check_rows_sum_to_one(self, y)

    def _targets(self, z: Array, y: Array) -> Array:
        self._expect_rows(z.shape[1:], y)
        return class_targets(self, z, y, at_least_float32(z.dtype))

    def _expect_rows(self, out_shape: InShape, y: Array) -> None:
        if not are_rows(out_shape, y):
            raise ValueError(
                f"{self!r} expected labels of the outputs' shape, rows that sum to 1, "
                f"got shape {y.shape} for outputs (N, {', '.join(map(str, out_shape))})"
                ". For class indices use SoftmaxCrossEntropy."
            )


def _check_options(loss: Any) -> None:
    """Raise unless `ignore` is an integer, and weights are numbers."""
    name = type(loss).__name__
    object.__setattr__(loss, "ignore", as_ignore(name, loss.ignore))
    object.__setattr__(loss, "class_weights", as_weights(name, loss.class_weights))


def _log_sum_and_half(z: Array) -> tuple[Array, Array]:
    """Return log Σ_k e^(z_k − m) and (z − m)/2, m the largest logit of each position.

    z − m may overflow where its share of the mean does not; half of it cannot.
    """
    largest = jax.lax.stop_gradient(z.max(-1, keepdims=True))
    log_sum = jnp.log(jnp.exp(z - largest).sum(-1, keepdims=True))
    return log_sum, z / 2 - largest / 2


def _shares(t: Array, half: Array) -> Scalar:
    """Return (1/M) Σ_n Σ_k t_nk (z_nk − m_n), from half of z − m.

    Where t is 0, z does not count, not even −inf: 0 × inf would be NaN.
    """
    return jnp.where(t == 0, 0, 2 * t / _positions(t) * half).sum()


def _positions(z: Array) -> int:
    """Return M, the number of examples times positions."""
    return z.size // z.shape[-1]
