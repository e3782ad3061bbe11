"""Projections: what parameters must satisfy after every step, whoever made the step.

A projection is a pure function of the parameters. Beside it stands the same as a link
of an `optax.chain`, which turns it into a part of the update:

    updates′ = project(θ + updates) − θ

Legend: w_j incoming weights of unit j, c the bound.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from fnn.pytree import leaf, pytree
from fnn.typing import PyTree

__all__ = ["MaxNorm", "max_norm", "projection_max_norm"]


def projection_max_norm(params: PyTree, c: float | Array) -> PyTree:
    """Shorten the incoming weights of every unit to at most c.

        w_j ← w_j min(1, c / ‖w_j‖₂),    so that    ‖w_j‖₂ ≤ c

    That is the nearest point of the ball with radius c. The units are along the last
    axis: w_j is the column `weight[:, j]` of a dense layer, and the whole template
    `weight[..., j]` of a convolution's output channel j. Parameters with less than two
    axes (biases, scales) are returned as they are.

    In a `ConvTranspose` the last axis is that of the inputs, and the bound would fall
    on what one of them sends: leave it out with `optax.masked`.

    Args:
        params: any tree of arrays.
        c: the bound, > 0.

    Returns:
        A tree like `params`, with the same shapes and dtypes.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import optimizers
        >>> weight = jnp.array([[3.0, 0.3], [4.0, 0.4]])
        >>> optimizers.projection_max_norm(weight, 1.0)
        Array([[0.6, 0.3],
               [0.8, 0.4]], dtype=float32)

    Source: Srivastava et al., JMLR 15 (2014), section 5.1.
    """
    return jax.tree.map(lambda w: _shortened(w, c), params)


def _shortened(w: Any, c: float | Array) -> Array:
    w = jnp.asarray(w)
    if w.ndim < 2:
        return w
    wide = w if w.dtype == jnp.float64 else w.astype(jnp.float32)
    norm = jnp.linalg.norm(wide.reshape(-1, w.shape[-1]), axis=0)
    c = jnp.asarray(c, wide.dtype)
    # Where nothing is to be done the factor is exactly 1; and no norm is divided by 0.
    factor = jnp.where(norm > c, c / jnp.maximum(norm, c), 1)
    return (wide * factor).astype(w.dtype)


@pytree
class MaxNorm:
    """The projection as the last link of a chain; built by `max_norm`."""

    c: float | Array = leaf()

    def __post_init__(self) -> None:
        if isinstance(self.c, float) and not 0 < self.c < float("inf"):
            raise ValueError(
                f"MaxNorm.c must be a finite number > 0, got {self.c}: it bounds the "
                "norm of each unit's incoming weights (the paper has 2 to 4)"
            )

    def init(self, params: PyTree) -> tuple[()]:
        return ()

    def update(
        self, updates: PyTree, state: tuple[()], params: PyTree = None
    ) -> tuple[PyTree, tuple[()]]:
        if params is None:
            raise ValueError(
                "MaxNorm projects the parameters that the step leads to: expected "
                "update(updates, state, params), got no params"
            )

        def to_the_projection(update: Array, param: Array) -> Array:
            moved = _shortened(param + update.astype(param.dtype), self.c)
            return (moved - param).astype(update.dtype)

        return jax.tree.map(to_the_projection, updates, params), state


def max_norm(c: float | Array) -> MaxNorm:
    """Max-norm regularization: after every step, ‖w_j‖₂ ≤ c for every unit.

        θ ← θ + updates,    w_j ← w_j min(1, c / ‖w_j‖₂)

    A link for the end of a chain, after the optimizer; it holds no state. What the
    optimizer remembers (a velocity, moments) is not projected, nor is it in the paper.
    θ + updates is rounded, so the bound holds up to the last digits of θ.

    Nesterov's look-ahead stores θ̂ = θ + βv: bounding θ̂ does not bound θ, and changes
    what θ̂ − βv is. `eval_params`, and with it `fnn.fit`, therefore refuses it in such
    a chain; use `sgd(..., nesterov=True)`.

    Args:
        c: the bound, > 0. A leaf.

    Returns:
        A `MaxNorm` with optax's `init` and `update`.

    Raises:
        ValueError: c is not a finite number > 0; `update` without params.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from fnn import optimizers
        >>> chain = optax.chain(optimizers.sgd(1.0), optimizers.max_norm(2.0))
        >>> weight = jnp.ones((1, 2))
        >>> grads = jnp.array([[-4.0, 0.5]])
        >>> updates, state = chain.update(grads, chain.init(weight), weight)
        >>> print(weight + updates)                 # 1 + 4, 1 − 0.5 without the bound
        [[2.  0.5]]

    Source: Srivastava et al., JMLR 15 (2014), section 5.1; Srebro and Shraibman 2005.
    """
    return MaxNorm(c)
