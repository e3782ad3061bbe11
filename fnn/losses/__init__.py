"""Losses: a value and a delta, side by side.

    value(z, y)     J = (1/N) Σ_n L(z_n, y_n)           a scalar
    delta(z, y)     δ = ∂J/∂z, of z's shape             the δ that backward starts from

`classification` has those of logits, and says what the mean is divided by where labels
stand at several positions, are ignored, or weigh more than others; `hinge` has those of
a margin, `regression` those of real-valued targets. `own` makes a loss of any function,
and `contract` says what a class of one's own needs.
"""

from fnn.losses.classification import (
    KullbackLeibler,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
)
from fnn.losses.contract import Loss, expect_loss
from fnn.losses.hinge import Hinge
from fnn.losses.own import Lambda
from fnn.losses.regression import AbsoluteError, Huber, Poisson, SquaredError
from fnn.losses.several import Each, Weighted

__all__ = [
    "AbsoluteError",
    "Each",
    "Hinge",
    "Huber",
    "KullbackLeibler",
    "Lambda",
    "Loss",
    "Poisson",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "Weighted",
    "expect_loss",
]
