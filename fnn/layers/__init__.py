"""The layers, one family per file; in each, forward and backward side by side."""

from fnn.layers.activations import (
    Elu,
    Gelu,
    Identity,
    LeakyRelu,
    Relu,
    Sigmoid,
    Silu,
    Softmax,
    Softplus,
    Tanh,
)
from fnn.layers.batch_norm import BatchNorm, BatchNormState
from fnn.layers.branches import Parallel, Residual, parallel, residual
from fnn.layers.combinators import Serial, serial
from fnn.layers.convolution import Conv, ConvParams, ConvTranspose
from fnn.layers.dense import Dense, DenseParams
from fnn.layers.dropout import Dropout
from fnn.layers.function import Lambda
from fnn.layers.global_pooling import AdaptiveAvgPool, GlobalAvgPool, GlobalMaxPool
from fnn.layers.group_norm import GroupNorm, InstanceNorm
from fnn.layers.normalization import (
    LayerNorm,
    NormParams,
    RMSNorm,
    RMSNormParams,
)
from fnn.layers.pooling import AvgPool, MaxPool
from fnn.layers.shape import Flatten, Reshape, Upsample

__all__ = [
    "AdaptiveAvgPool",
    "AvgPool",
    "BatchNorm",
    "BatchNormState",
    "Conv",
    "ConvParams",
    "ConvTranspose",
    "Dense",
    "DenseParams",
    "Dropout",
    "Elu",
    "Flatten",
    "Gelu",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GroupNorm",
    "Identity",
    "InstanceNorm",
    "Lambda",
    "LayerNorm",
    "LeakyRelu",
    "MaxPool",
    "NormParams",
    "Parallel",
    "RMSNorm",
    "RMSNormParams",
    "Relu",
    "Reshape",
    "Residual",
    "Serial",
    "Sigmoid",
    "Silu",
    "Softmax",
    "Softplus",
    "Tanh",
    "Upsample",
    "parallel",
    "residual",
    "serial",
]
