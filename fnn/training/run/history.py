"""The record of each epoch, and the history: the records as columns."""

import math
from typing import Any

import numpy as np

__all__ = ["Record", "as_history", "records_of"]

#: Python numbers by name: the argument of `on_epoch`.
Record = dict[str, Any]

#: The first columns of every history, with their dtypes.
COLUMNS = {"epoch": int, "train_loss": float, "seconds": float}


def as_history(
    records: list[Record], *, validated: list[str], skips: bool, budget: bool = False
) -> dict[str, np.ndarray]:
    """Return the records as columns, with an entry an epoch or an evaluation.

    A run that was resumed may record what it did not before: it is NaN there.

    Args:
        records: the records of all epochs.
        validated: the names of the loss and the metrics of the validation data, which
            have columns without any record, too.
        skips: whether there is a column of the steps that were skipped.
        budget: whether there is a column of ε, of private training.
    """

    def column(name: str, rows: list[Record], dtype: type = float) -> np.ndarray:
        fill = 0 if dtype is int else math.nan
        return np.array([row.get(name, fill) for row in rows], dtype)

    names = dict.fromkeys(name for record in records for name in record)
    of_training = [n for n in names if n == "learning_rate" or n.startswith("train_")]
    history = {name: column(name, records, dtype) for name, dtype in COLUMNS.items()}
    history |= {n: column(n, records) for n in of_training if n not in COLUMNS}
    if skips:
        history["skipped"] = column("skipped", records, int)
    if budget:
        history["epsilon"] = column("epsilon", records)
    of_validation = [f"validation_{name}" for name in validated]
    of_validation += [n for n in names if n.startswith("validation_")]
    if of_validation:
        rows = [record for record in records if "validation_loss" in record]
        history["validation_epoch"] = column("epoch", rows, int)
        history |= {name: column(name, rows) for name in of_validation}
    return history


def records_of(
    history: dict[str, np.ndarray],
    health: dict[str, dict[str, np.ndarray]] | None,
    observed: dict[str, dict[str, np.ndarray]] | None = None,
) -> list[Record]:
    """Return the records that a history, that of health, and observations are from."""
    evaluations = history.get("validation_epoch", np.array([], int)).tolist()
    records = []
    for t, epoch in enumerate(history["epoch"].tolist()):
        record: Record = {}
        for name, column in history.items():
            if not name.startswith("validation_"):
                record[name] = column[t].item()
            elif name != "validation_epoch" and epoch in evaluations:
                record[name] = column[evaluations.index(epoch)].item()
        if health:
            record["health"] = {
                layer: {name: float(column[t]) for name, column in columns.items()}
                for layer, columns in health.items()
            }
        if observed:
            record["observed"] = {
                function: {part: column[t].tolist() for part, column in parts.items()}
                for function, parts in observed.items()
            }
        records.append(record)
    return records
