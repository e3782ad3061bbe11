"""Inner products of the gradients of single examples, and the tangent kernel.

Legend: N and M examples, K outputs of the network, P parameters.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fnn.core import Layer, Variables, expect_layer
from fnn.losses import Loss, expect_loss
from fnn.passes.factors import inner_products, is_factor
from fnn.passes.observe import ExampleRecords, observe, observe_losses
from fnn.passes.records import factors_in, squares_in, total_of
from fnn.shapes import count_examples
from fnn.typing import Array, Batch, Float, PyTree

__all__ = ["gram", "ntk"]


def gram(
    net: Layer, loss: Loss, *, cosine: bool = False, precision: str | None = None
) -> Callable[..., Array]:
    """Make a function that computes the inner products of all pairs of gradients.

        G_nm = ⟨g_n, g_m⟩,    or the cosine ⟨g_n, g_m⟩ / (‖g_n‖ ‖g_m‖)

    Between a training batch and a test batch, η G_nm is how much a step of size η on
    example n lowers the loss of example m, to first order: summed over checkpoints it
    is TracIn, the influence of n on m.

    Args:
        net: the network.
        loss: the loss.
        cosine: whether to divide by the norms.
        precision: "bfloat16" or "float16" to compute the network in it.

    Returns:
        `f(variables, (x, y), other=None, *, key=None, train=True)` -> (N, N), or
        (N, M) with the M examples of another batch `other`.

    Raises:
        ValueError: from f: a layer mixes examples.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(3)), fnn.losses.SoftmaxCrossEntropy()
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> batch = jnp.ones((5, 2)), jnp.array([0, 1, 2, 0, 1])
        >>> f = jax.jit(fnn.per_example.gram(net, loss, cosine=True))
        >>> cosines = f(variables, batch)
        >>> cosines.shape, cosines[0, 3].round(3)  # the same example twice
        ((5, 5), Array(1., dtype=float32))

    Source: TracIn: Pruthi et al., arXiv:2002.08484, section 3.2.
    """
    expect_layer("net", net)
    expect_loss(loss)

    def f(
        variables: Variables,
        batch: Batch,
        other: Batch | None = None,
        *,
        key: Array | None = None,
        train: bool = True,
    ) -> Array:
        def records(batch: Batch) -> ExampleRecords:
            options = dict(key=key, train=train, precision=precision)
            return observe_losses(net, loss, variables, batch, **options)

        left, n, _ = records(batch)
        right, m = (left, n) if other is None else records(other)[:2]
        products = _products_in(factors_in(left), factors_in(right), n, m)
        if not cosine:
            return products
        rows, columns = (
            jnp.sqrt(total_of(squares_in(part), count))
            for part, count in ((left, n), (right, m))
        )
        lengths = rows[:, None] * columns
        return jnp.where(
            lengths == 0, 0, products / jnp.where(lengths == 0, 1, lengths)
        )

    return f


def _products_in(left: PyTree, right: PyTree, n: int, m: int) -> Float[Array, "N M"]:
    """Add up the inner products of all factors in two trees."""
    products = jax.tree.map(inner_products, left, right, is_leaf=is_factor)
    leaves = jax.tree.leaves(products)
    return sum(leaves[1:], start=leaves[0]) if leaves else jnp.zeros((n, m))


def ntk(net: Layer, *, precision: str | None = None) -> Callable[..., Array]:
    """Make a function that computes the empirical neural tangent kernel.

        Θ_nmkj = ⟨∂z_nk/∂Θ, ∂z_mj/∂Θ⟩        k, j outputs of examples n, m

    It takes one forward and K walks back, side by side.

    Args:
        net: the network.
        precision: "bfloat16" or "float16" to compute the network in it.

    Returns:
        `f(variables, x, other=None, *, key=None, train=False)` -> (N, N, K, K), or
        (N, M, K, K) with another batch of inputs. Outputs with several axes, or in a
        tree of arrays, are flattened.

    Raises:
        ValueError: from f: a layer mixes examples.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Dense(3, bias=False))
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> f = jax.jit(fnn.per_example.ntk(net))
        >>> kernel = f(variables, jnp.array([[3.0, 4.0]]))
        >>> kernel[0, 0]  # ⟨x, x⟩ for each output
        Array([[25.,  0.,  0.],
               [ 0., 25.,  0.],
               [ 0.,  0., 25.]], dtype=float32)

    Source: Jacot, Gabriel and Hongler, arXiv:1806.07572, section 4.
    """
    expect_layer("net", net)

    def f(
        variables: Variables,
        x: PyTree,
        other: PyTree | None = None,
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Array:
        def factors(x: PyTree) -> tuple[PyTree, int]:
            seen = observe(net, variables, x, key=key, train=train, precision=precision)
            return _factors_of_outputs(seen.outputs, seen.records)

        left, k = factors(x)
        right, _ = (left, k) if other is None else factors(other)
        n, m = (count_examples(part) for part in (x, x if other is None else other))
        products = _products_in(left, right, k * n, k * m)
        return products.reshape(k, n, k, m).transpose(1, 3, 0, 2)

    return f


def _factors_of_outputs(
    z: PyTree, records: Callable[[PyTree], PyTree]
) -> tuple[PyTree, int]:
    """Return the factors of each output's gradient, and the number K of outputs.

    The first axis of the factors counts K N pairs of an output and an example.
    """
    one, unravel = ravel_pytree(jax.tree.map(lambda part: part[0], z))

    def walk_back(direction: Array) -> PyTree:
        dz = jax.tree.map(
            lambda d, part: jnp.broadcast_to(d, part.shape), unravel(direction), z
        )
        return factors_in(records(dz))

    k = one.size

    def joined(a: Any) -> Array:
        return a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])

    return jax.tree.map(joined, jax.vmap(walk_back)(jnp.eye(k, dtype=one.dtype))), k
