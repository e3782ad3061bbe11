"""Small convolutional networks of three well-known kinds.

    lenet               convolution and max-pooling, twice, then dense layers
    all_convolutional   strides instead of pooling, no dense layer at all
    resnet              residual blocks, normalised before each activation

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
    """Build a LeNet: two convolutions with pooling, and a hidden layer with dropout.

    Some parts of LeNet-5 are replaced by modern ones: tanh by ReLU, weighted averages
    by max-pooling, distances to drawings by logits for a softmax; dropout is new.

    Args:
        classes: K.
        features: features of the two convolutions.
        kernel_size: pixels along each side of a kernel.
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
    return fnn.serial(*layers, *_dropout(dropout), fnn.Dense(classes))


def all_convolutional(
    classes: int = 10, *, features: tuple[int, int] = (32, 64), dropout: float = 0.5
) -> fnn.Layer:
    """Build a network of convolutions and ReLUs; logits are means over all positions.

    It is All-CNN-C with a third of its features and two layers less. Convolutions of
    stride 2 replace pooling, and 1×1 convolutions replace dense layers.

    Args:
        classes: K.
        features: features before and after the second stride.
        dropout: probability of dropping a unit after each stride.

    Source: Springenberg et al., arXiv:1412.6806, table 1, model C in table 2.
    """
    layers: list[fnn.Layer] = []
    for count in features:
        for stride in (1, 2):
            layers += [fnn.Conv(count, 3, stride=stride), fnn.Relu()]
        layers += _dropout(dropout)
    for kernel_size in (3, 1):
        layers += [fnn.Conv(features[-1], kernel_size), fnn.Relu()]
    return fnn.serial(*layers, fnn.Conv(classes, 1), fnn.GlobalAvgPool())


def resnet(
    classes: int = 10, *, blocks: int = 1, features: Sequence[int] = (16, 32, 64)
) -> fnn.Layer:
    """Build a ResNet of pre-activation blocks in three stages, 6 · blocks + 2 layers.

    The first block of a stage halves the image, except in the first stage; its shortcut
    is a strided 1×1 convolution. All other shortcuts are the identity.

    Args:
        classes: K.
        blocks: in each stage; with 3 it is the ResNet-20 that is used for CIFAR-10.
        features: features of each stage.

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
            layers.append(fnn.residual(_residual_body(count, stride), projection))
            before = count
    return fnn.serial(
        *layers, fnn.BatchNorm(), fnn.Relu(), fnn.GlobalAvgPool(), fnn.Dense(classes)
    )


def _residual_body(features: int, stride: int) -> fnn.Layer:
    """Build BatchNorm, ReLU, convolution, twice; the first convolution is strided."""
    return fnn.serial(
        *(fnn.BatchNorm(), fnn.Relu(), _conv(features, 3, stride)),
        *(fnn.BatchNorm(), fnn.Relu(), _conv(features, 3)),
    )


def _conv(features: int, kernel_size: int, stride: int = 1) -> fnn.Layer:
    """Build a convolution without a bias, which the next BatchNorm would subtract."""
    # The ReLU comes after the next BatchNorm, or before this convolution: `serial`,
    # which chooses the initialisation by the next layer, does not see it.
    init = fnn.initializers.HeNormal()
    return fnn.Conv(features, kernel_size, stride=stride, bias=False, weight_init=init)


def _dropout(rate: float) -> list[fnn.Layer]:
    return [fnn.Dropout(rate)] if rate else []
