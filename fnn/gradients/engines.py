"""Two engines that compute the same gradient, and the signature of others.

An engine is a function

    engine(net, loss, variables, batch, *, key, train, l2, n) -> Gradients

`manual` calls the handwritten `backward` of each layer. `autodiff` lets JAX
differentiate the raw `forward`; it uses no handwritten derivative, so that it can judge
the other. Both compute, with the layers' own conventions at kinks,

    J = loss(net(x), y) + λ/(2n) Σ Θ²,      Θ the weights (no biases, no scales)
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from fnn.checks import as_inputs, check_key, check_l2, check_pair
from fnn.core import Layer, Variables, as_variables, expect_layer
from fnn.describe import describe
from fnn.gradients.penalty import has_penalty, penalty, penalty_grads
from fnn.gradients.precision import (
    engine_in_precision,
    net_in_precision,
    with_loss_scale,
)
from fnn.losses import Loss, expect_loss
from fnn.network import named_params
from fnn.pytree import exportable
from fnn.shapes import count_examples, example_shape, format_shapes
from fnn.transfers import own_numbers_may_move
from fnn.typing import Array, Batch, KeyArray, Number, PyTree

__all__ = [
    "ENGINES",
    "Engine",
    "Gradients",
    "autodiff",
    "get_engine",
    "manual",
    "objective",
    "value_and_grad",
]


@exportable
class Gradients(NamedTuple):
    """The result of an engine.

    `loss` J, a scalar, the penalty included; `outputs` z (N, ...), an array or a tree
    of arrays, as the network returns it; `state` the new
    state of the layers; `grads` ∂J/∂params, a tree like the parameters.
    """

    loss: Array
    outputs: PyTree
    state: PyTree
    grads: PyTree


class Engine(Protocol):
    """The signature of an engine."""

    def __call__(
        self,
        net: Layer,
        loss: Loss,
        variables: Variables,
        batch: Batch,
        *,
        key: KeyArray | None,
        train: bool,
        l2: Number,
        n: int | Array,
    ) -> Gradients: ...


def manual(
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
    """Compute gradients by the handwritten backward of each layer.

    Args:
        net: the network.
        loss: the loss.
        variables: the network's variables.
        batch: x and y.
        key: the key of the step, or None.
        train: whether the network is in training mode.
        l2: λ of the penalty.
        n: n of the penalty.

    Returns:
        `Gradients`.

    Example: see `value_and_grad`, which calls it for `engine="manual"`.
    """
    x, y = batch
    params, state = variables
    out = net.forward(params, state, x, key=key, train=train)
    dy = loss.delta(out.y, y)
    grads = _of_their_dtypes(net.backward(params, out.saved, dy).dparams, params)
    value = loss.value(out.y, y)
    if has_penalty(l2):
        value = value + penalty(net, params, l2, n)
        grads = jax.tree.map(jnp.add, grads, penalty_grads(net, params, l2, n))
    return Gradients(value, out.y, out.state, grads)


def _of_their_dtypes(grads: PyTree, params: PyTree) -> PyTree:
    """Cast gradients to the parameters' dtypes, as autodiff does: x may have another.

    A tree of another structure is returned as it is, and refused later.
    """
    if jax.tree.structure(grads) != jax.tree.structure(params):
        return grads
    return jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)


def autodiff(
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
    """Compute gradients by `jax.grad` of the forward and of the loss's value.

    Args:
        net: the network.
        loss: the loss.
        variables: the network's variables.
        batch: x and y.
        key: the key of the step, or None.
        train: whether the network is in training mode.
        l2: λ of the penalty.
        n: n of the penalty.

    Returns:
        `Gradients`.

    Example: see `value_and_grad`, which calls it for `engine="autodiff"`.
    """
    x, y = batch
    params, state = variables

    def cost(params: PyTree) -> tuple[Array, tuple[Array, PyTree]]:
        out = net.forward(params, state, x, key=key, train=train)
        value = loss.value(out.y, y)
        if has_penalty(l2):
            value = value + penalty(net, params, l2, n)
        return value, (out.y, out.state)

    (value, (outputs, state)), grads = jax.value_and_grad(cost, has_aux=True)(params)
    return Gradients(value, outputs, state, grads)


ENGINES: dict[str, Engine] = {"manual": manual, "autodiff": autodiff}


def get_engine(engine: str | Engine) -> Engine:
    """Return the engine of this name; return a function as it is."""
    if callable(engine):
        return engine
    if not isinstance(engine, str) or engine not in ENGINES:
        names = " or ".join(map(repr, ENGINES))
        raise ValueError(
            f"unknown engine {engine!r}: expected {names}, or a function "
            "engine(net, loss, variables, batch, *, key, train, l2, n) -> Gradients"
        )
    return ENGINES[engine]


# ---- The public function ---------------------------------------------------------


def value_and_grad(
    net: Layer,
    loss: Loss,
    engine: str | Engine = "manual",
    *,
    l2: Number = 0.0,
    n: int | None = None,
    precision: str | None = None,
) -> Callable[..., Gradients]:
    """Make a function that computes loss, outputs, state and gradients of a batch.

    Args:
        net: the network.
        loss: a loss from `fnn.losses`, or anything with its methods `value`, `delta`
            and `check` (a class decorated with `fnn.layer`, so that it is a pytree).
        engine: "manual", "autodiff", or a function with an engine's signature.
        l2: λ of the penalty λ/(2n) Σ Θ² on the weights.
        n: n of the penalty; the batch size by default. Training by minibatches wants
            the size of the whole training set, and `fnn.fit` passes that.
        precision: "bfloat16" or "float16" to compute the network in it, forward and
            backward, with parameters, gradients, loss and state in float32 (see
            `fnn.gradients.precision`); None for the dtype of the parameters.

    Returns:
        `grad_fn(variables, (x, y), *, key=None, train=True, loss_scale=None) ->
        Gradients`, a pure function: put it under `jax.jit`, `jax.vmap` or
        `jax.lax.scan`. `loss_scale` is s of a half precision, which
        `fnn.optimizers.loss_scale(state)` reads from an optimizer's state; the result
        is already divided by it.

    Raises:
        ValueError: the engine is unknown; or, from `grad_fn`, inputs, labels or
            parameters do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Dense(8), fnn.Tanh(), fnn.Dense(3))
        >>> variables = net.init(jax.random.key(0), (4,))
        >>> batch = jnp.ones((5, 4)), jnp.array([0, 1, 2, 0, 1])
        >>> loss = fnn.losses.SoftmaxCrossEntropy()
        >>> grad_fn = jax.jit(fnn.value_and_grad(net, loss, engine="manual"))
        >>> grad_fn(variables, batch).grads[0].weight.shape
        (4, 8)
    """
    engine_fn = engine_in_precision(get_engine(engine), precision)
    expect_layer("net", net)
    expect_loss(loss)
    if not isinstance(l2, jax.Array):
        check_l2(l2)

    def grad_fn(
        variables: Variables,
        batch: Batch,
        *,
        key: Array | None = None,
        train: bool = True,
        loss_scale: Number | None = None,
    ) -> Gradients:
        x, y = _as_batch(batch)
        variables = as_variables(variables)
        key = None if key is None else check_key(key)
        size = count_examples(x) if n is None else n
        options = dict(key=key, train=train, l2=l2, n=size)
        scaled = with_loss_scale(engine_fn, loss_scale)
        with own_numbers_may_move(variables, batch):
            out = scaled(net, loss, variables, (x, y), **options)
        if not isinstance(out, Gradients):
            raise TypeError(
                "an engine returns fnn.Gradients(loss, outputs, state, grads), got "
                f"{type(out).__name__} from {engine!r}"
            )
        loss.check(example_shape(out.outputs), y)
        _expect_like_params(net, variables.params, out.grads)
        return out

    return grad_fn


def objective(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: Batch,
    *,
    key: Array | None = None,
    train: bool = True,
    l2: Number = 0.0,
    n: int | Array | None = None,
    precision: str | None = None,
) -> Callable[[PyTree], Array]:
    """Make J a function of the parameters alone: same batch, same key, same state.

    Args:
        net: the network.
        loss: the loss.
        variables: its variables; only the state is used.
        batch: x (N, ...) and y (N, ...).
        key: the key of the step, for a network that draws random numbers.
        train: whether the network is in training mode, or in evaluation mode.
        l2: λ of the penalty.
        n: n of the penalty; the batch size by default.
        precision: as in `value_and_grad`.

    Returns:
        `f(params) -> J`, a scalar: for `jax.grad`, `fnn.numerical_gradients`, ...

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(3)), fnn.losses.SoftmaxCrossEntropy()
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> batch = jnp.ones((4, 2)), jnp.ones(4, int)
        >>> f = fnn.objective(net, loss, variables, batch)
        >>> f(variables.params).shape
        ()
    """
    x, y = _as_batch(batch)
    variables = as_variables(variables)
    key = None if key is None else check_key(key)
    size = count_examples(x) if n is None else n
    net = net_in_precision(net, precision)

    def cost(params: PyTree) -> Array:
        out = net.forward(params, variables.state, x, key=key, train=train)
        value = loss.value(out.y, y)
        return value + penalty(net, params, l2, size) if has_penalty(l2) else value

    return cost


def _as_batch(batch: Any) -> Batch:
    x, y = check_pair("batch", batch)
    if count_examples(x) == 0:
        raise ValueError(
            f"expected a batch of examples, got x of shape {format_shapes(x)}"
        )
    return as_inputs(x), y


def _expect_like_params(net: Layer, params: PyTree, grads: Any) -> None:
    """Raise where an engine's gradients do not have the parameters' tree and shapes."""
    if jax.tree.structure(params) != jax.tree.structure(grads):
        raise ValueError(
            "the gradients do not form a tree like the parameters': expected "
            f"{describe(params)}, got {describe(grads)}. Each layer's backward returns "
            "dparams with the structure of its params."
        )

    named, given = named_params(net, params), named_params(net, grads)
    for path, param in named.items():
        if param.shape != given[path].shape:
            raise ValueError(
                f"the gradient of {path} has shape {given[path].shape}, the parameter "
                f"{param.shape}: a backward returned the wrong dparams"
            )
