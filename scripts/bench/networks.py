"""The networks that are measured, each described once, in fnn's layers.

fnn's layers are plain data, so every peer reads the same description and builds its own
modules from it, starting from the same initial parameters. `Part` holds what a peer
needs: a layer, its parameters, and the shape of the examples that reach it.

Legend: N examples, H × W pixels, C channels, I inputs, O outputs.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax import lax

import fnn
from fnn.network import output_shape

__all__ = ["LEARNING_RATE", "NETWORKS", "Network", "Part"]

CLASSES = 10
LEARNING_RATE = 1e-3  # Adam's, for every peer


class Network(NamedTuple):
    """A network to train, with its number of images and its batch size."""

    net: fnn.Layer
    in_shape: tuple[int, ...]
    images: int
    batch_size: int

    @property
    def has_images(self) -> bool:
        """Return whether examples are images, so that a layout can be chosen."""
        return len(self.in_shape) == 3

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Read the first images of MNIST, in the shape that the network expects."""
        x, y = fnn.data.mnist().train
        return x[: self.images].reshape(-1, *self.in_shape), y[: self.images]

    def variables(self) -> fnn.Variables:
        """Draw the variables from which every peer starts."""
        return self.net.init(jax.random.key(0), self.in_shape)

    def part(self) -> "Part":
        """Return the whole network with its initial parameters."""
        return Part(self.net, self.variables(), self.in_shape)


class Part(NamedTuple):
    """A layer of a network: its variables, and the shape of one example it receives.

    `flattened` is the shape (H, W, C) of an image that was flattened just before.
    """

    layer: fnn.Layer
    variables: fnn.Variables
    in_shape: tuple[int, ...]
    flattened: tuple[int, ...] | None = None

    @property
    def params(self):
        """Return the layer's own parameters."""
        return self.variables.params

    def children(self) -> Iterator["Part"]:
        """Yield the layers that this one is made of, in forward order."""
        serial = isinstance(self.layer, fnn.Serial)
        shape, flattened = self.in_shape, None
        layers = self.layer.children.values()
        for layer, *variables in zip(layers, *self.variables, strict=True):
            part = Part(layer, fnn.Variables(*variables), shape, flattened)
            yield part
            flattened = shape if isinstance(layer, fnn.Flatten) else None
            if serial:
                shape = output_shape(layer, part.variables, shape)

    def geometry(self) -> tuple[tuple, tuple, tuple]:
        """Return a window's size, strides and padding ((low, high), ...)."""
        layer, pixels = self.layer, self.in_shape[:-1]
        axes = len(pixels)
        size = _each(layer.kernel_size if _is_conv(layer) else layer.window, axes)
        strides = _each(layer.stride or size, axes)
        padding = layer.padding
        if isinstance(padding, str):
            padding = tuple(lax.padtype_to_pads(pixels, size, strides, padding))
        return size, strides, tuple(_each(p, 2) for p in _each(padding, axes))

    def outputs_first(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Return weight and bias in the layout of libraries with images (N, C, H, W).

        A convolution's weight is (O, C, kh, kw), with one spatial axis (O, C, k); a
        dense layer's is (O, I), its inputs
        in the order in which such an image is flattened.
        """
        weight = np.array(self.params.weight)
        if _is_conv(self.layer):
            weight = np.moveaxis(weight, (-1, -2), (0, 1))
        else:
            if self.flattened is not None:
                images = weight.reshape(*self.flattened, -1).transpose(2, 0, 1, 3)
                weight = images.reshape(weight.shape)
            weight = weight.T
        bias = np.array(self.params.bias) if self.layer.bias else None
        return np.ascontiguousarray(weight), bias


def _is_conv(layer: fnn.Layer) -> bool:
    return isinstance(layer, fnn.Conv)


def _each(value, axes: int) -> tuple:
    return tuple(value) if isinstance(value, tuple | list) else (value,) * axes


# ---- The networks ----------------------------------------------------------------


def _dense(*hidden: int) -> fnn.Layer:
    layers = [layer for h in hidden for layer in (fnn.Dense(h), fnn.Relu())]
    return fnn.serial(*layers, fnn.Dense(CLASSES))


def _lenet() -> fnn.Layer:
    """Build LeNet (LeCun et al. 1998), as most tutorials train it on MNIST."""
    return fnn.serial(
        fnn.Conv(20, 5, padding="VALID"),
        fnn.Relu(),
        fnn.MaxPool(2),
        fnn.Conv(40, 5, padding="VALID"),
        fnn.Relu(),
        fnn.MaxPool(2),
        fnn.Flatten(),
        fnn.Dense(100),
        fnn.Relu(),
        fnn.Dense(CLASSES),
    )


def _resnet() -> fnn.Layer:
    """Build three pre-activation residual blocks: He et al., arXiv:1603.05027."""
    # The padding of 1 is written out: at stride 2, "SAME" would pad one side only,
    # which not every library can do.
    padding = ((1, 1), (1, 1))

    def block(inputs: int, features: int, stride: int) -> fnn.Layer:
        body = fnn.serial(
            fnn.BatchNorm(),
            fnn.Relu(),
            fnn.Conv(features, 3, stride=stride, padding=padding, bias=False),
            fnn.BatchNorm(),
            fnn.Relu(),
            fnn.Conv(features, 3, padding=padding, bias=False),
        )
        if (inputs, stride) == (features, 1):
            return fnn.residual(body)
        shortcut = fnn.Conv(features, 1, stride=stride, padding="VALID", bias=False)
        return fnn.residual(body, shortcut)

    return fnn.serial(
        fnn.Conv(16, 3, padding=padding, bias=False),
        block(16, 16, 1),
        block(16, 32, 2),
        block(32, 64, 2),
        fnn.BatchNorm(),
        fnn.Relu(),
        fnn.GlobalAvgPool(),
        fnn.Dense(CLASSES),
    )


def _all_convolutional() -> fnn.Layer:
    """Build a net of convolutions alone: Springenberg et al., arXiv:1412.6806."""
    padding = ((1, 1), (1, 1))
    layers: list[fnn.Layer] = []
    for features, stride in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        conv = fnn.Conv(features, 3, stride=stride, padding=padding)
        layers += [conv, fnn.Relu()]
    return fnn.serial(*layers, fnn.GlobalAvgPool(), fnn.Dense(CLASSES))


FLAT, IMAGE = (784,), (28, 28, 1)

# The number of images lets an epoch of the slower peers take about a second.
NETWORKS = {
    "784-128-10": Network(_dense(128), FLAT, 60_000, 128),
    "784-1024-1024-10": Network(_dense(1024, 1024), FLAT, 12_800, 128),
    "LeNet, batch 32": Network(_lenet(), IMAGE, 6_016, 32),
    "LeNet, batch 64": Network(_lenet(), IMAGE, 6_016, 64),
    "LeNet, batch 256": Network(_lenet(), IMAGE, 6_144, 256),
    "ResNet, batch 64": Network(_resnet(), IMAGE, 2_048, 64),
    "all-convolutional, batch 64": Network(_all_convolutional(), IMAGE, 2_048, 64),
}
assert math.prod(FLAT) == math.prod(IMAGE)
