"""Freezing a network, and what must leave its parameters alone."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from fnn.core import Layer, expect_layer
from fnn.layers.branches import Parallel, Residual
from fnn.layers.combinators import Serial
from fnn.layers.frozen import Frozen
from fnn.layers.several import Each, Fork
from fnn.layers.shared import Shared
from fnn.layers.tied import Tied
from fnn.network import map_params
from fnn.typing import Array, PyTree

__all__ = ["frozen", "frozen_paths", "keep_frozen", "trainable"]


def frozen(net: Layer) -> Layer:
    """Freeze a layer, or all layers of a network, for transfer learning.

        net = fnn.serial(fnn.frozen(features), fnn.Dense(10))

    What is frozen:

    - No gradient of the parameters is computed: their gradients are 0, in both engines.
    - `fnn.fit` and `fnn.sweep` leave the parameters as they are, whatever the optimizer
      adds to a gradient of 0 (a decay, a projection, a momentum). In a loop of your own
      give the optimizer `fnn.trainable(net, params)` as its mask.
    - The penalty λ/(2n) Σ Θ² does not count them.
    - The layers run in evaluation mode: BatchNorm uses its running statistics and does
      not update them, and Dropout drops nothing, as after PyTorch's `eval()` with
      `requires_grad_(False)`. (Keras' `trainable = False` leaves Dropout on.)

    The variables are those of the same network that is not frozen, with the same paths:
    to freeze or unfreeze, build the network anew and pass them on. Where all layers
    below a place are frozen, no δ is needed there, and compiled programs compute none.

    Args:
        net: a layer, or a network.

    Returns:
        The same network, with each layer that has no children `Frozen`; a layer of
        layers with parameters of its own is `Frozen` as well.

    Raises:
        TypeError: it is not a layer.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.frozen(fnn.Dense(3)), fnn.Relu(), fnn.Dense(2))
        >>> variables = net.init(jax.random.key(0), (4,))
        >>> batch = jnp.ones((5, 4)), jnp.array([0, 1, 1, 0, 1])
        >>> grad_fn = fnn.value_and_grad(net, fnn.losses.SoftmaxCrossEntropy())
        >>> grads = grad_fn(variables, batch).grads
        >>> bool(grads[0].weight.any()), bool(grads[2].weight.any())
        (False, True)

    Source: Yosinski et al., arXiv:1411.1792, section 2, for frozen features.
    """
    expect_layer("frozen: net", net)
    if isinstance(net, Frozen):
        return net
    if isinstance(net, Tied):  # its tag must be seen from outside
        return dataclasses.replace(net, layer=frozen(net.layer))
    if not (children := net.children):
        return Frozen(net)
    inside = net.with_children(*map(frozen, children.values()))
    # These have no parameters of their own, and nothing that depends on the mode.
    only_lists = type(net) in (Serial, Residual, Parallel, Fork, Each, Shared)
    return inside if only_lists else Frozen(inside)


# ---- Which parameters are frozen ------------------------------------------------


def trainable(net: Layer, params: PyTree) -> PyTree:
    """Return which parameters are not frozen, as a mask for an optimizer.

    Args:
        net: the network.
        params: its parameters.

    Returns:
        A tree like `params` of True and False.

    Example:
        >>> import jax, fnn, optax
        >>> net = fnn.serial(fnn.frozen(fnn.Dense(3)), fnn.Dense(2))
        >>> params, _ = net.init(jax.random.key(0), (4,))
        >>> fnn.trainable(net, params)[0]
        DenseParams(weight=False, bias=False)
        >>> optimizer = optax.masked(optax.adamw(1e-3), fnn.trainable(net, params))
    """
    return map_params(lambda path, owner, _: not _is_frozen(owner), net, params)


def frozen_paths(net: Layer, params: PyTree) -> set[str]:
    """Return the paths of all frozen parameters."""
    paths: set[str] = set()

    def visit(path: str, owner: Layer, part: Any) -> Any:
        if _is_frozen(owner):
            paths.add(path)
        return part

    map_params(visit, net, params)
    return paths


def keep_frozen(net: Layer, updates: PyTree) -> PyTree:
    """Return an optimizer's updates, with 0 for all frozen parameters."""

    def keep(path: str, owner: Layer, update: Array) -> Array:
        return jnp.zeros_like(update) if _is_frozen(owner) else update

    return map_params(keep, net, updates)


def _is_frozen(owner: Layer) -> bool:
    """Return whether a layer is frozen, maybe inside other wrappers."""
    inner: Layer | None = owner
    while inner is not None and not isinstance(inner, Frozen):
        inner = inner.wrapped
    return inner is not None
