"""The state of an optimizer: a count and statistics, at the places that optax has.

In optax the state of an optimizer is a pair, that of its rule and that of its learning
rate, and so it is here. What users of optax write works:

    state[0].count, state[0].mu                  the rule's state
    optax.tree_utils.tree_get(state, "nu")       by the name of a field
    state[1][0].mu                               in optax.chain(clip, adam)

and the fields can be read from the pair itself: `state.count`, `state.mu`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fnn.optimizers.arithmetic import as_numbers, real_dtype, working_dtype
from fnn.typing import Array, Int, Number, PyTree

__all__ = ["OptimizerState", "increment", "init_count", "init_statistic"]


class OptimizerState(NamedTuple):
    """The state of every optimizer of this package but the wrappers.

    inner_state: the count and the statistics, such as an `AdamState`.
    rate_state: empty. The count of a schedule is that of `inner_state`.
    """

    inner_state: Any
    rate_state: optax.EmptyState = optax.EmptyState()

    @property
    def count(self) -> Any:  # pyrefly: ignore[bad-override]
        """The number of updates so far; a tuple has a method of this name."""
        return self[0].count

    def __getattr__(self, name: str) -> Any:
        """Return a field of the inner state."""
        if name.startswith("_"):  # JAX and optax tell classes apart by such names
            raise AttributeError(name)
        return getattr(self[0], name)


def init_count() -> Int[Array, ""]:
    """Return the count of a new state, 0."""
    return jnp.zeros((), jnp.int32)


def increment(count: Int[Array, ""]) -> Int[Array, ""]:
    """Return count + 1, or the largest int32 where that would overflow."""
    return jnp.minimum(count, jnp.iinfo(count.dtype).max - 1) + 1


def init_statistic(
    params: PyTree, value: Number = 0.0, dtype: Any = None, *, of_squares: bool = False
) -> PyTree:
    """Return a tree like `params`, filled with `value`.

    As in optax, `params` may be the shapes of arrays (`jax.ShapeDtypeStruct`); the
    statistics are arrays all the same, split over devices as the shapes say.

    Args:
        params: a tree of arrays, or of their shapes.
        value: the number to fill it with.
        dtype: the dtype; by default at least float32, and complex for complex
            parameters.
        of_squares: whether it is a mean or a sum of |g|², which is real.
    """

    def like(p: Any) -> Array:
        p = as_numbers(p)
        own = working_dtype(p.dtype)
        own = real_dtype(own) if of_squares else own
        wanted = own if dtype is None else jax.dtypes.canonicalize_dtype(dtype)
        return jnp.full_like(p, value, dtype=wanted)

    return jax.tree.map(like, params)
