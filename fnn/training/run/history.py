"""The record of each epoch, and the history: the records as columns."""

from typing import Any

import numpy as np

__all__ = ["Record", "as_history"]

#: Python numbers by name: the argument of `on_epoch`.
Record = dict[str, Any]


def as_history(
    records: list[Record], *, validated: list[str], skips: bool, budget: bool = False
) -> dict[str, np.ndarray]:
    """Return the records as columns, with an entry an epoch or an evaluation.

    Args:
        records: the records of all epochs.
        validated: the names of the loss and the metrics of the validation data.
        skips: whether there is a column of the steps that were skipped.
        budget: whether there is a column of ε, of private training.
    """

    def column(name: str, rows: list[Record], dtype: type = float) -> np.ndarray:
        return np.array([row[name] for row in rows], dtype)

    history = {
        "epoch": column("epoch", records, int),
        "train_loss": column("train_loss", records),
        "seconds": column("seconds", records),
    }
    if skips:
        # A run that did not skip steps may have been resumed as one that does.
        skipped = [record.get("skipped", 0) for record in records]
        history["skipped"] = np.array(skipped, int)
    if budget:
        history["epsilon"] = np.array([row.get("epsilon", np.nan) for row in records])
    if validated:
        rows = [record for record in records if "validation_loss" in record]
        history["validation_epoch"] = column("epoch", rows, int)
        for name in validated:
            history[f"validation_{name}"] = column(f"validation_{name}", rows)
    return history
