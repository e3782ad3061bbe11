"""Products of curvature matrices with a direction: Hessian and Gauss-Newton.

With J = (1/N) Σ_n L(z_n, y_n), the loss of the batch, and z_n the network's outputs,

    Hessian         H v = ∂²J/∂Θ² v = d/dε ∇J(Θ + ε v)
    Gauss-Newton    G v = (1/N) Σ_n J_nᵀ H_n J_n v      J_n = ∂z_n/∂Θ, H_n = ∂²L/∂z_n²

The first is the derivative of the handwritten gradient along v: forward-mode through
forward and backward. The second is one forward along v, the Hessian of the loss (by
hand), and one walk back. G drops the curvature of the network itself; it has no
negative eigenvalues, and for the cross-entropies it is the Fisher matrix.
"""

from collections.abc import Callable
from typing import Any

import jax

from fnn.checks import check_key
from fnn.core import Layer, Variables, as_variables, expect_layer
from fnn.describe import describe
from fnn.gradients.engines import manual
from fnn.losses import Loss, expect_loss
from fnn.passes.curvature.loss_hessians import hessian_product
from fnn.passes.observe import as_batch
from fnn.planning.planned import plain
from fnn.shapes import count_examples, example_shape
from fnn.typing import Array, Batch, KeyArray, PyTree

__all__ = ["check_curvature_batch", "ggn_vp", "hvp"]


def hvp(net: Layer, loss: Loss) -> Callable[..., PyTree]:
    """Make a function that computes Hessian-vector products.

        H v = ∂²J/∂Θ² v,    J the mean loss of the batch, without a penalty

    Args:
        net: the network.
        loss: the loss.

    Returns:
        `f(variables, (x, y), direction, *, key=None, train=True)` -> a tree like the
        parameters; `direction` is v, likewise. A pure function.

    Raises:
        ValueError: from f: the direction is no tree like the parameters.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(1, bias=False)), fnn.losses.SquaredError()
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> batch = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.zeros(2)
        >>> ones = jax.tree.map(jnp.ones_like, variables.params)
        >>> f = jax.jit(fnn.curvature.hvp(net, loss))
        >>> print(f(variables, batch, ones)[0].weight.ravel())  # xᵀ x / N times 1
        [0.5 2. ]

    Source: Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation
    6 (1994), section 2.
    """
    expect_layer("net", net)
    expect_loss(loss)
    net = plain(net)

    def f(
        variables: Variables,
        batch: Batch,
        direction: PyTree,
        *,
        key: Array | None = None,
        train: bool = True,
    ) -> PyTree:
        of, variables, batch, key = check_curvature_batch(loss, variables, batch, key)
        params, direction = _along(variables.params, direction)
        options = dict(key=key, train=train, l2=0.0, n=1)

        def gradient(params: PyTree) -> PyTree:
            at = variables._replace(params=params)
            out = manual(net, of, at, batch, **options)
            of.check(example_shape(out.outputs), batch[1])
            return out.grads

        return jax.jvp(gradient, (params,), (direction,))[1]

    return f


def ggn_vp(net: Layer, loss: Loss) -> Callable[..., PyTree]:
    """Make a function that computes products with the generalised Gauss-Newton matrix.

        G v = (1/N) Σ_n J_nᵀ H_n J_n v

    Args:
        net: the network.
        loss: the loss.

    Returns:
        `f(variables, (x, y), direction, *, key=None, train=True)` -> a tree like the
        parameters; `direction` is v, likewise. A pure function.

    Raises:
        ValueError: from f: the direction is no tree like the parameters.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(1, bias=False)), fnn.losses.SquaredError()
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> batch = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.zeros(2)
        >>> ones = jax.tree.map(jnp.ones_like, variables.params)
        >>> f = jax.jit(fnn.curvature.ggn_vp(net, loss))
        >>> print(f(variables, batch, ones)[0].weight.ravel())
        [0.5 2. ]

    Source: Schraudolph, "Fast curvature matrix-vector products", Neural Computation 14
    (2002), section 3; Martens, arXiv:1412.1193, section 8.
    """
    expect_layer("net", net)
    expect_loss(loss)
    net = plain(net)

    def f(
        variables: Variables,
        batch: Batch,
        direction: PyTree,
        *,
        key: Array | None = None,
        train: bool = True,
    ) -> PyTree:
        of, variables, (x, y), key = check_curvature_batch(loss, variables, batch, key)
        params, direction = _along(variables.params, direction)

        def forward(params: PyTree) -> tuple[PyTree, PyTree]:
            out = net.forward(params, variables.state, x, key=key, train=train)
            return out.y, out.saved

        z, dz, saved = jax.jvp(forward, (params,), (direction,), has_aux=True)
        of.check(example_shape(z), y)
        n = count_examples(x)
        dy = jax.tree.map(lambda h: h / n, hessian_product(of, z, y, dz))
        grads = net.backward(params, saved, dy).dparams
        return jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)

    return f


def check_curvature_batch(
    loss: Loss, variables: Any, batch: Any, key: Any
) -> tuple[Loss, Variables, Batch, KeyArray | None]:
    """Return loss, variables, batch and key as the network takes them.

    The batch is (x, y), or (x, y, w) with the weights of the examples.
    """
    loss, batch = as_batch(loss, batch)
    key = None if key is None else check_key(key)
    return loss, as_variables(variables), batch, key


def _along(params: PyTree, direction: PyTree) -> tuple[PyTree, PyTree]:
    """Return parameters and direction; raise unless their trees and shapes agree."""
    same = jax.tree.structure(params) == jax.tree.structure(direction)
    if not same or any(
        p.shape != d.shape
        for p, d in zip(
            jax.tree.leaves(params), jax.tree.leaves(direction), strict=True
        )
    ):
        raise ValueError(
            "the direction must be a tree like the parameters, "
            f"{describe(params)}, got {describe(direction)}"
        )
    return params, jax.tree.map(lambda p, d: d.astype(p.dtype), params, direction)
