"""Convolutional networks, each small and of a kind that others were made after.

    lenet               convolution and max-pooling by turns, then dense layers
    all_convolutional   strides instead of pooling, no dense layer at all
    resnet              blocks around shortcuts, normalised before each activation

Each takes images (N, H, W, C) and returns logits (N, K).
"""

from collections.abc import Sequence

import fnn

__all__ = ["all_convolutional", "lenet", "resnet"]


def lenet(
    classes: int = 10,
    *,
    features: tuple[int, int] = (20, 40),
    kernel_size: int = 5,
    padding: str = "VALID",
    hidden: int = 500,
    dropout: float = 0.5,
) -> fnn.Layer:
    """Convolve and pool twice, then a hidden layer with dropout, then the classes.

    LeNet-5 with what has replaced its parts since: ReLU for tanh, max-pooling for
    averages with weights, dropout, and a softmax for distances to drawings.

    Args:
        classes: K.
        features: templates of the two convolutions.
        kernel_size: pixels along each side of a template.
        padding: "VALID" as in the source, or "SAME" for images that are too small.
        hidden: units of the dense layer.
        dropout: probability of dropping one of them.

    Source: LeCun et al., Proc. IEEE 86 (1998), figure 2.
    """
    layers: list[fnn.Layer] = []
    for count in features:
        conv = fnn.Conv(count, kernel_size, padding=padding)
        layers += [conv, fnn.Relu(), fnn.MaxPool(2)]
    layers += [fnn.Flatten(), fnn.Dense(hidden), fnn.Relu()]
    return fnn.serial(*layers, *_dropped(dropout), fnn.Dense(classes))


def all_convolutional(
    classes: int = 10, *, features: tuple[int, int] = (32, 64), dropout: float = 0.5
) -> fnn.Layer:
    """Nothing but convolutions and ReLUs; the classes are means over all places.

    All-CNN-C with a third of its features and two layers less. Where others pool, a
    convolution has stride 2; where others have dense layers, it is 1×1.

    Args:
        classes: K.
        features: templates before and after the second stride.
        dropout: probability of dropping a unit after each stride.

    Source: Springenberg et al., arXiv:1412.6806, table 1, model C in table 2.
    """
    layers: list[fnn.Layer] = []
    for count in features:
        for stride in (1, 2):
            layers += [fnn.Conv(count, 3, stride=stride), fnn.Relu()]
        layers += _dropped(dropout)
    for kernel_size in (3, 1):
        layers += [fnn.Conv(features[-1], kernel_size), fnn.Relu()]
    return fnn.serial(*layers, fnn.Conv(classes, 1), fnn.GlobalAvgPool())


def resnet(
    classes: int = 10, *, blocks: int = 1, features: Sequence[int] = (16, 32, 64)
) -> fnn.Layer:
    """Pre-activation residual blocks in three stages, of 6 · blocks + 2 layers.

    The first block of a stage halves the image, but not that of the first stage; its
    shortcut is a strided 1×1 convolution. All other shortcuts are the identity, so that
    a sum of all blocks' contributions runs through a stage untouched.

    Args:
        classes: K.
        blocks: in each stage; 3 make the ResNet-20 that is used for CIFAR-10.
        features: templates in each stage.

    Source: He et al., arXiv:1603.05027, figure 1b; the widths: arXiv:1512.03385,
    section 4.2.
    """
    if blocks < 1:
        raise ValueError(f"resnet: blocks must be at least 1, got {blocks}")
    layers = [_conv(features[0], 3)]
    before = features[0]
    for stage, count in enumerate(features):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            changes = stride > 1 or count != before
            projection = _conv(count, 1, stride) if changes else None
            layers.append(fnn.residual(_body(count, stride), projection))
            before = count
    return fnn.serial(
        *layers, fnn.BatchNorm(), fnn.Relu(), fnn.GlobalAvgPool(), fnn.Dense(classes)
    )


def _body(features: int, stride: int) -> fnn.Layer:
    """BatchNorm, ReLU, convolution, twice; the first convolution has the stride."""
    return fnn.serial(
        *(fnn.BatchNorm(), fnn.Relu(), _conv(features, 3, stride)),
        *(fnn.BatchNorm(), fnn.Relu(), _conv(features, 3)),
    )


def _conv(features: int, kernel_size: int, stride: int = 1) -> fnn.Layer:
    """Without a bias, which the next BatchNorm would subtract again.

    Drawn for the ReLU that comes after that BatchNorm, or before this convolution:
    `serial` does not see it there.
    """
    init = fnn.initializers.HeNormal()
    return fnn.Conv(features, kernel_size, stride=stride, bias=False, weight_init=init)


def _dropped(rate: float) -> list[fnn.Layer]:
    return [fnn.Dropout(rate)] if rate else []
