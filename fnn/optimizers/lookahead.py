"""Nesterov's look-ahead: training stores θ̂ = θ + βv, where the gradient is needed.

    v ← βv − α g(θ̂),    θ ← θ + v,    so that    θ̂ ← θ̂ − α g(θ̂) + βv.

`nesterov=True` is the last form, without θ. `nesterov="lookahead"` makes the same
updates, keeps β in its state (`state.lookahead`), and can return θ = θ̂ − βv.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from fnn.typing import Array, Float, PyTree, Scalar

__all__ = ["NesterovForm", "beta_if_lookahead", "check_nesterov", "eval_params"]


#: False: the heavy ball. True: Nesterov's, in optax's form. "lookahead": the same
#: updates, and `eval_params` returns θ.
NesterovForm = bool | Literal["lookahead"]


def eval_params(state: Any, params: PyTree) -> PyTree:
    """Return the parameters to validate and to keep, for any optimizer, also optax's.

        θ = θ̂ − βv     for Nesterov's look-ahead, which stores θ̂ (nesterov="lookahead")
        θ = params     for all others

    Args:
        state: the state of an optimizer, or of an `optax.chain` that ends with one.
        params: the parameters that training stores.

    Returns:
        A tree like `params`, with the same shapes and dtypes.

    Raises:
        ValueError: a look-ahead optimizer is not the last of its chain. Then θ̂ − βv is
            not θ: a decay or a projection may have moved θ̂ after it.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import optimizers
        >>> opt = optimizers.nesterov(0.25, momentum=0.5)
        >>> theta_hat = jnp.ones(2)
        >>> updates, state = opt.update(jnp.ones(2), opt.init(theta_hat))
        >>> theta_hat + updates                     # θ + βv, where v = −0.25
        Array([0.625, 0.625], dtype=float32)
        >>> optimizers.eval_params(state, theta_hat + updates)
        Array([0.75, 0.75], dtype=float32)

    Source:
        Lecture 5.5; Sutskever et al. 2013, eq. (3)-(4), in the variable θ̂ = θ + βv.
    """
    parts = jax.tree.leaves(state, is_leaf=_looks_ahead)
    found = [part for part in parts if _looks_ahead(part)]
    if not found:
        return params
    last = state
    while type(last) is tuple and last:  # the state of an optax.chain
        last = last[-1]
    if len(found) > 1 or last is not found[0]:
        raise ValueError(
            "Nesterov's look-ahead must be the last of a chain, and not wrapped: what "
            "comes after it (a decay, a projection) moves θ̂ = θ + βv, and θ is lost. "
            "Put it last, or use nesterov=True, which needs no θ; got "
            f"{len(found)} {type(found[0]).__name__} inside a {type(state).__name__}"
        )

    def undo_lookahead(
        theta_hat: Float[Array, "*leaf"], v: Float[Array, "*leaf"]
    ) -> Float[Array, "*leaf"]:
        beta = jnp.asarray(last.lookahead, v.dtype)
        return (theta_hat.astype(v.dtype) - beta * v).astype(theta_hat.dtype)

    return jax.tree.map(undo_lookahead, params, last.velocity)


def _looks_ahead(state: Any) -> bool:
    return getattr(state, "lookahead", None) is not None


def beta_if_lookahead(optimizer: Any) -> Scalar | None:
    """Return β where the optimizer looks ahead: its state keeps it for θ = θ̂ − βv."""
    looks_ahead = optimizer.nesterov == "lookahead"
    return jnp.asarray(optimizer.momentum, float) if looks_ahead else None


def check_nesterov(optimizer: Any) -> None:
    """Raise where the form of Nesterov's momentum is unknown."""
    form, name = optimizer.nesterov, type(optimizer).__name__
    if form not in (False, True, "lookahead"):
        raise ValueError(
            f'{name}.nesterov must be False, True or "lookahead", got {form!r}'
        )
