"""Trees that can be saved: of arrays, and not of what describes a run.

A layer is a tree to JAX, too, of its rates: saved, it would be a file of a few numbers
that looks like a checkpoint.
"""

from collections.abc import Callable, Iterator
from typing import Any

from jax.tree_util import keystr, tree_flatten_with_path

from fnn.core import Layer
from fnn.data import Dataset, Split
from fnn.training.early_stopping import EarlyStopping
from fnn.training.run.result import FitResult
from fnn.training.sweep.result import Sweep

__all__ = ["expect_tree_of_arrays"]


def _has(*methods: str) -> Callable[[Any], bool]:
    return lambda thing: all(callable(getattr(thing, name, None)) for name in methods)


#: Things that are not saved: how to tell, what they are, and what to pass instead.
_OTHERS: tuple[tuple[Any, str, str], ...] = (
    (lambda t: isinstance(t, type), "the class {name}", "the arrays of an object"),
    (
        lambda t: isinstance(t, Layer),
        "a layer, {name}",
        "its variables: net.init(key, in_shape), or result.variables",
    ),
    (
        lambda t: isinstance(t, EarlyStopping),
        "a criterion, {name}",
        "its state: result.stopping",
    ),
    (
        _has("value", "delta", "check"),
        "a loss, {name}",
        "variables: a loss has no parameters",
    ),
    (
        _has("init", "update"),
        "an optimizer, {name}",
        "its state: result.optimizer_state, or optimizer.init(params)",
    ),
    (
        lambda t: isinstance(t, FitResult),
        "a {name}",
        "result.variables, or result.carry to go on from",
    ),
    (lambda t: isinstance(t, Sweep), "a {name}", "swept.variables"),
    (
        lambda t: isinstance(t, (Dataset, Split)),
        "data, a {name}",
        "variables, and write data by numpy.savez",
    ),
    (
        lambda t: isinstance(t, Iterator),
        "an iterator, of type {kind}",
        "a list of its arrays",
    ),
    (callable, "a function, {name}", "arrays: functions are code"),
)


def expect_tree_of_arrays(function: str, tree: Any) -> None:
    """Raise where a tree is, or holds, something that is not made of arrays.

    Variables, parameters, gradients, carries, states of optimizers, and tuples, lists
    and dictionaries of arrays are trees of arrays.

    Args:
        function: the public function that was given the tree, for the error.
        tree: the tree.
    """
    if tree is None:
        raise TypeError(f"{function} expected variables, or a tree of arrays, got None")
    found, _ = tree_flatten_with_path(tree, is_leaf=lambda t: _other(t) is not None)
    for path, leaf in found:
        if (other := _other(leaf)) is not None:
            _, what, instead = other
            kind = type(leaf).__name__
            name = getattr(leaf, "__name__", kind)
            where = f" at {keystr(path, simple=True, separator='/')}" if path else ""
            raise TypeError(
                f"{function} expected variables, or a tree of arrays, got "
                f"{what.format(name=name, kind=kind)}{where}. Pass {instead}."
            )


def _other(thing: Any) -> tuple[Any, str, str] | None:
    """Return the entry of a thing that is not made of arrays, None for others."""
    if hasattr(thing, "dtype") and hasattr(thing, "shape"):
        return None
    return next((entry for entry in _OTHERS if entry[0](thing)), None)
