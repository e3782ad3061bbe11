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
    AbsoluteError,
    Hinge,
    Huber,
    KullbackLeibler,
    Lambda,
    Loss,
    Poisson,
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
    ids: int = 0  # x holds integers below this, or any numbers if it is 0


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


def siamese(*layers, merge="sum") -> Layer:
    """Make a network that applies the same layers to both halves of a vector of 8."""
    twin = fnn.tied("twin", fnn.serial(*layers))
    halves = fnn.Crop(((0, 1),)), fnn.Crop(((1, 0),))
    branches = (fnn.serial(half, fnn.Flatten(), twin) for half in halves)
    return fnn.serial(
        fnn.Reshape((2, 4)), fnn.shared(fnn.parallel(*branches, merge=merge))
    )


def autoencoder(hidden: int, features: int) -> Layer:
    encode = fnn.tied("w", fnn.Dense(hidden), only=("weight",))
    decode = fnn.tied("w", fnn.DenseTranspose(features), only=("weight",))
    return fnn.shared(fnn.serial(encode, fnn.Tanh(), decode))


LAYERS = [
    # Dense
    LayerCase("dense", fnn.Dense(5)),
    LayerCase("dense, no bias", fnn.Dense(5, bias=False)),
    LayerCase("dense, one feature", fnn.Dense(1)),
    LayerCase("dense, one example", fnn.Dense(5), batch=1),
    LayerCase("dense, tokens", fnn.Dense(5), (7, 4)),
    LayerCase("dense, image", fnn.Dense(5, bias=False), IMAGE),
    LayerCase("dense, transposed", fnn.DenseTranspose(5)),
    LayerCase("dense, transposed, tokens", fnn.DenseTranspose(5, bias=False), (7, 4)),
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
    LayerCase("log softmax", fnn.LogSoftmax()),
    LayerCase("log softmax, image", fnn.LogSoftmax(), IMAGE),
    LayerCase("prelu", fnn.PRelu()),
    LayerCase("prelu, image", fnn.PRelu(initial_slope=0.1), IMAGE),
    LayerCase("prelu, one slope", fnn.PRelu(per_channel=False), IMAGE),
    LayerCase("clip", fnn.Clip()),
    LayerCase("clip, narrow", fnn.Clip(-0.25, 0.5), IMAGE),
    LayerCase("hard sigmoid", fnn.HardSigmoid()),
    LayerCase("hard swish", fnn.HardSwish()),
    # Embedding
    LayerCase("embedding", fnn.Embedding(11, 5), (3,), ids=11),
    LayerCase("embedding, one id", fnn.Embedding(2, 5), (), ids=2),
    LayerCase("embedding, grid", fnn.Embedding(3, 5), (7, 2), ids=3),
    LayerCase(
        "embedding, and dense",
        fnn.serial(fnn.Embedding(11, 5), fnn.Flatten(), fnn.Dense(7)),
        (3,),
        ids=11,
    ),
    # Shape
    LayerCase("pad, line", fnn.Pad(2), (5, 4)),
    LayerCase("pad, image", fnn.Pad(((1, 2), 3), value=0.5), IMAGE),
    LayerCase("pad, volume", fnn.Pad((0, 1, (2, 0))), (2, 5, 4, 3)),
    LayerCase("crop, line", fnn.Crop(((1, 2),)), (5, 4)),
    LayerCase("crop, image", fnn.Crop((2, (1, 0))), IMAGE),
    LayerCase("crop, nothing", fnn.Crop(0), IMAGE),
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
    # Frozen: its parameters have no gradient, and so the contract's tests of gradients
    # are those of layers without any.
    LayerCase("frozen relu", fnn.frozen(fnn.Relu())),
    LayerCase("frozen pool", fnn.frozen(fnn.MaxPool(2)), (7, 5, 4)),
    LayerCase("frozen dropout", fnn.frozen(fnn.Dropout(0.5))),
    # Rematerialised
    LayerCase("remat dense", fnn.remat(fnn.Dense(5))),
    LayerCase(
        "remat block",
        fnn.remat(fnn.serial(fnn.Conv(3, 3), fnn.BatchNorm(), fnn.Dropout(0.3))),
        IMAGE,
    ),
    # Shared
    LayerCase("shared, siamese", siamese(fnn.Dense(5), fnn.Tanh()), (8,)),
    LayerCase(
        "shared, siamese, product, states",
        siamese(fnn.Dense(5), fnn.BatchNorm(), fnn.Dropout(0.3), merge="product"),
        (8,),
    ),
    LayerCase("shared, autoencoder", autoencoder(5, 4)),
    LayerCase(
        "shared, a layer thrice",
        fnn.shared(fnn.serial(*[fnn.tied("step", fnn.Dense(4)), fnn.Tanh()] * 3)),
    ),
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
        "parallel, concatenate, rows",
        fnn.parallel(fnn.Identity(), fnn.MaxPool((2, 1)), merge="concatenate", axis=1),
        IMAGE,
    ),
    LayerCase(
        "parallel, concatenate, columns",
        fnn.parallel(fnn.Pad((0, 1)), fnn.Dense(2), merge="concatenate", axis=-2),
        IMAGE,
    ),
    LayerCase("parallel, product of one", fnn.parallel(fnn.Dense(5), merge="product")),
    LayerCase(
        "parallel, gate",
        fnn.parallel(
            fnn.Dense(5), fnn.serial(fnn.Dense(5), fnn.Sigmoid()), merge="product"
        ),
    ),
    LayerCase(
        "parallel, product of three",
        fnn.parallel(fnn.Tanh(), fnn.Identity(), fnn.Dense(4), merge="product"),
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
    positions: tuple[int, ...] = ()  # the outputs are (N, *positions, K)
    repr_is_code: bool = True  # false where a function is a field


K = 4  # classes
INTEGERS = np.array([3, 0, 1, 3, 2, 1])
ONE_HOT = np.eye(K)[INTEGERS]
SOFT = np.random.default_rng(1).dirichlet(np.ones(K), N)
SEVERAL = np.array([[(3 * n + k * k) % 3 == 1 for k in range(K)] for n in range(N)])
YES_NO = np.array([1, 0, 0, 1, 1, 0])
REALS = np.random.default_rng(2).normal(size=(N, K))
COUNTS = np.random.default_rng(3).poisson(2, size=(N, K))
PIXELS = (3, 2)  # positions of an example
CLASS_MAP = np.random.default_rng(4).integers(0, K, size=(N, *PIXELS))
HOLES = np.where(
    np.arange(CLASS_MAP.size).reshape(CLASS_MAP.shape) % 5 == 1, -1, CLASS_MAP
)
SOFT_MAP = np.random.default_rng(5).dirichlet(np.ones(K), (N, *PIXELS))
WEIGHTS = (0.5, 2.0, 1.0, 0.25)  # one for each class


def with_holes(rows, hole):
    """Replace every fifth row by `hole`."""
    rows = np.array(rows)
    flat = rows.reshape(-1, rows.shape[-1])
    flat[1::5] = hole
    return rows


def fourth_power(z, y):
    return ((z - y.astype(z.dtype)) ** 4).mean()


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
    # Labels at several positions
    LossCase("softmax, class map", SoftmaxCrossEntropy(), K, CLASS_MAP, PIXELS),
    LossCase("softmax, soft map", SoftmaxCrossEntropy(0.2), K, SOFT_MAP, PIXELS),
    LossCase("softmax, tokens", SoftmaxCrossEntropy(), K, CLASS_MAP[..., 0], (3,)),
    LossCase("sigmoid, class map", SigmoidCrossEntropy(), K, CLASS_MAP, PIXELS),
    LossCase("sigmoid, mask", SigmoidCrossEntropy(), 1, CLASS_MAP % 2, PIXELS),
    LossCase("sigmoid, soft map", SigmoidCrossEntropy(), K, SOFT_MAP, PIXELS),
    LossCase("squared error, image", SquaredError(), K, SOFT_MAP, PIXELS),
    # Ignored labels and class weights
    LossCase("softmax, holes", SoftmaxCrossEntropy(ignore=-1), K, HOLES, PIXELS),
    LossCase(
        "softmax, holes of 255",
        SoftmaxCrossEntropy(0.1, ignore=255),
        K,
        HOLES.astype(np.uint8),
        PIXELS,
    ),
    LossCase("softmax, padding 0", SoftmaxCrossEntropy(ignore=0), K, INTEGERS),
    LossCase(
        "softmax, rows ignored",
        SoftmaxCrossEntropy(ignore=-1),
        K,
        with_holes(SOFT_MAP, -1),
        PIXELS,
    ),
    LossCase(
        "softmax, weights", SoftmaxCrossEntropy(class_weights=WEIGHTS), K, INTEGERS
    ),
    LossCase(
        "softmax, weights of rows",
        SoftmaxCrossEntropy(0.1, class_weights=WEIGHTS),
        K,
        SOFT,
    ),
    LossCase(
        "softmax, weights and holes",
        SoftmaxCrossEntropy(0.1, ignore=-1, class_weights=WEIGHTS),
        K,
        HOLES,
        PIXELS,
    ),
    LossCase(
        "sigmoid, answers ignored",
        SigmoidCrossEntropy(ignore=-1),
        K,
        np.where(SEVERAL, 1, -(np.arange(N * K).reshape(N, K) % 2)),
    ),
    LossCase("sigmoid, classes ignored", SigmoidCrossEntropy(ignore=3), K, INTEGERS),
    LossCase(
        "sigmoid, weights and holes",
        SigmoidCrossEntropy(ignore=-1, class_weights=(0.5, 3.0)),
        1,
        np.where(HOLES < 0, -1, HOLES % 2),
        PIXELS,
    ),
    LossCase(
        "sigmoid, weights of shares",
        SigmoidCrossEntropy(class_weights=(0.5, 3.0)),
        K,
        SOFT,
    ),
    # Other losses
    LossCase("divergence", KullbackLeibler(), K, SOFT),
    LossCase(
        "divergence, one-hot map", KullbackLeibler(), K, np.eye(K)[CLASS_MAP], PIXELS
    ),
    LossCase("hinge, classes", Hinge(), K, INTEGERS),
    LossCase("hinge, one-hot", Hinge(0.5), K, ONE_HOT),
    LossCase("hinge, holes", Hinge(ignore=-1), K, HOLES, PIXELS),
    LossCase("hinge, yes/no", Hinge(2), 1, YES_NO),
    LossCase("hinge, signs", Hinge(), 1, 2.0 * YES_NO[:, None] - 1),
    LossCase("absolute error", AbsoluteError(), K, REALS),
    LossCase("absolute error, one output", AbsoluteError(), 1, REALS[:, 0]),
    LossCase("poisson", Poisson(), K, COUNTS),
    LossCase("lambda", Lambda(fourth_power), K, REALS, repr_is_code=False),
]
