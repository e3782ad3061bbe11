"""A few handwritten digits, on which a network overfits.

Some are for training, others for validation; the test images are those of the dataset.
"""

import jax
import numpy as np

import fnn

__all__ = ["error_on_test_images", "sample_digits"]


def sample_digits(
    examples: int, validation: int, seed: int, noise: float = 0.0
) -> fnn.data.Split:
    """Draw digits for training, and others for validation.

    Args:
        examples: how many for training.
        validation: how many for validation.
        seed: of the draw.
        noise: probability that a label of either is replaced by another one.

    Raises:
        ValueError: there are not that many digits, or `noise` is no probability.
    """
    x, y = fnn.data.digits().train
    wanted = examples + validation
    if wanted > len(y):
        raise ValueError(f"at most {len(y)} examples and validation, got {wanted}")
    if not 0 <= noise <= 1:
        raise ValueError(f"noise is a probability, from 0 to 1, got {noise}")
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(y))[:wanted]
    shift = rng.integers(1, 10, wanted) * (rng.random(wanted) < noise)
    x, y = x[chosen], (y[chosen] + shift.astype(y.dtype)) % 10
    n = examples
    return fnn.data.Split((x[:n], y[:n]), (x[n:], y[n:]))


def error_on_test_images(
    net: fnn.Layer, variables: fnn.Variables, *member: int
) -> float:
    """Return the share of all test images that the network classifies wrongly.

    Args:
        net: the network.
        variables: of the network, or of all members of a sweep.
        member: the index of the member in the sweep.
    """
    own = jax.tree.map(lambda leaf: leaf[member], variables)
    loss = fnn.losses.SoftmaxCrossEntropy()
    return 1 - fnn.evaluate(net, loss, own, fnn.data.digits().test)["accuracy"]
