"""Forward gradients: a gradient without a backward.

Along a random direction v, forward-mode differentiation gives the slope ⟨∇J, v⟩ in one
forward. Then

    g = ⟨∇J, v⟩ v,    v ~ N(0, I),    E[g] = ∇J

because E[v vᵀ] = I. The price is variance: of P parameters, E‖g − ∇J‖² = (P + 1) ‖∇J‖².
"""

from typing import Any

import jax
import jax.numpy as jnp

from fnn.checks import require_key
from fnn.core import Layer, Variables
from fnn.gradients.engines import Gradients
from fnn.gradients.penalty import has_penalty, penalty
from fnn.losses import Loss
from fnn.passes.rules.keys import for_rule
from fnn.typing import Array, Batch, KeyArray, Number, PyTree

__all__ = ["forward_gradient"]


def forward_gradient(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: Batch,
    *,
    key: KeyArray | None,
    train: bool,
    l2: Number,
    n: int | Array,
) -> Gradients:
    """Estimate the gradient by one forward, along a random direction: an engine.

    The equation is that of the module `fnn.passes.rules.forward_gradient`. It works for
    every layer, since it uses no backward; a step needs a key.

    Args:
        net: the network.
        loss: the loss.
        variables: its variables.
        batch: x and y.
        key: the key of the step, from which v is drawn as well.
        train: whether the network is in training mode.
        l2: λ of the penalty.
        n: n of the penalty.

    Returns:
        `Gradients`, as every engine.

    Raises:
        ValueError: there is no key.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(3)), fnn.losses.SquaredError()
        >>> variables = net.init(jax.random.key(0), (4,))
        >>> grad = fnn.value_and_grad(net, loss, engine=fnn.rules.forward_gradient)
        >>> grad = jax.jit(grad)
        >>> batch = jnp.ones((5, 4)), jnp.zeros((5, 3))
        >>> grad(variables, batch, key=jax.random.key(1)).grads[0].weight.shape
        (4, 3)

    Source: Baydin et al., "Gradients without backpropagation", arXiv:2202.08587, eq. 2.
    """
    x, y = batch
    params, state = variables
    draw_key = for_rule(require_key(net, key))

    def cost(params: PyTree) -> tuple[Array, tuple[Array, PyTree]]:
        out = net.forward(params, state, x, key=key, train=train)
        value = loss.value(out.y, y)
        if has_penalty(l2):
            value = value + penalty(net, params, l2, n)
        return value, (out.y, out.state)

    v = _normal_like(params, draw_key)
    value, slope, (outputs, new_state) = jax.jvp(cost, (params,), (v,), has_aux=True)
    grads = jax.tree.map(lambda part: slope.astype(part.dtype) * part, v)
    return Gradients(value, outputs, new_state, grads)


def _normal_like(params: PyTree, key: KeyArray) -> PyTree:
    """Draw v ~ N(0, I), a tree like the parameters; in float32 whatever their dtype."""
    leaves, tree = jax.tree.flatten(params)
    drawn: list[Any] = [
        jax.random.normal(jax.random.fold_in(key, i), a.shape, jnp.float32)
        for i, a in enumerate(leaves)
    ]
    pairs = zip(drawn, leaves, strict=True)
    return jax.tree.unflatten(tree, [v.astype(a.dtype) for v, a in pairs])
