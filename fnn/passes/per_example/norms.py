"""Norms of the gradient of every example, from one backward pass.

Legend: N examples.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import Layer
from fnn.losses import Loss
from fnn.network import named_params
from fnn.passes.observe import ExampleRecords, function_of_records
from fnn.passes.records import squares_in, total_of
from fnn.planning.planned import plain
from fnn.typing import Array, PyTree

__all__ = ["ExampleNorms", "by_layer", "norms"]


class ExampleNorms(NamedTuple):
    """The norms of the gradients of N examples.

    Args:
        total: ‖g_n‖ of the whole gradient, (N,).
        by_parameter: the norm of each parameter's gradient, a tree like the parameters
            with leaves (N,).
    """

    total: Array
    by_parameter: PyTree


def norms(
    net: Layer, loss: Loss, *, precision: str | None = None
) -> Callable[..., ExampleNorms]:
    """Make a function that computes the norm of every example's gradient.

    With g_n = ∂L(net(x_n), y_n)/∂Θ, the gradient of the loss of example n alone, which
    is not divided by N:

        total_n = ‖g_n‖,    by_parameter: the norm of the part of g_n for each parameter

    It takes one forward and one walk back. No gradient is formed where its norm follows
    from its factors: that of a dense layer is ‖x_n‖ ‖dy_n‖ (see `fnn/passes`).

    Args:
        net: the network.
        loss: the loss.
        precision: "bfloat16" or "float16" to compute the network in it; the norms are
            in float32.

    Returns:
        `f(variables, (x, y), *, key=None, train=True) -> ExampleNorms`, a pure
        function: put it under `jax.jit`, `jax.vmap` or `jax.lax.scan`.

    Raises:
        ValueError: from f: a layer mixes examples, as BatchNorm in training.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(3)), fnn.losses.SoftmaxCrossEntropy()
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> batch = jnp.array([[0.0, 0.0], [3.0, 4.0]]), jnp.array([0, 1])
        >>> f = jax.jit(fnn.per_example.norms(net, loss))
        >>> found = f(variables, batch)
        >>> found.total.shape, found.by_parameter[0].bias.shape
        ((2,), (2,))
        >>> print(found.by_parameter[0].weight[0])  # x is zero, and so is dW = xᵀ dy
        0.0

    Source: Goodfellow, arXiv:1510.01799, section 3, for dense layers.
    """

    def compute(found: ExampleRecords, params: PyTree) -> ExampleNorms:
        squares = squares_in(found.records)
        roots = jax.tree.map(jnp.sqrt, squares)
        return ExampleNorms(jnp.sqrt(total_of(squares, found.count)), roots)

    return function_of_records(net, loss, precision, compute)


def by_layer(net: Layer, by_parameter: PyTree) -> dict[str, Array]:
    """Join the norms of each layer's parameters: the root of the sum of squares.

    Args:
        net: the network.
        by_parameter: a tree like its parameters, as in `ExampleNorms`.

    Returns:
        The norms (N,) of each layer with parameters, by path, in forward order.

    Example:
        >>> import jax.numpy as jnp, fnn
        >>> params = (fnn.DenseParams(jnp.array([3.0]), jnp.array([4.0])),)
        >>> fnn.per_example.by_layer(fnn.serial(fnn.Dense(2)), params)
        {'0/Dense': Array([5.], dtype=float32)}
    """
    squares: dict[str, Array] = {}
    for path, norm in named_params(plain(net), by_parameter).items():
        layer = path.rpartition(".")[0]
        squares[layer] = squares.get(layer, jnp.zeros_like(norm)) + jnp.square(norm)
    return {layer: jnp.sqrt(square) for layer, square in squares.items()}
