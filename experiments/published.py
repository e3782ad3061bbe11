"""Published results on MNIST: settings, figures, and what the sources leave open.

Three sources, each with its own way to measure, which a setting names:

    best        the best of the test accuracies after every epoch: chosen on the test
                set, so that it is a little too good
    validated   the test accuracy after the epoch with the best validation accuracy
    last        the test accuracy after the last epoch; nothing is chosen
"""

from dataclasses import dataclass, replace
from typing import Literal

import fnn
from fnn.layers.initializers import HeNormal, Initializer, Normal, Zeros

__all__ = ["SETTINGS", "Setting"]

SOFTMAX = fnn.losses.SoftmaxCrossEntropy()


@dataclass(frozen=True)
class Setting:
    """One published figure, and how it was reached.

    Attributes:
        net: the network.
        published: test accuracies, as shares; two where the source has two.
        source: where they stand.
        known: what the source says.
        chosen: what it leaves open, and what is taken here.
        loss: minimised.
        learning_rate: of gradient descent.
        batch_size: examples in a minibatch.
        epochs: how many.
        examples: of MNIST's 60,000 for training, the first ones.
        l2: λ of the penalty λ/(2n) Σ Θ² on the weights.
        momentum: β of the heavy ball.
        decays: whether the learning rate rises along a line for a twentieth of the
            steps, and then falls to 0 along half a cosine.
        max_norm: the bound on each unit's incoming weights.
        measured: see above.
        as_error: whether the source reports the error and not the accuracy.
        stand_in: what the published figure was reached with, if not with this network.
    """

    net: fnn.Layer
    published: tuple[float, ...]
    source: str
    known: str
    chosen: str
    loss: fnn.losses.Loss = SOFTMAX
    learning_rate: float = 0.1
    batch_size: int = 10
    epochs: int = 30
    examples: int = 50_000
    l2: float = 0.0
    momentum: float = 0.0
    decays: bool = False
    max_norm: float | None = None
    measured: Literal["best", "validated", "last"] = "best"
    as_error: bool = False
    stand_in: str = ""


# ---- Nielsen, Neural Networks and Deep Learning (2015) ---------------------------

N01 = Normal(1.0)
PIXELS = "white is 1 (in the source 255/256)"


def perceptron(hidden: int, *output: fnn.Layer) -> fnn.Layer:
    """784-hidden-10, sigmoid, every weight and bias from N(0, 1)."""
    first, last = (
        fnn.Dense(units, weight_init=N01, bias_init=N01) for units in (hidden, 10)
    )
    return fnn.serial(fnn.Flatten(), first, fnn.Sigmoid(), last, *output)


CHAPTER_1 = Setting(
    net=perceptron(30, fnn.Sigmoid()),
    published=(0.9542,),
    source="Nielsen, chapter 1",
    known="sigmoid outputs, ½‖a − y‖², N(0, 1) weights and biases, the first 50,000 "
    "images, batches of 10, learning rate 3, 30 epochs, the best of them",
    chosen=PIXELS,
    loss=fnn.losses.SquaredError(),
    learning_rate=3.0,
)

CHAPTER_3 = Setting(
    net=perceptron(30),
    published=(0.9533, 0.9549),
    source="Nielsen, chapter 3",
    known="as in chapter 1, but cross-entropy and learning rate 0.5; two runs",
    chosen=PIXELS,
    loss=fnn.losses.SigmoidCrossEntropy(),
    learning_rate=0.5,
)

THOUSAND = replace(
    CHAPTER_3,
    published=(0.8227,),
    known="as in chapter 3, but the first 1,000 images and 400 epochs",
    examples=1000,
    epochs=400,
)


def convolve(
    features: int, biases: Initializer, activation: fnn.Layer
) -> tuple[fnn.Layer, ...]:
    """Templates of 5×5, activation, pooling 2×2.

    The source's weights have variance 1 / (features · 25 / 4). It pools before it
    applies the activation, which rises: the same numbers.
    """
    weights = Normal((features * 25 / 4) ** -0.5)
    conv = fnn.Conv(features, 5, padding="VALID", weight_init=weights, bias_init=biases)
    return conv, activation, fnn.MaxPool(2)


def convolutional(*features: int, activation: fnn.Layer) -> fnn.Layer:
    """Convolutions, a hidden layer of 100 units, and a softmax that starts at 0."""
    convolutions = [
        part for count in features for part in convolve(count, N01, activation)
    ]
    hidden = fnn.Dense(100, weight_init=Normal(0.1), bias_init=N01)
    classes = fnn.Dense(10, weight_init=Zeros())
    return fnn.serial(*convolutions, fnn.Flatten(), hidden, activation, classes)


