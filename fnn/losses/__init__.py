"""Losses: a value and a delta, side by side."""

from fnn.losses.classification import (
    Huber,
    Loss,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
    expect_loss,
)

__all__ = [
    "Huber",
    "Loss",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "expect_loss",
]
