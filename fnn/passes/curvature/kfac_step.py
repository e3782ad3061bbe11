"""A step by KFAC: the gradient divided by the curvature that its factors stand for.

With G ≈ A ⊗ B for one layer, and its gradient as a matrix (I, O), whose rows are those
of the weight and then the bias,

    (A ⊗ B)⁻¹ vec(dW) = vec(A⁻¹ dW B⁻¹)

Damping by λ adds a part of it to either factor (Martens and Grosse, section 6.3):

    (A + π √λ 1)⁻¹ dW (B + √λ/π 1)⁻¹      π² = (tr A / dim A) / (tr B / dim B)

Parameters without factors, such as scales of normalisations, keep their gradient.

Legend: G groups, I inputs and O outputs of a group.
"""

import math
from typing import Any

import jax.numpy as jnp
import optax

from fnn.core import Layer, Variables
from fnn.losses import Loss
from fnn.network import map_params, named_params
from fnn.passes.curvature.kfac import KroneckerFactors, kfac_factors
from fnn.planning.planned import plain
from fnn.typing import Array, Batch, Number, PyTree

__all__ = ["kfac", "precondition"]


def precondition(
    net: Layer, grads: PyTree, factors: dict[str, KroneckerFactors], damping: Number
) -> PyTree:
    """Divide gradients by the curvature of KFAC's factors: the module's equation.

    Args:
        net: the network.
        grads: gradients, a tree like the parameters.
        factors: what `kfac_factors` returned.
        damping: λ > 0, a number or a traced scalar.

    Returns:
        A tree like the parameters.

    Example: see `kfac`.

    Source: Martens and Grosse, arXiv:1503.05671, sections 4.2 and 6.3.
    """
    net = plain(net)
    named = named_params(net, grads)
    changed: dict[str, Array] = {}
    for path, pair in factors.items():
        names = [f"{path}.{name}" for name in ("weight", "bias")]
        kept = [name for name in names if name in named]
        divided = _divided([named[name] for name in kept], pair, damping)
        changed |= dict(zip(kept, divided, strict=True))
    return map_params(lambda path, layer, g: changed.get(path, g), net, grads)


def _divided(
    grads: list[Array], factors: KroneckerFactors, damping: Number
) -> list[Array]:
    """Divide the gradients of a weight, and of the bias where there is one."""
    weight, *bias = grads
    a, b = (m if m.ndim == 3 else m[None] for m in factors)
    groups, outputs = b.shape[:2]
    rows = weight.reshape(math.prod(weight.shape[:-1]), groups, outputs)
    rows = jnp.concatenate([rows, *(part.reshape(1, groups, outputs) for part in bias)])
    rows = rows.transpose(1, 0, 2).astype(a.dtype)  # (G, I, O)
    root = jnp.sqrt(jnp.asarray(damping, a.dtype))
    traces = (jnp.trace(m, axis1=1, axis2=2) / m.shape[1] for m in (a, b))
    pi = jnp.sqrt(jnp.divide(*traces))[:, None, None]
    a, b = a + pi * root * jnp.eye(a.shape[1]), b + root / pi * jnp.eye(b.shape[1])
    divided = jnp.linalg.solve(a, rows)
    divided = jnp.linalg.solve(b, divided.swapaxes(1, 2)).swapaxes(1, 2)
    divided = divided.transpose(1, 0, 2)
    inputs = math.prod(weight.shape[:-1])
    found = [divided[:inputs].reshape(weight.shape)]
    found += [divided[inputs:].reshape(part.shape) for part in bias]
    return [f.astype(g.dtype) for f, g in zip(found, grads, strict=True)]


def kfac(
    net: Layer,
    loss: Loss,
    damping: Number = 1e-3,
    *,
    kind: str = "expand",
    samples: int | None = 1,
) -> optax.GradientTransformationExtraArgs:
    """Make KFAC's preconditioning a transformation in optax's form.

    Its update needs what optax does not pass: the variables, the batch, and the key of
    the step. The factors are those of this batch alone.

    Args:
        net: the network.
        loss: the loss.
        damping: λ.
        kind: "expand" or "reduce", as in `kfac_factors`.
        samples: the walks that estimate B; None for an exact B.

    Returns:
        A transformation whose `update(grads, state, params, *, variables, batch,
        key=None)` returns the divided gradients. Chain a learning rate after it.

    Raises:
        ValueError: from the update: a layer mixes examples, or samples are drawn
            without a key.

    Example:
        >>> import jax, jax.numpy as jnp, fnn, optax
        >>> net, loss = fnn.serial(fnn.Dense(1)), fnn.losses.SquaredError()
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> x = jax.random.normal(jax.random.key(1), (50, 2))
        >>> batch = x, 3 * x[:, :1] - x[:, 1:] + 5  # a linear function
        >>> optimizer = optax.chain(
        ...     fnn.curvature.kfac(net, loss, 1e-8, samples=None), optax.scale(-1.0)
        ... )
        >>> @jax.jit
        ... def step(variables, state):
        ...     grads = fnn.value_and_grad(net, loss)(variables, batch).grads
        ...     updates, state = optimizer.update(
        ...         grads, state, variables.params, variables=variables, batch=batch
        ...     )
        ...     return optax.apply_updates(variables.params, updates)
        >>> state = optimizer.init(variables.params)
        >>> print(f"{step(variables, state)[0].bias[0]:.2f}")  # one step of Newton's
        5.00

    Source: Martens and Grosse, arXiv:1503.05671.
    """
    factors_of = kfac_factors(net, loss, kind, samples)

    def init(params: PyTree) -> optax.EmptyState:
        return optax.EmptyState()

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        variables: Variables | None = None,
        batch: Batch | None = None,
        key: Array | None = None,
        **extra: Any,
    ) -> tuple[PyTree, Any]:
        del params, extra
        if variables is None or batch is None:
            raise ValueError(
                "kfac needs the variables and the batch of the step: update(grads, "
                "state, params, variables=variables, batch=(x, y), key=key)"
            )
        factors = factors_of(variables, batch, key=key)
        return precondition(net, updates, factors, damping), state

    return optax.GradientTransformationExtraArgs(init, update)
