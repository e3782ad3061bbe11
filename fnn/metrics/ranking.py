"""Ranking metrics: does a score put the examples of one class above the others?

Legend: N examples, s (N,) their scores.
"""

import jax.numpy as jnp

from fnn.dtypes import widen
from fnn.metrics.answers import as_scores, true_classes
from fnn.typing import Array, Scalar

__all__ = ["auc"]


def auc(outputs: Array, y: Array) -> Scalar:
    """Return the area under the ROC curve of two classes, from the ranks of the scores.

        AUC = 1/(n₁ n₀) Σ_{i: y_i=1} Σ_{j: y_j=0} ( [ s_i > s_j ] + ½ [ s_i = s_j ] )

    It is the probability that an example of class 1 has a larger score than one of
    class 0; a tie counts one half. The scores are sorted: no pair is formed.

    Args:
        outputs: z (N, ..., 1), the score s; or z (N, ..., 2), with s = z_1 − z_0.
        y: classes 0 and 1 (N, ...), or rows.

    Returns:
        A scalar in [0, 1], a number of all examples; NaN where one of the classes has
        no example, or a score is NaN.

    Raises:
        ValueError: shapes that do not fit, or more than two outputs.

    Example:
        >>> import jax.numpy as jnp
        >>> z, y = jnp.array([[0.1], [0.4], [0.35], [0.8]]), jnp.array([0, 0, 1, 1])
        >>> print(auc(z, y))
        0.75

    Source: Hanley and McNeil, Radiology 143 (1982), p. 31; Mann and Whitney, Annals of
    Mathematical Statistics 18 (1947).
    """
    z, y = as_scores(outputs, y)
    if z.shape[-1] > 2:
        raise ValueError(
            "auc ranks by one score, and expected outputs (N, 1), or (N, 2) of two "
            f"classes, got {z.shape}. For class k against the rest: "
            "auc(z[:, k:k+1], y == k)"
        )
    is_one = true_classes(z, y).ravel() == 1
    z = widen(z)
    scores = (z[..., 0] if z.shape[-1] == 1 else z[..., 1] - z[..., 0]).ravel()

    order = jnp.argsort(scores)
    ranked, is_zero = scores[order], ~is_one[order]
    # zeros[i]: how many of the i lowest scores are of class 0
    zeros = jnp.pad(jnp.cumsum(is_zero, dtype=jnp.int32), (1, 0))
    below = zeros[jnp.searchsorted(ranked, scores, side="left")]
    not_above = zeros[jnp.searchsorted(ranked, scores, side="right")]
    # Shares, not counts: a float32 holds no product n₁ n₀ of many examples.
    share_below = (below + not_above).astype(z.dtype) / (2 * zeros[-1]).astype(z.dtype)
    area = jnp.where(is_one, share_below, 0).sum() / is_one.sum(dtype=z.dtype)
    return jnp.where(jnp.isnan(scores).any(), jnp.nan, area)
