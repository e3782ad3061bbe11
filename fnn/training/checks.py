"""Checks of arguments, made once, before anything is compiled.

Most functions return the argument in the form that training uses.
"""

import dataclasses
import warnings
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.augmentations import Augmentation, as_augmentation
from fnn.describe import describe, shown
from fnn.losses import Loss
from fnn.losses.several import part_names
from fnn.metrics.kinds import Metric, better
from fnn.named_leaves import leaves_by_name
from fnn.optimizers import Optimizer
from fnn.optimizers.transformation import is_optimizer
from fnn.shapes import format_shapes
from fnn.training.compiled.order import batch_sizes
from fnn.training.early_stopping import EarlyStopping
from fnn.typing import PyTree

__all__ = [
    "check_augment",
    "check_batch_size",
    "check_early_stopping",
    "check_epochs",
    "check_metrics",
    "check_optimizer",
    "check_validation_device",
]


# ---- Numbers ---------------------------------------------------------------------


def check_batch_size(batch_size: Any, n: int | None = None) -> int:
    """Return a batch size from 1 to n as an int."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer):
        raise TypeError(f"batch_size must be an integer, got {shown(batch_size)}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if n is not None and batch_size > n:
        raise ValueError(
            f"batch_size={batch_size} is larger than the training set, which has {n} "
            f"examples: pass batch_size={n} to use all of them at every step"
        )
    return int(batch_size)


def check_epochs(epochs: Any) -> int:
    """Return a number of epochs, 0 or more, as an int."""
    if isinstance(epochs, bool) or not isinstance(epochs, int | np.integer):
        raise TypeError(f"epochs must be an integer, got {shown(epochs)}")
    if epochs < 0:
        raise ValueError(f"epochs must be 0 or more, got {epochs}")
    return int(epochs)


# ---- Options ---------------------------------------------------------------------


def check_augment(
    augment: Any, x: PyTree, n: int, batch_size: int
) -> Augmentation | None:
    """Return an augmentation that keeps the shape and dtype of every batch, or None.

    It is traced, and nothing is run.

    Args:
        augment: a function `(key, x) -> x`, or None.
        x: some of the examples.
        n: the number of examples.
        batch_size: B.
    """
    if augment is None:
        return None
    augment = as_augmentation(augment)
    for size in np.unique(batch_sizes(n, batch_size)).tolist():
        batch = jax.tree.map(
            lambda a, size=size: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), x
        )
        try:
            got = jax.eval_shape(lambda x: augment(jax.random.key(0), x), batch)
        except Exception as error:
            error.add_note(f"in augment(key, x), x of shape {format_shapes(batch)}")
            raise
        if describe(got) != describe(batch):
            raise ValueError(
                "augment must return images of the shape and dtype that it is given: "
                f"expected {describe(batch)}, got {describe(got)}"
            )
    return augment


def check_metrics(metrics: Any) -> tuple[tuple[str, Metric], ...]:
    """Return metrics in a form that can be compiled in."""
    if not isinstance(metrics, Mapping):
        raise TypeError(
            "metrics must map names to functions (outputs, y), such as "
            f'{{"accuracy": fnn.accuracy}}, got {shown(metrics)}'
        )
    for name, metric in metrics.items():
        if not isinstance(name, str):
            raise TypeError(f"a metric's name must be a string, got {shown(name)}")
        if not callable(metric):
            raise TypeError(f"metric {name!r} must be a function, got {shown(metric)}")
        if isinstance(metric, type):
            raise TypeError(
                f"metric {name!r} must be a function (outputs, y), got the class "
                f"{metric.__name__}: pass an instance that can be called"
            )
        if not isinstance(metric, Hashable):
            raise TypeError(
                f"metric {name!r} must be hashable, as functions are, because it is "
                f"compiled in; got {type(metric).__name__}. A dataclass is hashable "
                "with frozen=True."
            )
        if name in ("loss", "epoch"):
            raise ValueError(f"a metric cannot be called {name!r}: the name is taken")
    return tuple(metrics.items())


def check_optimizer(optimizer: Any, params: PyTree) -> None:
    """Raise unless the optimizer has the methods of one, and needs no others."""
    if isinstance(optimizer, str):
        raise TypeError(
            f"optimizer must be an object, got the string {optimizer!r}: pass "
            "fnn.optimizers.adam(1e-3), for instance, or one of optax's"
        )
    if not is_optimizer(optimizer):
        raise TypeError(
            "optimizer must have init(params) and update(grads, state, params), as "
            "fnn's and optax's have, "
            f"got {shown(optimizer)}. A function that makes one "
            "must be called: fnn.optimizers.adam(1e-3)."
        )
    own = leaves_by_name(optimizer) if isinstance(optimizer, Optimizer) else {}
    for name, number in own.items():
        if jnp.ndim(number) != 0:
            raise ValueError(
                f"optimizer: {name} must be one number, got an array of shape "
                f"{jnp.shape(number)}. fnn.sweep tries many."
            )
    state = jax.eval_shape(optimizer.init, params)
    names: set[str] = set()
    jax.tree.leaves(state, is_leaf=lambda s: bool(names.add(type(s).__name__)))
    for name in names & UNSUPPORTED.keys():
        raise ValueError(
            f"optimizer is {UNSUPPORTED[name]}: fnn.fit has no place for it. Write the "
            "loop by hand with fnn.value_and_grad, or choose another optimizer."
        )


#: Optimizers that ask for more than `fit` can give, by the name of their state.
UNSUPPORTED = {
    "SAMState": (
        "SAM (optax.contrib.sam), which needs gradients at a second point of every "
        "step (grad_fn), or holds parameters that are not to be validated"
    ),
    "DifferentiallyPrivateAggregateState": (
        "optax.contrib.dpsgd or differentially_private_aggregate, which needs the "
        "gradient of every single example"
    ),
    "LookaheadState": (
        "optax.lookahead, whose parameters are a pair of fast and slow ones "
        "(optax.LookaheadParams)"
    ),
    "SophiaState": (
        "optax.contrib.sophia, which needs the loss by another name (obj_fn) for its "
        "estimate of the curvature"
    ),
}


def check_early_stopping(
    early_stopping: Any,
    loss: Loss,
    metrics: tuple[tuple[str, Metric], ...],
    validated: bool,
    epochs: int,
) -> EarlyStopping | None:
    """Return None, or early stopping by a metric that will be computed.

    The metric may be called as in the history: "validation_f1" becomes "f1".
    """
    if early_stopping is None:
        return None
    if not isinstance(early_stopping, EarlyStopping):
        raise TypeError(
            "early_stopping must be fnn.EarlyStopping(patience=...), got "
            f"{early_stopping!r}"
        )
    functions = dict(metrics)
    computed = ["loss", *(f"loss_{name}" for name in part_names(loss)), *functions]
    if not validated:
        raise ValueError(
            "early stopping needs validation data: pass validation=(x, y), a part of "
            "the data that is not trained on"
        )
    monitor, every = early_stopping.monitor, early_stopping.every
    if monitor not in computed:
        monitor = monitor.removeprefix("validation_")
    if monitor not in computed:
        raise ValueError(
            f"early stopping monitors {early_stopping.monitor!r}, which is not "
            f"computed: expected one of {', '.join(map(repr, computed))}. Pass "
            f"metrics={{{monitor!r}: function}} to compute it."
        )
    if 0 < epochs < every:
        raise ValueError(
            f"early stopping evaluates every {every} epochs, and there are only "
            f"{epochs}: it would never do so"
        )
    mode = better(functions[monitor]) if monitor in functions else None
    if mode not in (None, early_stopping.mode):
        raise ValueError(
            f"EarlyStopping: monitor={monitor!r} with mode={early_stopping.mode!r} "
            f'would keep the worst variables; pass mode="{mode}"'
        )
    return dataclasses.replace(early_stopping, monitor=monitor)


def check_validation_device(device: Any, train: PyTree, validation: Any) -> Any:
    """Return the device to validate on, or None for the one that trains, in turn."""
    if device is None:
        return None
    if validation is None:
        raise ValueError(
            "validation_device needs validation data: pass validation=(x, y)"
        )
    if not isinstance(device, jax.Device) and device != "another":
        raise TypeError(
            'validation_device must be one of jax.devices(), "another" for any that '
            f"does not train, or None, got {shown(device)}"
        )
    training = jax.tree.leaves(train)[0].devices()
    others = [other for other in jax.devices() if other not in training]
    if device == "another" and others:
        return others[0]
    if device == "another" or device in training:
        names = ", ".join(map(str, training))
        reason = f"training runs on {names}, too"
        if device == "another":
            reason = f"there is no device but {names}, which trains"
        warnings.warn(
            f"fit validates in turn with training, not at the same time: {reason}",
            stacklevel=3,
        )
        return None
    return device
