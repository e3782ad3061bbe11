"""The tables of layers and losses: a new one is one row here, and is tested everywhere.

Sizes are pairwise distinct within a row, and none is the batch size, so that an axis
which is transposed or summed by mistake cannot go unnoticed.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import fnn
from fnn.core import Layer
from fnn.layers import initializers
from fnn.losses import (
    Huber,
    Loss,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
)

N = 6  # examples in a batch
VECTOR, IMAGE = (4,), (7, 3, 2)  # one example; images are H, W, C


class LayerCase(NamedTuple):
    """A layer, and the shape of one example that it is tested on."""

    name: str
    layer: Layer
    in_shape: tuple[int, ...] = VECTOR
    batch: int = N
    repr_is_code: bool = True  # false where a function is a field


def swish(params, x):
    return x / (1 + jnp.exp(-params["slope"] * x))


def init_slope(key, in_shape):
    return {"slope": jnp.ones(in_shape[-1:])}


def noisy_block(features: int) -> Layer:
    return fnn.serial(
        fnn.BatchNorm(), fnn.Relu(), fnn.Dropout(0.25), fnn.Dense(features)
    )


def preactivation_block(features: int) -> Layer:
    return fnn.residual(
        fnn.serial(
            fnn.BatchNorm(),
            fnn.Relu(),
            fnn.Conv(features, (3, 2), stride=2, bias=False),
            fnn.BatchNorm(),
            fnn.Relu(),
            fnn.Conv(features, (2, 3), bias=False),
        ),
        fnn.Conv(features, 1, stride=2, bias=False),
    )


LAYERS = [
    # Dense
    LayerCase("dense", fnn.Dense(5)),
    LayerCase("dense, no bias", fnn.Dense(5, bias=False)),
    LayerCase("dense, one feature", fnn.Dense(1)),
    LayerCase("dense, one example", fnn.Dense(5), batch=1),
    LayerCase("dense, bias drawn", fnn.Dense(5, bias_init=initializers.Normal(0.1))),
    *(
        LayerCase(f"dense, {init!r}", fnn.Dense(5, weight_init=init))
        for init in [
            initializers.Zeros(),
            initializers.Ones(),
            initializers.Constant(0.25),
            initializers.Normal(0.1),
            initializers.HeNormal(),
            initializers.HeUniform(),
            initializers.GlorotNormal(),
            initializers.GlorotUniform(),
            initializers.LecunNormal(),
            initializers.Orthogonal(2.0),
        ]
    ),
    # Activations
    LayerCase("identity", fnn.Identity()),
    LayerCase("sigmoid", fnn.Sigmoid()),
    LayerCase("tanh", fnn.Tanh()),
    LayerCase("relu", fnn.Relu()),
    LayerCase("relu, image", fnn.Relu(), IMAGE),
    LayerCase("leaky relu", fnn.LeakyRelu(0.2)),
    LayerCase("elu", fnn.Elu(1.5)),
    LayerCase("gelu", fnn.Gelu()),
    LayerCase("gelu, approximate", fnn.Gelu(approximate=True)),
    LayerCase("silu", fnn.Silu()),
    LayerCase("softplus", fnn.Softplus()),
    LayerCase("softmax", fnn.Softmax()),
    LayerCase("softmax, image", fnn.Softmax(), IMAGE),
    # Shape
    LayerCase("flatten", fnn.Flatten(), IMAGE),
    LayerCase("flatten, vector", fnn.Flatten()),
    LayerCase("reshape", fnn.Reshape((2, 21)), IMAGE),
    LayerCase("reshape, to image", fnn.Reshape((3, 5, 1)), (15,)),
    LayerCase("upsample, line", fnn.Upsample(3), (5, 4)),
    LayerCase("upsample, image", fnn.Upsample(2), (7, 3, 4)),
    LayerCase("upsample, unequal", fnn.Upsample((4, 5)), IMAGE),
    LayerCase("upsample, volume", fnn.Upsample((3, 1, 2)), (2, 5, 4, 3)),
    # Convolution
    LayerCase("convolution", fnn.Conv(4, (3, 2)), (8, 7, 5)),
    LayerCase(
        "convolution, remainder",  # the windows leave out the last row and two columns
        fnn.Conv(4, (3, 2), stride=(2, 3), padding="VALID"),
        (10, 7, 5),
    ),
    LayerCase(
        "convolution, gaps",
        fnn.Conv(4, (2, 1), stride=(3, 2), padding="VALID"),
        (9, 7, 5),
    ),
    LayerCase(
        "convolution, everything at once",
        fnn.Conv(10, (3, 2), stride=2, padding=((1, 2), (0, 1)), dilation=2, groups=2),
        (9, 7, 8),
    ),
    LayerCase("convolution, 1×1", fnn.Conv(4, 1, bias=False), IMAGE),
    LayerCase("convolution, whole image", fnn.Conv(4, (7, 3), padding=0), IMAGE),
    LayerCase("convolution, depthwise", fnn.Conv(8, (3, 2), groups=4), (7, 5, 4)),
    LayerCase(
        "convolution, circular", fnn.Conv(4, (3, 2), padding="CIRCULAR"), (8, 7, 5)
    ),
    LayerCase(
        "convolution, reflect",
        fnn.Conv(4, (5, 3), stride=2, padding="REFLECT"),
        (8, 7, 2),
    ),
    LayerCase("convolution, line", fnn.Conv(4, 3, stride=2), (7, 5)),
    LayerCase(
        "convolution, volume", fnn.Conv(4, (2, 3, 1), stride=(1, 2, 1)), (5, 8, 3, 2)
    ),
    LayerCase(
        "convolution, replicate",
        fnn.Conv(4, (2, 5), stride=(3, 1), padding="REPLICATE"),
        (8, 3, 2),
    ),
    LayerCase("transposed", fnn.ConvTranspose(4, (3, 2), stride=(2, 3)), (5, 2, 7)),
    LayerCase(
        "transposed, groups",
        fnn.ConvTranspose(4, (3, 2), stride=(2, 3), padding="VALID", groups=2),
        (5, 3, 8),
    ),
    LayerCase(
        "transposed, output padding",
        fnn.ConvTranspose(4, (3, 2), stride=(2, 3), padding=1, output_padding=(1, 2)),
        (5, 2, 7),
    ),
    # Pooling
    LayerCase("max pool, remainder", fnn.MaxPool(2), (7, 5, 4)),
    LayerCase("max pool, overlapping", fnn.MaxPool((3, 2), (2, 1), "SAME"), (7, 4, 5)),
    LayerCase("max pool, ceil mode", fnn.MaxPool(2, ceil_mode=True), (7, 5, 4)),
    LayerCase("average pool", fnn.AvgPool((2, 3)), (8, 9, 5)),
    LayerCase(
        "average pool, ceil mode",
        fnn.AvgPool((3, 2), 2, 1, ceil_mode=True),
        (8, 5, 4),
    ),
    LayerCase("average pool, divisor", fnn.AvgPool(2, divisor_override=3), (8, 9, 5)),
    LayerCase(
        "average pool, overlapping",
        fnn.AvgPool((4, 2), (3, 1), ((1, 2), (0, 1)), count_include_pad=False),
        (8, 5, 3),
    ),
    LayerCase("global average pool", fnn.GlobalAvgPool(), (7, 5, 4)),
    LayerCase("global max pool", fnn.GlobalMaxPool(), (7, 5, 4)),
    LayerCase("adaptive average pool", fnn.AdaptiveAvgPool((4, 2)), (7, 3, 5)),
    LayerCase("adaptive pool, more outputs", fnn.AdaptiveAvgPool((8, 4)), (7, 3, 5)),
    # Dropout
    LayerCase("dropout, half", fnn.Dropout(0.5)),
    LayerCase("dropout, none", fnn.Dropout(0)),
    LayerCase("dropout, image", fnn.Dropout(0.3), IMAGE),
    LayerCase("dropout, visible", fnn.serial(fnn.Dropout(0.2), fnn.Dense(5))),
    LayerCase("dropout, hidden", fnn.serial(fnn.Dense(5), fnn.Relu(), fnn.Dropout())),
    # Normalisation
    LayerCase("batch norm", fnn.BatchNorm()),
    LayerCase("batch norm, image", fnn.BatchNorm(momentum=0.8, eps=1e-3), IMAGE),
    LayerCase("batch norm, two examples", fnn.BatchNorm(), batch=2),
    LayerCase("layer norm", fnn.LayerNorm()),
    LayerCase("layer norm, image", fnn.LayerNorm(eps=1e-3), IMAGE),
    LayerCase("RMS norm", fnn.RMSNorm()),
    LayerCase("RMS norm, image", fnn.RMSNorm(eps=1e-3), IMAGE),
    LayerCase("instance norm, line", fnn.InstanceNorm(), (5, 4)),
    LayerCase("instance norm, image", fnn.InstanceNorm(eps=1e-3), IMAGE),
    LayerCase("instance norm, volume", fnn.InstanceNorm(), (2, 5, 3, 4)),
    LayerCase("instance norm, one example", fnn.InstanceNorm(), IMAGE, batch=1),
    LayerCase("group norm", fnn.GroupNorm(2), (8,)),
    LayerCase("group norm, line", fnn.GroupNorm(4), (5, 8)),
    LayerCase("group norm, image", fnn.GroupNorm(2, eps=1e-3), (7, 3, 8)),
    LayerCase("group norm, volume", fnn.GroupNorm(4), (5, 3, 7, 8)),
    LayerCase("group norm, one group", fnn.GroupNorm(1), IMAGE),
    LayerCase("group norm, groups of one", fnn.GroupNorm(2), IMAGE),
    # Functions and probes
    LayerCase("lambda", fnn.Lambda(jnp.sin), repr_is_code=False),
    LayerCase("lambda, params", fnn.Lambda(swish, init_slope), repr_is_code=False),
    LayerCase("probed dense", fnn.Probed(fnn.Dense(5), N)),
    LayerCase("probed batch norm", fnn.Probed(fnn.BatchNorm(), N), IMAGE),
    LayerCase("probed dropout", fnn.Probed(fnn.Dropout(), N)),
    LayerCase("probed serial", fnn.Probed(fnn.serial(fnn.Dense(5), fnn.Tanh()), N)),
    # Serial
    LayerCase("serial, empty", fnn.serial()),
    LayerCase("serial, of one", fnn.serial(fnn.Dense(5))),
    LayerCase("serial", fnn.serial(fnn.Dense(5), fnn.Tanh(), fnn.Dense(3))),
    LayerCase(
        "serial, nested",
        fnn.serial(fnn.serial(fnn.Dense(5), fnn.Relu()), fnn.serial(), fnn.Dense(3)),
    ),
    LayerCase(
        "serial, image to classes",
        fnn.serial(
            fnn.BatchNorm(), fnn.Flatten(), fnn.Dense(5), fnn.Silu(), fnn.Dense(3)
        ),
        IMAGE,
    ),
    LayerCase(
        "serial, convolutional",
        fnn.serial(
            *(fnn.Conv(2, 3), fnn.Relu(), fnn.MaxPool(2)),
            *(fnn.Conv(4, (2, 3)), fnn.Relu(), fnn.AvgPool((2, 1), 1)),
            *(fnn.Flatten(), fnn.Dense(3)),
        ),
        (7, 5, 1),
    ),
    # Residual
    LayerCase("residual", fnn.residual(fnn.serial(fnn.Dense(4), fnn.Tanh()))),
    LayerCase("residual, bare body", fnn.residual(fnn.Dense(4))),
    LayerCase(
        "residual, projection",
        fnn.residual(fnn.serial(fnn.Relu(), fnn.Dense(5)), fnn.Dense(5, bias=False)),
    ),
    LayerCase("residual, noisy", fnn.residual(noisy_block(4))),
    LayerCase(
        "residual, noisy, projection, in serial",
        fnn.serial(
            fnn.Dense(7), fnn.residual(noisy_block(5), fnn.Dense(5)), fnn.Softplus()
        ),
    ),
    LayerCase("residual, convolutional", preactivation_block(4), (7, 5, 2)),
    # Parallel
    LayerCase("parallel, one branch", fnn.parallel(fnn.Dense(5))),
    LayerCase("parallel, sum", fnn.parallel(fnn.Dense(4), fnn.Identity(), fnn.Elu())),
    LayerCase(
        "parallel, concatenate",
        fnn.parallel(fnn.Dense(5), fnn.Identity(), fnn.Dense(3), merge="concatenate"),
    ),
    LayerCase(
        "parallel, concatenate, image",
        fnn.parallel(fnn.BatchNorm(), fnn.Dropout(0.4), merge="concatenate"),
        IMAGE,
    ),
    LayerCase(
        "parallel, noisy, in residual",
        fnn.residual(fnn.parallel(noisy_block(5), fnn.Dense(5)), fnn.Dense(5)),
    ),
]


class LossCase(NamedTuple):
    """A loss, the width K of the outputs, and labels of one kind."""

    name: str
    loss: Loss
    outputs: int
    labels: np.ndarray


K = 4  # classes
INTEGERS = np.array([3, 0, 1, 3, 2, 1])
ONE_HOT = np.eye(K)[INTEGERS]
SOFT = np.random.default_rng(1).dirichlet(np.ones(K), N)
SEVERAL = np.array([[(3 * n + k * k) % 3 == 1 for k in range(K)] for n in range(N)])
YES_NO = np.array([1, 0, 0, 1, 1, 0])
REALS = np.random.default_rng(2).normal(size=(N, K))

LOSSES = [
    LossCase("sigmoid, classes", SigmoidCrossEntropy(), K, INTEGERS),
    LossCase("sigmoid, one-hot", SigmoidCrossEntropy(), K, ONE_HOT),
    LossCase("sigmoid, several", SigmoidCrossEntropy(), K, SEVERAL),
    LossCase("sigmoid, shares", SigmoidCrossEntropy(), K, SOFT),
    LossCase("sigmoid, yes/no", SigmoidCrossEntropy(), 1, YES_NO),
    LossCase("sigmoid, yes/no bool", SigmoidCrossEntropy(), 1, YES_NO == 1),
    LossCase("sigmoid, yes/no shares", SigmoidCrossEntropy(), 1, SOFT[:, 0]),
    LossCase("sigmoid, yes/no column", SigmoidCrossEntropy(), 1, YES_NO[:, None]),
    LossCase("softmax, classes", SoftmaxCrossEntropy(), K, INTEGERS),
    LossCase("softmax, uint8", SoftmaxCrossEntropy(), K, INTEGERS.astype(np.uint8)),
    LossCase("softmax, bool", SoftmaxCrossEntropy(), 2, YES_NO == 1),
    LossCase("softmax, one-hot", SoftmaxCrossEntropy(), K, ONE_HOT),
    LossCase("softmax, integer one-hot", SoftmaxCrossEntropy(), K, ONE_HOT.astype(int)),
    LossCase("softmax, shares", SoftmaxCrossEntropy(), K, SOFT),
    LossCase("softmax, smoothed classes", SoftmaxCrossEntropy(0.1), K, INTEGERS),
    LossCase("softmax, smoothed shares", SoftmaxCrossEntropy(0.3), K, SOFT),
    LossCase("softmax, all smooth", SoftmaxCrossEntropy(1), K, INTEGERS),
    LossCase("squared error", SquaredError(), K, REALS),
    LossCase("squared error, integers", SquaredError(), K, SEVERAL.astype(int)),
    LossCase("squared error, one output", SquaredError(), 1, REALS[:, 0]),
    LossCase("huber", Huber(), K, REALS),
    LossCase("huber, narrow", Huber(0.1), K, REALS),
    LossCase("huber, one output", Huber(2), 1, REALS[:, 0]),
]
