"""Losses: a value and a delta, side by side.

    value(z, y)     J = (1/N) Σ_n L(z_n, y_n)           a scalar
    delta(z, y)     δ = ∂J/∂z, of z's shape             the δ that backward starts from

`classification` has those of logits, `regression` those of real-valued targets, and
`contract` says what a loss of one's own needs.
"""

from fnn.losses.classification import SigmoidCrossEntropy, SoftmaxCrossEntropy
from fnn.losses.contract import Loss, expect_loss
from fnn.losses.regression import Huber, SquaredError
from fnn.losses.several import Each, Weighted

__all__ = [
    "Each",
    "Huber",
    "Loss",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "Weighted",
    "expect_loss",
]
