"""The data of a run: checked, put on the device, and fitted to a network.

Data are x (N, ...) and y (N, ...), arrays or trees of arrays; and in some cases the
weights (N,) of the examples, which become a part of the labels.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks import as_array, as_inputs, check_pair, map_named
from fnn.core import Layer, Variables, as_variables
from fnn.describe import shown
from fnn.dtypes import all_finite
from fnn.losses import Loss, Weighted
from fnn.named_leaves import differences, leaves_by_name
from fnn.shapes import count_examples, example_shape, format_shapes
from fnn.training.compiled.meshes import on_mesh
from fnn.training.compiled.order import batch_sizes, subset
from fnn.training.early_stopping import EarlyStopping
from fnn.typing import Array, Batch, PyTree

__all__ = [
    "check_data",
    "check_fits",
    "check_inputs",
    "check_last_batch",
    "check_validation",
    "place_subset",
    "with_weights",
]


def check_data(name: str, data: Any) -> Batch:
    """Return a pair (x, y) of finite x and one label an example, on the device."""
    x, y = check_pair(name, data)
    return check_inputs(f"{name}: x", x), y


def with_weights(loss: Loss, *data: Any) -> tuple[Any, ...]:
    """Return a loss and data (x, y), where some of the data are (x, y, weights).

    Then it is the loss of examples with weights, whose labels are (y, weights); data
    without weights get the weight 1.
    """
    has_weights = [
        getattr(d, "has_weights", type(d) in _PAIRS and len(d) == 3) for d in data
    ]
    if not any(has_weights):
        return loss, *data
    return Weighted(loss), *(_as_weighted(d) for d in data)


_PAIRS = (tuple, list)


def _as_weighted(data: Any) -> Any:
    if not getattr(data, "has_weights", True):
        raise ValueError(
            "validation has weights, and the batches of train have none: yield "
            "(x, y, weights) there, too"
        )
    if type(data) not in _PAIRS or len(data) not in (2, 3):
        return data  # None, or what is refused later
    x, y, *weights = data
    if not weights:
        weights = [np.ones(count_examples(jax.tree.map(np.asarray, y)), np.float32)]
    return x, (y, weights[0])


def check_inputs(name: str, x: Any) -> Any:
    """Return finite inputs (N, ...), on the device: an array or a tree of arrays."""
    return map_named(_check_input, name, x)


def _check_input(name: str, x: Any) -> Array:
    x = as_array(name, x)
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"{name} has no examples: its shape is {x.shape}")
    if x.dtype == jnp.uint8:
        raise TypeError(
            f"{name} is uint8, as images are stored: networks want numbers around 1. "
            "Pass x.astype('float32') / 255, here and wherever the network is used; "
            "or x.astype('int32') for the ids of an Embedding."
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
                f"variables: {path} must be an array of numbers, "
                f"got {shown(leaf)}: make "
                "them with net.init(key, in_shape)"
            )
    x, y = data
    try:
        z = jax.eval_shape(
            lambda v, x: net.forward(v.params, v.state, x).y, variables, x
        )
        if loss is not None:
            loss.check(example_shape(z), y)
    except Exception as error:
        error.add_note(f"in {name}, x of shape {format_shapes(x)}")
        raise
    key = jax.random.key(0)  # only shapes are wanted of this init
    own = jax.eval_shape(lambda: Variables(*net.init(key, example_shape(x))))
    if wrong := differences(own, variables, dtypes=False):
        raise ValueError(
            "variables belong to another network:\n  " + "\n  ".join(wrong) + "\nMake "
            "them with net.init(key, in_shape)."
        )
    return variables


def check_last_batch(
    net: Layer, variables: Variables, x: PyTree, n: int, batch_size: int
) -> None:
    """Raise where the network cannot be trained on the smallest batch of an epoch.

    BatchNorm needs two examples. The forward is traced in training, nothing is run, and
    no step has been taken before it raises.

    Args:
        net: the network.
        variables: its variables.
        x: some of the examples.
        n: N, the number of examples.
        batch_size: B.
    """
    size = int(batch_sizes(n, batch_size)[-1])
    batch = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), x
    )

    def outputs(variables: Variables, x: PyTree, key: Array) -> PyTree:
        return net.forward(*variables, x, key=key, train=True).y

    try:
        jax.eval_shape(outputs, variables, batch, jax.random.key(0))
    except Exception as error:
        error.add_note(
            f"in the last batch of an epoch, of size {size}: train has {n} examples in "
            f"batches of {batch_size}"
        )
        raise


_ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)


def _is_array(leaf: Any) -> bool:
    """Return whether it is an array of numbers or of keys, or the shape of one."""
    if not isinstance(leaf, _ARRAYS):
        return False
    dtype = leaf.dtype
    kinds = (np.number, np.bool_, jax.dtypes.extended)
    return any(jax.dtypes.issubdtype(dtype, kind) for kind in kinds)


def check_validation(
    net: Layer, loss: Loss, variables: Variables, validation: Any
) -> Batch | None:
    """Return validation data that fit the network, or None."""
    if validation is None:
        return None
    data = check_data("validation", validation)
    check_fits(net, loss, variables, data, "validation")
    return data


def place_subset(
    data: Batch | None,
    early_stopping: EarlyStopping | None,
    key: Array,
    device: jax.Device | None,
    mesh: Any,
) -> Batch | None:
    """Select the validation subset and move it to its device."""
    if data is None:
        return None
    if early_stopping is not None:  # epochs count from 1: no other has the key of 0
        data = subset(data, early_stopping.subset, jax.random.fold_in(key, 0))
    return on_mesh(data, mesh) if device is None else jax.device_put(data, device)
