"""Training: compiled epochs, early stopping, evaluation, sweeps and checkpoints."""
