"""Checkpoints of a run: written while it goes on, and a run that goes on from one.

Orbax writes them, in the background, each to a folder of its own that gets its name
only when it is complete. What is kept here is everything that `fit` carries from epoch
to epoch, as arrays by name; beside it, as JSON, the records, what the run is of, where
it ran, and a checksum of every array: what a disk has spoilt is not restored.
"""

import dataclasses
import json
import os
import warnings
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks import is_key, positive_integer
from fnn.named_leaves import differences, leaves_by_name
from fnn.training.compiled.meshes import put
from fnn.training.early_stopping import EarlyStopping
from fnn.training.run.loop import Progress
from fnn.training.run.nonfinite import Nonfinite
from fnn.typing import PyTree

__all__ = ["Checkpoints", "Store", "as_checkpoints"]


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where checkpoints go, how often, and how many stay.

    Args:
        directory: a folder of their own; made where it is not there.
        every: a checkpoint after every such epoch, and one at the end of the run.
        keep: how many of the latest stay. The best one by the validation metric that
            early stopping monitors (else the loss) stays as well.

    Example:
        >>> import fnn
        >>> fnn.Checkpoints("runs/lenet/checkpoints", every=5, keep=2)
        Checkpoints(directory='runs/lenet/checkpoints', every=5, keep=2)
    """

    directory: str | os.PathLike[str]
    every: int = 1
    keep: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.directory, str | os.PathLike):
            raise TypeError(
                f"Checkpoints: directory must be a path, got {self.directory!r}"
            )
        positive_integer("Checkpoints: every", self.every)
        positive_integer("Checkpoints: keep", self.keep)


def as_checkpoints(asked: Any) -> Checkpoints | None:
    """What `fit` was given, a path or more."""
    if asked is None or isinstance(asked, Checkpoints):
        return asked
    return Checkpoints(asked)


# ---- Written and read ------------------------------------------------------------


class Store:
    """The checkpoints of one run, as a context: on leaving it, all are written."""

    def __init__(
        self,
        where: Checkpoints,
        run: dict[str, str],
        here: dict[str, str],
        rule: EarlyStopping | None,
    ) -> None:
        try:
            import orbax.checkpoint as orbax
            from orbax.checkpoint.checkpoint_managers import (
                preservation_policy as policies,
            )
        except ImportError as error:
            raise ImportError(
                "checkpoint_dir needs orbax-checkpoint, which this Python does not "
                "have: pip install 'fnn[checkpoints]'"
            ) from error
        self._orbax, self.where, self.run, self.here = orbax, where, run, here
        self._damaged: set[int] = set()
        monitor, mode = ("loss", "min") if rule is None else (rule.monitor, rule.mode)
        self._column = f"validation_{monitor}"
        best = policies.BestN(
            n=1,
            get_metric_fn=lambda metrics: metrics["monitored"],
            reverse=mode == "min",
            keep_checkpoints_without_metrics=False,
        )
        latest = policies.LatestN(where.keep)
        self._manager = orbax.CheckpointManager(
            Path(where.directory).absolute(),
            options=orbax.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy([latest, best]),
                cleanup_tmp_directories=True,
            ),
            item_names=("arrays", "rest"),
        )

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()

    def epochs(self) -> list[int]:
        """After which epochs there are checkpoints, the latest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def check_is_new(self) -> None:
        """That nobody's checkpoints are overwritten."""
        if epochs := self.epochs():
            raise ValueError(
                f"{self.where.directory} holds checkpoints of a run of {epochs[0]} "
                "epochs: pass resume=True to go on from there, or another directory"
            )

    def save(self, progress: Progress, *, at_the_end: bool = False) -> None:
        """Begin to write a checkpoint where one is due; at the end, finish all."""
        due = at_the_end or progress.epoch % self.where.every == 0
        if due and progress.epoch in self._damaged:
            self._manager.delete(progress.epoch)
            self._damaged.remove(progress.epoch)
        if due and progress.epoch not in self._manager.all_steps():
            arrays = {name: _on_host(a) for name, a in _arrays(progress).items()}
            sums = {name: zlib.crc32(a.tobytes()) for name, a in arrays.items()}
            rest = {
                "run": self.run,
                "environment": self.here,
                "records": progress.records,
                "position": _as_json(progress.position),
                "nonfinite": progress.nonfinite,
                "checksums": sums,
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

    def _metrics(self, progress: Progress) -> dict[str, float] | None:
        """That of the epoch itself; an epoch that was not evaluated is not the best."""
        value = progress.records[-1].get(self._column) if progress.records else None
        return None if value is None or np.isnan(value) else {"monitored": value}

    def restore(self, begun: Progress) -> Progress:
        """The latest checkpoint that is whole, or what has just begun if none is.

        Raises:
            ValueError: the checkpoints are of another run; the differences are named.
        """
        for epoch in self.epochs():
            try:
                arrays, rest = self._read(epoch)
            except Exception as error:  # whatever a damaged file makes a reader raise
                first = str(error).partition("\n")[0][:200]
                warnings.warn(
                    f"the checkpoint after epoch {epoch} in {self.where.directory} is "
                    f"damaged, and the one before it is used: "
                    f"{type(error).__name__}: {first}",
                    stacklevel=4,
                )
                self._damaged.add(epoch)
                continue
            self._refuse_another(rest["run"], begun, arrays)
            self._warn_of_elsewhere(rest["environment"])
            return _restored(epoch, begun, arrays, rest)
        return begun

    def _read(self, epoch: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        restore = self._orbax.args
        read = self._manager.restore(
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

    def _refuse_another(
        self, run: dict[str, str], begun: Progress, arrays: dict[str, np.ndarray]
    ) -> None:
        lines = [
            f"{name}: expected {self.run.get(name)}, got {run.get(name)}"
            for name in {**self.run, **run}
            if self.run.get(name) != run.get(name)
        ]
        own = _arrays(begun)
        given = {n: a for n, a in arrays.items() if n.partition("/")[0] in FITTED}
        fitted = {n: a for n, a in own.items() if n.partition("/")[0] in FITTED}
        lines += differences({name: _bits(a) for name, a in fitted.items()}, given)
        if lines:
            raise ValueError(
                f"the checkpoints in {self.where.directory} are of another run:\n  "
                + "\n  ".join(lines)
                + "\nPass the same arguments, or another checkpoint_dir."
            )

    def _warn_of_elsewhere(self, there: dict[str, str]) -> None:
        here = self.here
        lines = [
            f"{n} {there.get(n)} → {here[n]}" for n in here if here[n] != there.get(n)
        ]
        if lines:
            warnings.warn(
                "the run goes on elsewhere, and will not have the bits of one that was "
                f"never interrupted: {', '.join(lines)}",
                stacklevel=4,
            )


#: What every run has; `best` and `stopping` come and go with early stopping.
FITTED = ("carry",)


def _arrays(progress: Progress) -> dict[str, Any]:
    """Everything that is carried, by name."""
    parts = {
        "carry": progress.carry,
        "best": progress.best,
        "stopping": progress.stopping,
    }
    return leaves_by_name({k: v for k, v in parts.items() if v is not None})


def _as_json(position: Any) -> Any:
    """The position of a source, which says itself what it is."""
    try:
        json.dumps(position)
    except TypeError as error:
        raise TypeError(
            "the position of train, which its get_state returns, is part of the "
            f"checkpoint, and must be bytes or what JSON can hold: {error}"
        ) from None
    return position


def _bits(leaf: Any) -> Any:
    """Random keys as the integers they are made of."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def _on_host(leaf: Any) -> np.ndarray:
    """A copy: the next epoch overwrites what is written in the background."""
    return np.array(_bits(leaf))


def _restored(
    epoch: int, begun: Progress, arrays: dict[str, np.ndarray], rest: dict[str, Any]
) -> Progress:
    def back(name: str, like: PyTree) -> PyTree:
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
        carry=back("carry", begun.carry),
        records=rest["records"],
        position=rest["position"],
        nonfinite=rest["nonfinite"] and Nonfinite(*rest["nonfinite"]),
        best=back("best", begun.best),
        stopping=back("stopping", begun.stopping),
    )
