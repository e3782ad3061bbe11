"""Checkpoints of a run, which are written while it runs and from which it can go on.

Orbax writes them, in the background, each to a folder of its own that gets its name
only when it is complete. A checkpoint holds the state that `fit` carries from epoch to
epoch, as arrays by name. As JSON it also holds the records, the descriptions of the run
and of its environment, and a checksum of every array, by which damage is found.
"""

import dataclasses
import json
import os
import warnings
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks import is_key, positive_integer
from fnn.core import Layer
from fnn.named_leaves import differences, leaves_by_name
from fnn.training.compiled.meshes import put
from fnn.training.run.loop import Progress, eval_variables
from fnn.training.run.nonfinite import Nonfinite
from fnn.training.run.spec import RunSpec
from fnn.training.store.fingerprint import CODE, describe_run, environment
from fnn.training.store.folder import latest_undamaged, open_manager
from fnn.training.store.lock import locked
from fnn.training.store.structure import describe_structure
from fnn.typing import PyTree

__all__ = ["CheckpointStore", "Checkpoints", "as_checkpoints"]


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """A folder of checkpoints: how often one is written, and how many are kept.

    Args:
        directory: a folder of their own; it is created if it does not exist.
        every: a checkpoint is written after every epoch whose number this divides, and
            at the end of the run.
        keep: how many of the latest are kept. The best one by the validation metric
            that early stopping monitors (else the loss) is kept as well.

    Raises:
        TypeError, ValueError: an argument of the wrong type, or out of its range.

    Example:
        >>> import fnn
        >>> fnn.Checkpoints("runs/lenet/checkpoints", every=5, keep=2)
        Checkpoints(directory='runs/lenet/checkpoints', every=5, keep=2)
    """

    directory: str | os.PathLike[str]
    every: int = 1
    keep: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.directory, (str, os.PathLike)):
            raise TypeError(
                f"Checkpoints: directory must be a path, got {self.directory!r}"
            )
        positive_integer("Checkpoints: every", self.every)
        positive_integer("Checkpoints: keep", self.keep)


def as_checkpoints(checkpoint_dir: Any) -> Checkpoints | None:
    """Return the argument `checkpoint_dir` of `fit`, such as a path, as checkpoints."""
    if checkpoint_dir is None or isinstance(checkpoint_dir, Checkpoints):
        return checkpoint_dir
    return Checkpoints(checkpoint_dir)


# ---- Writing and reading ---------------------------------------------------------


