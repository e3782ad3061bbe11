"""Training runs over a grid of hyperparameters and keys, compiled once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.augmentations import Augmentation
from fnn.checks import check_keys, check_l2, positive_integer
from fnn.core import Variables, expect_layer
from fnn.gradients.engines import Engine, get_engine
from fnn.layers.convolution import Conv, ConvTranspose
from fnn.losses import expect_loss
from fnn.network import walk
from fnn.placement import with_automatic_axes
from fnn.shapes import count_examples, example_shape
from fnn.training.checks import (
    check_augment,
    check_batch_size,
    check_early_stopping,
    check_epochs,
    check_metrics,
    check_optimizer,
)
from fnn.training.data import check_data, check_fits, check_last_batch, with_weights
from fnn.training.early_stopping import EarlyStopping
from fnn.training.evaluation import metrics_of, names_of
from fnn.training.metrics import Metric, NamedMetric, default_metrics
from fnn.training.sweep.members import train_members
from fnn.training.sweep.records import Member, MemberSpec, SweepSpec, TrainedMembers
from fnn.training.sweep.result import Sweep, make_sweep
from fnn.transfers import own_numbers_may_move
from fnn.typing import Array, Batch

__all__ = ["sweep"]

#: Members trained side by side by default: the fastest number from 1 to 64 for a
#: network of 64-32-10 on two cores. Larger networks do not become faster side by side.
DEFAULT_AT_ONCE = 16


@with_automatic_axes
@own_numbers_may_move()
def sweep(
    build: Callable[..., tuple[Any, ...]],
    grid: Mapping[str, Sequence[float]],
    *,
    train: tuple[Any, Any],
    validation: tuple[Any, Any] | None = None,
    keys: Array,
    epochs: int,
    batch_size: int = 128,
    engine: str | Engine = "manual",
    plan: str | None = "fast",
    augment: Augmentation | None = None,
    early_stopping: EarlyStopping | None = None,
    metrics: Mapping[str, Metric] | None = None,
    at_once: int | None = None,
    on_chunk: Callable[[int, int], Any] | None = None,
) -> Sweep:
    """Train a network for every point of a grid and every key, in one compiled program.

    A member is what `fit` would train with its key: the same initial variables, orders,
    masks and decisions of early stopping, and results that differ by rounding (which a
    learning rate far too high amplifies). Once stopped, a member's variables and
    history stay as they are; the program ends when all have stopped.

    Args:
        build: called with a number for each name of the grid, `build(rate=.., lr=..)`,
            it returns `(net, loss, optimizer)` or `(net, loss, optimizer, l2)`. It is
            traced: the numbers may go wherever a layer, a loss or an optimizer takes a
            number, not where one takes a size, nor into an `if`. Pass the same function
            again, or the program is compiled again.
        grid: the values of each hyperparameter; all combinations are trained. With {}
            only the keys vary.
        train: x (N, ...) and y (N, ...).
        validation: x and y of examples that are not trained on.
        keys: (S,), such as `jax.random.split(jax.random.key(0), 5)`; or one key.
        epochs: how many, at most; at least 1.
        batch_size: as in `fit`.
        engine: as in `fit`.
        plan: as in `fit`, but for "memory": `at_once` bounds the memory here.
        augment: as in `fit`.
        early_stopping: as in `fit`; each member stops by its own metric.
        metrics: as in `fit`, but written with jax.numpy: all runs are one program.
        at_once: how many members are trained side by side, by `vmap`; the memory grows
            with it. The others follow in chunks of the same program. By default 16, and
            1 for networks with convolutions on the CPU, where `vmap` is slower.
        on_chunk: called after each chunk with the number of members done and of all
            members, for example to draw a progress bar.

    Returns:
        A `Sweep`; print it to see the best hyperparameters.

    Raises:
        ValueError, TypeError: arguments that do not fit, before anything is compiled;
            an error of `build` names the numbers that it was called with.

    Example:
        >>> import jax, fnn
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> y = (x[:, 0] * x[:, 1] > 0).astype(int)
        >>> net, loss = fnn.serial(fnn.Dense(8), fnn.Tanh(), fnn.Dense(2)), (
        ...     fnn.losses.SoftmaxCrossEntropy())
        >>> def build(learning_rate):
        ...     return net, loss, fnn.optimizers.adam(learning_rate)
        >>> swept = fnn.sweep(build, {"learning_rate": [1e-4, 1e-2]}, train=(x, y),
        ...                   validation=(x, y), keys=jax.random.split(
        ...                       jax.random.key(1), 3), epochs=5, batch_size=25)
        >>> swept.history["validation_loss"].shape, swept.best()
        ((2, 3, 5), {'learning_rate': 0.01})
    """
    keys, epochs = check_keys(keys), positive_integer("epochs", check_epochs(epochs))
    axes = _grid_axes(grid) | {"key": np.arange(len(keys))}
    first = _check_build(build, axes)
    loss, train, validation = with_weights(first.loss, train, validation)
    is_weighted, first = loss is not first.loss, first._replace(loss=loss)
    data = check_data("train", train)
    n = count_examples(data)
    size = check_batch_size(batch_size, n)
    variables = _check_member(first, data, "train")
    check_last_batch(first.net, variables, data[0], len(data[0]), size)
    check_optimizer(first.optimizer, variables.params)
    chosen = check_metrics(default_metrics(first.loss) if metrics is None else metrics)
    early_stopping = check_early_stopping(
        early_stopping, first.loss, chosen, validation is not None, epochs
    )
    held_out = None
    if validation is not None:
        held_out = check_data("validation", validation)
        _check_member(first, held_out, "validation")
    known = _traceable_metrics(first, variables, held_out, chosen)
    spec = SweepSpec(
        build=build,
        plan=_check_plan(plan),
        engine=get_engine(engine),
        batch_size=size,
        epochs=epochs,
        is_weighted=is_weighted,
        metrics=known,
        validated=names_of(first.loss, known),
    )
    augment = check_augment(augment, data[0], n, size)
    trained = _train_in_chunks(
        *(spec, axes, keys),
        shared=(data, held_out, augment, early_stopping),
        at_once=_members_at_once(at_once, first, variables),
        on_chunk=on_chunk,
    )
    every = 1 if early_stopping is None else early_stopping.every
    return make_sweep(axes, epochs, every, trained)


# ---- Before ----------------------------------------------------------------------


def _grid_axes(grid: Any) -> dict[str, np.ndarray]:
    """Return the grid as arrays of finite numbers."""
    if not isinstance(grid, Mapping):
        raise TypeError(
            "grid must map names to the values they take, such as "
            f'{{"learning_rate": [0.01, 0.1]}}, got {grid!r}'
        )
    axes = {}
    for name, values in grid.items():
        try:
            array = np.asarray(values, float)
        except (TypeError, ValueError):
            array = np.array("no numbers")
        if name == "key" or array.ndim != 1 or not len(array):
            raise ValueError(
                f"grid[{name!r}] must be a sequence of numbers under a name other than "
                f"'key', got {values!r}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"grid[{name!r}] must be finite, got {values!r}")
        axes[str(name)] = array
    return axes


def _check_build(
    build: Callable[..., tuple[Any, ...]], axes: dict[str, np.ndarray]
) -> MemberSpec:
    """Call `build` with each number once, so that its errors are raised here.

    Returns:
        The parts of the first member.
    """
    if not callable(build):
        raise TypeError(
            "build must be a function that returns (net, loss, optimizer) for the "
            f"numbers of the grid, got {build!r}"
        )
    origin = {name: values[0].item() for name, values in axes.items() if name != "key"}
    points = [origin]
    for name in origin:
        points += [origin | {name: value.item()} for value in axes[name][1:]]
    first, *_ = [_call_build(build, point) for point in points]
    for name in origin:
        _expect_traceable(build, origin, name)
    return first


def _expect_traceable(
    build: Callable[..., tuple[Any, ...]], numbers: dict[str, float], name: str
) -> None:
    """Raise where `build` needs to know a number that is traced in the sweep."""

    def traced(number: Array) -> Array:
        build(**numbers | {name: number})
        return number

    try:
        jax.eval_shape(traced, jnp.asarray(numbers[name], float))
    except Exception as error:  # without tracing, `build` has just worked
        raise TypeError(
            f"build needs the value of {name!r}, which is traced: a sweep is one "
            "compiled program for all numbers of the grid. They can be rates and "
            "coefficients, but not sizes, numbers of layers or conditions of an `if`. "
            f"For these call fnn.fit, or fnn.sweep, once for each {name!r}."
        ) from error


def _call_build(
    build: Callable[..., tuple[Any, ...]], numbers: dict[str, float]
) -> MemberSpec:
    try:
        made = build(**numbers)
        if not isinstance(made, tuple) or len(made) not in (3, 4):
            raise TypeError(
                "build must return (net, loss, optimizer) or (net, loss, optimizer, "
                f"l2), got {made!r}"
            )
        built = MemberSpec(*made)
        expect_layer("net", built.net)
        expect_loss(built.loss)
        return built._replace(l2=check_l2(built.l2 or 0.0))
    except Exception as error:
        shown = ", ".join(f"{name}={value!r}" for name, value in numbers.items())
        error.add_note(
            f"in build({shown}): numbers of a grid are floats, and traced in the "
            "sweep; they cannot be sizes"
        )
        raise


def _check_member(built: MemberSpec, data: Batch, name: str) -> Variables:
    """Raise unless network, loss and data fit; return the shapes of the variables."""
    key, in_shape = jax.random.key(0), example_shape(data[0])
    variables = jax.eval_shape(lambda: Variables(*built.net.init(key, in_shape)))
    return check_fits(built.net, built.loss, variables, data, name)


def _traceable_metrics(
    built: MemberSpec,
    variables: Variables,
    data: Batch | None,
    metrics: tuple[tuple[str, Metric], ...],
) -> tuple[NamedMetric, ...]:
    """Return the metrics; raise where one needs the numbers of its arguments."""
    known = metrics_of(built.net, built.loss, variables, data, metrics)
    for metric in known:
        if metric.kind == "host":
            raise TypeError(
                f"metric {metric.name!r} uses NumPy, or Python's `if`, `int` or "
                "`float`, on the outputs, which have no numbers while a sweep, one "
                "program of many runs, is compiled: write it with jax.numpy (see "
                "fnn.metrics), or call fnn.fit for each run."
            )
    return known


def _check_plan(plan: str | None) -> str | None:
    if plan not in ("fast", "exact", None):
        raise ValueError(f"plan must be 'fast', 'exact' or None here, got {plan!r}")
    return plan


def _members_at_once(
    at_once: int | None, built: MemberSpec, variables: Variables
) -> int:
    if at_once is not None:
        return positive_integer("at_once", at_once)
    nodes = walk(built.net, variables)
    convolves = any(isinstance(node.layer, Conv | ConvTranspose) for node in nodes)
    return 1 if convolves and jax.default_backend() == "cpu" else DEFAULT_AT_ONCE


# ---- The members, chunk by chunk -------------------------------------------------


def _train_in_chunks(
    spec: SweepSpec,
    axes: dict[str, np.ndarray],
    keys: Array,
    *,
    shared: tuple[Any, ...],
    at_once: int,
    on_chunk: Callable[[int, int], Any] | None,
) -> TrainedMembers:
    """Train all members, `at_once` of them in each run of the compiled program.

    Returns:
        Their results in the host's memory, with the axes of the grid.
    """
    lengths = [len(values) for values in axes.values()]
    indices = np.indices(lengths).reshape(len(axes), -1)  # of each member in the grid
    count = indices.shape[1]
    at_once = min(at_once, count)
    done = []
    for start in range(0, count, at_once):
        # The last chunk is filled up with the last member: a second program for fewer
        # would take longer to compile than they take to train.
        chunk = np.minimum(np.arange(start, start + at_once), count - 1)
        chosen = dict(zip(axes, indices[:, chunk], strict=True))
        chosen_keys = keys[chosen.pop("key")]
        numbers = {
            name: jnp.asarray(axes[name][i], float) for name, i in chosen.items()
        }
        members = Member(numbers, chosen_keys)
        trained = jax.device_get(train_members(spec, members, *shared))
        real = min(at_once, count - start)
        done.append(jax.tree.map(lambda leaf, real=real: leaf[:real], trained))
        if on_chunk is not None:
            on_chunk(start + real, count)
    return jax.tree.map(
        lambda *parts: np.concatenate(parts).reshape(*lengths, *parts[0].shape[1:]),
        *done,
    )
