"""What all optimizers share: one rule for one leaf, applied to every leaf of the tree.

An optimizer is a frozen dataclass (see `fnn.pytree`) with the pure pair of optax,

    init(params)                  -> state
    update(grads, state, params)  -> (updates, state),    θ ← θ + updates,

and `eval_params`, which says which parameters to validate and to keep. A subclass
writes its equations for one leaf in `rule`; what they need once per step, not once per
leaf (the learning rate, the bias corrections), it computes in `scalars`.

Numbers, the same for every optimizer:

- Half-precision gradients are computed with in float32, statistics are kept in it, and
  updates come back in the gradient's dtype.
- 0/0 is 0: a weight whose gradient has always been zero does not move, even where eps
  is 0 or too small for the dtype.
- Where g² is needed, |g| is bounded by √max / 2 (9.2e18 in float32): g² = inf would
  stop the weight for ever. An adaptive method uses little but g's direction anyway.
- A sum that would overflow stays at the largest number. An infinite gradient is not
  mended: it becomes NaN, so that these bounds cannot hide it.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import keystr, tree_flatten_with_path

from fnn.dtypes import at_least_float32
from fnn.optimizers.lookahead import eval_params
from fnn.pytree import leaf, pytree
from fnn.typing import PyTree, Schedule

__all__ = [
    "Optimizer",
    "at",
    "bounded",
    "increment",
    "quotient",
    "saturated",
    "start",
    "statistic",
    "unbiased",
]

#: Fields that say how much of the past to keep. The other numbers need only be ≥ 0.
DECAYS = ("b1", "b2", "decay", "momentum", "rho")

#: Fields that may be schedules.
SCHEDULES = ("learning_rate", "weight_decay")


@pytree
class Optimizer:
    """The base of all optimizers: a subclass writes `init`, `update` and `rule`."""

    learning_rate: Schedule = leaf()

    def init(self, params: PyTree) -> Any:
        raise NotImplementedError(f"{type(self).__name__}.init")

    def update(
        self, grads: PyTree, state: Any, params: PyTree = None
    ) -> tuple[PyTree, Any]:
        raise NotImplementedError(f"{type(self).__name__}.update")

    def eval_params(self, state: Any, params: PyTree) -> PyTree:
        """The parameters to validate and to keep; see the function `eval_params`."""
        return eval_params(state, params)

    def scalars(self, count: Array) -> tuple:
        """What the rule needs once per step: by default the learning rate, (α,)."""
        return (at(self.learning_rate, count),)

    def rule(self, *args: Any, **kwargs: Any) -> tuple:
        """One leaf: (scalars, param, g, *statistics) -> (update, *new statistics)."""
        raise NotImplementedError(f"{type(self).__name__}.rule")

    def per_leaf(
        self, count: Array, grads: PyTree, params: PyTree, *statistics: PyTree
    ) -> list[PyTree]:
        """Apply `rule` to every leaf: the tree of updates, then of each statistic.

        A tree that is None is None for every leaf, and stays None.
        """
        _expect_match(grads, params, "the parameters")
        for tree in statistics:
            _expect_match(grads, tree, "the optimizer's state")
        scalars = _cast(self, float).scalars(count)
        leaves, treedef = jax.tree.flatten(grads)
        columns = [
            [None] * len(leaves) if tree is None else treedef.flatten_up_to(tree)
            for tree in (params, *statistics)
        ]
        rows = [
            self._one_leaf(scalars, *row) for row in zip(leaves, *columns, strict=True)
        ]
        # Without leaves (a network without parameters) there are no rows to turn.
        turned = zip(*rows, strict=True) if rows else [()] * (1 + len(statistics))
        return [
            None if tree is None else treedef.unflatten(column)
            for tree, column in zip((grads, *statistics), turned, strict=True)
        ]

    def _one_leaf(self, scalars: tuple, g: Any, param: Any, *old: Any) -> list:
        g = jnp.asarray(g)
        dtype = _working_dtype(g.dtype)
        wide = g.astype(dtype)
        wide = jnp.where(jnp.isinf(wide), jnp.nan, wide)
        update, *new = _cast(self, dtype).rule(
            _cast(scalars, dtype), _cast(param, dtype), wide, *_cast(old, dtype)
        )
        pairs = zip((update, *new), (g, *old), strict=True)
        return [None if x is None else _narrowed(x, like.dtype) for x, like in pairs]

    def check_numbers(self) -> None:
        """Refuse, at construction, Python numbers out of range; tracers pass."""
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


_HINTS = {
    "learning_rate": ": updates already point downhill; to climb, negate the loss",
    "weight_decay": ": a positive one already makes weights smaller",
}


# --- state -----------------------------------------------------------------------


def start() -> Array:
    """The count of a new state."""
    return jnp.zeros((), jnp.int32)


def increment(count: Array) -> Array:
    """The next count; it stays at the largest int32 rather than turn negative."""
    return jnp.minimum(count, jnp.iinfo(count.dtype).max - 1) + 1


def statistic(params: PyTree, value: Any = 0.0, dtype: Any = None) -> PyTree:
    """A tree like `params`, at least float32 unless `dtype` says otherwise."""

    def like(p: Any) -> Array:
        p = jnp.asarray(p)
        return jnp.full_like(p, value, dtype=dtype or _working_dtype(p.dtype))

    return jax.tree.map(like, params)


# --- numbers -----------------------------------------------------------------------


def at(number: Schedule, count: Array) -> Any:
    """The number, or the schedule's value at this step (0, 1, ...)."""
    return jnp.asarray(number(count), float) if callable(number) else number


