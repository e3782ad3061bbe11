"""Training: compiled epochs, early stopping, evaluation and checkpoints."""

from fnn.training.checkpoint import load, save
from fnn.training.early_stopping import EarlyStopping, StoppingState
from fnn.training.epoch import Carry, Epoch, run_epoch
from fnn.training.evaluation import evaluate, predict
from fnn.training.fit import FitResult, fit
from fnn.training.metrics import Metric, accuracy
from fnn.training.sweep import sweep
from fnn.training.swept import Sweep

__all__ = [
    "Carry",
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
