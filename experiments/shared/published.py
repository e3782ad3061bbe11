"""Published results on MNIST by plain backpropagation; and the table of all settings.

What a setting says is in `setting`; those with another backward pass, or with private
training, are in `published_passes`.
"""

from dataclasses import replace

import fnn
from experiments.shared.published_passes import PASSES
from experiments.shared.setting import Setting
from fnn.layers.initializers import HeNormal, Initializer, Normal, Zeros

__all__ = ["SETTINGS"]

# ---- Nielsen, Neural Networks and Deep Learning (2015) ---------------------------

STANDARD_NORMAL = Normal(1.0)
PIXELS = "white is 1 (in the source 255/256)"


def one_hidden_layer(hidden: int, *output: fnn.Layer) -> fnn.Layer:
    """Build 784-hidden-10 with sigmoids, every weight and bias from N(0, 1)."""
    first, last = (
        fnn.Dense(units, weight_init=STANDARD_NORMAL, bias_init=STANDARD_NORMAL)
        for units in (hidden, 10)
    )
    return fnn.serial(fnn.Flatten(), first, fnn.Sigmoid(), last, *output)


CHAPTER_1 = Setting(
    net=one_hidden_layer(30, fnn.Sigmoid()),
    published=(0.9542,),
    source="Nielsen, chapter 1",
    known="sigmoid outputs, ½‖a − y‖², N(0, 1) weights and biases, the first 50,000 "
    "images, batches of 10, learning rate 3, 30 epochs, the best of them",
    chosen=PIXELS,
    loss=fnn.losses.SquaredError(),
    learning_rate=3.0,
)

CHAPTER_3 = Setting(
    net=one_hidden_layer(30),
    published=(0.9533, 0.9549),
    source="Nielsen, chapter 3",
    known="as in chapter 1, but cross-entropy and learning rate 0.5; two runs",
    chosen=PIXELS,
    loss=fnn.losses.SigmoidCrossEntropy(),
    learning_rate=0.5,
)

CHAPTER_3_THOUSAND = replace(
    CHAPTER_3,
    published=(0.8227,),
    known="as in chapter 3, but the first 1,000 images and 400 epochs",
    examples=1000,
    epochs=400,
)


def convolution_and_pooling(
    features: int, biases: Initializer, activation: fnn.Layer
) -> tuple[fnn.Layer, ...]:
    """Build a 5×5 convolution, the activation, and 2×2 max-pooling.

    The source's weights have variance 1 / (features · 25 / 4). It pools before it
    applies the activation, which is increasing, so that the numbers are the same.
    """
    weights = Normal((features * 25 / 4) ** -0.5)
    conv = fnn.Conv(features, 5, padding="VALID", weight_init=weights, bias_init=biases)
    return conv, activation, fnn.MaxPool(2)


def convolutional_network(*features: int, activation: fnn.Layer) -> fnn.Layer:
    """Build convolutions, a hidden layer of 100 units, and 10 logits from weights 0."""
    convolutions = [
        part
        for count in features
        for part in convolution_and_pooling(count, STANDARD_NORMAL, activation)
    ]
    hidden = fnn.Dense(100, weight_init=Normal(0.1), bias_init=STANDARD_NORMAL)
    classes = fnn.Dense(10, weight_init=Zeros())
    return fnn.serial(*convolutions, fnn.Flatten(), hidden, activation, classes)


CHAPTER_6 = Setting(
    net=convolutional_network(20, activation=fnn.Sigmoid()),
    published=(0.9878,),
    source="Nielsen, chapter 6",
    known="20 templates of 5×5 (no padding), pooling 2×2, 100 sigmoids, softmax; "
    "weights and biases drawn as in network3.py; batches of 10, learning rate 0.1, 60 "
    "epochs, the one with the best accuracy on the last 10,000 training images",
    chosen=f"new minibatches in every epoch (the source's are fixed), {PIXELS}",
    epochs=60,
    measured="validated",
)

# ---- Srivastava et al., Dropout, JMLR 15 (2014) ----------------------------------


def three_hidden_layers(
    activation: fnn.Layer, weights: Initializer, visible: float, hidden: float
) -> fnn.Layer:
    """Build 784-1024-1024-1024-10 with dropout of these probabilities."""
    layers: list[fnn.Layer] = [fnn.Flatten(), *dropout(visible)]
    for _ in range(3):
        layers += [fnn.Dense(1024, weight_init=weights), activation, *dropout(hidden)]
    return fnn.serial(*layers, fnn.Dense(10))