CHAPTER_6 = Setting(
    net=convolutional(20, activation=fnn.Sigmoid()),
    published=(0.9878,),
    source="Nielsen, chapter 6",
    known="20 templates of 5×5 (no padding), pooling 2×2, 100 sigmoids, softmax; "
    "weights and biases drawn as in network3.py; batches of 10, learning rate 0.1, 60 "
    "epochs, the one with the best accuracy on the last 10,000 training images",
    chosen=f"minibatches anew in every epoch (the source's are fixed), {PIXELS}",
    epochs=60,
    measured="validated",
)

# ---- Srivastava et al., Dropout, JMLR 15 (2014) ----------------------------------


def three_layers(
    activation: fnn.Layer, weights: Initializer, visible: float, hidden: float
) -> fnn.Layer:
    """784-1024-1024-1024-10, units dropped with these probabilities."""
    layers: list[fnn.Layer] = [fnn.Flatten(), *dropped(visible)]
    for _ in range(3):
        layers += [fnn.Dense(1024, weight_init=weights), activation, *dropped(hidden)]
    return fnn.serial(*layers, fnn.Dense(10))


def dropped(rate: float) -> list[fnn.Layer]:
    """A layer that drops units, or none."""
    return [fnn.Dropout(rate)] if rate else []


OPEN = (
    "batches of 256, momentum 0.95 with a learning rate of {} after a warm-up, down to "
    "0 along half a cosine, 250 epochs (59,000 updates), {}"
)

RELU = Setting(
    net=three_layers(fnn.Relu(), HeNormal(), visible=0.2, hidden=0.5),
    published=(0.9875,),
    source="Srivastava et al. 2014, table 2",
    known="784-1024-1024-1024-10, 20% of the pixels and 50% of the hidden units "
    "dropped, momentum rising to 0.95, all 60,000 images, a million updates, no early "
    "stopping",
    chosen=OPEN.format(0.05, "weights as He et al. draw them"),
    learning_rate=0.05,
    batch_size=256,
    epochs=250,
    examples=60_000,
    momentum=0.95,
    decays=True,
    measured="last",
    as_error=True,
)

#: Every setting by name.
SETTINGS = {
    "nielsen-1": CHAPTER_1,
    "nielsen-1-wide": replace(
        CHAPTER_1,
        net=perceptron(100, fnn.Sigmoid()),
        published=(0.9659,),
        known=f"100 hidden units; else as with 30: {CHAPTER_1.known}",
    ),
    "nielsen-1-slow": replace(
        CHAPTER_1,
        net=perceptron(100, fnn.Sigmoid()),
        published=(0.2142,),
        known="100 hidden units and a learning rate of 0.001: too small",
        learning_rate=0.001,
    ),
    "nielsen-3": CHAPTER_3,
    "nielsen-3-l2": replace(
        CHAPTER_3, published=(0.9649,), known=f"{CHAPTER_3.known}; λ = 5", l2=5.0
    ),
    "nielsen-3-thousand": THOUSAND,
    "nielsen-3-thousand-l2": replace(
        THOUSAND, published=(0.8710,), known=f"{THOUSAND.known}; λ = 0.1", l2=0.1
    ),
    "nielsen-6": CHAPTER_6,
    "nielsen-6-two": replace(
        CHAPTER_6,
        net=convolutional(20, 40, activation=fnn.Sigmoid()),
        published=(0.9906,),
        known=f"a second convolution, of 40 templates; else: {CHAPTER_6.known}",
    ),
    "nielsen-6-relu": replace(
        CHAPTER_6,
        net=convolutional(20, 40, activation=fnn.Relu()),
        published=(0.9923,),
        known="two convolutions, ReLU for the sigmoids, learning rate 0.03, and "
        "λ = 0.1, which network3.py divides by the number of batches; else: "
        f"{CHAPTER_6.known}",
        learning_rate=0.03,
        l2=0.1 * CHAPTER_6.batch_size,  # λ/(2n/10) there is (10 λ)/(2n) here
    ),
    "dropout-logistic": replace(
        RELU,
        net=three_layers(fnn.Sigmoid(), Normal(0.05), visible=0.2, hidden=0.5),
        published=(0.9865,),
        chosen=OPEN.format(0.05, "weights from N(0, 0.05²)"),
    ),
    "dropout-relu": RELU,
    "dropout-none": replace(
        RELU,
        net=three_layers(fnn.Relu(), HeNormal(), visible=0.0, hidden=0.0),
        published=(0.9840,),
        known="nothing: the table has Simard et al. 2003, 784-800-800-10, logistic",
        chosen=f"the network of dropout-relu without dropout: {RELU.chosen}",
        stand_in="logistic 2×800",
    ),
    "dropout-max-norm": replace(
        RELU,
        published=(0.9894,),
        known=f"{RELU.known}; incoming weights of a unit of norm 2 at most",
        max_norm=2.0,
    ),
}
