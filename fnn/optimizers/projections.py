"""Projections: bounds that the parameters satisfy after every step of any optimizer.

A projection is a pure function of the parameters. It also exists as a link of an
`optax.chain`, which changes the update:

    updates′ = project(θ + updates) − θ

Legend: w_j incoming weights of unit j, c the bound.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fnn.optimizers.arithmetic import real_dtype, working_dtype
from fnn.optimizers.hyperparameters import as_hyperparameter
from fnn.optimizers.transformation import Transformation
from fnn.pytree import leaf, pytree
from fnn.typing import Array, Inexact, Number, PyTree

__all__ = ["MaxNorm", "max_norm", "projection_max_norm"]


def projection_max_norm(params: PyTree, c: Number) -> PyTree:
    """Shorten the incoming weights of every unit to at most c.

        w_j ← w_j min(1, c / ‖w_j‖₂),    so that    ‖w_j‖₂ ≤ c

    The result is the nearest point of the ball with radius c. The units are along the
    last axis: w_j is the column `weight[:, j]` of a dense layer, and `weight[..., j]`
    of a convolution, the weights of output channel j. Parameters with less than two
    axes (biases, scales) are returned as they are.

    In a `ConvTranspose` the last axis is that of the inputs, so the bound would apply
    to the outgoing weights of an input: leave this layer out with `optax.masked`.

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
    return jax.tree.map(lambda w: _shorten(w, c), params)


def _shorten(w: Any, c: Number) -> Inexact[Array, "..."]:
    """Shorten the columns of one leaf: w_j min(1, c / ‖w_j‖₂)."""
    w = jnp.asarray(w)
    if w.ndim < 2:
        return w
    wide = w.astype(working_dtype(w.dtype))
    norm = jnp.linalg.norm(wide.reshape(-1, w.shape[-1]), axis=0)
    c = jnp.asarray(c, real_dtype(wide.dtype))
    # The factor is exactly 1 where a norm is within the bound; no norm of 0 divides.
    factor = jnp.where(norm > c, c / jnp.maximum(norm, c), 1)
    return (wide * factor.astype(wide.dtype)).astype(w.dtype)


@pytree
class MaxNorm(Transformation):
    """The projection as the last link of a chain; built by `max_norm`."""

    c: Number = leaf()

    def __post_init__(self) -> None:
        object.__setattr__(self, "c", as_hyperparameter("MaxNorm.c", self.c))
        if isinstance(self.c, float) and not 0 < self.c < float("inf"):
            raise ValueError(
                f"MaxNorm.c must be a finite number > 0, got {self.c}: it bounds the "
                "norm of each unit's incoming weights (the paper has 2 to 4)"
            )

    def init(self, params: PyTree) -> tuple[()]:
        return ()

    def update(
        self, updates: PyTree, state: tuple[()], params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, tuple[()]]:
        if params is None:
            raise ValueError(
                "MaxNorm projects the parameters after the step: expected "
                "update(updates, state, params), got no params"
            )

        def project_update(update: Any, param: Any) -> Any:
            if update is None:
                return None
            projected = _shorten(param + update.astype(param.dtype), self.c)
            return (projected - param).astype(update.dtype)

        return jax.tree.map(
            project_update, updates, params, is_leaf=lambda update: update is None
        ), state


def max_norm(c: Number) -> MaxNorm:
    """Build max-norm regularization: after every step, ‖w_j‖₂ ≤ c for every unit.

        θ ← θ + updates,    w_j ← w_j min(1, c / ‖w_j‖₂)

    It is the last link of a chain, after the optimizer, and has no state. As in the
    paper, the optimizer's own state (a velocity, moments) is not projected.
    θ + updates is rounded, so the bound holds up to the last digits of θ.

    Nesterov's look-ahead stores θ̂ = θ + βv: bounding θ̂ does not bound θ, and θ̂ − βv
    would no longer be θ. `eval_params`, and with it `fnn.fit`, therefore raises for
    such a chain; use `sgd(..., nesterov=True)`.

    Args:
        c: the bound, > 0. A leaf.

    Returns:
        A `MaxNorm` with optax's `init` and `update`.

    Raises:
        TypeError: an argument has another type.
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
