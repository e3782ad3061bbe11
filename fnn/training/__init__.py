"""Training: compiled epochs, early stopping, evaluation and checkpoints."""

from fnn.training.checkpoints import Checkpoints
from fnn.training.compiled import run_epoch
from fnn.training.descent import Carry
from fnn.training.early_stopping import EarlyStopping, StoppingState
from fnn.training.epoch import Epoch
from fnn.training.evaluation import evaluate, predict
from fnn.training.fit import fit
from fnn.training.metrics import Metric, accuracy
from fnn.training.nonfinite import Nonfinite
from fnn.training.result import FitResult
from fnn.training.saving import load, save
from fnn.training.streams import Batches
from fnn.training.sweep import sweep
from fnn.training.swept import Sweep
from fnn.training.tensorboard import TensorBoard

__all__ = [
    "Batches",
    "Carry",
    "Checkpoints",
    "EarlyStopping",
    "Epoch",
    "FitResult",
    "Metric",
    "Nonfinite",
    "StoppingState",
    "Sweep",
    "TensorBoard",
    "accuracy",
    "evaluate",
    "fit",
    "load",
    "predict",
    "run_epoch",
    "save",
    "sweep",
]
