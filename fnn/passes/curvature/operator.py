"""A curvature matrix as a linear operator: it multiplies, and is never formed.

Legend: P parameters in all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fnn.core import Layer, Variables
from fnn.describe import shown
from fnn.losses import Loss
from fnn.passes.curvature.hutchinson import MATRICES
from fnn.typing import Array, Batch, Number, PyTree

__all__ = ["CurvatureOperator", "operator"]


@dataclass(frozen=True)
class CurvatureOperator:
    """A symmetric matrix (P, P) over the parameters: `operator @ v`.

    Args:
        product: the function v -> M v, of trees like the parameters.
        like: the parameters.
    """

    product: Callable[[PyTree], PyTree]
    like: PyTree

    @property
    def shape(self) -> tuple[int, int]:
        """Return (P, P)."""
        size = sum(a.size for a in jax.tree.leaves(self.like))
        return size, size

    def __matmul__(self, v: Any) -> Any:
        """Return M v, of a tree like the parameters, or of a vector (P,) or (P, B)."""
        if not hasattr(v, "ndim"):
            return self.product(v)
        flat, unravel = ravel_pytree(self.like)
        if v.shape[:1] != flat.shape or v.ndim > 2:
            raise ValueError(
                f"the operator has shape {self.shape} and multiplies trees like the "
                f"parameters, vectors ({flat.size},) or matrices ({flat.size}, B); got "
                f"shape {v.shape}"
            )

        def multiply(column: Array) -> Array:
            return ravel_pytree(self.product(unravel(column.astype(flat.dtype))))[0]

        v = jnp.asarray(v)
        return multiply(v) if v.ndim == 1 else jax.vmap(multiply, 1, 1)(v)

    def dense(self) -> Array:
        """Return the matrix itself, (P, P): for small networks."""
        flat, _ = ravel_pytree(self.like)
        return self @ jnp.eye(flat.size, dtype=flat.dtype)

    def as_scipy(self) -> Any:
        """Return a `scipy.sparse.linalg.LinearOperator`, for its eigensolvers."""
        from scipy.sparse import linalg

        scipy: Any = linalg  # which has no types
        multiply = jax.jit(lambda v: self @ v)
        dtype = ravel_pytree(self.like)[0].dtype
        return scipy.LinearOperator(
            self.shape,
            matvec=lambda v: np.asarray(multiply(jnp.asarray(v, dtype).ravel())),
            dtype=dtype,
        )


def operator(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: Batch,
    *,
    of: str = "ggn",
    damping: Number = 0.0,
    key: Array | None = None,
    train: bool = True,
) -> CurvatureOperator:
    """Make a curvature matrix of one batch a linear operator.

        M v = H v + λ v,    or G v + λ v

    Args:
        net: the network.
        loss: the loss.
        variables: its variables.
        batch: x (N, ...) and y (N, ...).
        of: "hessian" or "ggn".
        damping: λ.
        key: the key of the forward pass.
        train: whether the network is in training mode.

    Returns:
        A `CurvatureOperator`.

    Raises:
        ValueError: the matrix is unknown.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(1, bias=False)), fnn.losses.SquaredError()
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> batch = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.zeros(2)
        >>> matrix = fnn.curvature.operator(net, loss, variables, batch)
        >>> print(matrix.shape, matrix @ jnp.array([1.0, 1.0]))
        (2, 2) [0.5 2. ]
    """
    if of not in MATRICES:
        raise ValueError(
            f"of must be {' or '.join(map(repr, MATRICES))}, the matrix, "
            f"got {shown(of)}"
        )
    multiply = MATRICES[of](net, loss)

    def product(v: PyTree) -> PyTree:
        found = multiply(variables, batch, v, key=key, train=train)
        return jax.tree.map(
            lambda m, d: m + jnp.asarray(damping, m.dtype) * d, found, v
        )

    return CurvatureOperator(product, variables[0])
