"""Call the user's functions after every epoch: `fit(..., observe=...)`.

Each is a function `f(variables, (x, y), *, key)`, as those that `fnn.per_example`,
`fnn.rules` and `fnn.curvature` make. It is given one minibatch of the training data,
the same after every epoch, and a key of the epoch.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from fnn.core import Variables
from fnn.describe import shown
from fnn.training.run.history import Record
from fnn.transfers import own_numbers_may_move
from fnn.typing import Array, Batch, KeyArray

__all__ = ["Observer", "check_observe", "observe_epoch", "observed_history"]

#: Numbers by the name of the function, and by their place in what it returned.
Observed = dict[str, dict[str, Any]]


class Observer(NamedTuple):
    """The functions that observe a run, by name; `weighted` where data have weights."""

    functions: tuple[tuple[str, Callable[..., Any]], ...]
    weighted: bool = False

    def batch(self, sample: Batch) -> Any:
        """Return the minibatch as a user has it: (x, y), or (x, y, weights)."""
        x, y = sample
        return (x, *y) if self.weighted else (x, y)


def check_observe(
    observe: Any, variables: Variables, sample: Batch, weighted: bool
) -> Observer | None:
    """Return what observes a run, or None; the functions are traced, and not run."""
    if observe is None:
        return None
    if not isinstance(observe, Mapping):
        raise TypeError(
            "observe must map names to functions (variables, batch, *, key), such as "
            f'{{"norms": fnn.per_example.norms(net, loss)}}, got {shown(observe)}'
        )
    for name, function in observe.items():
        if not isinstance(name, str) or not callable(function):
            raise TypeError(
                "observe: expected names and functions, "
                f"got {shown(name)}: {shown(function)}"
            )
    observer = Observer(tuple(observe.items()), weighted)
    key = jax.random.key(0)
    for name, function in observer.functions:
        try:
            jax.eval_shape(
                lambda v, b, f=function: f(v, b, key=key),
                *(variables, observer.batch(sample)),
            )
        except Exception as error:
            error.add_note(f"in observe[{name!r}](variables, batch, key=key)")
            raise
    return observer


def observe_epoch(
    observer: Observer, variables: Variables, sample: Batch, key: KeyArray
) -> Observed:
    """Return what the functions observe, as Python numbers and lists of them."""
    batch = observer.batch(sample)
    with own_numbers_may_move():
        found = jax.device_get(_observe(observer.functions, variables, batch, key))
    return {
        name: {
            keystr(path, simple=True, separator="."): np.asarray(leaf).tolist()
            for path, leaf in tree_flatten_with_path(tree)[0]
        }
        for name, tree in found.items()
    }


@partial(jax.jit, static_argnames="functions")
def _observe(
    functions: tuple[tuple[str, Callable[..., Any]], ...],
    variables: Variables,
    batch: Any,
    key: Array,
) -> dict[str, Any]:
    found = {name: f(variables, batch, key=key) for name, f in functions}
    return jax.tree.map(jnp.asarray, found)


def observed_history(records: list[Record]) -> dict[str, dict[str, np.ndarray]]:
    """Return arrays with an entry an epoch, by function and place in its result.

    The entries are NaN for an epoch in which nothing was observed, of a run that was
    resumed with `observe`.
    """
    rows: list[Observed] = [record.get("observed", {}) for record in records]
    names = {(f, part) for row in rows for f, parts in row.items() for part in parts}
    history: dict[str, dict[str, np.ndarray]] = {}
    for function, part in sorted(names):
        columns = [row.get(function, {}).get(part) for row in rows]
        like = np.asarray(next(c for c in columns if c is not None), float)
        filled = [np.full_like(like, np.nan) if c is None else c for c in columns]
        history.setdefault(function, {})[part] = np.asarray(filled, float)
    return history
