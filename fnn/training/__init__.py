"""Training: compiled epochs, early stopping, evaluation and checkpoints."""

from fnn.training.checkpoints import Checkpoints
from fnn.training.early_stopping import EarlyStopping, StoppingState
from fnn.training.epoch import Carry, Epoch, run_epoch
from fnn.training.evaluation import evaluate, predict
from fnn.training.fit import fit
from fnn.training.metrics import Metric, accuracy
from fnn.training.result import FitResult
from fnn.training.saving import load, save
from fnn.training.sweep import sweep
from fnn.training.swept import Sweep

__all__ = [
    "Carry",
    "Checkpoints",
    "EarlyStopping",
    "Epoch",
    "FitResult",
    "Metric",
    "StoppingState",
    "Sweep",
    "accuracy",
    "evaluate",
    "fit",
    "load",
    "predict",
    "run_epoch",
    "save",
    "sweep",
]
