"""A folder of checkpoints, as Orbax keeps it: opened, and read."""

import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["latest_undamaged", "open_manager"]


def open_manager(
    folder: Path,
    *,
    keep: int | None = None,
    best: str = "min",
    read_only: bool = False,
) -> tuple[Any, Any]:
    """Return the module orbax.checkpoint, and its manager of a folder.

    Args:
        folder: the folder.
        keep: how many of the latest checkpoints are kept; None for all.
        best: "min" or "max", which metric the one has that is kept besides.
        read_only: whether nothing is written.
    """
    try:
        import orbax.checkpoint as orbax
        from orbax.checkpoint.checkpoint_managers import preservation_policy as policies
    except ImportError as error:
        raise ImportError(
            "checkpoints need orbax-checkpoint, which this Python does not have: "
            "pip install 'fnn[checkpoints]'"
        ) from error
    kept = policies.AnyPreservationPolicy(
        [
            policies.LatestN(keep),
            policies.BestN(
                n=1,
                get_metric_fn=lambda metrics: metrics["monitored"],
                reverse=best == "min",
                keep_checkpoints_without_metrics=False,
            ),
        ]
    )
    options = orbax.CheckpointManagerOptions(
        preservation_policy=kept,
        cleanup_tmp_directories=not read_only,
        create=not read_only,
    )
    manager = orbax.CheckpointManager(
        folder.absolute(), options=options, item_names=("arrays", "rest")
    )
    return orbax, manager


#: An epoch, its arrays by name, and the rest.
_Read = tuple[int, dict[str, np.ndarray], dict[str, Any]]


def latest_undamaged(
    orbax: Any, manager: Any, epochs: list[int], folder: Any, damaged: set[int]
) -> _Read | None:
    """Read the first of these checkpoints that is undamaged; warn of those that are.

    Args:
        orbax: the module.
        manager: the manager of the folder.
        epochs: the checkpoints to try, in this order.
        folder: the folder's name, for the warning.
        damaged: the epochs of damaged ones are added to it.
    """
    for epoch in epochs:
        try:
            return epoch, *_read(orbax, manager, epoch)
        except Exception as error:  # whatever a damaged file makes a reader raise
            first = str(error).partition("\n")[0][:200]
            warnings.warn(
                f"the checkpoint after epoch {epoch} in {folder} is damaged, and the "
                f"one before it is used: {type(error).__name__}: {first}",
                stacklevel=5,
            )
            damaged.add(epoch)
    return None


def _read(
    orbax: Any, manager: Any, epoch: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    restore = orbax.args
    read = manager.restore(
        epoch,
        args=restore.Composite(
            arrays=restore.StandardRestore(), rest=restore.JsonRestore()
        ),
    )
    arrays = {name: np.asarray(a) for name, a in read["arrays"].items()}
    sums = read["rest"]["checksums"]
    if sums != {name: zlib.crc32(a.tobytes()) for name, a in arrays.items()}:
        raise ValueError("its numbers are not those that were written")
    return arrays, read["rest"]
