"""The result of a sweep: arrays whose first axes are those of the grid."""

from typing import Any, NamedTuple

import numpy as np

from fnn.core import Variables
from fnn.training.sweep.records import Outcome

__all__ = ["Sweep", "collect"]


class Sweep(NamedTuple):
    """What `sweep` returns: arrays whose first axes are those of the grid.

    axes: what varies along each of the first axes, in order: every hyperparameter with
        its values, then "key" with the numbers 0 .. S−1 of the keys. G stands for all
        their lengths, such as (8, 5).
    variables: with early stopping the best ones, else the last: NumPy, (*G, ...).
    last_variables: those after each member's last epoch.
    history: "train_loss" (*G, E), "validation_loss" and "validation_<metric>" (*G, V)
        by name, and for their last axis "epoch" (E,) and "validation_epoch" (V,). NaN
        where a member had stopped.
    best_epoch: (*G,), as `FitResult` has it.
    epochs: (*G,), the number trained.
    stopped: (*G,), "epochs", "patience" or "diverged".
    """

    axes: dict[str, np.ndarray]
    variables: Variables
    last_variables: Variables
    history: dict[str, np.ndarray]
    best_epoch: np.ndarray
    epochs: np.ndarray
    stopped: np.ndarray

    def at_best(self, name: str) -> np.ndarray:
        """A metric of the validation data at each member's best epoch: (*G,).

        Where there was no evaluation of that epoch (it is 0, or training ended between
        two evaluations) NaN.
        """
        column = f"validation_{name}"
        if column not in self.history:
            known = [n[11:] for n in self.history if n.startswith("validation_")]
            known = [n for n in known if n != "epoch"]
            raise ValueError(f"no metric {name!r} was computed: there are {known}")
        here = self.history["validation_epoch"] == self.best_epoch[..., None]
        values = np.where(here, self.history[column], 0).sum(-1)
        return np.where(here.any(-1), values, np.nan)

    def best(self, name: str = "loss", mode: str = "min") -> dict[str, float]:
        """The hyperparameters with the best mean over the keys of a metric.

        Args:
            name: of the metric, at each member's best epoch.
            mode: "min" if smaller is better, "max" if larger is.

        Returns:
            The value of each hyperparameter. One with a NaN among its keys is chosen
            only where there is no other.
        """
        if mode not in ("min", "max"):
            raise ValueError(f'mode must be "min" or "max", got {mode!r}')
        means = self.at_best(name).mean(-1)
        ranked = np.where(np.isnan(means), np.inf, means if mode == "min" else -means)
        place = np.unravel_index(ranked.argmin(), ranked.shape)
        names = [axis for axis in self.axes if axis != "key"]
        return {
            name: self.axes[name][i].item()
            for name, i in zip(names, place, strict=True)
        }


def collect(
    axes: dict[str, np.ndarray], epochs: int, every: int, outcome: Outcome
) -> Sweep:
    """The result, from an outcome on the host whose leaves have the grid's axes."""
    history: dict[str, Any] = {
        "epoch": np.arange(1, epochs + 1),
        "train_loss": outcome.train_loss,
    }
    if outcome.validation:
        history["validation_epoch"] = np.arange(every, epochs + 1, every)
        history |= {f"validation_{name}": v for name, v in outcome.validation.items()}
    ended = [outcome.diverged, outcome.patience_ended]
    return Sweep(
        axes=axes,
        variables=outcome.variables,
        last_variables=outcome.last_variables,
        history=history,
        best_epoch=np.asarray(outcome.best_epoch),
        epochs=np.asarray(outcome.epochs),
        stopped=np.select(ended, ["diverged", "patience"], "epochs"),
    )
