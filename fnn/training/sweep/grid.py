"""The grid of a sweep, and its groups: what one compiled program trains.

A hyperparameter is traced where `build` can be called with a traced number for it, such
as a learning rate. All others, such as a width or an optimizer, are compiled in: the
members that share them are a group.

Legend: G the lengths of the grid's axes, the keys' axis last.
"""

import inspect
import itertools
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks import check_l2
from fnn.core import expect_layer
from fnn.describe import shown
from fnn.losses import expect_loss
from fnn.training.functions import description
from fnn.training.sweep.records import MemberSpec

__all__ = ["BoundBuild", "Group", "Setting", "groups", "read_grid", "value_at"]

Axes = dict[str, np.ndarray]
Build = Callable[..., tuple[Any, ...]]


# ---- The axes --------------------------------------------------------------------


def read_grid(grid: Any) -> Axes:
    """Return the values of each hyperparameter: integers, floats, or any objects.

    Raises:
        TypeError, ValueError: it is no mapping to sequences, or a number is not finite.
    """
    if not isinstance(grid, Mapping):
        raise TypeError(
            "grid must map names to the values they take, such as "
            f'{{"learning_rate": [0.01, 0.1]}}, got {shown(grid)}'
        )
    return {str(name): _read_axis(name, values) for name, values in grid.items()}


def _read_axis(name: Any, values: Any) -> np.ndarray:
    is_array = getattr(values, "ndim", None) == 1
    no_list = isinstance(values, str | bytes) or hasattr(values, "_fields")
    is_list = is_array or (isinstance(values, Sequence) and not no_list)
    if name == "key" or not is_list or not len(values):
        raise ValueError(
            f"grid[{name!r}] must be a sequence of numbers, or of other values, under "
            f"a name other than 'key', got {shown(values)}"
        )
    if not all(map(_is_number, values)):
        axis = np.empty(len(values), object)
        for i, value in enumerate(values):
            axis[i] = value
        return axis
    whole = all(np.asarray(v).dtype.kind in "iu" for v in values)
    axis = np.asarray([np.asarray(v).item() for v in values], int if whole else float)
    if not np.isfinite(axis).all():
        raise ValueError(f"grid[{name!r}] must be finite, got {shown(values)}")
    return axis


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    if isinstance(value, numbers.Real):
        return True
    is_scalar = getattr(value, "shape", None) == ()
    return is_scalar and np.asarray(value).dtype.kind in "iuf"


def value_at(axis: np.ndarray, i: int) -> Any:
    """Return a value of an axis, a number as Python's."""
    return axis[i] if axis.dtype == object else axis[i].item()


# ---- What is compiled in ---------------------------------------------------------


class Setting:
    """A value that is compiled in; equal to any other that acts like it.

    JAX finds a compiled program by it: a list of widths, or an optimizer of optax that
    is made again, is not compiled again.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self.description = description(value) or f"object {id(value)}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Setting) and self.description == other.description

    def __hash__(self) -> int:
        return hash(self.description)


@dataclass(frozen=True)
class BoundBuild:
    """A function `build` with the settings of a group.

    Args:
        build: the user's function.
        settings: the values that are compiled in, by name.
    """

    build: Build
    settings: tuple[tuple[str, Setting], ...]

    def __call__(self, **traced: Any) -> tuple[Any, ...]:
        """Call `build` with all hyperparameters that it takes."""
        values = {name: setting.value for name, setting in self.settings} | traced
        if "batch_size" in values and not _takes(self.build, "batch_size"):
            del values["batch_size"]
        return self.build(**values)


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # it does not say
        return True
    kinds = [p.kind for p in parameters.values()]
    return name in parameters or inspect.Parameter.VAR_KEYWORD in kinds


# ---- Groups ----------------------------------------------------------------------


class Group(NamedTuple):
    """The members of a sweep that one program trains.

    index: the group's place along the axes that are compiled in, by name.
    settings: its values there.
    build: from the traced numbers to the parts of a member.
    first: the parts of its first member.
    """

    index: dict[str, int]
    settings: dict[str, Any]
    build: BoundBuild
    first: MemberSpec


def groups(build: Build, axes: Axes) -> list[Group]:
    """Split a grid into groups; call `build` here, so that its errors are raised here.

    `build` is called with every value, with the first ones of the other axes, and with
    the first values of every group.

    Args:
        build: the user's function.
        axes: the values of each hyperparameter.

    Raises:
        TypeError, ValueError: or whatever `build` raises, with the member's place and
            numbers in a note.
    """
    if not callable(build):
        raise TypeError(
            "build must be a function that returns (net, loss, optimizer) for the "
            f"numbers of the grid, got {shown(build)}"
        )
    origin = dict.fromkeys(axes, 0)
    _call_build(build, axes, origin)
    for name, axis in axes.items():
        for i in range(1, len(axis)):
            _call_build(build, axes, origin | {name: i})
    compiled_in = [n for n, a in axes.items() if a.dtype == object or n == "batch_size"]
    while True:
        found = list(_groups(build, axes, compiled_in))
        rest = {n: value_at(a, 0) for n, a in axes.items() if n not in compiled_in}
        untraceable = [name for g in found for name in _untraceable(g.build, rest)]
        if not untraceable:
            return found
        compiled_in = [n for n in axes if n in (*compiled_in, *untraceable)]


def _groups(build: Build, axes: Axes, compiled_in: list[str]) -> Iterator[Group]:
    """Yield a group for each combination of the values that are compiled in."""
    for place in itertools.product(*(range(len(axes[name])) for name in compiled_in)):
        index = dict(zip(compiled_in, place, strict=True))
        settings = {name: value_at(axes[name], i) for name, i in index.items()}
        hashable = tuple((name, Setting(value)) for name, value in settings.items())
        first = _call_build(build, axes, dict.fromkeys(axes, 0) | index)
        yield Group(index, settings, BoundBuild(build, hashable), first)


def _untraceable(build: BoundBuild, numbers: dict[str, float]) -> list[str]:
    """Return the names of numbers that `build` must know; without, it has worked."""
    if _traces(build, numbers, [*numbers]):
        return []
    alone = [name for name in numbers if not _traces(build, numbers, [name])]
    return alone or [*numbers]


def _traces(build: BoundBuild, numbers: dict[str, float], names: list[str]) -> bool:
    def traced(values: dict[str, Any]) -> Any:
        build(**numbers | values)
        return values

    try:
        jax.eval_shape(traced, {n: jnp.asarray(numbers[n], float) for n in names})
    except Exception:  # of any kind: a size that is no integer, an `if`, NumPy
        return False
    return True


def _call_build(build: Build, axes: Axes, index: dict[str, int]) -> MemberSpec:
    """Return the parts of the member at an index of the grid."""
    values = {name: value_at(axes[name], i) for name, i in index.items()}
    settings = tuple((name, Setting(value)) for name, value in values.items())
    try:
        made = BoundBuild(build, settings)()
        if not isinstance(made, tuple) or len(made) not in (3, 4):
            raise TypeError(
                "build must return (net, loss, optimizer) or (net, loss, optimizer, "
                f"l2), got {shown(made)}"
            )
        built = MemberSpec(*made)
        expect_layer("net", built.net)
        expect_loss(built.loss)
        return built._replace(l2=check_l2(built.l2 or 0.0))
    except Exception as error:
        given = ", ".join(f"{name}={value!r}" for name, value in values.items())
        error.add_note(
            f"in build({given}), for the member at {tuple(index.values())} of the "
            "grid. Sizes must be integers there, 16 and not 16.0. A number is traced "
            "in the sweep where build can be traced with it, else compiled in."
        )
        raise
