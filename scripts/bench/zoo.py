"""The zoo: networks that the planner was not tuned on, an epoch of each.

They are of kinds that people bring: deep with BatchNorm, depthwise, pools that overlap,
branches side by side, one spatial axis, dense with LayerNorm, and a small one whose
time is spent between programs. The figures are those of `epochs`. Images are random: no
figure depends on them. (Write a network before you measure it, and keep it.)
"""

import math
from typing import Any

import numpy as np

import epochs
import fnn
from networks import CLASSES, NETWORKS, Network

__all__ = ["ROWS", "check", "measure"]

SAME = ((1, 1), (1, 1))  # written out: at stride 2, "SAME" would pad one side only


class RandomExamples(Network):
    """A network to train on random examples."""

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Draw the examples and their labels."""
        rng, n = np.random.default_rng(0), self.images
        x = rng.standard_normal((n, *self.in_shape), np.float32)
        return x, rng.integers(0, CLASSES, n).astype(np.int32)


def _vgg() -> fnn.Layer:
    """Build five 3×3 convolutions with BatchNorm: Simonyan, Zisserman 2015, small."""
    layers: list[fnn.Layer] = []
    for features, pools in ((32, 0), (32, 1), (64, 0), (64, 1), (128, 1)):
        conv = fnn.Conv(features, 3, padding=SAME, bias=False)
        layers += [conv, fnn.BatchNorm(), fnn.Relu(), *[fnn.MaxPool(2)] * pools]
    return fnn.serial(*layers, fnn.GlobalAvgPool(), fnn.Dense(CLASSES))


def _depthwise() -> fnn.Layer:
    """Build depthwise separable convolutions: Howard et al., arXiv:1704.04861."""

    def conv(features: int, size: int, **options: Any) -> list[fnn.Layer]:
        padding = SAME if size == 3 else "VALID"
        layer = fnn.Conv(features, size, padding=padding, bias=False, **options)
        return [layer, fnn.BatchNorm(), fnn.Relu()]

    layers, inputs = conv(32, 3), 32
    for features, stride in ((64, 1), (128, 2), (128, 1), (256, 2)):
        layers += conv(inputs, 3, stride=stride, groups=inputs) + conv(features, 1)
        inputs = features
    return fnn.serial(*layers, fnn.GlobalAvgPool(), fnn.Dense(CLASSES))


def _overlapping_pools() -> fnn.Layer:
    """Build Caffe's "CIFAR-10 quick": 5×5 convolutions, 3×3 pools of stride 2."""
    padding = ((2, 2), (2, 2))
    return fnn.serial(
        *(fnn.Conv(32, 5, padding=padding), fnn.MaxPool(3, stride=2), fnn.Relu()),
        *(fnn.Conv(32, 5, padding=padding), fnn.Relu(), fnn.AvgPool(3, stride=2)),
        *(fnn.Conv(64, 5, padding=padding), fnn.Relu(), fnn.AvgPool(3, stride=2)),
        *(fnn.Flatten(), fnn.Dense(64), fnn.Dense(CLASSES)),
    )


def _inception() -> fnn.Layer:
    """Build 1×1 and 3×3 convolutions side by side: Szegedy et al. 2015, small."""

    def side_by_side(features: int) -> fnn.Layer:
        one = fnn.serial(fnn.Conv(features, 1, padding="VALID"), fnn.Relu())
        three = fnn.serial(fnn.Conv(features, 3, padding=SAME), fnn.Relu())
        return fnn.parallel(one, three, merge="concatenate")

    return fnn.serial(
        *(fnn.Conv(16, 3, padding=SAME), fnn.Relu()),
        *(side_by_side(16), fnn.MaxPool(2)),
        *(side_by_side(32), fnn.MaxPool(2)),
        *(side_by_side(32), fnn.GlobalAvgPool(), fnn.Dense(CLASSES)),
    )


def _one_dimensional() -> fnn.Layer:
    """Build convolutions along one axis, as for series of nine sensors."""

    def conv(features: int, size: int) -> list[fnn.Layer]:
        half = size // 2
        return [fnn.Conv(features, (size,), padding=((half, half),)), fnn.Relu()]

    return fnn.serial(
        *(*conv(64, 5), *conv(64, 5), fnn.MaxPool((2,))),
        *(*conv(128, 3), *conv(128, 3), fnn.GlobalAvgPool(), fnn.Dense(CLASSES)),
    )


def _layer_norm() -> fnn.Layer:
    """Build dense layers with LayerNorm, GELU and dropout."""
    layers: list[fnn.Layer] = []
    for _ in range(3):
        layers += [fnn.Dense(512), fnn.LayerNorm(), fnn.Gelu(), fnn.Dropout(0.1)]
    return fnn.serial(*layers, fnn.Dense(CLASSES))


COLOURS = (32, 32, 3)
ROWS = {
    "zoo: LeNet, batch 64": NETWORKS["LeNet, batch 64"]._replace(images=2_048),
    "zoo: VGG with BatchNorm": RandomExamples(_vgg(), COLOURS, 256, 64),
    "zoo: depthwise separable": RandomExamples(_depthwise(), COLOURS, 256, 64),
    "zoo: overlapping pools": RandomExamples(_overlapping_pools(), COLOURS, 256, 64),
    "zoo: inception-like": RandomExamples(_inception(), (28, 28, 1), 256, 64),
    "zoo: one-dimensional": RandomExamples(_one_dimensional(), (128, 9), 512, 64),
    "zoo: LayerNorm, GELU, dropout": RandomExamples(
        _layer_norm(), (math.prod((28, 28)),), 2_560, 128
    ),
    "zoo: 64-32-10": RandomExamples(
        fnn.serial(fnn.Dense(32), fnn.Relu(), fnn.Dense(CLASSES)), (64,), 1_437, 10
    ),
}


def check(network: Network) -> bool:
    """Return whether all peers compute the same; of dropout, that cannot be asked."""
    if "Dropout" in repr(network.net):
        print("  not compared: every peer draws masks of its own")
        return True
    return epochs.check(network)


measure = epochs.measure
