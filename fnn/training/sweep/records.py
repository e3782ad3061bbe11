"""The specification of a sweep, the state that it carries, and its trained members.

A member is one training run of the sweep.

Legend: M members, E epochs, V = ⌊E / every⌋ evaluations.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from fnn.core import Layer, Variables
from fnn.gradients.engines import Engine
from fnn.losses import Loss
from fnn.training.compiled.descent import Carry
from fnn.training.early_stopping import StoppingState
from fnn.training.metrics import NamedMetric
from fnn.typing import Array

__all__ = ["Member", "MemberSpec", "SweepSpec", "SweepState", "TrainedMembers"]


class Member(NamedTuple):
    """A member's hyperparameters by name, and its key; arrays (M,) for all members."""

    hyperparameters: dict[str, Array]
    key: Array


class MemberSpec(NamedTuple):
    """The parts that `build` returns for one member, with λ of the penalty."""

    net: Layer
    loss: Loss
    optimizer: Any
    l2: Any = None


class SweepSpec(NamedTuple):
    """The part of a sweep that all members share and that is compiled in; hashable.

    `build(**hyperparameters)` returns the fields of a `MemberSpec`; `plan` is a mode of
    planning, or None. `validated` are the names of the numbers of a validation.
    """

    build: Callable[..., tuple[Any, ...]]
    plan: str | None
    engine: Engine
    batch_size: int
    epochs: int
    is_weighted: bool
    metrics: tuple[NamedMetric, ...]
    validated: tuple[str, ...]


class SweepState(NamedTuple):
    """The state of all members, which changes from epoch to epoch.

    carry, stopping, best: each leaf with a first axis M; without early stopping the
        latter two stay as they are at first.
    running: (M,), False for members that have stopped.
    diverged: (M,), whether a parameter became NaN or infinite.
    epochs: (M,), how many each has trained.
    train_loss: (M, E), 0 where no epoch was trained: at NaN, `jax_debug_nans` would
        stop the program.
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


class TrainedMembers(NamedTuple):
    """The results of all members, each leaf with a first axis M.

    variables: with early stopping the best ones, after `best_epoch` epochs; without it
        the last ones.
    last_variables: the variables after `epochs` epochs.
    patience_ended, diverged: (M,), what ended the run; where neither did, the number of
        epochs.
    train_loss, validation: as in `SweepState`.
    """

    variables: Variables
    last_variables: Variables
    best_epoch: Array
    epochs: Array
    patience_ended: Array
    diverged: Array
    train_loss: Array
    validation: dict[str, Array]
