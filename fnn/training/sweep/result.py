"""The result of a sweep: arrays whose first axes are those of the grid."""

import math
import textwrap
from typing import Any, NamedTuple

import jax
import numpy as np

from fnn.core import Variables
from fnn.describe import shown
from fnn.letters import printable
from fnn.tables import WIDTH, format_number, format_rows, rule
from fnn.training.sweep.grid import value_at
from fnn.training.sweep.records import TrainedMembers

__all__ = ["Sweep", "make_sweep"]

#: A printed sweep has at most this many axes, so that it fits 24 lines.
MAX_AXES = 12
#: And a value that is no number this many letters.
MAX_LABEL = 20


class Sweep(NamedTuple):
    """The result of `sweep`: arrays whose first axes are those of the grid.

    Print it to see the grid and the best hyperparameters.

    axes: the values along each of the first axes, in order: every hyperparameter with
        its values, then "key" with the numbers 0 .. S−1 of the keys. G stands for all
        their lengths, such as (8, 5).
    variables: with early stopping the best ones, else the last: NumPy, (*G, ...). Where
        not all members have the same shapes, an array (*G,) of each one's variables.
        `variables_at(index)` has those of one member in either case.
    last_variables: the variables after each member's last epoch.
    history: "train_loss" (*G, E), "validation_loss" and "validation_<metric>" (*G, V)
        by name, and for their last axis "epoch" (E,) and "validation_epoch" (V,). NaN
        where a member had stopped, or its loss has no such metric.
    best_epoch: (*G,), as in `FitResult`.
    epochs: (*G,), the number of epochs trained.
    stopped: (*G,), "epochs", "patience" or "diverged".
    compiled_in: the hyperparameters of which each value, and each combination of their
        values, is a compiled program.
    """

    axes: dict[str, np.ndarray]
    variables: Variables
    last_variables: Variables
    history: dict[str, np.ndarray]
    best_epoch: np.ndarray
    epochs: np.ndarray
    stopped: np.ndarray
    compiled_in: tuple[str, ...] = ()

    def variables_at(self, index: tuple[int, ...]) -> Variables:
        """Return the variables of one member.

        Args:
            index: its place along each axis of the grid, the key's included.

        Raises:
            ValueError: the index has another length than the grid has axes.
        """
        if not isinstance(index, tuple) or len(index) != len(self.axes):
            raise ValueError(
                f"index must be a tuple with a place along each of {[*self.axes]}, got "
                f"{index!r}"
            )
        return jax.tree.map(lambda leaf: leaf[index], self.variables)

    def at_best(self, name: str) -> np.ndarray:
        """Return a metric of the validation data at each member's best epoch.

        Args:
            name: the name of the metric, or "loss"; or its name in the history.

        Returns:
            An array (*G,). It is NaN where that epoch was not evaluated: it is 0, or
            training ended between two evaluations.

        Raises:
            ValueError: the metric was not computed.
        """
        column = f"validation_{name}"
        if column not in self.history:
            column = name
        if column not in self.history or not column.startswith("validation_"):
            known = [n[11:] for n in self.history if n.startswith("validation_")]
            known = [n for n in known if n != "epoch"]
            raise ValueError(f"no metric {name!r} was computed: there are {known}")
        here = self.history["validation_epoch"] == self.best_epoch[..., None]
        values = np.where(here, self.history[column], 0).sum(-1)
        return np.where(here.any(-1), values, np.nan)

    def best(self, name: str = "loss", mode: str = "min") -> dict[str, Any]:
        """Return the hyperparameters with the best mean of a metric over the keys.

        Args:
            name: the name of the metric, which is taken at each member's best epoch.
            mode: "min" if smaller is better, "max" if larger is.

        Returns:
            The value of each hyperparameter. One with a NaN among its keys is chosen
            only where there is no other.

        Raises:
            ValueError: the metric was not computed, or `mode` is another word.
        """
        if mode not in ("min", "max"):
            raise ValueError(f'mode must be "min" or "max", got {shown(mode)}')
        means = self.at_best(name).mean(-1)
        return self._values_at(_best_index(means if mode == "min" else -means))

    def _values_at(self, index: tuple[int, ...]) -> dict[str, Any]:
        """Return the hyperparameters at an index of the grid, without the key's."""
        names = [axis for axis in self.axes if axis != "key"]
        return {
            name: value_at(self.axes[name], i)
            for name, i in zip(names, index, strict=True)
        }

    def _losses(self) -> tuple[str, np.ndarray]:
        """Return a name and each member's loss (*G,) by which a sweep is printed."""
        if "validation_loss" in self.history:
            return "validation loss at the best epoch", self.at_best("loss")
        last = np.maximum(self.epochs - 1, 0)[..., None]
        losses = np.take_along_axis(self.history["train_loss"], last, -1)[..., 0]
        return "training loss of the last epoch", losses

    def __repr__(self) -> str:
        axes = ", ".join(f"{len(values)} {name}" for name, values in self.axes.items())
        return textwrap.shorten(f"Sweep({axes})", WIDTH, placeholder=" ...)")

    def __str__(self) -> str:
        """Return a table of the grid, and its best hyperparameters."""
        name, losses = self._losses()
        means = losses.mean(-1)
        index = _best_index(means)
        best = self._values_at(index)
        rows = [("axis", "size", "lowest", "highest", "best")]
        rows += [
            (
                axis if len(axis) <= WIDTH // 2 else f"{axis[: WIDTH // 2 - 3]}...",
                *(str(len(values)), *_range(values)),
                _label(best[axis]) if axis in best else "",
            )
            for axis, values in self.axes.items()
        ]
        head, *lines = format_rows(rows, "<>>>>")
        if len(lines) > MAX_AXES:
            hidden = len(lines) - MAX_AXES + 1
            lines[MAX_AXES - 2 : -1] = [f"... {hidden} more axes"]
        reasons, counts = np.unique(self.stopped, return_counts=True)
        stopped = [f"{r} ({n})" for r, n in zip(reasons, counts, strict=True)]
        line = rule([head, *lines])
        shown = [
            *(head, line, *lines, line),
            f"best {name}: {format_number(means[index])} (the mean of "
            f"{losses.shape[-1]} keys)",
            f"{self.stopped.size} members, stopped by {', '.join(stopped)}",
        ]
        if self.compiled_in:
            count = math.prod(len(self.axes[name]) for name in self.compiled_in)
            names = f"compiled for each {', '.join(self.compiled_in)}: {count} programs"
            shown.append(textwrap.shorten(names, WIDTH, placeholder=" ..."))
        return printable("\n".join(shown))


