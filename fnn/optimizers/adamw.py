"""Adam with decoupled weight decay.

Legend: as in `fnn.optimizers.adam`; λ weight decay.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn.optimizers.adam import Adam, AdamState
from fnn.optimizers.base import Leaf, value_at_step
from fnn.pytree import leaf, pytree
from fnn.typing import Array, Int, Number, PyTree, Schedule

__all__ = ["AdamW", "adamw"]


@pytree
class AdamW(Adam):
    """The optimizer Adam with decoupled weight decay; built by `adamw`."""

    weight_decay: Schedule = leaf(default=1e-4)
    mask: Callable[[PyTree], PyTree] | None = None

    def update(
        self, grads: PyTree, state: AdamState, params: PyTree = None
    ) -> tuple[PyTree, AdamState]:
        if params is None:
            raise ValueError(
                "AdamW decays the parameters and needs to see them: expected "
                "update(grads, state, params), got no params"
            )
        if self.mask is not None:
            # A weight of 0 does not decay.
            decays = jax.tree.broadcast(self.mask(params), params)
            params = jax.tree.map(
                lambda p, decay: p if decay else jnp.zeros_like(p), params, decays
            )
        return super().update(grads, state, params)

    def step_scalars(self, count: Int[Array, ""]) -> tuple[Any, ...]:
        alpha = value_at_step(self.learning_rate, count)
        adam_scalars = super().step_scalars(count)
        return *adam_scalars, alpha * value_at_step(self.weight_decay, count)

    def update_leaf(
        self, scalars: tuple[Any, ...], param: Leaf, g: Leaf, m: Leaf, v: Leaf
    ) -> tuple[Leaf, Leaf, Leaf]:
        *adam_scalars, alpha_lambda = scalars
        update, m, v = super().update_leaf(tuple(adam_scalars), param, g, m, v)
        return update - alpha_lambda * param, m, v


@dataclasses.dataclass(frozen=True)
class _Mask:
    """A mask that can be hashed: a function that returns a tree of booleans."""

    leaves: tuple[bool, ...]
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
    """Build Adam with decoupled weight decay: the decay is not divided by √v̂.

        θ ← θ − α (m̂ / (√(v̂ + ε_root) + ε) + λθ);    m̂ and v̂ as in `adam`

    optax's form and defaults. The paper's λ is αλ here (with its schedule η = 1).

    Args:
        learning_rate: α ≥ 0, a number or a schedule.
        b1: β₁ in [0, 1).
        b2: β₂ in [0, 1).
        eps: ε ≥ 0, outside the root.
        eps_root: ε_root ≥ 0, inside it.
        mu_dtype: dtype of the stored m; by default that of v.
        weight_decay: λ ≥ 0, a number or a schedule.
        mask: which weights decay: a tree of bools like the parameters, or a prefix of
            it, or a function from parameters to such a tree; None: all decay.
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
