"""Adam with decoupled weight decay.

Legend: as in `fnn.optimizers.adam`; λ weight decay.
"""

from typing import Any

from fnn.optimizers.adam import Adam
from fnn.optimizers.arithmetic import Leaf
from fnn.optimizers.hyperparameters import value_at_step
from fnn.optimizers.state import OptimizerState
from fnn.optimizers.weight_decay import Mask, as_mask, decaying_params
from fnn.pytree import leaf, pytree
from fnn.typing import Array, Int, Number, PyTree, Schedule

__all__ = ["AdamW", "adamw", "nadamw"]


@pytree
class AdamW(Adam):
    """The optimizer Adam with decoupled weight decay; built by `adamw`."""

    weight_decay: Schedule = leaf(default=1e-4)
    mask: Mask = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "mask", as_mask("AdamW.mask", self.mask))

    def update(
        self, grads: PyTree, state: OptimizerState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, OptimizerState]:
        params = decaying_params("AdamW", params, self.mask)
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
        An `AdamW`, whose state holds an `AdamState` (count, mu, nu). Its `update`
        needs the parameters.

    Raises:
        TypeError: an argument has another type.
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


def nadamw(
    learning_rate: Schedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: Any = None,
    weight_decay: Schedule = 1e-4,
    mask: PyTree = None,
) -> AdamW:
    """Build NAdam with decoupled weight decay: `adamw` with Nesterov's momentum.

        θ ← θ − α (m̂ / (√(v̂ + ε_root) + ε) + λθ);    m̂ as in `nadam`, v̂ as in `adam`

    Args:
        learning_rate: α ≥ 0, a number or a schedule.
        b1: β₁ in [0, 1).
        b2: β₂ in [0, 1).
        eps: ε ≥ 0, outside the root.
        eps_root: ε_root ≥ 0, inside it.
        mu_dtype: dtype of the stored m; by default that of v.
        weight_decay: λ ≥ 0, a number or a schedule.
        mask: which weights decay, see `adamw`.

    Returns:
        An `AdamW` with nesterov=True, whose state holds an `AdamState`.

    Raises:
        TypeError: an argument has another type.
        ValueError: a number is out of range, or `update` got no parameters.

    Example:
        >>> from fnn import optimizers
        >>> optimizers.nadamw(1e-3)
        AdamW(learning_rate=0.001, nesterov=True)

    Source:
        Dozat 2016, "Incorporating Nesterov Momentum into Adam"; Loshchilov and Hutter
        2019, "Decoupled Weight Decay Regularization".
    """
    return adamw(
        *(learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask),
        nesterov=True,
    )
