"""Checks of arguments, made once, before anything is compiled.

Most functions return the argument in the form that training uses.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.augmentations import Augmentation, as_augmentation
from fnn.checks import as_array, as_inputs, check_pair, describe
from fnn.core import Layer, Variables, as_variables
from fnn.dtypes import all_finite
from fnn.losses import Loss
from fnn.named_leaves import differences, leaves_by_name
from fnn.optimizers import Optimizer
from fnn.training.compiled.order import batch_sizes
from fnn.training.early_stopping import EarlyStopping
from fnn.training.metrics import Metric
from fnn.typing import Array, Batch, PyTree

__all__ = [
    "check_augment",
    "check_batch_size",
    "check_data",
    "check_early_stopping",
    "check_epochs",
    "check_fits",
    "check_flag",
    "check_inputs",
    "check_metrics",
    "check_optimizer",
    "check_validation_device",
]


# ---- Numbers ---------------------------------------------------------------------


def check_batch_size(batch_size: Any, n: int | None = None) -> int:
    """Return a batch size from 1 to n as an int."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer):
        raise TypeError(f"batch_size must be an integer, got {batch_size!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if n is not None and batch_size > n:
        raise ValueError(
            f"batch_size={batch_size} is larger than the training set, which has {n} "
            f"examples: pass batch_size={n} to use all of them at every step"
        )
    return int(batch_size)


def check_flag(name: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_epochs(epochs: Any) -> int:
    """Return a number of epochs, 0 or more, as an int."""
    if isinstance(epochs, bool) or not isinstance(epochs, int | np.integer):
        raise TypeError(f"epochs must be an integer, got {epochs!r}")
    if epochs < 0:
        raise ValueError(f"epochs must be 0 or more, got {epochs}")
    return int(epochs)


# ---- Data ------------------------------------------------------------------------


def check_data(name: str, data: Any) -> Batch:
    """Return a pair (x, y) of finite x and one label an example, on the device."""
    x, y = check_pair(name, data)
    return check_inputs(f"{name}: x", x), y


def check_inputs(name: str, x: Any) -> Array:
    """Return finite inputs (N, ...), on the device."""
    x = as_array(name, x)
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"{name} has no examples: its shape is {x.shape}")
    if x.dtype == jnp.uint8:
        raise TypeError(
            f"{name} is uint8, as images are stored: networks want numbers around 1. "
            "Pass x.astype('float32') / 255, here and wherever the network is used."
        )
    is_known = not isinstance(x, jax.core.Tracer)  # not where `predict` is traced
    has_fractions = jnp.issubdtype(x.dtype, jnp.floating)
    if is_known and has_fractions and not bool(_all_finite(x)):
        values = np.asarray(x, np.float32)
        index = np.argwhere(~np.isfinite(values))[0].tolist()
        number = "NaN" if np.isnan(values[tuple(index)]) else "inf"
        raise ValueError(
            f"{name} has {number} at {index} (example {index[0]}). Leave the example "
            "out, or mend it: jnp.nan_to_num(x)."
        )
    return as_inputs(x)


_all_finite = jax.jit(all_finite)


def check_fits(
    net: Layer, loss: Loss | None, variables: Any, data: tuple[Any, Any], name: str
) -> Variables:
    """Return the variables, if network, loss, variables and data fit one another.

    The layers check the shapes when the forward is traced; nothing is run.

    Args:
        net: the network.
        loss: the loss, or None for none.
        variables: the variables, or their shapes.
        data: x and y.
        name: the name of the data, for errors.
    """
    variables = as_variables(variables)
    for path, leaf in leaves_by_name(variables).items():
        if not isinstance(leaf, int | float) and not _is_array(leaf):
            raise TypeError(
                f"variables: {path} must be an array of numbers, got {leaf!r}: make "
                "them with net.init(key, in_shape)"
            )
    x, y = data
    try:
        z = jax.eval_shape(
            lambda v, x: net.forward(v.params, v.state, x).y, variables, x
        )
        if loss is not None:
            loss.check(z.shape[1:], y)
    except Exception as error:
        error.add_note(f"in {name}, x of shape {x.shape}")
        raise
    key = jax.random.key(0)  # only shapes are wanted of this init
    own = jax.eval_shape(lambda: Variables(*net.init(key, x.shape[1:])))
    if wrong := differences(own, variables, dtypes=False):
        raise ValueError(
            "variables belong to another network:\n  " + "\n  ".join(wrong) + "\nMake "
            "them with net.init(key, in_shape)."
        )
    return variables


def _is_array(leaf: Any) -> bool:
    """Return whether it is an array of numbers or of keys, or the shape of one."""
    dtype = getattr(leaf, "dtype", np.dtype(object))
    kinds = (np.number, np.bool_, jax.dtypes.extended)
    return any(jax.dtypes.issubdtype(dtype, kind) for kind in kinds)


# ---- Options ---------------------------------------------------------------------


def check_augment(
    augment: Any, x: Array, n: int, batch_size: int
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
        batch = jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
        try:
            got = jax.eval_shape(lambda x: augment(jax.random.key(0), x), batch)
        except Exception as error:
            error.add_note(f"in augment(key, x), x of shape {batch.shape}")
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
            "metrics must map names to functions (outputs, y) -> mean, such as "
            f'{{"accuracy": fnn.accuracy}}, got {metrics!r}'
        )
    for name, metric in metrics.items():
        if not isinstance(name, str):
            raise TypeError(f"a metric's name must be a string, got {name!r}")
        if not callable(metric):
            raise TypeError(f"metric {name!r} must be a function, got {metric!r}")
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
    verbs = (getattr(optimizer, verb, None) for verb in ("init", "update"))
    if isinstance(optimizer, type) or not all(map(callable, verbs)):
        raise TypeError(
            "optimizer must have init(params) and update(grads, state, params), as "
            f"fnn's and optax's have, got {optimizer!r}. A function that makes one "
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
    "LookaheadState": (
        "optax.lookahead, whose parameters are a pair of fast and slow ones "
        "(optax.LookaheadParams)"
    ),
}


def check_early_stopping(
    early_stopping: Any,
    metrics: tuple[tuple[str, Metric], ...],
    validated: bool,
    epochs: int,
) -> None:
    """Raise unless it is None, or the metric that it monitors will be computed."""
    if early_stopping is None:
        return
    if not isinstance(early_stopping, EarlyStopping):
        raise TypeError(
            "early_stopping must be fnn.EarlyStopping(patience=...), got "
            f"{early_stopping!r}"
        )
    computed = ["loss", *(name for name, _ in metrics)]
    if not validated:
        raise ValueError(
            "early stopping needs validation data: pass validation=(x, y), a part of "
            "the data that is not trained on"
        )
    monitor, every = early_stopping.monitor, early_stopping.every
    if monitor not in computed:
        raise ValueError(
            f"early stopping monitors {monitor!r}, which is not computed: expected one "
            f"of {', '.join(map(repr, computed))}. Pass metrics={{{monitor!r}: "
            "function} to compute it."
        )
    if 0 < epochs < every:
        raise ValueError(
            f"early stopping evaluates every {every} epochs, and there are only "
            f"{epochs}: it would never do so"
        )


def check_validation_device(device: Any, train: Array, validation: Any) -> Any:
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
            f"does not train, or None, got {device!r}"
        )
    others = [other for other in jax.devices() if other not in train.devices()]
    if device == "another" and others:
        return others[0]
    if device == "another" or device in train.devices():
        names = ", ".join(map(str, train.devices()))
        reason = f"training runs on {names}, too"
        if device == "another":
            reason = f"there is no device but {names}, which trains"
        warnings.warn(
            f"fit validates in turn with training, not at the same time: {reason}",
            stacklevel=3,
        )
        return None
    return device
