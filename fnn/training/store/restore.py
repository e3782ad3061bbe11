"""The result of a run, read from its folder of checkpoints, without the run."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks import as_path
from fnn.core import Variables
from fnn.training.compiled.descent import Carry
from fnn.training.run.health import health_history
from fnn.training.run.history import as_history
from fnn.training.run.nonfinite import Nonfinite
from fnn.training.run.observed import observed_history
from fnn.training.run.result import FitResult
from fnn.training.store.folder import latest_undamaged, open_manager
from fnn.training.store.structure import build

__all__ = ["restore"]


def restore(directory: str | os.PathLike[str], epoch: int | None = None) -> FitResult:
    """Read the result of a run from its folder of checkpoints.

    The run may still go on, or have been killed. Neither the network nor the data are
    needed. From the result, another run can go on (see `fnn.fit`, `resume`).

    Args:
        directory: the folder that was passed to `fit` as `checkpoint_dir`.
        epoch: after which epoch; by default the last whose checkpoint is undamaged.

    Returns:
        A `FitResult`, of which `stopped` is "restored", and the optimizer's state is a
        dictionary of its arrays by name.

    Raises:
        FileNotFoundError: there is no such folder, or no checkpoint in it.
        ValueError: there is none of this epoch; it is damaged; or it is of an edition
            of fnn that did not describe the structure of variables.

    Example:
        >>> import jax, jax.numpy as jnp, fnn, tempfile
        >>> net, loss = fnn.serial(fnn.Dense(1)), fnn.losses.SquaredError()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = fnn.fit(net, loss, fnn.optimizers.sgd(0.1), epochs=2, batch_size=2,
        ...                 train=(jnp.ones((4, 2)), jnp.ones((4, 1))),
        ...                 key=jax.random.key(0), checkpoint_dir=folder)
        ...     result = fnn.restore(folder)
        >>> result.epochs, result.variables.params[0].weight.shape
        (2, (2, 1))
    """
    folder = as_path("directory", directory)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder of checkpoints {folder}")
    orbax, manager = open_manager(folder, read_only=True)
    with manager:
        found = sorted(manager.all_steps(), reverse=True)
        if not found:
            raise FileNotFoundError(f"there are no checkpoints in {folder}")
        if epoch is not None and epoch not in found:
            raise ValueError(
                f"{folder} has no checkpoint after epoch {epoch!r}; it has those after "
                f"{', '.join(map(str, sorted(found)))}"
            )
        wanted = found if epoch is None else [epoch]
        read = latest_undamaged(orbax, manager, wanted, folder, damaged=set())
    if read is None:
        raise ValueError(f"all checkpoints in {folder} are damaged")
    return _as_result(*read)


def _as_result(
    epoch: int, arrays: dict[str, np.ndarray], rest: dict[str, Any]
) -> FitResult:
    """Return the result that a checkpoint holds."""
    if "structure" not in rest:
        raise ValueError(
            "the checkpoint was written by an edition of fnn that did not describe the "
            "structure of variables: resume the run with epochs at its last one, which "
            "returns its result"
        )
    on_device = {name: jnp.asarray(array) for name, array in arrays.items()}
    structure = rest["structure"].items()
    parts = {name: build(described, on_device) for name, described in structure}
    records, stopping = rest["records"], parts.get("stopping")
    last: Variables = parts.get("evaluated") or parts["variables"]
    best = parts.get("best")
    names = dict.fromkeys(name for record in records for name in record)
    validated = [n.partition("_")[2] for n in names if n.startswith("validation_")]
    prefix = "carry/optimizer_state"
    state = {
        name.removeprefix(prefix).lstrip("/") or "value": array
        for name, array in on_device.items()
        if name.startswith(prefix)
    }
    return FitResult(
        variables=last if best is None else jax.device_get(best),
        last_variables=last,
        history=as_history(
            records,
            validated=validated,
            skips="skipped" in names,
            budget="epsilon" in names,
        ),
        best_epoch=epoch if stopping is None else int(stopping.best_epoch),
        epochs=epoch,
        stopped="restored",
        carry=Carry(parts["variables"], state),
        stopping=stopping,
        nonfinite=rest["nonfinite"] and Nonfinite(*rest["nonfinite"]),
        health=health_history(records) if "health" in names else None,
        observed=observed_history(records) if "observed" in names else None,
    )
