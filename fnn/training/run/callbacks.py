"""Functions of the caller that are called after every epoch, and may end the run."""

import inspect
from collections.abc import Callable
from typing import Any

import jax

from fnn.describe import shown
from fnn.training.compiled.descent import Carry, copy_arrays
from fnn.training.run.history import Record

__all__ = ["Callbacks", "OnEpoch", "as_callbacks"]

#: Called after every epoch: `f(record)`, `f(record, variables)`, or
#: `f(record, variables, optimizer_state)`. The run ends if it returns True.
OnEpoch = Callable[..., Any]

#: A copy, in one program: the next epoch overwrites its arguments.
_copied = jax.jit(copy_arrays)


class Callbacks:
    """Functions that are called one after the other.

    Args:
        functions: the functions, each with the number of arguments that it takes.
    """

    def __init__(self, functions: list[tuple[OnEpoch, int]]) -> None:
        self.functions = functions

    @property
    def wants_variables(self) -> bool:
        """Return whether one takes more than the record."""
        return any(count > 1 for _, count in self.functions)

    def __call__(self, record: Record, variables: Any, carry: Carry) -> bool:
        """Call all functions; return whether one of them ends the run.

        Args:
            record: the record of the epoch.
            variables: returns the variables to validate and to keep.
            carry: the state after the epoch.
        """
        given: tuple[Any, ...] = ()
        if self.wants_variables:
            given = _copied((variables(), carry.optimizer_state))
        ends = False
        for function, count in self.functions:
            ends |= function(dict(record), *given[: count - 1]) is True
        return ends


def as_callbacks(on_epoch: Any) -> Callbacks:
    """Return the argument `on_epoch` of `fit` as callbacks: None, one, or a list.

    Raises:
        TypeError: one is not a function, or takes other arguments.
    """
    given = on_epoch if isinstance(on_epoch, (list, tuple)) else [on_epoch]
    functions = [function for function in given if function is not None]
    return Callbacks([(function, _arguments(function)) for function in functions])


def _arguments(function: Any) -> int:
    """Return how many of (record, variables, optimizer_state) a function takes."""
    if not callable(function):
        raise TypeError(f"on_epoch must be a function, got {shown(function)}")
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a built-in function, such as print, has none
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [p for p in parameters if p.kind in kinds]
    required = [p for p in positional if p.default is inspect.Parameter.empty]
    takes_any = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    if len(required) > 3 or (not positional and not takes_any):
        raise TypeError(
            "on_epoch must take (record), (record, variables) or (record, variables, "
            "optimizer_state), "
            f"got {shown(function)}, which takes {len(required)} arguments"
        )
    return max(len(required), 1)
