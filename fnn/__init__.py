"""fnn: the backward pass you can read, check and replace.

The public names, each listed once.
"""

import sys as _sys

from fnn import augmentations as augmentations
from fnn import data as data
from fnn import losses as losses
from fnn import metrics as metrics
from fnn import ops as ops
from fnn import optimizers as optimizers
from fnn import textbook as textbook
from fnn.core import Backward as Backward
from fnn.core import Forward as Forward
from fnn.core import Layer as Layer
from fnn.core import Variables as Variables
from fnn.core import layer as layer
from fnn.core import leaf as leaf
from fnn.gradients.audit.compare import compare_gradients as compare_gradients
from fnn.gradients.audit.report import NodeCheck as NodeCheck
from fnn.gradients.audit.report import Report as Report
from fnn.gradients.audit.report import Row as Row
from fnn.gradients.engines import Engine as Engine
from fnn.gradients.engines import Gradients as Gradients
from fnn.gradients.engines import autodiff as autodiff
from fnn.gradients.engines import manual as manual
from fnn.gradients.engines import objective as objective
from fnn.gradients.engines import value_and_grad as value_and_grad
from fnn.gradients.explain.explain import explain as explain
from fnn.gradients.explain.explanation import Explanation as Explanation
from fnn.gradients.explain.explanation import Factor as Factor
from fnn.gradients.first_nonfinite import first_nonfinite as first_nonfinite
from fnn.gradients.numerical import HSweep as HSweep
from fnn.gradients.numerical import directional_derivatives as directional_derivatives
from fnn.gradients.numerical import h_sweep as h_sweep
from fnn.gradients.numerical import numerical_gradients as numerical_gradients
from fnn.layers import initializers as initializers
from fnn.layers.activations import Elu as Elu
from fnn.layers.activations import Gelu as Gelu
from fnn.layers.activations import Identity as Identity
from fnn.layers.activations import LeakyRelu as LeakyRelu
from fnn.layers.activations import Relu as Relu
from fnn.layers.activations import Sigmoid as Sigmoid
from fnn.layers.activations import Silu as Silu
from fnn.layers.activations import Softplus as Softplus
from fnn.layers.activations import Tanh as Tanh
from fnn.layers.batch_norm import BatchNorm as BatchNorm
from fnn.layers.batch_norm import BatchNormState as BatchNormState
from fnn.layers.branches import Parallel as Parallel
from fnn.layers.branches import Residual as Residual
from fnn.layers.branches import parallel as parallel
from fnn.layers.branches import residual as residual
from fnn.layers.combinators import Serial as Serial
from fnn.layers.combinators import serial as serial
from fnn.layers.convolution import Conv as Conv
from fnn.layers.convolution import ConvParams as ConvParams
from fnn.layers.convolution import ConvTranspose as ConvTranspose
from fnn.layers.dense import Dense as Dense
from fnn.layers.dense import DenseParams as DenseParams
from fnn.layers.dense import DenseTranspose as DenseTranspose
from fnn.layers.dropout import Dropout as Dropout
from fnn.layers.embedding import Embedding as Embedding
from fnn.layers.embedding import EmbeddingParams as EmbeddingParams
from fnn.layers.freezing import frozen as frozen
from fnn.layers.freezing import trainable as trainable
from fnn.layers.frozen import Frozen as Frozen
from fnn.layers.function import Lambda as Lambda
from fnn.layers.global_pooling import AdaptiveAvgPool as AdaptiveAvgPool
from fnn.layers.global_pooling import GlobalAvgPool as GlobalAvgPool
from fnn.layers.global_pooling import GlobalMaxPool as GlobalMaxPool
from fnn.layers.group_norm import GroupNorm as GroupNorm
from fnn.layers.group_norm import InstanceNorm as InstanceNorm
from fnn.layers.normalization import LayerNorm as LayerNorm
from fnn.layers.normalization import NormParams as NormParams
from fnn.layers.normalization import RMSNorm as RMSNorm
from fnn.layers.normalization import RMSNormParams as RMSNormParams
from fnn.layers.piecewise import Clip as Clip
from fnn.layers.piecewise import HardSigmoid as HardSigmoid
from fnn.layers.piecewise import HardSwish as HardSwish
from fnn.layers.piecewise import PRelu as PRelu
from fnn.layers.piecewise import PReluParams as PReluParams
from fnn.layers.pooling import AvgPool as AvgPool
from fnn.layers.pooling import MaxPool as MaxPool
from fnn.layers.remat import Remat as Remat
from fnn.layers.remat import remat as remat
from fnn.layers.several import Each as Each
from fnn.layers.several import Fork as Fork
from fnn.layers.several import Merge as Merge
from fnn.layers.several import Select as Select
from fnn.layers.several import each as each
from fnn.layers.several import fork as fork
from fnn.layers.shape import Crop as Crop
from fnn.layers.shape import Flatten as Flatten
from fnn.layers.shape import Pad as Pad
from fnn.layers.shape import Reshape as Reshape
from fnn.layers.shape import Upsample as Upsample
from fnn.layers.shared import Shared as Shared
from fnn.layers.shared import shared as shared
from fnn.layers.softmax import LogSoftmax as LogSoftmax
from fnn.layers.softmax import Softmax as Softmax
from fnn.layers.tied import Tied as Tied
from fnn.layers.tied import tied as tied
from fnn.metrics.classification import accuracy as accuracy
from fnn.network import Node as Node
from fnn.network import map_params as map_params
from fnn.network import named_params as named_params
from fnn.network import walk as walk
from fnn.passes import curvature as curvature
from fnn.passes import per_example as per_example
from fnn.passes import rules as rules
from fnn.passes.rules.compare import RuleComparison as RuleComparison
from fnn.passes.rules.compare import compare_rules as compare_rules
from fnn.planning.costs import Costs as Costs
from fnn.planning.costs import load_costs as load_costs
from fnn.planning.measuring import measure_costs as measure_costs
from fnn.planning.planned import Change as Change
from fnn.planning.planned import Plan as Plan
from fnn.planning.planned import plain as plain
from fnn.planning.planner import plan as plan
from fnn.probes import Probed as Probed
from fnn.probes import ProbedParams as ProbedParams
from fnn.probes import probe as probe
from fnn.summary import Summary as Summary
from fnn.summary import SummaryRow as SummaryRow
from fnn.summary import summary as summary
from fnn.training.early_stopping import EarlyStopping as EarlyStopping
from fnn.training.early_stopping import StoppingState as StoppingState
from fnn.training.evaluation import evaluate as evaluate
from fnn.training.evaluation import predict as predict
from fnn.training.export import export as export
from fnn.training.fit import fit as fit
from fnn.training.observed_figure import plot_observed as plot_observed
from fnn.training.run.nonfinite import Nonfinite as Nonfinite
from fnn.training.run.result import FitResult as FitResult
from fnn.training.run.streams import Batches as Batches
from fnn.training.store.checkpoints import Checkpoints as Checkpoints
from fnn.training.store.npz import load as load
from fnn.training.store.npz import save as save
from fnn.training.store.restore import restore as restore
from fnn.training.sweep.result import Sweep as Sweep
from fnn.training.sweep.sweep import sweep as sweep
from fnn.training.tensorboard import TensorBoard as TensorBoard
from fnn.versions import __version__ as __version__
from fnn.versions import warn_about_jaxlib as warn_about_jaxlib
from fnn.visits import Seen as Seen
from fnn.visits import record as record

warn_about_jaxlib()

# These lie deeper. `from fnn.rules import meprop` works as `from os.path import join`.
_sys.modules.update(
    {
        "fnn.curvature": curvature,
        "fnn.initializers": initializers,
        "fnn.per_example": per_example,
        "fnn.rules": rules,
    }
)
