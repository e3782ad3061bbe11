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
from fnn.layers.branches import Parallel, Residual, parallel, residual
from fnn.layers.combinators import Serial, serial
from fnn.layers.dense import Dense, DenseParams
from fnn.layers.dropout import Dropout
from fnn.layers.function import Lambda
from fnn.layers.normalization import (
    BatchNorm,
    BatchNormState,
    LayerNorm,
    NormParams,
)
from fnn.layers.probe import Probed, ProbedParams, Seen, probe, record
from fnn.layers.shape import Flatten, Reshape

__all__ = [
    "BatchNorm",
    "BatchNormState",
    "Dense",
    "DenseParams",
    "Dropout",
    "Elu",
    "Flatten",
    "Gelu",
    "Identity",
    "Lambda",
    "LayerNorm",
    "LeakyRelu",
    "NormParams",
    "Parallel",
    "Probed",
    "ProbedParams",
    "Relu",
    "Reshape",
    "Residual",
    "Seen",
    "Serial",
    "Sigmoid",
    "Silu",
    "Softmax",
    "Softplus",
    "Tanh",
    "parallel",
    "probe",
    "record",
    "residual",
    "serial",
]
