"""The base of all optimizers: the equations of one leaf, applied to every leaf.

An optimizer is a frozen dataclass (see `fnn.pytree`) with the pure pair of optax,

    init(params)                  -> state
    update(grads, state, params)  -> (updates, state),    θ ← θ + updates,

and `eval_params`, which returns the parameters to validate and to keep. A subclass
writes `init`, and in `update_leaf` its equations for one leaf. Numbers that all leaves
share (the learning rate, the bias corrections) are computed once a step, in
`step_scalars`. A state is an `OptimizerState`: a NamedTuple of a count, and of trees
like the parameters, where optax has it. A leaf whose gradient is None is left alone.

Numbers, the same for every optimizer:

- Half-precision gradients are widened to float32, statistics are kept in float32, and
  updates have the gradient's dtype.
- 0/0 is 0: a weight whose gradient has always been zero does not move, even where eps
  is 0 or too small for the dtype.
- Where g² is needed, |g| is bounded by √max / 2 (9.2e18 in float32): g² = inf would
  stop the weight for ever. An adaptive method uses little but g's direction anyway.
- A complex weight is one weight: g² is |g|² there, a real number.
- A sum that would overflow stays at the largest number. An infinite gradient becomes
  NaN, so that these bounds cannot hide it.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from fnn.describe import shown
from fnn.optimizers.arithmetic import (
    as_numbers,
    cast_leaf,
    clip_and_cast,
    is_complex,
    real_dtype,
    working_dtype,
)
from fnn.optimizers.evaluation import eval_params
from fnn.optimizers.hyperparameters import (
    SCHEDULES,
    as_dtype,
    as_hyperparameter,
    check_in_range,
    value_at_step,
)
from fnn.optimizers.state import OptimizerState, increment
from fnn.optimizers.transformation import Transformation
from fnn.pytree import leaf, pytree
from fnn.typing import Array, Int, Number, PyTree, Schedule

__all__ = ["Optimizer", "bias_correction_factor"]

#: Fields of a state that are numbers. The others are trees like the parameters.
STATE_NUMBERS = ("count", "lookahead")

#: Fields that hold the dtype of a statistic.
DTYPES = ("mu_dtype", "accumulator_dtype")


@pytree
class Optimizer(Transformation):
    """The base of all optimizers: a subclass writes `init` and `update_leaf`.

    Args:
        learning_rate: α, a number, a traced value, or an optax schedule.
    """

    learning_rate: Schedule = leaf()

    def __post_init__(self) -> None:
        """Raise where a field has another type, or a Python number is out of range."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            name = f"{type(self).__name__}.{field.name}"
            if field.name in DTYPES:
                value = as_dtype(name, value)
            elif field.metadata.get("leaf") and not (value is field.default is None):
                value = as_hyperparameter(name, value, schedule=field.name in SCHEDULES)
                check_in_range(name, value)
            object.__setattr__(self, field.name, value)

    def init(self, params: PyTree) -> OptimizerState:
        raise NotImplementedError(f"{type(self).__name__}.init")

    @property
    def update_leaf(self) -> Callable[..., tuple[Any, ...]]:
        """Return the equations of one leaf; a subclass writes them as a method.

        (scalars, param, g, *statistics) -> (update, *new statistics)
        """
        raise NotImplementedError(f"{type(self).__name__}.update_leaf")

    def update(
        self, grads: PyTree, state: OptimizerState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, OptimizerState]:
        """Return the updates and the next state.

        Args:
            grads: the gradients, like the parameters, or with None for a leaf that is
                to be left alone.
            state: what `init` or the last `update` returned.
            params: the parameters, where the optimizer decays them.
            **extra: what other optimizers want (value=, grad=, ...); not read.
        """
        if not isinstance(state, OptimizerState):
            raise TypeError(
                f"{type(self).__name__}.update: expected the state that its init or "
                f"update returned, an OptimizerState, got {shown(state)}"
            )
        old = state.inner_state
        names = [name for name in old._fields if name not in STATE_NUMBERS]
        updates, *statistics = self._update_trees(
            old.count, grads, params, *(getattr(old, name) for name in names)
        )
        new = dict(zip(names, statistics, strict=True)) | self.state_numbers()
        new = old._replace(count=increment(old.count), **new)
        return updates, state._replace(inner_state=new)

    def eval_params(self, state: OptimizerState, params: PyTree) -> PyTree:
        """Return the parameters to validate; see the function `eval_params`."""
        return eval_params(state, params)

    def step_scalars(self, count: Int[Array, ""]) -> tuple[Number, ...]:
        """Return the numbers that all leaves share in this step: by default (α,)."""
        return (value_at_step(self.learning_rate, count),)

    def state_numbers(self) -> dict[str, Any]:
        """Return the numbers in the state, besides the count: by default none."""
        return {}

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
        leaves, treedef = jax.tree.flatten(grads, is_leaf=_is_none)
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
        if g is None:
            return [None, *old]
        g = jnp.asarray(as_numbers(g))
        dtype = working_dtype(g.dtype)
        wide = g.astype(dtype)
        wide = jnp.where(jnp.isinf(wide), jnp.nan, wide)
        real = real_dtype(dtype)
        # The equations multiply complex numbers by real ones.
        mixes = jax.numpy_dtype_promotion("standard")
        with mixes if is_complex(g) else contextlib.nullcontext():
            update, *new = _cast_arrays(self, real).update_leaf(
                _cast_arrays(scalars, real),
                cast_leaf(param, dtype),
                wide,
                *(cast_leaf(x, dtype) for x in old),
            )
        pairs = zip((update, *new), (g, *old), strict=True)
        return [
            None if x is None else clip_and_cast(x, like.dtype) for x, like in pairs
        ]


