"""The diagonal of the Gauss-Newton matrix, from squared gradients of single examples.

With a root of the loss's Hessian, H_n = S_n S_nᵀ, and s_nr its columns,

    G = (1/N) Σ_n J_nᵀ H_n J_n = (1/N) Σ_n Σ_r (J_nᵀ s_nr)(J_nᵀ s_nr)ᵀ
    diag G = (1/N) Σ_r Σ_n (J_nᵀ s_nr)²

and J_nᵀ s_nr is what a walk back from δ = s_r gives example n. So it is the sum of
squares of `fnn.per_example`, over R walks: as many as outputs. With random signs ε of
the columns, E[(S ε)(S ε)ᵀ] = S Sᵀ: a few walks from δ = S ε give an estimate.

Legend: N examples, K outputs, R columns of a root.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from fnn.checks import positive_integer, require_key
from fnn.core import Layer, Variables, expect_layer
from fnn.losses import Loss, expect_loss
from fnn.passes.curvature.loss_hessians import hessian_root, unflattened
from fnn.passes.curvature.products import check_curvature_batch
from fnn.passes.observe import observe
from fnn.passes.records import sum_of_squares_in
from fnn.shapes import count_examples, example_shape
from fnn.typing import Array, Batch, KeyArray, PyTree

__all__ = ["columns_of_root", "ggn_diagonal", "sum_over_columns"]


def ggn_diagonal(
    net: Layer, loss: Loss, samples: int | None = None
) -> Callable[..., PyTree]:
    """Make a function that computes the diagonal of the Gauss-Newton matrix.

        diag G = (1/N) Σ_n Σ_r (J_nᵀ s_nr)²      S_n S_nᵀ = ∂²L/∂z_n²

    Args:
        net: the network.
        loss: the loss.
        samples: the number of random walks of an estimate without bias; None for all R
            columns, which is exact.

    Returns:
        `f(variables, (x, y), *, key=None, train=True)` -> a tree like the parameters.
        An estimate needs a key.

    Raises:
        ValueError: from f: a layer mixes examples, as BatchNorm in training, or a key
            is missing.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(1, bias=False)), fnn.losses.SquaredError()
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> batch = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.zeros(2)
        >>> f = jax.jit(fnn.curvature.ggn_diagonal(net, loss))
        >>> print(f(variables, batch)[0].weight.ravel())
        [0.5 2. ]

    Source: Dangel, Kunstner and Hennig, arXiv:1912.10985, section 2.3, eqs. 18 to 20.
    """
    expect_layer("net", net)
    expect_loss(loss)
    if samples is not None:
        samples = positive_integer("samples", samples)

    def f(
        variables: Variables,
        batch: Batch,
        *,
        key: Array | None = None,
        train: bool = True,
    ) -> PyTree:
        of, variables, (x, y), key = check_curvature_batch(loss, variables, batch, key)
        seen = observe(net, variables, x, key=key, train=train)
        columns = columns_of_root(net, of, seen.outputs, y, samples, key)
        total = sum_over_columns(
            lambda column: sum_of_squares_in(seen.records(column)), columns
        )
        n = count_examples(x)
        return jax.tree.map(lambda d, p: (d / n).astype(p.dtype), total, variables[0])

    return f


def columns_of_root(
    net: Layer,
    loss: Loss,
    z: PyTree,
    y: PyTree,
    samples: int | None,
    key: KeyArray | None,
) -> PyTree:
    """Return the columns s_r (R, N, ...) of the roots S_n, or random mixtures of them.

    The mixtures are S ε/√M, with M samples of signs ε, so that either way the sum of
    (s_nr)(s_nr)ᵀ over the columns is H_n, or has it as its expectation. Each column has
    z's shape, or is a tree like z.
    """
    loss.check(example_shape(z), y)
    root = hessian_root(loss, z, y)
    if samples is not None:
        # Another key than the network's: its draws stay what they are.
        draw = jax.random.fold_in(require_key(net, key), 0x67676E)
        shape = (*root.shape[::2], samples)
        signs = jax.random.rademacher(draw, shape, jnp.float32) / samples**0.5
        root = root @ signs.astype(root.dtype)
    columns = jnp.moveaxis(root, -1, 0)
    return jax.vmap(lambda column: unflattened(column, z))(columns)


def sum_over_columns(f: Callable[[PyTree], PyTree], columns: PyTree) -> PyTree:
    """Add up f(column) over the first axis, one after another: memory for one walk."""
    shapes = jax.eval_shape(f, jax.tree.map(lambda c: c[0], columns))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)

    def add(total: PyTree, column: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, f(column)), None

    return lax.scan(add, zeros, columns)[0]
