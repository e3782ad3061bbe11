"""The gradients of single examples themselves, all at once or a few at a time.

Legend: N examples, P parameters.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.checks import positive_integer
from fnn.core import Layer
from fnn.losses import Loss
from fnn.passes.factors import formed, is_factor
from fnn.passes.observe import ExampleRecords, function_of_records
from fnn.passes.records import factors_in
from fnn.typing import Array, PyTree

__all__ = ["gradients", "map_gradients"]


def gradients(
    net: Layer, loss: Loss, *, precision: str | None = None
) -> Callable[..., PyTree]:
    """Make a function that computes the gradient of every example.

    They take N times the memory of the parameters. Most of what one asks of them needs
    less: `norms`, `gram`, `clipped_grad`, `variance`; or `map_gradients`.

    Args:
        net: the network.
        loss: the loss.
        precision: "bfloat16" or "float16" to compute the network in it.

    Returns:
        `f(variables, (x, y), *, key=None, train=True)` -> a tree like the parameters,
        with leaves (N, ...): the gradient of the loss of each example alone.

    Raises:
        ValueError: from f: a layer mixes examples.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(3)), fnn.losses.SoftmaxCrossEntropy()
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> batch = jnp.ones((5, 2)), jnp.array([0, 1, 2, 0, 1])
        >>> f = jax.jit(fnn.per_example.gradients(net, loss))
        >>> f(variables, batch)[0].weight.shape
        (5, 2, 3)
    """
    return map_gradients(lambda g: g, net, loss, precision=precision)


def map_gradients(
    function: Callable[[PyTree], Any],
    net: Layer,
    loss: Loss,
    *,
    chunk_size: int | None = None,
    precision: str | None = None,
) -> Callable[..., PyTree]:
    """Make a function that computes `function(g_n)` of every example's gradient g_n.

    One forward and one walk back serve all examples. The gradients are formed in
    chunks, so that they take the memory of `chunk_size` times the parameters.

    Args:
        function: a function of a tree like the parameters, the gradient of one example.
            What it returns should be smaller: all results are kept.
        net: the network.
        loss: the loss.
        chunk_size: the number of gradients that are formed at a time; all by default.
        precision: "bfloat16" or "float16" to compute the network in it.

    Returns:
        `f(variables, (x, y), *, key=None, train=True)` -> the results of the examples,
        stacked along a first axis N.

    Raises:
        ValueError: the chunk size is not a positive integer; or, from f, a layer mixes
            examples.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(3)), fnn.losses.SoftmaxCrossEntropy()
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> batch = jnp.ones((5, 2)), jnp.array([0, 1, 2, 0, 1])
        >>> largest = lambda grads: jnp.abs(grads[0].weight).max()
        >>> f = fnn.per_example.map_gradients(largest, net, loss, chunk_size=2)
        >>> jax.jit(f)(variables, batch).shape
        (5,)
    """
    if chunk_size is not None:
        chunk_size = positive_integer("chunk_size", chunk_size)

    def compute(found: ExampleRecords, params: PyTree) -> PyTree:
        records, n, _ = found
        # The numbers say how many there are, also where there is no parameter.
        numbered = jnp.arange(n), factors_in(records)

        def one(numbered: tuple[Array, PyTree]) -> Any:
            return function(_form_one(numbered[1], params))

        if chunk_size is None:
            return jax.vmap(one)(numbered)
        return lax.map(one, numbered, batch_size=chunk_size)

    return function_of_records(net, loss, precision, compute)


def _form_one(factors: PyTree, params: PyTree) -> PyTree:
    """Form the gradient of one example from its factors, without the axis of examples.

    It has the dtypes of the parameters.
    """

    def one(factor: Any, param: Array) -> Array:
        batch_of_one = jax.tree.map(lambda a: a[None], factor)
        return formed(batch_of_one, param.shape)[0].astype(param.dtype)

    return jax.tree.map(one, factors, params, is_leaf=is_factor)