def bounded(g: Array) -> Array:
    """g, bounded so that g², sums of a few of them, and g²/(1 − b2) stay finite."""
    limit = 0.5 * float(jnp.finfo(g.dtype).max) ** 0.5
    return jnp.clip(g, -limit, limit)


def saturated(x: Array) -> Array:
    """The largest number of x's dtype in place of an infinity; NaN stays."""
    # Not jnp.clip, which XLA does not fuse here: RMSProp took twice the time.
    largest = float(jnp.finfo(x.dtype).max)
    return jnp.where(jnp.isinf(x), jnp.copysign(largest, x), x)


def unbiased(decay: Any, t: Array) -> Array:
    """1 / (1 − decayᵗ): what a mean that started at 0 lacks after t steps."""
    return 1 / (1 - decay ** t.astype(float))


def quotient(x: Array, y: Array) -> Array:
    """The quotient x / y, and 0 where y is 0: then x is 0 too, or too small to tell."""
    return jnp.where(y == 0, 0, x / y)


def _working_dtype(dtype: Any) -> Any:
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"an optimizer moves floating-point numbers, got a leaf of dtype {dtype}: "
            "leave it out with optax.masked, or keep it out of the parameters"
        )
    return at_least_float32(dtype)


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    """The tree's arrays in this dtype. Python numbers stay, with all their digits."""
    # 1 − 0.999 is 1.00000e-3 in Python, and 0.99999e-3 in float32.
    return jax.tree.map(
        lambda x: x if isinstance(x, float) else jnp.asarray(x, dtype), tree
    )


def _narrowed(x: Array, dtype: Any) -> Array:
    limit = float(jnp.finfo(dtype).max)
    narrower = limit < float(jnp.finfo(x.dtype).max)
    return (jnp.clip(x, -limit, limit) if narrower else x).astype(dtype)


def _expect_match(grads: PyTree, reference: PyTree, whose: str) -> None:
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
                f"grads{path}: expected {there} as in {whose}, got {here}. Pass "
                "gradients with respect to the parameters that init was given"
            )
    if jax.tree.structure(grads) != jax.tree.structure(reference):
        raise ValueError(
            f"grads: expected the containers of {whose}, "
            f"{jax.tree.structure(reference)}, got {jax.tree.structure(grads)}"
        )
