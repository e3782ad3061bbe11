"""The base of all optimizers: the equations of one leaf, applied to every leaf.

An optimizer is a frozen dataclass (see `fnn.pytree`) with the pure pair of optax,

    init(params)                  -> state
    update(grads, state, params)  -> (updates, state),    θ ← θ + updates,

and `eval_params`, which returns the parameters to validate and to keep. A subclass
writes `init`, and in `update_leaf` its equations for one leaf. Numbers that all leaves
share (the learning rate, the bias corrections) are computed once a step, in
`step_scalars`. A state is a NamedTuple: a count, and trees like the parameters.

Numbers, the same for every optimizer:

- Half-precision gradients are widened to float32, statistics are kept in float32, and
  updates have the gradient's dtype.
- 0/0 is 0: a weight whose gradient has always been zero does not move, even where eps
  is 0 or too small for the dtype.
- Where g² is needed, |g| is bounded by √max / 2 (9.2e18 in float32): g² = inf would
  stop the weight for ever. An adaptive method uses little but g's direction anyway.
- A sum that would overflow stays at the largest number. An infinite gradient becomes
  NaN, so that these bounds cannot hide it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from fnn.dtypes import at_least_float32
from fnn.optimizers.lookahead import eval_params
from fnn.pytree import leaf, pytree
from fnn.typing import Array, Float, Int, Number, PyTree, Schedule

__all__ = [
    "Leaf",
    "Optimizer",
    "bias_correction_factor",
    "cap_infinities",
    "clip_before_squaring",
    "divide_or_zero",
    "increment",
    "init_count",
    "init_statistic",
    "value_at_step",
]

#: One leaf of a tree. In one call, all leaves have the same shape.
Leaf = Float[Array, "*leaf"]

#: Fields that say how much of the past to keep. The other numbers need only be ≥ 0.
DECAYS = ("b1", "b2", "decay", "momentum", "rho")

#: Fields that may be schedules.
SCHEDULES = ("learning_rate", "weight_decay")

#: Fields of a state that are numbers. The others are trees like the parameters.
STATE_NUMBERS = ("count", "lookahead")


@pytree
class Optimizer:
    """The base of all optimizers: a subclass writes `init` and `update_leaf`."""

    learning_rate: Schedule = leaf()

    def __post_init__(self) -> None:
        """Raise where a Python number is out of range; a traced one is not read."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            name = f"{type(self).__name__}.{field.name}"
            if not field.metadata.get("leaf"):
                continue
            if callable(value) and field.name not in SCHEDULES:
                raise TypeError(
                    f"{name} must be a constant number, got the function {value!r}: "
                    f"only {' and '.join(SCHEDULES)} may be schedules"
                )
            if not isinstance(value, float):
                continue
            if field.name in DECAYS and not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value}")
            if not 0 <= value < float("inf"):
                raise ValueError(
                    f"{name} must be finite and not negative, got {value}"
                    + _HINTS.get(field.name, "")
                )

    def init(self, params: PyTree) -> Any:
        raise NotImplementedError(f"{type(self).__name__}.init")

    @property
    def update_leaf(self) -> Callable[..., tuple[Any, ...]]:
        """Return the equations of one leaf; a subclass writes them as a method.

        (scalars, param, g, *statistics) -> (update, *new statistics)
        """
        raise NotImplementedError(f"{type(self).__name__}.update_leaf")

    def update(
        self, grads: PyTree, state: Any, params: PyTree = None
    ) -> tuple[PyTree, Any]:
        names = [name for name in state._fields if name not in STATE_NUMBERS]
        statistics = [getattr(state, name) for name in names]
        updates, *statistics = self._update_trees(
            state.count, grads, params, *statistics
        )
        return updates, state._replace(
            count=increment(state.count), **dict(zip(names, statistics, strict=True))
        )

    def eval_params(self, state: Any, params: PyTree) -> PyTree:
        """Return the parameters to validate; see the function `eval_params`."""
        return eval_params(state, params)

    def step_scalars(self, count: Int[Array, ""]) -> tuple[Number, ...]:
        """Return the numbers that all leaves share in this step: by default (α,)."""
        return (value_at_step(self.learning_rate, count),)

    def _update_trees(
        self, count: Int[Array, ""], grads: PyTree, params: PyTree, *statistics: PyTree
    ) -> list[PyTree]:
        """Apply `update_leaf` to every leaf: return the updates, then each statistic.

        A tree that is None is None for every leaf, and stays None.
        """
        _expect_match(grads, params, "the parameters")
        for tree in statistics:
            _expect_match(grads, tree, "the optimizer's state")
        scalars = _cast_arrays(self, float).step_scalars(count)
        leaves, treedef = jax.tree.flatten(grads)
        old_columns = [
            [None] * len(leaves) if tree is None else treedef.flatten_up_to(tree)
            for tree in (params, *statistics)
        ]
        rows = [
            self._update_in_working_dtype(scalars, *row)
            for row in zip(leaves, *old_columns, strict=True)
        ]
        # A network without parameters has no leaves, and so no rows to transpose.
        columns = zip(*rows, strict=True) if rows else [()] * (1 + len(statistics))
        return [
            None if tree is None else treedef.unflatten(column)
            for tree, column in zip((grads, *statistics), columns, strict=True)
        ]

    def _update_in_working_dtype(
        self, scalars: tuple[Number, ...], g: Any, param: Any, *old: Any
    ) -> list[Array | None]:
        g = jnp.asarray(g)
        dtype = _working_dtype(g.dtype)
        wide = g.astype(dtype)
        wide = jnp.where(jnp.isinf(wide), jnp.nan, wide)
        update, *new = _cast_arrays(self, dtype).update_leaf(
            _cast_arrays(scalars, dtype),
            _cast_arrays(param, dtype),
            wide,
            *_cast_arrays(old, dtype),
        )
        pairs = zip((update, *new), (g, *old), strict=True)
        return [
            None if x is None else _clip_and_cast(x, like.dtype) for x, like in pairs
        ]