def _range(values: np.ndarray) -> tuple[str, str]:
    """Return the lowest and the highest of numbers as text; other values have none."""
    if values.dtype == object:
        return "", ""
    return f"{values.min():.4g}", f"{values.max():.4g}"


def _label(value: Any) -> str:
    """Return a value of the grid as a short text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.4g}"
    text = getattr(value, "__name__", None) or str(value)
    return text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 3]}..."


def _best_index(means: np.ndarray) -> tuple[int, ...]:
    """Return the index of the smallest number; NaN is larger than any other."""
    ranked = np.where(np.isnan(means), np.inf, means)
    return tuple(map(int, np.unravel_index(ranked.argmin(), ranked.shape)))


def make_sweep(
    axes: dict[str, np.ndarray],
    epochs: int,
    every: int,
    trained: TrainedMembers,
    compiled_in: tuple[str, ...] = (),
) -> Sweep:
    """Return the result of a sweep.

    Args:
        axes: the values along each axis of the grid.
        epochs: the number of epochs, E.
        every: the number of epochs from one evaluation to the next.
        trained: the results of the members, in the host's memory and with the axes of
            the grid.
        compiled_in: the names of the hyperparameters that are compiled in.
    """
    ran = np.asarray(trained.epochs)[..., None]  # beside the last axis of a history

    def known(epochs: np.ndarray, column: Any) -> np.ndarray:
        return np.where(epochs <= ran, column, np.nan)

    each, evaluated = np.arange(1, epochs + 1), np.arange(every, epochs + 1, every)
    history = {"epoch": each, "train_loss": known(each, trained.train_loss)}
    if trained.validation:
        history["validation_epoch"] = evaluated
        for name, column in trained.validation.items():
            history[f"validation_{name}"] = known(evaluated, column)
    conditions = [np.asarray(trained.diverged), np.asarray(trained.patience_ended)]
    return Sweep(
        axes=axes,
        variables=trained.variables,
        last_variables=trained.last_variables,
        history=history,
        best_epoch=np.asarray(trained.best_epoch),
        epochs=np.asarray(trained.epochs),
        stopped=np.select(conditions, ["diverged", "patience"], "epochs"),
        compiled_in=compiled_in,
    )