class CheckpointStore:
    """The checkpoints of one run, as a context: when it ends, all are written.

    Args:
        checkpoints: the folder, how often, and how many.
        spec: the specification of the run.
        net: the network as it was passed, and
        plan: the mode in which it is planned.
    """

    def __init__(
        self, checkpoints: Checkpoints, spec: RunSpec, net: Layer, plan: str | None
    ) -> None:
        self._folder = checkpoints.directory
        self._every = checkpoints.every
        self.run = describe_run(spec, plan, net)
        self.environment = environment(spec.mesh)
        self._optimizer = spec.optimizer
        self._damaged: set[int] = set()
        monitor, mode = "loss", "min"
        if spec.early_stopping is not None:
            monitor, mode = spec.early_stopping.monitor, spec.early_stopping.mode
        self._column = f"validation_{monitor}"
        self._open = ExitStack()
        if jax.process_index() == 0:  # the processes of one run share its folder
            self._open.enter_context(locked(self._folder))
        self._orbax, self._manager = open_manager(
            Path(self._folder), keep=checkpoints.keep, best=mode
        )

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._open:
            self._manager.close()

    def epochs(self) -> list[int]:
        """Return the epochs after which there are checkpoints, the latest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def check_is_new(self) -> None:
        """Raise if there are checkpoints already, which would be overwritten."""
        if epochs := self.epochs():
            raise ValueError(
                f"{self._folder} holds checkpoints of a run of {epochs[0]} epochs: "
                "pass resume=True to go on from there, or another directory"
            )

    def save(self, progress: Progress, *, at_the_end: bool = False) -> None:
        """Start to write a checkpoint where one is due; at the end, finish all."""
        due = at_the_end or progress.epoch % self._every == 0
        if due and progress.epoch in self._damaged:
            self._manager.delete(progress.epoch)
            self._damaged.remove(progress.epoch)
        if due and progress.epoch not in self._manager.all_steps():
            parts = _parts(progress) | self._evaluated_apart(progress)
            arrays = {name: _on_host(a) for name, a in leaves_by_name(parts).items()}
            sums = {name: zlib.crc32(a.tobytes()) for name, a in arrays.items()}
            rest = {
                "run": self.run,
                "environment": self.environment,
                "records": progress.records,
                "position": _check_json(progress.position),
                "nonfinite": progress.nonfinite,
                "checksums": sums,
                "structure": _structure(parts),
            }
            save, composite = self._orbax.args, self._orbax.args.Composite
            self._manager.save(
                progress.epoch,
                args=composite(
                    arrays=save.StandardSave(arrays), rest=save.JsonSave(rest)
                ),
                metrics=self._metrics(progress),
                force=True,
            )
        if at_the_end:
            self._manager.wait_until_finished()

    def _evaluated_apart(self, progress: Progress) -> dict[str, PyTree]:
        """Return the variables to evaluate, where they are not those that train."""
        evaluated = eval_variables(self._optimizer, progress.carry)
        is_same = evaluated.params is progress.carry.variables.params
        return {} if is_same else {"evaluated": evaluated}

    def _metrics(self, progress: Progress) -> dict[str, float] | None:
        """Return the metric of the epoch; one that was not evaluated has none."""
        value = progress.records[-1].get(self._column) if progress.records else None
        return None if value is None or np.isnan(value) else {"monitored": value}

    def restore(self, initial: Progress) -> Progress:
        """Return the progress of the latest checkpoint that is undamaged.

        Args:
            initial: the progress of a new run, returned if there is no checkpoint.

        Raises:
            ValueError: the checkpoints are of another run; the differences are named.
        """
        read = latest_undamaged(
            *(self._orbax, self._manager, self.epochs(), self._folder, self._damaged)
        )
        if read is None:
            return initial
        epoch, arrays, rest = read
        self._expect_same_run(_comparable(rest, self), initial, arrays)
        self._warn_of_environment(rest["environment"])
        return _restored(epoch, initial, arrays, rest)

    def _expect_same_run(
        self, run: dict[str, str], initial: Progress, arrays: dict[str, np.ndarray]
    ) -> None:
        """Raise if the checkpoint is of another run, with the differences."""
        lines = [
            f"{name}: expected {self.run.get(name)}, got {run.get(name)}"
            for name in {**self.run, **run}
            if self.run.get(name) != run.get(name)
        ]
        own = {name: _bits(a) for name, a in _arrays(initial).items()}
        lines += differences(_compared(own), _compared(arrays))
        if lines:
            raise ValueError(
                f"the checkpoints in {self._folder} are of another run:\n  "
                + "\n  ".join(lines)
                + "\nPass the same arguments, or another checkpoint_dir."
            )

    def _warn_of_environment(self, earlier: dict[str, str]) -> None:
        """Warn if the run goes on in another environment."""
        lines = [
            f"{name} {earlier.get(name)} → {now}"
            for name, now in self.environment.items()
            if now != earlier.get(name)
        ]
        if lines:
            warnings.warn(
                "the run goes on in another environment, and will not be bit-identical "
                f"to one that was never interrupted: {', '.join(lines)}",
                stacklevel=4,
            )


def _comparable(rest: dict[str, Any], store: CheckpointStore) -> dict[str, str]:
    """Return the description of the run, with what cannot be compared as it is now.

    Checksums of code are other ones in another version of Python.
    """
    run, python = rest["run"], rest["environment"].get("python")
    if python == store.environment["python"]:
        return run
    return run | {name: c for name, c in store.run.items() if name.startswith(CODE)}


def _compared(arrays: dict[str, Any]) -> dict[str, Any]:
    """Select the arrays that every run has: others come and go with early stopping."""
    return {name: a for name, a in arrays.items() if name.partition("/")[0] == "carry"}


def _parts(progress: Progress) -> dict[str, PyTree]:
    """Return the trees of arrays that the progress has."""
    parts = {
        "carry": progress.carry,
        "best": progress.best,
        "stopping": progress.stopping,
    }
    return {name: part for name, part in parts.items() if part is not None}


def _arrays(progress: Progress) -> dict[str, Any]:
    """Return all arrays of the progress, by name."""
    return leaves_by_name(_parts(progress))


def _structure(parts: dict[str, PyTree]) -> dict[str, Any]:
    """Describe the trees of variables, and the state of early stopping."""
    variables = parts["carry"].variables
    return {"variables": describe_structure(variables, ("carry", "variables"))} | {
        name: describe_structure(part, (name,))
        for name, part in parts.items()
        if name != "carry"
    }


def _check_json(position: Any) -> Any:
    """Return the position of a source, or raise if JSON cannot hold it."""
    try:
        json.dumps(position)
    except TypeError as error:
        raise TypeError(
            "the position of train, which its get_state returns, is part of the "
            f"checkpoint, and must be bytes or what JSON can hold: {error}"
        ) from None
    return position


def _bits(leaf: Any) -> Any:
    """Return random keys as the integers they are made of, arrays as they are."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def _on_host(leaf: Any) -> np.ndarray:
    """Copy an array: the next epoch would overwrite it while it is written."""
    return np.array(jax.device_get(_bits(leaf)))


def _restored(
    epoch: int, initial: Progress, arrays: dict[str, np.ndarray], rest: dict[str, Any]
) -> Progress:
    """Return the progress that a checkpoint holds, in the form of the initial one."""

    def restore(name: str, like: PyTree) -> PyTree:
        names = leaves_by_name({name: like})
        if like is None or not names.keys() <= arrays.keys():
            return like

        def leaf(name: str, like: Any) -> Any:
            if is_key(like):
                impl = jax.random.key_impl(like)
                return jax.random.wrap_key_data(jnp.asarray(arrays[name]), impl=impl)
            if isinstance(like, np.ndarray):
                return arrays[name]
            if len(like.sharding.device_set) > 1:
                return put(arrays[name], like.sharding)
            return jnp.array(arrays[name])

        leaves = [leaf(name, like) for name, like in names.items()]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    return Progress(
        epoch=epoch,
        carry=restore("carry", initial.carry),
        records=rest["records"],
        position=rest["position"],
        nonfinite=rest["nonfinite"] and Nonfinite(*rest["nonfinite"]),
        best=restore("best", initial.best),
        stopping=restore("stopping", initial.stopping),
    )
