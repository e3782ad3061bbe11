"""Training runs over a grid of hyperparameters and keys, compiled once a shape."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.augmentations import Augmentation
from fnn.checks import check_keys, positive_integer
from fnn.core import Variables
from fnn.describe import shown
from fnn.gradients.engines import Engine, get_engine
from fnn.layers.convolution import Conv, ConvTranspose
from fnn.losses import Weighted
from fnn.network import walk
from fnn.own_code import explain_own_code
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
from fnn.training.run.streams import as_batches
from fnn.training.sweep.grid import Group, groups, read_grid
from fnn.training.sweep.groups import join_groups
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
@explain_own_code()
def sweep(
    build: Callable[..., tuple[Any, ...]],
    grid: Mapping[str, Sequence[Any]],
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
    """Train a network for every point of a grid and every key, in compiled programs.

    A member is what `fit` would train with its key: the same initial variables, orders,
    masks and decisions of early stopping, and results that differ by rounding (which a
    learning rate far too high amplifies). Once stopped, a member's variables and
    history stay as they are; a program ends when all its members have stopped.

    Numbers that `build` can be traced with, such as a learning rate, are traced: one
    program trains all of them. A value that `build` must know, such as a width, a
    number of layers, a condition of an `if`, an optimizer or a string, is compiled in:
    there is one program for each combination of such values, whatever their number of
    keys and traced numbers. The result names them in `compiled_in`.

    Args:
        build: called with a value for each name of the grid, `build(rate=.., lr=..)`,
            it returns `(net, loss, optimizer)` or `(net, loss, optimizer, l2)`. Traced
            numbers may go wherever a layer, a loss or an optimizer takes a number.
            Pass the same function again, or the programs are compiled again.
        grid: the values of each hyperparameter; all combinations are trained. With {}
            only the keys vary. Sizes are integers; any object may be a value. The name
            "batch_size" is that of the minibatches, in place of the argument; `build`
            gets it if it takes it.
        train: x (N, ...) and y (N, ...).
        validation: x and y of examples that are not trained on.
        keys: (S,), such as `jax.random.split(jax.random.key(0), 5)`; or one key.
        epochs: how many, at most; at least 1.
        batch_size: as in `fit`.
        engine: as in `fit`.
        plan: as in `fit`, but for "memory": `at_once` bounds the memory here.
        augment: as in `fit`.
        early_stopping: as in `fit`; each member stops by its own metric.
        metrics: as in `fit`, but written with jax.numpy: many runs are one program.
        at_once: how many members are trained side by side, by `vmap`; the memory grows
            with it. The others follow in chunks, of the same program where only traced
            numbers and keys differ. By default 16, and
            1 for networks with convolutions on the CPU, where `vmap` is slower.
        on_chunk: called after each chunk with the number of members done and of all
            members, for example to draw a progress bar.

    Returns:
        A `Sweep`; print it to see the best hyperparameters.

    Raises:
        ValueError, TypeError: arguments that do not fit, before anything is compiled;
            an error of `build` names the member, and the values it was called with.

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

        A width changes shapes, so that each is a program of its own:

        >>> def build(width, learning_rate):
        ...     net = fnn.serial(fnn.Dense(width), fnn.Tanh(), fnn.Dense(2))
        ...     return net, loss, fnn.optimizers.adam(learning_rate)
        >>> swept = fnn.sweep(build, {"width": [4, 16], "learning_rate": [1e-3, 1e-2]},
        ...                   train=(x, y), keys=jax.random.key(1), epochs=2,
        ...                   batch_size=25)
        >>> swept.compiled_in, swept.history["train_loss"].shape
        (('width',), (2, 2, 1, 2))
        >>> swept.variables_at((1, 0, 0)).params[0].weight.shape
        (2, 16)
    """
    keys, epochs = check_keys(keys), positive_integer("epochs", check_epochs(epochs))
    axes = read_grid(grid)
    found = groups(build, axes)
    first = found[0].first
    loss, data, held_out = with_weights(first.loss, _arrays(train), validation)
    is_weighted = loss is not first.loss
    options = _Options(
        data=check_data("train", data),
        validation=None if held_out is None else check_data("validation", held_out),
        is_weighted=is_weighted,
        batch_size=batch_size,
        engine=get_engine(engine),
        plan=_check_plan(plan),
        augment=augment,
        early_stopping=early_stopping,
        metrics=metrics,
        epochs=epochs,
        at_once=at_once,
    )
    programs = [_check_group(group, options) for group in found]
    traced = {n: a for n, a in axes.items() if n not in found[0].index}
    lengths = [*map(len, axes.values()), len(keys)]
    report = _report_chunks(on_chunk, math.prod(lengths))
    parts = []
    for group, program in zip(found, programs, strict=True):
        with _noting(group):
            parts.append(_train_in_chunks(program, traced, keys, report))
    shown = {n: a.astype(float) if n in traced else a for n, a in axes.items()}
    every = 1 if early_stopping is None else early_stopping.every
    trained = join_groups([*axes], lengths, [g.index for g in found], parts)
    shown["key"] = np.arange(len(keys))
    return make_sweep(shown, epochs, every, trained, tuple(found[0].index))


# ---- Before ----------------------------------------------------------------------


class _Options(NamedTuple):
    """The arguments of a sweep that all its groups share."""

    data: Batch
    validation: Batch | None
    is_weighted: bool
    batch_size: Any
    engine: Engine
    plan: str | None
    augment: Any
    early_stopping: Any
    metrics: Any
    epochs: int
    at_once: Any


class _Program(NamedTuple):
    """A compiled program of a sweep: its specification, and its other arguments."""

    spec: SweepSpec
    shared: tuple[Any, ...]
    at_once: int


def _arrays(train: Any) -> Any:
    """Return training data that are not read in batches."""
    if as_batches(train) is not None:
        raise TypeError(
            "fnn.sweep trains on arrays (x, y), which lie on the device for all "
            f"members, and train is read in batches: {type(train).__name__}. Pass "
            "arrays, or call fnn.fit for each member."
        )
    return train


@contextmanager
def _noting(group: Group) -> Generator[None, None, None]:
    """Add the values of a group to its errors."""
    try:
        yield
    except Exception as error:
        if group.settings:
            shown = ", ".join(f"{n}={v!r}" for n, v in group.settings.items())
            error.add_note(f"in the members of the sweep with {shown}")
        raise


def _check_group(group: Group, options: _Options) -> _Program:
    """Return a group's program, whose parts and data fit one another."""
    with _noting(group):
        first, data, held_out = group.first, options.data, options.validation
        if options.is_weighted:
            first = first._replace(loss=Weighted(first.loss))
        n = count_examples(data)
        size = group.settings.get("batch_size", options.batch_size)
        size = check_batch_size(size, n)
        variables = _check_member(first, data, "train")
        check_last_batch(first.net, variables, data[0], n, size)
        check_optimizer(first.optimizer, variables.params)
        metrics = options.metrics
        chosen = check_metrics(
            default_metrics(first.loss) if metrics is None else metrics
        )
        early_stopping = check_early_stopping(
            *(options.early_stopping, first.loss, chosen, held_out is not None),
            options.epochs,
        )
        if held_out is not None:
            _check_member(first, held_out, "validation")
        known = _traceable_metrics(first, variables, held_out, chosen)
        spec = SweepSpec(
            build=group.build,
            plan=options.plan,
            engine=options.engine,
            batch_size=size,
            epochs=options.epochs,
            is_weighted=options.is_weighted,
            metrics=known,
            validated=names_of(first.loss, known),
        )
        augment = check_augment(options.augment, data[0], n, size)
        at_once = _members_at_once(options.at_once, first, variables)
        return _Program(spec, (data, held_out, augment, early_stopping), at_once)


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
        raise ValueError(
            f"plan must be 'fast', 'exact' or None here, got {shown(plan)}"
        )
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