_HINTS = {
    "learning_rate": ": updates already point downhill; to climb, negate the loss",
    "weight_decay": ": a positive one already makes weights smaller",
}


# --- state -----------------------------------------------------------------------


def init_count() -> Int[Array, ""]:
    """Return the count of a new state, 0."""
    return jnp.zeros((), jnp.int32)


def increment(count: Int[Array, ""]) -> Int[Array, ""]:
    """Return count + 1, or the largest int32 where that would overflow."""
    return jnp.minimum(count, jnp.iinfo(count.dtype).max - 1) + 1


def init_statistic(params: PyTree, value: Number = 0.0, dtype: Any = None) -> PyTree:
    """Return a tree like `params`, filled with `value`, at least float32 or `dtype`."""

    def like(p: Any) -> Array:
        p = jnp.asarray(p)
        return jnp.full_like(p, value, dtype=dtype or _working_dtype(p.dtype))

    return jax.tree.map(like, params)


# --- numbers -----------------------------------------------------------------------


def value_at_step(number: Schedule, count: Int[Array, ""]) -> Number:
    """Return the number, or the schedule's value at this step (0, 1, ...)."""
    return jnp.asarray(number(count), float) if callable(number) else number


def bias_correction_factor(decay: Number, t: Int[Array, ""]) -> Number:
    """Return 1 / (1 − decayᵗ), which corrects a mean that was 0 before step 1."""
    return 1 / (1 - decay ** t.astype(float))


def clip_before_squaring(g: Leaf) -> Leaf:
    """Clip g so that g², sums of a few of them, and g²/(1 − b2) stay finite."""
    limit = 0.5 * float(jnp.finfo(g.dtype).max) ** 0.5
    return jnp.clip(g, -limit, limit)


def cap_infinities(x: Leaf) -> Leaf:
    """Replace infinities by the largest number of x's dtype; NaN stays."""
    # Not jnp.clip, which XLA does not fuse here: RMSProp took twice the time.
    largest = float(jnp.finfo(x.dtype).max)
    return jnp.where(jnp.isinf(x), jnp.copysign(largest, x), x)


def divide_or_zero(x: Leaf, y: Leaf) -> Leaf:
    """Return x / y, and 0 where y is 0: there x is 0 too, or too small to matter."""
    return jnp.where(y == 0, 0, x / y)


def _working_dtype(dtype: Any) -> Any:
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"an optimizer moves floating-point numbers, got a leaf of dtype {dtype}: "
            "leave it out with optax.masked, or keep it out of the parameters"
        )
    return at_least_float32(dtype)


def _cast_arrays(tree: PyTree, dtype: Any) -> PyTree:
    """Cast the tree's arrays to this dtype; Python numbers keep all their digits."""
    # 1 − 0.999 is 1.00000e-3 in Python, and 0.99999e-3 in float32.
    return jax.tree.map(
        lambda x: x if isinstance(x, float) else jnp.asarray(x, dtype), tree
    )


def _clip_and_cast(x: Array, dtype: Any) -> Array:
    """Cast x to this dtype; what is too large for it becomes its largest number."""
    limit = float(jnp.finfo(dtype).max)
    narrower = limit < float(jnp.finfo(x.dtype).max)
    return (jnp.clip(x, -limit, limit) if narrower else x).astype(dtype)


def _expect_match(grads: PyTree, reference: PyTree, owner: str) -> None:
    """Raise unless gradients have the leaves, shapes and containers of `reference`."""
    if reference is None:
        return
    got, expected = (
        {keystr(k): f"shape {jnp.shape(x)}" for k, x in tree_flatten_with_path(tree)[0]}
        for tree in (grads, reference)
    )
    for path in expected | got:
        there, here = expected.get(path, "no leaf"), got.get(path, "no leaf")
        if here != there:
            raise ValueError(
                f"grads{path}: expected {there} as in {owner}, got {here}. Pass "
                "gradients with respect to the parameters that init was given"
            )
    if jax.tree.structure(grads) != jax.tree.structure(reference):
        raise ValueError(
            f"grads: expected the containers of {owner}, "
            f"{jax.tree.structure(reference)}, got {jax.tree.structure(grads)}"
        )
