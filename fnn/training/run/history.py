"""What is recorded of each epoch, and the records as columns."""

from typing import Any

import numpy as np

__all__ = ["Record", "history_of"]

#: Python numbers by name: what `on_epoch` is given.
Record = dict[str, Any]


def history_of(
    records: list[Record], *, validated: list[str], skips: bool
) -> dict[str, np.ndarray]:
    """The records as columns: an entry an epoch, or an evaluation.

    `validated` are the names of what was evaluated, `skips` whether steps were counted.
    """

    def column(name: str, rows: list[Record], dtype: type = float) -> np.ndarray:
        return np.array([row[name] for row in rows], dtype)

    history = {
        "epoch": column("epoch", records, int),
        "train_loss": column("train_loss", records),
        "seconds": column("seconds", records),
    }
    if skips:
        # An epoch of a run that did not skip, and went on as one that does, had none.
        skipped = [record.get("skipped", 0) for record in records]
        history["skipped"] = np.array(skipped, int)
    if validated:
        rows = [record for record in records if "validation_loss" in record]
        history["validation_epoch"] = column("epoch", rows, int)
        for name in validated:
            history[f"validation_{name}"] = column(f"validation_{name}", rows)
    return history
