"""Nesterov's look-ahead: training stores θ̂ = θ + βv, where the gradient is needed.

    v ← βv − α g(θ̂),    θ ← θ + v,    so that    θ̂ ← θ̂ − α g(θ̂) + βv.

`nesterov=True` is the last form, without θ. `nesterov="lookahead"` makes the same
updates, keeps β in its state (`state.lookahead`), and can return θ = θ̂ − βv.
"""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from fnn.describe import shown
from fnn.typing import Array, Inexact, Scalar

__all__ = [
    "NesterovForm",
    "beta_if_lookahead",
    "check_nesterov",
    "looks_ahead",
    "undo_lookahead",
]


#: False: the heavy ball. True: Nesterov's, in optax's form. "lookahead": the same
#: updates, and `eval_params` returns θ.
NesterovForm = bool | Literal["lookahead"]


def looks_ahead(state: Any) -> bool:
    """Return whether these are the statistics of an optimizer that looks ahead."""
    named = "lookahead" in getattr(state, "_fields", ())
    return named and state.lookahead is not None


def undo_lookahead(
    theta_hat: Inexact[Array, "*leaf"], v: Inexact[Array, "*leaf"], beta: Scalar
) -> Inexact[Array, "*leaf"]:
    """Return θ = θ̂ − βv."""
    beta = jnp.asarray(beta, v.dtype)
    return (theta_hat.astype(v.dtype) - beta * v).astype(theta_hat.dtype)


def beta_if_lookahead(optimizer: Any) -> Scalar | None:
    """Return β where the optimizer looks ahead: its state keeps it for θ = θ̂ − βv."""
    looks_ahead = optimizer.nesterov == "lookahead"
    return jnp.asarray(optimizer.momentum, float) if looks_ahead else None


def check_nesterov(name: str, form: Any) -> None:
    """Raise where the form of Nesterov's momentum is unknown."""
    known = isinstance(form, bool | np.bool_) or (
        isinstance(form, str) and form == "lookahead"
    )
    if not known:
        raise ValueError(
            f'{name} must be False, True or "lookahead", got {shown(form)}'
        )
