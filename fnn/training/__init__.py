"""Training: compiled epochs, early stopping, evaluation, sweeps and checkpoints."""

from fnn.training.compiled.descent import Carry
from fnn.training.compiled.epoch import Epoch, run_epoch
from fnn.training.early_stopping import EarlyStopping, StoppingState
from fnn.training.evaluation import evaluate, predict
from fnn.training.fit import fit
from fnn.training.metrics import Metric, accuracy
from fnn.training.run.nonfinite import Nonfinite
from fnn.training.run.result import FitResult
from fnn.training.run.streams import Batches
from fnn.training.store.checkpoints import Checkpoints
from fnn.training.store.npz import load, save
from fnn.training.sweep.result import Sweep
from fnn.training.sweep.sweep import sweep
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
