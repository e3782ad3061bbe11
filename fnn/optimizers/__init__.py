"""Optimizers with optax's names, arguments and defaults, and the lecture's forms.

Each factory builds a frozen optimizer with optax's pair `init`, `update`, and
`eval_params`; its docstring says which setting is optax's and which the lecture's.
`max_norm` is not an optimizer but a bound, which follows one in an `optax.chain`.
Where code wants an instance of optax's class, write
`optax.GradientTransformationExtraArgs(*optimizer)`; README.md says what else differs.
"""

from fnn.optimizers.adam import Adam, AdamState, adam, nadam
from fnn.optimizers.adamw import AdamW, adamw, nadamw
from fnn.optimizers.adaptive import (
    AdaDelta,
    AdaDeltaState,
    AdaGrad,
    AdaGradState,
    adadelta,
    adagrad,
)
from fnn.optimizers.amsgrad import AMSGrad, AMSGradState, amsgrad
from fnn.optimizers.averages import AverageState
from fnn.optimizers.base import Optimizer
from fnn.optimizers.evaluation import eval_params
from fnn.optimizers.loss_scale import (
    LossScaled,
    LossScaleState,
    loss_scale,
    loss_scaled,
)
from fnn.optimizers.momentum import (
    SGD,
    Momentum,
    MomentumState,
    SGDState,
    momentum,
    nesterov,
    sgd,
)
from fnn.optimizers.projections import MaxNorm, max_norm, projection_max_norm
from fnn.optimizers.rates import last_learning_rate
from fnn.optimizers.rmsprop import RMSProp, RMSPropState, rmsprop
from fnn.optimizers.state import OptimizerState
from fnn.optimizers.weight_average import WeightAverage, ema, swa

__all__ = [
    "SGD",
    "AMSGrad",
    "AMSGradState",
    "AdaDelta",
    "AdaDeltaState",
    "AdaGrad",
    "AdaGradState",
    "Adam",
    "AdamState",
    "AdamW",
    "AverageState",
    "LossScaleState",
    "LossScaled",
    "MaxNorm",
    "Momentum",
    "MomentumState",
    "Optimizer",
    "OptimizerState",
    "RMSProp",
    "RMSPropState",
    "SGDState",
    "WeightAverage",
    "adadelta",
    "adagrad",
    "adam",
    "adamw",
    "amsgrad",
    "ema",
    "eval_params",
    "last_learning_rate",
    "loss_scale",
    "loss_scaled",
    "max_norm",
    "momentum",
    "nadam",
    "nadamw",
    "nesterov",
    "projection_max_norm",
    "rmsprop",
    "sgd",
    "swa",
]
