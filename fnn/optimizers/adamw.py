"""Adam with decoupled weight decay.

Legend: as in `adam`; λ weight decay.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from fnn.optimizers.adam import Adam, AdamState
from fnn.optimizers.base import Optimizer, at
from fnn.pytree import leaf, pytree
from fnn.typing import Number, PyTree, Schedule

__all__ = ["AdamW", "adamw"]


@pytree
class AdamW(Adam):
    """Adam with decoupled weight decay; built by `adamw`."""

    weight_decay: Schedule = leaf(default=1e-4)
    mask: Callable[[PyTree], PyTree] | None = None

    __post_init__ = Optimizer.check_numbers

    def update(
        self, grads: PyTree, state: AdamState, params: PyTree = None
    ) -> tuple[PyTree, AdamState]:
        if params is None:
            raise ValueError(
                "AdamW decays the parameters and needs to see them: expected "
                "update(grads, state, params), got no params"
            )
        if self.mask is not None:
            # A weight that is not to decay decays as if it were 0.
            decays = jax.tree.broadcast(self.mask(params), params)
            params = jax.tree.map(
                lambda p, decay: p if decay else jnp.zeros_like(p), params, decays
            )
        return super().update(grads, state, params)

    def scalars(self, count: Array) -> tuple:
        alpha = at(self.learning_rate, count)
        return *super().scalars(count), alpha * at(self.weight_decay, count)

    def rule(self, scalars: tuple, param: Any, g: Array, m: Array, v: Array) -> tuple:
        *of_adam, alpha_decay = scalars
        update, m, v = super().rule(tuple(of_adam), param, g, m, v)
        return update - alpha_decay * param, m, v


@dataclasses.dataclass(frozen=True)
class _Mask:
    """A tree of booleans that hashes: what the optimizer keeps of a mask."""

    leaves: tuple
    treedef: Any

    def __call__(self, params: PyTree) -> PyTree:
        return jax.tree.unflatten(self.treedef, self.leaves)


def adamw(
    learning_rate: Schedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: Any = None,
    weight_decay: Schedule = 1e-4,
    mask: PyTree = None,
    *,
    nesterov: bool = False,
) -> AdamW:
    """Adam with decoupled weight decay: the decay does not pass through v̂.

        θ ← θ − α (m̂ / (√(v̂ + ε_root) + ε) + λθ);    m̂ and v̂ as in `adam`

    optax's form and defaults. The paper's λ is αλ here (with its schedule η = 1).

    Args:
        learning_rate: α ≥ 0, a number or a schedule.
        b1: β₁ in [0, 1).
        b2: β₂ in [0, 1).
        eps: ε ≥ 0, outside the root.
        eps_root: ε_root ≥ 0, inside it.
        mu_dtype: dtype in which m is kept; by default as v.
        weight_decay: λ ≥ 0, a number or a schedule.
        mask: which weights decay: a tree of bools like the parameters, or a prefix of
            it, or a function from parameters to such a tree; None is all.
        nesterov: NAdamW, see `nadam`.

    Returns:
        An `AdamW`, whose state is an `AdamState` (count, mu, nu). Its `update` needs
        the parameters.

    Raises:
        ValueError: a number is out of range, or `update` got no parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import optimizers
        >>> opt = optimizers.adamw(0.5, weight_decay=0.1, mask={"w": True, "b": False})
        >>> params = {"w": jnp.ones(1), "b": jnp.ones(1)}
        >>> grads = {"w": jnp.zeros(1), "b": jnp.zeros(1)}
        >>> updates, state = opt.update(grads, opt.init(params), params)
        >>> updates["w"], updates["b"]
        (Array([-0.05], dtype=float32), Array([-0.], dtype=float32))

    Source:
        Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization",
        Algorithm 2.
    """
    if mask is not None and not callable(mask):
        leaves, treedef = jax.tree.flatten(mask)
        mask = _Mask(tuple(bool(decays) for decays in leaves), treedef)
    return AdamW(
        learning_rate,
        b1,
        b2,
        eps,
        eps_root,
        mu_dtype,
        nesterov,
        weight_decay=weight_decay,
        mask=mask,
    )