def bias_correction_factor(decay: Number, t: Int[Array, ""]) -> Number:
    """Return 1 / (1 − decayᵗ), which corrects a mean that was 0 before step 1."""
    return 1 / (1 - decay ** t.astype(float))


def _cast_arrays(tree: PyTree, dtype: Any) -> PyTree:
    """Cast the tree's arrays to this dtype; Python numbers keep all their digits."""
    # 1 − 0.999 is 1.00000e-3 in Python, and 0.99999e-3 in float32.
    return jax.tree.map(
        lambda x: x if isinstance(x, float) else jnp.asarray(x, dtype), tree
    )


def _is_none(x: Any) -> bool:
    return x is None


def _expect_match(grads: PyTree, reference: PyTree, owner: str) -> None:
    """Raise unless gradients have the leaves, shapes and containers of `reference`.

    Where a gradient is None, `reference` may have None or one leaf of any kind, such as
    the activation function of an Equinox module.
    """
    if reference is None:
        return
    leaves, treedef = tree_flatten_with_path(grads, is_leaf=_is_none)
    left_alone = {keystr(path) for path, g in leaves if g is None}
    got = {keystr(path): _describe(g) for path, g in leaves if g is not None}
    expected = {
        keystr(path): _describe(x)
        for path, x in tree_flatten_with_path(reference)[0]
        if keystr(path) not in left_alone
    }
    for path in expected | got:
        there, here = expected.get(path, "no leaf"), got.get(path, "no leaf")
        if here != there:
            raise ValueError(
                f"grads{path}: expected {there} as in {owner}, got {here}. Pass "
                "gradients with respect to the parameters that init was given"
            )
    try:
        treedef.flatten_up_to(reference)
    except ValueError:
        raise ValueError(
            f"grads: expected the containers of {owner}, "
            f"{jax.tree.structure(reference)}, got {jax.tree.structure(grads)}"
        ) from None


def _describe(leaf: Any) -> str:
    known = hasattr(leaf, "shape") or isinstance(leaf, int | float | complex)
    return f"shape {jnp.shape(leaf)}" if known else f"a {type(leaf).__name__}"
