"""Few handwritten digits, where a network overfits: to train on, choose by and test."""

import jax
import numpy as np

import fnn

__all__ = ["drawn", "error_on_test"]


def drawn(
    examples: int, validation: int, seed: int, noise: float = 0.0
) -> fnn.data.Split:
    """Draw digits to train on, and others to choose by.

    Args:
        examples: how many to train on.
        validation: how many to choose by.
        seed: of the draw.
        noise: probability that a label of either is replaced by another one.

    Raises:
        ValueError: there are not so many digits, or `noise` is no probability.
    """
    x, y = fnn.data.digits().train
    wanted = examples + validation
    if wanted > len(y):
        raise ValueError(f"at most {len(y)} examples and validation, got {wanted}")
    if not 0 <= noise <= 1:
        raise ValueError(f"noise is a probability, from 0 to 1, got {noise}")
    draw = np.random.default_rng(seed)
    chosen = draw.permutation(len(y))[:wanted]
    shift = draw.integers(1, 10, wanted) * (draw.random(wanted) < noise)
    x, y = x[chosen], (y[chosen] + shift.astype(y.dtype)) % 10
    n = examples
    return fnn.data.Split((x[:n], y[:n]), (x[n:], y[n:]))


def error_on_test(net: fnn.Layer, variables: fnn.Variables, *at: int) -> float:
    """The share of all test images that the network takes for another digit.

    Args:
        net: the network.
        variables: its own, or those of all members of a sweep.
        at: the place of the member in the sweep.
    """
    one = jax.tree.map(lambda leaf: leaf[at], variables)
    loss = fnn.losses.SoftmaxCrossEntropy()
    return 1 - fnn.evaluate(net, loss, one, fnn.data.digits().test)["accuracy"]
