"""The hinge loss: a margin between the right class and the others.

Legend: N examples, ... positions (often none), M = N × positions, K outputs;
z (N, ..., K).
"""

from dataclasses import field
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from fnn.dtypes import at_least_float32, widen
from fnn.labels import (
    are_rows,
    check_class_labels,
    class_targets,
    counted,
    is_concrete,
)
from fnn.losses.contract import Loss, mean
from fnn.losses.weights import as_ignore, mean_factor
from fnn.pytree import leaf, pytree
from fnn.typing import Array, Bool, Float, InShape, Scalar

__all__ = ["Hinge"]


@pytree
class Hinge(Loss):
    """The hinge loss of one yes/no question, or of a choice among K classes.

    With t = 1 for "yes" and −1 for "no", and M = N × positions:

        K = 1   L = max(0, m − t z)             δ = −t [t z < m] / M
        K > 1   L = max(0, m + z_j − z_y),      j the largest output of a wrong class
                δ_j = [L > 0] / M,  δ_y = −[L > 0] / M,  0 elsewhere
        value   J = (1/M) Σ_n L_n

    The second is the multi-class hinge of Crammer and Singer, as in Optax, scikit-learn
    and Keras (`CategoricalHinge`); PyTorch's `MultiMarginLoss` adds over all wrong
    classes, and divides by K. At a kink, where the margin is just met, δ is 0; of
    several equal outputs of wrong classes, j is the first.

    Labels y: K = 1: (N, ...) or (N, ..., 1), 0 and 1, or −1 and 1. K > 1: (N, ...)
    integer classes, or (N, ..., K) one-hot rows.

    Args:
        margin: m > 0.
        ignore: the integer that stands for no label, as in `SoftmaxCrossEntropy`: it
            counts neither in the sum nor in M; a row where each entry is `ignore`. None
            for none. With −1, labels of K = 1 are 0 and 1.

    Raises:
        ValueError, TypeError: labels of another shape, dtype or range.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> z, y = jnp.array([[2.0, 1.5, -3.0], [0.0, 4.0, 0.0]]), jnp.array([0, 1])
        >>> loss = fnn.losses.Hinge()
        >>> print(loss.value(z, y))
        0.25
        >>> print(loss.delta(z, y))
        [[-0.5  0.5  0. ]
         [ 0.   0.   0. ]]

    Source: Crammer and Singer, JMLR 2 (2001), section 3; for K = 1 Cortes and Vapnik,
    Machine Learning 20 (1995).
    """

    margin: float = leaf(1.0)
    ignore: int | None = field(default=None, kw_only=True)
    classifies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "ignore", as_ignore("Hinge", self.ignore))
        if isinstance(self.margin, float) and not self.margin > 0:
            raise ValueError(f"Hinge: margin must be > 0, got {self.margin}")

    def value(self, z: Array, y: Array) -> Scalar:
        losses, _, factor = self._losses(z, y)
        return mean(factor * losses, losses.size)

    def delta(self, z: Array, y: Array) -> Array:
        losses, slope, factor = self._losses(z, y)
        # 0 × NaN: a NaN in z must not vanish.
        active = jnp.where(losses > 0, 1, 0 * losses)
        positions = z.size // z.shape[-1]
        delta = jnp.where(active == 0, 0, factor * active * slope)  # 0, and not -0
        return (delta / positions).astype(z.dtype)

    def check(self, out_shape: InShape, y: Array) -> None:
        if out_shape[-1:] == (1,):
            self._check_answers(out_shape, y)
            return
        check_class_labels(self, out_shape, y, ignore=self.ignore)
        if are_rows(out_shape, y) and is_concrete(y) and y.size:
            rows = np.asarray(y)
            one_hot = ((rows == 1).sum(-1) == 1) & ((rows != 0).sum(-1) == 1)
            if self.ignore is not None:
                one_hot |= ~counted(rows, self.ignore).any(-1)
            if not one_hot.all():
                index = np.argwhere(~one_hot)[0].tolist()
                raise ValueError(
                    f"{self!r} expected label rows with a single 1, got "
                    f"{rows[tuple(index)].tolist()} at y{index}"
                )

    def _check_answers(self, out_shape: InShape, y: Array) -> None:
        """Raise unless labels of one yes/no question are 0 and 1, or −1 and 1."""
        check_class_labels(self, out_shape, jnp.zeros(y.shape), binary=True)
        if not is_concrete(y) or y.size == 0:
            return
        values = np.asarray(y).astype(np.float64)
        wrong = ~np.isin(values, (-1, 0, 1))
        counts = np.ones(values.shape, bool)
        if self.ignore is not None:
            counts = counted(values, self.ignore)
        if not (values[counts] == -1).any() or self.ignore == -1:
            wrong |= values == -1
        elif (values[counts] == 0).any():
            wrong |= values == 0  # there are both −1 and 0
        if (wrong & counts).any():
            index = np.argwhere(wrong & counts)[0].tolist()
            raise ValueError(
                f"{self!r} expected labels of a yes/no question to be 0 and 1, or -1 "
                f"and 1, got {values[tuple(index)]:g} at y{index}"
            )

    def _losses(
        self, z: Array, y: Array
    ) -> tuple[Float[Array, "N *P 1"], Float[Array, "N *P K"], Scalar | float]:
        """Return L; its slope in z where L > 0; and M over the labels that count."""
        margin = jnp.asarray(self.margin, at_least_float32(z.dtype))
        if z.shape[-1] == 1:
            y = jnp.where(y == -1, 0, y)
        targets = class_targets(self, z, y, margin.dtype, binary=True)
        right, no_label = targets > 0, jnp.isnan(targets).any(-1, keepdims=True)
        z = widen(z)
        factor, counts = 1.0, self._counts(z, y)
        if counts is not None:
            factor, z = mean_factor(counts.astype(z.dtype)), jnp.where(counts, z, 0)
        if z.shape[-1] == 1:
            slope = jnp.where(right, -1, 1).astype(z.dtype)
            losses = jax.nn.relu(margin + slope * z)
        else:
            others = jnp.where(right, -jnp.inf, z)
            is_rival = jax.nn.one_hot(others.argmax(-1), z.shape[-1], dtype=z.dtype)
            slope = is_rival - right.astype(z.dtype)
            # Not Σ slope z: 0 × inf would be NaN.
            gap = jnp.where(slope == 0, 0, slope * z).sum(-1, keepdims=True)
            losses = jax.nn.relu(margin + gap)
        losses = jnp.where(no_label, jnp.nan, losses)
        if counts is not None:
            losses = jnp.where(counts, losses, 0)
        return losses, slope, factor

    def _counts(self, z: Array, y: Array) -> Bool[Array, "N *P 1"] | None:
        """Return whether each label counts; None where none is ignored."""
        if self.ignore is None:
            return None
        counts = counted(y, self.ignore)
        rows = are_rows(z.shape[1:], y)
        return counts.any(-1, keepdims=True) if rows else counts[..., None]