def _report_chunks(
    on_chunk: Callable[[int, int], Any] | None, count: int
) -> Callable[[int], None]:
    """Return a function that counts the members done, and calls `on_chunk`."""
    done = 0

    def report(more: int) -> None:
        nonlocal done
        done += more
        if on_chunk is not None:
            on_chunk(done, count)

    return report


def _train_in_chunks(
    program: _Program,
    axes: dict[str, np.ndarray],
    keys: Array,
    report: Callable[[int], None],
) -> TrainedMembers:
    """Train a group's members, `at_once` of them in each run of the compiled program.

    Args:
        program: the group's program.
        axes: the values of the traced hyperparameters.
        keys: (S,).
        report: called with the number of members of each chunk.

    Returns:
        Their results in the host's memory, with these axes, and the keys' as the last.
    """
    lengths = [*map(len, axes.values()), len(keys)]
    indices = np.indices(lengths).reshape(len(lengths), -1)  # of each member
    count = indices.shape[1]
    at_once = min(program.at_once, count)
    done = []
    for start in range(0, count, at_once):
        # The last chunk is filled up with the last member: a second program for fewer
        # would take longer to compile than they take to train.
        chunk = np.minimum(np.arange(start, start + at_once), count - 1)
        *chosen, of_keys = indices[:, chunk]
        numbers = {
            name: jnp.asarray(values[i], float)
            for (name, values), i in zip(axes.items(), chosen, strict=True)
        }
        members = Member(numbers, keys[of_keys])
        out = train_members(program.spec, members, *program.shared)
        trained = jax.device_get(out)
        real = min(at_once, count - start)
        done.append(jax.tree.map(lambda leaf, real=real: leaf[:real], trained))
        report(real)
    return jax.tree.map(
        lambda *parts: np.concatenate(parts).reshape(*lengths, *parts[0].shape[1:]),
        *done,
    )
