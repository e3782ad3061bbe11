"""Averages of the weights along a run, which are validated and kept in their place.

    θ̄ₜ = θ̄ₜ₋₁ + wₜ (θₜ − θ̄ₜ₋₁)           w₁ = 1

    ema     wₜ = (1 − d) / (1 − dᵗ)        θ̄ₜ = Σ dᵗ⁻ˢ θₛ / Σ dᵗ⁻ˢ, over s = 1 ... t
    swa     wₜ = 1/k at the k-th point     θ̄ₜ = the mean of all points so far

Legend: θₜ the weights after step t, d the decay.

The newest θ joins the average when it is looked at, or at the next step: so whatever
changes θ after the optimizer (a projection, a frozen layer) is seen.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fnn.typing import Array, Int, Number, PyTree

__all__ = [
    "AverageState",
    "average_like",
    "average_with",
    "exponential_weight",
    "mean_weight",
]


class AverageState(NamedTuple):
    """The state of an average of weights.

    count: int32 (), the number of steps t.
    average: a tree like the parameters, θ̄ₜ₋₁, at least float32.
    weight: float32 (), wₜ, by which θₜ joins it.
    inner: the state of the optimizer inside.
    """

    count: Array
    average: PyTree
    weight: Array
    inner: PyTree


def average_with(state: AverageState, params: PyTree) -> PyTree:
    """Return θ̄ₜ = θ̄ₜ₋₁ + wₜ (θₜ − θ̄ₜ₋₁), at least float32.

    Args:
        state: the state after step t.
        params: θₜ. Where the optimizer is masked, its parameters stay as they are.
    """

    def is_masked(mean: Any) -> bool:
        return isinstance(mean, optax.MaskedNode)

    def one(mean: Any, theta: Any) -> Any:
        if is_masked(mean):
            return theta
        wide = jnp.asarray(theta).astype(mean.dtype)
        weight = state.weight.astype(jnp.finfo(mean.dtype).dtype)
        # Not `mean + 1 (θ − mean)`: before any step, θ itself, whatever `mean` is.
        return jnp.where(weight == 1, wide, mean + weight * (wide - mean))

    return jax.tree.map(one, state.average, params, is_leaf=is_masked)


def average_like(state: AverageState, params: PyTree) -> PyTree:
    """Return θ̄ₜ in the parameters' dtypes."""
    mean = average_with(state, params)
    return jax.tree.map(lambda m, p: jnp.asarray(m, jnp.result_type(p)), mean, params)


def exponential_weight(decay: Number, t: Int[Array, ""]) -> Array:
    """Return (1 − d) / (1 − dᵗ)."""
    steps = t.astype(jnp.float32)
    return jnp.asarray((1 - decay) / (1 - decay**steps))


def mean_weight(start: int, every: int, t: Int[Array, ""]) -> Array:
    """Return 1/k at the k-th point, 0 between points, and 1 before the first one."""
    points = (t - start) // every + 1
    is_point = (t - start) % every == 0
    share = jnp.where(is_point, 1 / jnp.maximum(points, 1).astype(jnp.float32), 0)
    return jnp.where(t < start, 1, share)
