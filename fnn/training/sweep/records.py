"""What a sweep trains, what it carries on the way, and what is left in the end.

Legend: M members, E epochs, V = ⌊E / every⌋ evaluations.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

from fnn.core import Layer, Variables
from fnn.gradients.engines import Engine
from fnn.losses import Loss
from fnn.training.compiled.descent import Carry
from fnn.training.early_stopping import StoppingState
from fnn.training.metrics import Metric

__all__ = ["Members", "Outcome", "Task", "Trial"]


class Trial(NamedTuple):
    """What one member trains: network, loss, optimizer, and λ of the penalty."""

    net: Layer
    loss: Loss
    optimizer: Any
    l2: Any = None


class Members(NamedTuple):
    """The state of all members.

    carry, stopping, best: of each; the latter two stay as they begin without a rule.
    running: (M,), False for those that have stopped.
    diverged: (M,), whether a parameter became NaN or infinite.
    epochs: (M,), how many each has trained.
    train_loss: (M, E), NaN where no epoch was trained.
    validation: {"loss": (M, V), ...}, {} without validation data.
    """

    carry: Carry
    stopping: StoppingState
    best: Variables
    running: Array
    diverged: Array
    epochs: Array
    train_loss: Array
    validation: dict[str, Array]


class Outcome(NamedTuple):
    """What is left of all members in the end, each leaf with a first axis M.

    variables: with early stopping the best ones, after `best_epoch` epochs; else the
        last ones.
    last_variables: those after `epochs` epochs.
    patience_ended, diverged: (M,), what ended it; where neither did, its epochs.
    train_loss, validation: as in `Members`.
    """

    variables: Variables
    last_variables: Variables
    best_epoch: Array
    epochs: Array
    patience_ended: Array
    diverged: Array
    train_loss: Array
    validation: dict[str, Array]


class Task(NamedTuple):
    """What is the same for all members and compiled in; hashable.

    `build(**numbers)` returns what a Trial is made of; `plan` is a mode or None.
    """

    build: Callable[..., tuple]
    plan: str | None
    engine: Engine
    batch_size: int
    epochs: int
    metrics: tuple[tuple[str, Metric], ...]
