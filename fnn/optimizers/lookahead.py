"""Nesterov's look-ahead: the stored parameters are θ̂ = θ + βv, where g is wanted.

    v ← βv − α g(θ̂),    θ ← θ + v,    so that    θ̂ ← θ̂ − α g(θ̂) + βv.

The last form is `nesterov=True`, the same path told without θ. The look-ahead form
remembers β in its state (`state.lookahead`), and gives θ = θ̂ − βv back.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from fnn.typing import PyTree

__all__ = ["Nesterov", "beta_if_lookahead", "check_nesterov", "eval_params"]


#: False: the heavy ball. True: Nesterov's, in optax's form. "lookahead": the same
#: path, and `eval_params` gives θ back.
Nesterov = bool | Literal["lookahead"]


def eval_params(state: Any, params: PyTree) -> PyTree:
    """The parameters to validate and to keep, for any optimizer, optax's included.

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
    found = [s for s in jax.tree.leaves(state, is_leaf=_looks_ahead) if _looks_ahead(s)]
    if not found:
        return params
    last = state
    while type(last) is tuple and last:  # the state of an optax.chain
        last = last[-1]
    if len(found) > 1 or last is not found[0]:
        raise ValueError(
            "Nesterov's look-ahead must be the last of a chain, and not wrapped: what "
            "comes after it (a decay, a projection) moves θ̂ = θ + βv, and θ is lost. "
            "Put it last, or use nesterov=True, which has no θ to give; got "
            f"{len(found)} {type(found[0]).__name__} inside a {type(state).__name__}"
        )

    def back(p: Array, v: Array) -> Array:
        return (p.astype(v.dtype) - jnp.asarray(last.lookahead, v.dtype) * v).astype(
            p.dtype
        )

    return jax.tree.map(back, params, last.velocity)


def _looks_ahead(state: Any) -> bool:
    return getattr(state, "lookahead", None) is not None


def beta_if_lookahead(optimizer: Any) -> Array | None:
    """What the state remembers of β, so that it can give θ = θ̂ − βv back."""
    looks_ahead = optimizer.nesterov == "lookahead"
    return jnp.asarray(optimizer.momentum, float) if looks_ahead else None


def check_nesterov(optimizer: Any) -> None:
    """Refuse an unknown form of Nesterov's momentum."""
    form, name = optimizer.nesterov, type(optimizer).__name__
    if form not in (False, True, "lookahead"):
        raise ValueError(
            f'{name}.nesterov must be False, True or "lookahead", got {form!r}'
        )
