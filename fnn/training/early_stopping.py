"""Early stopping, as a pure pair that a Python loop and a compiled sweep both use."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.checks import is_integer
from fnn.describe import shown
from fnn.pytree import leaf, pytree
from fnn.typing import Array, Number

__all__ = ["EarlyStopping", "StoppingState"]


class StoppingState(NamedTuple):
    """The state of early stopping, all scalars.

    best: the best metric so far; before the first evaluation, the worst finite number.
    best_epoch: the epoch of that evaluation, 0 before the first.
    wait: the number of evaluations since.
    stop: whether to stop.
    """

    best: Array
    best_epoch: Array
    wait: Array
    stop: Array


@pytree
class EarlyStopping:
    """A criterion to stop: no improvement of a metric for `patience` evaluations.

    With m the metric of this evaluation, and mode "min":

        m < best − min_delta     best ← m,  wait ← 0
        otherwise                wait ← wait + 1,  stop once wait = max(patience, 1)

    so training stops after exactly `patience` evaluations without improvement; 0 stops
    at the first one, as 1 does. NaN is never an improvement. The validation error is
    U-shaped in the number of steps; early stopping chooses that number in a single run.
    It is a regularizer that changes neither the procedure nor the objective.

    Its cost is the validation, which `every` makes rarer and `subset` smaller.
    `fnn.fit` keeps the best variables in the host's memory.

    Args:
        patience: the number of evaluations without improvement to stop after.
        min_delta: the metric has to be better by more than this, in its own units. A
            leaf.
        mode: "min" if smaller is better, "max" if larger is.
        monitor: the metric's name, "loss" or one of the metrics; or its name in the
            history, such as "validation_loss".
        every: evaluate after every epoch whose number this divides. Patience counts
            evaluations.
        subset: how much of the validation data to use: an int is a number of examples,
            a float in (0, 1] a share. Every evaluation uses the same random ones.

    Raises:
        ValueError, TypeError: an argument out of its range.

    Example:
        >>> from fnn.training.early_stopping import EarlyStopping
        >>> early_stopping = EarlyStopping(patience=2)
        >>> state = early_stopping.init()
        >>> for epoch, loss in enumerate([0.9, 0.5, 0.6, float("nan")], start=1):
        ...     state = early_stopping.update(state, loss, epoch)
        >>> print(state.best_epoch, state.wait, state.stop)
        2 2 True

    Source: Goodfellow, Bengio and Courville, Deep Learning (2016), algorithm 7.1.
    """

    patience: int = dataclasses.field(default=5, metadata={"shown": True})
    min_delta: float = leaf(default=0.0, shown=True)
    mode: str = "min"
    monitor: str = "loss"
    every: int = dataclasses.field(default=1, metadata={"shown": True})
    subset: int | float | None = None

    def __post_init__(self) -> None:
        _expect_count("patience", self.patience, least=0)
        _expect_count("every", self.every, least=1)
        if not isinstance(self.min_delta, float | jax.Array):
            raise TypeError(
                f"EarlyStopping: min_delta must be a number, got {self.min_delta!r}"
            )
        if isinstance(self.min_delta, float) and not self.min_delta >= 0:
            raise ValueError(
                "EarlyStopping: min_delta is the improvement that counts, and must be "
                f">= 0, got {self.min_delta}"
            )
        if not isinstance(self.monitor, str):
            raise TypeError(
                "EarlyStopping: monitor must be the name of a metric, got "
                f"{self.monitor!r}"
            )
        if not isinstance(self.mode, str) or self.mode not in ("min", "max"):
            raise ValueError(
                'EarlyStopping: mode must be "min" (smaller is better) or "max", got '
                f"{self.mode!r}"
            )
        name = self.monitor.removeprefix("validation_")
        if (name, self.mode) in (("accuracy", "min"), ("loss", "max")):
            other = "max" if self.mode == "min" else "min"
            raise ValueError(
                f"EarlyStopping: monitor={self.monitor!r} with mode={self.mode!r} "
                f'would keep the worst variables; pass mode="{other}"'
            )
        _expect_subset(self.subset)

    def init(self) -> StoppingState:
        """Return the state before the first evaluation."""
        # Not infinity, at which `jax_debug_infs` would stop the program.
        dtype = jax.dtypes.canonicalize_dtype(float)
        largest = jnp.finfo(dtype).max
        best = jnp.asarray(largest if self.mode == "min" else -largest, dtype)
        zero = jnp.zeros((), jnp.int32)
        return StoppingState(best, zero, zero, jnp.zeros((), bool))

    def update(
        self, state: StoppingState, metric: Number, epoch: int | Array
    ) -> StoppingState:
        """Return the state after an evaluation; once stopped, it stays as it is.

        Args:
            state: the state from `init`, or after the evaluation before.
            metric: m, a scalar.
            epoch: the number of epochs trained so far.

        Returns:
            The new state. The metric improved if its `best_epoch` is `epoch`.
        """
        metric = jnp.asarray(metric, state.best.dtype)
        min_delta = jnp.asarray(self.min_delta, state.best.dtype)
        gain = state.best - metric if self.mode == "min" else metric - state.best
        improved = gain > min_delta
        wait = jnp.where(improved, 0, state.wait + 1)
        new = StoppingState(
            best=jnp.where(improved, metric, state.best),
            best_epoch=jnp.where(
                improved, jnp.asarray(epoch, jnp.int32), state.best_epoch
            ),
            wait=wait,
            stop=self.is_over(wait),
        )
        # Under vmap other runs go on; one that has stopped must keep its state.
        kept = [jnp.where(state.stop, o, n) for o, n in zip(state, new, strict=True)]
        return StoppingState(*kept)

    def is_over(self, wait: Array) -> Array:
        """Return whether so many evaluations without improvement are enough."""
        return wait >= jnp.maximum(jnp.asarray(self.patience, wait.dtype), 1)


def _expect_count(name: str, value: Any, least: int) -> None:
    if not is_integer(value) and not isinstance(value, jax.Array):
        raise TypeError(f"EarlyStopping: {name} must be an integer, got {shown(value)}")
    if is_integer(value) and value < least:
        raise ValueError(f"EarlyStopping: {name} must be at least {least}, got {value}")


def _expect_subset(subset: Any) -> None:
    if subset is None:
        return
    if isinstance(subset, bool) or not isinstance(subset, int | float):
        raise TypeError(
            "EarlyStopping: subset must be a number of examples (an int), a share of "
            f"them (a float), or None for all, got {shown(subset)}"
        )
    if isinstance(subset, int) and subset < 1:
        raise ValueError(
            f"EarlyStopping: a subset has at least 1 example, got {subset}"
        )
    if isinstance(subset, float) and not 0 < subset <= 1:
        raise ValueError(
            "EarlyStopping: a float subset is a share in (0, 1], got "
            f"{subset}. A number of examples is an int."
        )
