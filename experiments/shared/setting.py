"""A published result, and the training that led to it.

The sources measure the accuracy in three ways, and a setting names one of them:

    best        the best of the test accuracies after every epoch: chosen on the test
                set, so that it is a little too good
    validated   the test accuracy after the epoch with the best validation accuracy
    last        the test accuracy after the last epoch; nothing is chosen
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax

import fnn

__all__ = ["Setting", "shortened"]

SOFTMAX = fnn.losses.SoftmaxCrossEntropy()


@dataclass(frozen=True)
class Setting:
    """A published result, and the training that led to it.

    Attributes:
        net: the network.
        published: test accuracies, as shares; two where the source has two.
        source: chapter or table that has them.
        known: the training, as far as the source describes it.
        chosen: the choices made here, where the source leaves them open.
        published_deviation: of the source's own runs, where it gives one.
        dataset: the images.
        side: pixels of each side, to which images are enlarged.
        pixels: mean and deviation of the pixels, by which they are standardised.
        shift: the largest random shift of a training image, in pixels.
        rule: makes the network with another backward, from the network and a key.
        engine: computes the gradients.
        private: clips and adds noise to them (DP-SGD).
        published_epsilon: ε of private training in the source.
        loss: minimised.
        optimizer: gradient descent, or Adam with its usual decays.
        learning_rate: of the optimizer.
        batch_size: examples in a minibatch.
        epochs: how many.
        examples: the first ones of the 60,000 for training.
        held_out: the last ones of the 60,000 for validation.
        l2: λ of the penalty λ/(2n) Σ Θ² on the weights.
        weight_decay: λ in g + λ Θ, of weights and biases.
        momentum: β of the heavy ball.
        cosine_decay: whether the learning rate rises linearly for a twentieth of the
            steps, and then falls to 0 along half a cosine.
        milestones: epochs after which the learning rate is multiplied by `factor`.
        factor: see `milestones`.
        max_norm: the bound on each unit's incoming weights.
        measured: how the accuracy is measured, see above.
        reports_error: whether the source reports the error and not the accuracy.
        other_network: the network of the published result, if it is another one.
    """

    net: fnn.Layer
    published: tuple[float, ...]
    source: str
    known: str
    chosen: str
    published_deviation: float | None = None
    dataset: Literal["mnist", "fashion_mnist"] = "mnist"
    side: int = 28
    pixels: tuple[float, float] = (0.0, 1.0)
    shift: int = 0
    rule: Callable[[fnn.Layer, jax.Array], fnn.Layer] | None = None
    engine: Any = "manual"
    private: fnn.per_example.Private | None = None
    published_epsilon: float | None = None
    loss: fnn.losses.Loss = SOFTMAX
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.1
    batch_size: int = 10
    epochs: int = 30
    examples: int = 50_000
    held_out: int = 10_000
    l2: float = 0.0
    weight_decay: float = 0.0
    momentum: float = 0.0
    cosine_decay: bool = False
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    max_norm: float | None = None
    measured: Literal["best", "validated", "last"] = "best"
    reports_error: bool = False
    other_network: str = ""


def shortened(setting: Setting, epochs: int) -> Setting:
    """Return the setting with another number of epochs, and milestones in proportion.

    A milestone of 50 in 100 epochs becomes 10 in 20, rounded, and at least 1.
    """
    moved = (max(1, round(m * epochs / setting.epochs)) for m in setting.milestones)
    return replace(setting, epochs=epochs, milestones=tuple(moved))