def dropout(rate: float) -> list[fnn.Layer]:
    """Return a dropout layer, or none where the rate is 0."""
    return [fnn.Dropout(rate)] if rate else []


DROPOUT_CHOICES = (
    "batches of 256, momentum 0.95 with a learning rate of {} after a warm-up, down to "
    "0 along half a cosine, 250 epochs (59,000 updates), {}"
)

DROPOUT_RELU = Setting(
    net=three_hidden_layers(fnn.Relu(), HeNormal(), visible=0.2, hidden=0.5),
    published=(0.9875,),
    source="Srivastava et al. 2014, table 2",
    known="784-1024-1024-1024-10, 20% of the pixels and 50% of the hidden units "
    "dropped, momentum rising to 0.95, all 60,000 images, a million updates, no early "
    "stopping",
    chosen=DROPOUT_CHOICES.format(0.05, "weights as He et al. draw them"),
    learning_rate=0.05,
    batch_size=256,
    epochs=250,
    examples=60_000,
    momentum=0.95,
    cosine_decay=True,
    measured="last",
    reports_error=True,
)

#: Every setting by name.
SETTINGS: dict[str, Setting] = {
    "nielsen-1": CHAPTER_1,
    "nielsen-1-wide": replace(
        CHAPTER_1,
        net=one_hidden_layer(100, fnn.Sigmoid()),
        published=(0.9659,),
        known=f"100 hidden units; else as with 30: {CHAPTER_1.known}",
    ),
    "nielsen-1-slow": replace(
        CHAPTER_1,
        net=one_hidden_layer(100, fnn.Sigmoid()),
        published=(0.2142,),
        known="100 hidden units and a learning rate of 0.001: too small",
        learning_rate=0.001,
    ),
    "nielsen-3": CHAPTER_3,
    "nielsen-3-l2": replace(
        CHAPTER_3, published=(0.9649,), known=f"{CHAPTER_3.known}; λ = 5", l2=5.0
    ),
    "nielsen-3-thousand": CHAPTER_3_THOUSAND,
    "nielsen-3-thousand-l2": replace(
        CHAPTER_3_THOUSAND,
        published=(0.8710,),
        known=f"{CHAPTER_3_THOUSAND.known}; λ = 0.1",
        l2=0.1,
    ),
    "nielsen-6": CHAPTER_6,
    "nielsen-6-two": replace(
        CHAPTER_6,
        net=convolutional_network(20, 40, activation=fnn.Sigmoid()),
        published=(0.9906,),
        known=f"a second convolution, of 40 templates; else: {CHAPTER_6.known}",
    ),
    "nielsen-6-relu": replace(
        CHAPTER_6,
        net=convolutional_network(20, 40, activation=fnn.Relu()),
        published=(0.9923,),
        known="two convolutions, ReLU for the sigmoids, learning rate 0.03, and "
        "λ = 0.1, which network3.py divides by the number of batches; else: "
        f"{CHAPTER_6.known}",
        learning_rate=0.03,
        l2=0.1 * CHAPTER_6.batch_size,  # λ/(2n/10) there is (10 λ)/(2n) here
    ),
    "dropout-logistic": replace(
        DROPOUT_RELU,
        net=three_hidden_layers(fnn.Sigmoid(), Normal(0.05), visible=0.2, hidden=0.5),
        published=(0.9865,),
        chosen=DROPOUT_CHOICES.format(0.05, "weights from N(0, 0.05²)"),
    ),
    "dropout-relu": DROPOUT_RELU,
    "dropout-none": replace(
        DROPOUT_RELU,
        net=three_hidden_layers(fnn.Relu(), HeNormal(), visible=0.0, hidden=0.0),
        published=(0.9840,),
        known="nothing: the table has Simard et al. 2003, 784-800-800-10, logistic",
        chosen=f"the network of dropout-relu without dropout: {DROPOUT_RELU.chosen}",
        other_network="logistic 2×800",
    ),
    "dropout-max-norm": replace(
        DROPOUT_RELU,
        published=(0.9894,),
        known=f"{DROPOUT_RELU.known}; incoming weights of a unit of norm 2 at most",
        max_norm=2.0,
    ),
    **PASSES,
}
