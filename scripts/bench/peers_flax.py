"""Flax NNX: its own layers and optimizer, a jitted step per batch."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import fnn
from networks import LEARNING_RATE, Network, Part
from peers import Peer, by_steps

__all__ = ["peers"]


class Residual(nnx.Module):
    """A shortcut around a body."""

    def __init__(self, body, projection):
        self.body, self.projection = body, projection

    def __call__(self, x):
        return self.body(x) + self.projection(x)


def module(part: Part):
    """Build the layer in Flax, with the same parameters."""
    options = {"rngs": nnx.Rngs(0)}
    if isinstance(part.layer, fnn.Dense | fnn.Conv):
        # Initialisers that return fnn's parameters: Flax has the same layout.
        options["kernel_init"] = lambda *_: part.params.weight
        options["use_bias"] = part.layer.bias
        if part.layer.bias:
            options["bias_init"] = lambda *_: part.params.bias
    match part.layer:
        case fnn.Serial():
            return nnx.Sequential(*map(module, part.children()))
        case fnn.Residual():
            return Residual(*map(module, part.children()))
        case fnn.BatchNorm(momentum=momentum, eps=eps):
            channels = part.in_shape[-1]
            return nnx.BatchNorm(channels, momentum=momentum, epsilon=eps, **options)
        case fnn.Dense(features=outputs):
            return nnx.Linear(part.in_shape[-1], outputs, **options)
        case fnn.Conv(features=outputs):
            size, strides, padding = part.geometry()
            options |= {"strides": strides, "padding": padding}
            return nnx.Conv(part.in_shape[-1], outputs, size, **options)
        case fnn.MaxPool():
            size, strides, _ = part.geometry()
            return partial(nnx.max_pool, window_shape=size, strides=strides)
        case fnn.GlobalAvgPool():
            return lambda x: x.mean((1, 2))
        case fnn.Flatten():
            return lambda x: x.reshape(len(x), -1)
        case fnn.Relu():
            return nnx.relu
        case fnn.Identity():
            return lambda x: x
    raise NotImplementedError(f"Flax: {part.layer!r}")


def peers(network: Network) -> dict[str, Peer]:
    """Compile a step with nnx.jit, the graph cached as Flax's guide advises."""
    graph, initial = nnx.split(module(network.part()))
    adam = optax.adam(LEARNING_RATE)

    def cost(model, x, y):
        losses = optax.softmax_cross_entropy_with_integer_labels(model(x), y)
        return losses.mean()

    @partial(nnx.jit, donate_argnums=(0, 1))
    def step(model, optimizer, x, y, indices):
        loss, grads = nnx.value_and_grad(cost)(model, x[indices], y[indices])
        optimizer.update(model, grads)
        return loss

    def start():
        model = nnx.merge(graph, jax.tree.map(jnp.copy, initial))
        return nnx.cached_partial(
            step, model, nnx.Optimizer(model, adam, wrt=nnx.Param)
        )

    def advance(cached, x, y, indices):
        return cached, cached(x, y, indices)

    def wait(carry):
        _, losses = carry
        jax.block_until_ready(losses)

    return {"Flax NNX, nnx.jit per batch": by_steps(start, advance, wait=wait)}
