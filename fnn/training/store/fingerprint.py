"""What a run is of, and where it runs: what must be the same for the same bits."""

import dataclasses
import os
import re
import zlib
from importlib import metadata
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fnn.training.early_stopping import EarlyStopping
from fnn.training.run.spec import Job
from fnn.training.run.streams import Batches

__all__ = ["describe_run", "environment"]


def describe_run(job: Job, plan: str | None, net: Any) -> dict[str, str]:
    """What must be the same for a run to go on; compared word by word."""
    return {
        "fnn": metadata.version("fnn"),
        "network": _words(net),
        "plan": str(plan),
        "loss": _words(job.loss),
        "optimizer": _words(job.optimizer),
        "engine": getattr(job.engine, "__qualname__", _words(job.engine)),
        "batch_size": str(job.batch_size),
        "l2": str(job.l2),
        "augmentation": _words(job.augment),
        "key": str(jax.random.key_data(job.key).tolist()),
        "training data": _training_data(job),
        "validation data": _sample(job.validation),
        "metrics": str([name for name, _ in job.metrics]),
        "early stopping": _without_patience(job.rule),
    }


def environment(mesh: Mesh | None = None) -> dict[str, str]:
    """What bits depend on besides: with all of it the same they are the same."""
    return {
        "jax": metadata.version("jax"),
        "jaxlib": metadata.version("jaxlib"),
        "device": jax.devices()[0].device_kind,
        "cores": str(os.cpu_count()),
        "devices that train": "1" if mesh is None else str(mesh.size),
    }


def _words(thing: Any) -> str:
    """Its repr, without the addresses of functions: these change with the process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(thing))


def _training_data(job: Job) -> str:
    """Of batches that are read, how they are read; they are looked at one by one."""
    if isinstance(job.train, Batches):
        shapes = ", ".join(f"{a.dtype}{list(a.shape[1:])}" for a in job.sample)
        return f"{job.train!r} of {shapes}"
    return _sample(job.train)


def _without_patience(rule: EarlyStopping | None) -> str:
    """A run may go on with more patience, but not by another rule."""
    return "None" if rule is None else _words(dataclasses.replace(rule, patience=1))


def _sample(data: tuple[jax.Array, jax.Array] | None) -> str:
    """Dtypes, shapes, and a checksum of at most a thousand examples."""
    if data is None:
        return "None"
    total = 0
    for array in data:
        some = array[:: -(-len(array) // 1000)]
        total = zlib.crc32(np.ascontiguousarray(some).tobytes(), total)
    shapes = ", ".join(f"{array.dtype}{list(array.shape)}" for array in data)
    return f"{shapes}, checksum {total}"
