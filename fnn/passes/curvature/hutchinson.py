"""Trace and diagonal of a curvature matrix, from products with random signs.

For v with independent entries ±1, E[v vᵀ] = I, and so of any matrix M

    tr M = E[vᵀ M v],    diag M = E[v ∘ M v]

Source: Hutchinson, Communications in Statistics 18 (1989); the diagonal: Bekas,
Kokiopoulou and Saad, Applied Numerical Mathematics 57 (2007).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.checks import positive_integer, require_key
from fnn.core import Layer, Variables
from fnn.describe import shown
from fnn.dtypes import widen
from fnn.losses import Loss
from fnn.passes.curvature.products import ggn_vp, hvp
from fnn.typing import Array, Batch, KeyArray, PyTree, Scalar

__all__ = ["MATRICES", "diagonal", "trace"]

#: The matrices, by name: functions that make their products.
MATRICES: dict[str, Callable[[Layer, Loss], Callable[..., PyTree]]] = {
    "hessian": hvp,
    "ggn": ggn_vp,
}


def trace(
    net: Layer, loss: Loss, *, of: str = "hessian", samples: int = 16
) -> Callable[..., Scalar]:
    """Make a function that estimates the trace of the Hessian, or of Gauss-Newton's.

        tr M ≈ (1/S) Σ_s v_sᵀ M v_s      v_s random signs

    Args:
        net: the network.
        loss: the loss.
        of: "hessian" or "ggn".
        samples: S, the number of products.

    Returns:
        `f(variables, (x, y), *, key, train=True)` -> a scalar. It has no bias; its
        variance is 2 Σ of the squared entries off the diagonal, divided by S.

    Raises:
        ValueError: the matrix is unknown; or, from f, there is no key.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(1, bias=False)), fnn.losses.SquaredError()
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> batch = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.zeros(2)
        >>> f = jax.jit(fnn.curvature.trace(net, loss))
        >>> print(f(variables, batch, key=jax.random.key(1)))  # diag(0.5, 2)
        2.5
    """
    products = _products(net, loss, of, samples)

    def f(
        variables: Variables,
        batch: Batch,
        *,
        key: Array | None = None,
        train: bool = True,
    ) -> Scalar:
        def one(v: PyTree, product: PyTree) -> Array:
            pairs = zip(jax.tree.leaves(v), jax.tree.leaves(product), strict=True)
            return jnp.stack([(widen(a) * widen(b)).sum() for a, b in pairs]).sum()

        return products(one, variables, batch, key, train)

    return f


def diagonal(
    net: Layer, loss: Loss, *, of: str = "hessian", samples: int = 16
) -> Callable[..., PyTree]:
    """Make a function that estimates the diagonal of the Hessian, or of Gauss-Newton's.

        diag M ≈ (1/S) Σ_s v_s ∘ M v_s      v_s random signs

    `ggn_diagonal` computes that of Gauss-Newton's exactly.

    Args:
        net: the network.
        loss: the loss.
        of: "hessian" or "ggn".
        samples: S, the number of products.

    Returns:
        `f(variables, (x, y), *, key, train=True)` -> a tree like the parameters.

    Raises:
        ValueError: the matrix is unknown; or, from f, there is no key.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(1, bias=False)), fnn.losses.SquaredError()
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> batch = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.zeros(2)
        >>> f = jax.jit(fnn.curvature.diagonal(net, loss))
        >>> print(f(variables, batch, key=jax.random.key(1))[0].weight.ravel())
        [0.5 2. ]
    """
    products = _products(net, loss, of, samples)

    def f(
        variables: Variables,
        batch: Batch,
        *,
        key: Array | None = None,
        train: bool = True,
    ) -> PyTree:
        def one(v: PyTree, product: PyTree) -> PyTree:
            return jax.tree.map(jnp.multiply, v, product)

        return products(one, variables, batch, key, train)

    return f


def _products(net: Layer, loss: Loss, of: str, samples: int) -> Callable[..., Any]:
    """Return a function that averages `one(v, M v)` over samples of v."""
    if of not in MATRICES:
        raise ValueError(
            f"of must be {' or '.join(map(repr, MATRICES))}, the matrix, "
            f"got {shown(of)}"
        )
    samples = positive_integer("samples", samples)
    product = MATRICES[of](net, loss)

    def average(
        one: Callable[[PyTree, PyTree], PyTree], variables: Variables, batch: Batch,
        key: Array | None, train: bool,
    ) -> PyTree:  # fmt: skip
        # Another key than the network's: its draws stay what they are.
        draw = jax.random.fold_in(require_key(net, key), 0x687574)

        def sample(i: Array) -> PyTree:
            v = _signs_like(variables[0], jax.random.fold_in(draw, i))
            return one(v, product(variables, batch, v, key=key, train=train))

        every = lax.map(sample, jnp.arange(samples))
        return jax.tree.map(lambda a: a.mean(0), every)

    return average


def _signs_like(params: PyTree, key: KeyArray) -> PyTree:
    leaves, tree = jax.tree.flatten(params)
    signs = [
        jax.random.rademacher(jax.random.fold_in(key, i), a.shape, a.dtype)
        for i, a in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, signs)
