"""Descriptions of a run and of where it runs, to compare before it is resumed."""

import dataclasses
import os
import platform
import types
import zlib
from typing import Any

import jax
import jaxlib
import numpy as np
from jax.sharding import Mesh

from fnn.training.early_stopping import EarlyStopping
from fnn.training.functions import code_checksum, without_addresses
from fnn.training.metrics import NamedMetric
from fnn.training.run.spec import RunSpec
from fnn.training.run.streams import Batches
from fnn.typing import Batch

__all__ = ["CODE", "FORMAT", "describe_run", "environment"]

#: The number of the format of checkpoints. It is raised when a new edition of fnn could
#: not go on from the checkpoints of the one before.
FORMAT = 3

#: The beginning of the names of checksums of functions.
CODE = "code of functions, and its numbers, in the "


def describe_run(spec: RunSpec, plan: str | None, net: Any) -> dict[str, str]:
    """Describe a run by name and text; a checkpoint of another one is refused."""
    return {
        "format": str(FORMAT),
        "network": without_addresses(net),
        "plan": str(plan),
        "loss": without_addresses(spec.loss),
        "optimizer": without_addresses(spec.optimizer),
        "engine": getattr(spec.engine, "__qualname__", without_addresses(spec.engine)),
        "batch_size": str(spec.batch_size),
        "l2": str(spec.l2),
        "augmentation": without_addresses(spec.augment),
        "key": str(jax.random.key_data(spec.key).tolist()),
        "training data": _training_data(spec),
        "validation data": _describe_data(spec.validation),
        "metrics": str([_describe_metric(metric) for metric in spec.metrics]),
        "early stopping": _without_patience(spec.early_stopping),
        **_private(spec),
    } | _functions(spec, net)


def _private(spec: RunSpec) -> dict[str, str]:
    """Describe private training, where it is."""
    return {} if spec.private is None else {"private": repr(spec.private)}


def _functions(spec: RunSpec, net: Any) -> dict[str, str]:
    """Describe the code of functions, such as those that an optax optimizer is.

    Entries that begin with `CODE` are comparable within one version of Python.
    """
    parts = {
        "network": net,
        "loss": spec.loss,
        "optimizer": spec.optimizer,
        "engine": spec.engine,
        "augmentation": spec.augment,
        "metrics": [metric.function for metric in spec.metrics],
    }
    return {
        f"{CODE}{name}": f"{code_checksum(part):08x}" for name, part in parts.items()
    }


def _describe_metric(metric: NamedMetric) -> str:
    """Return its name; and its repr, where it is more than a function of some name."""
    if isinstance(metric.function, types.FunctionType):
        return metric.name
    return f"{metric.name}: {without_addresses(metric.function)}"


def environment(mesh: Mesh | None = None) -> dict[str, str]:
    """Describe the environment, on which the bits of a result depend as well."""
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "device": jax.devices()[0].device_kind,
        "cores": str(os.cpu_count()),
        "devices that train": "1" if mesh is None else str(mesh.size),
    }


def _training_data(spec: RunSpec) -> str:
    """Describe arrays by their numbers, batches by their source and their shapes."""
    if isinstance(spec.train, Batches):
        leaves = jax.tree.leaves(spec.sample)
        shapes = ", ".join(f"{a.dtype}{list(a.shape[1:])}" for a in leaves)
        return f"{spec.train!r} of {shapes}"
    return _describe_data(spec.train)


def _without_patience(early_stopping: EarlyStopping | None) -> str:
    """Describe early stopping; its patience may be another when a run is resumed."""
    if early_stopping is None:
        return "None"
    return without_addresses(dataclasses.replace(early_stopping, patience=1))


def _describe_data(data: Batch | None) -> str:
    """Return dtypes, shapes, and a checksum of at most a thousand examples."""
    if data is None:
        return "None"
    total = 0
    arrays = jax.tree.leaves(data)
    for array in arrays:
        sample = array[:: -(-len(array) // 1000)]
        total = zlib.crc32(np.ascontiguousarray(sample).tobytes(), total)
    shapes = ", ".join(f"{array.dtype}{list(array.shape)}" for array in arrays)
    return f"{shapes}, checksum {total}"
