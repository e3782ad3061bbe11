"""Equinox: its own layers under vmap, optax, a jitted step per batch."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnn
from networks import LEARNING_RATE, Network, Part
from peers import Peer, by_steps

__all__ = ["peers"]


class Residual(eqx.nn.StatefulLayer):
    """A shortcut around a body; both may hold BatchNorms."""

    body: eqx.nn.Sequential
    projection: eqx.nn.Sequential

    def __call__(self, x, state, *, key=None):
        y, state = self.body(x, state)
        shortcut, state = self.projection(x, state)
        return y + shortcut, state


def module(part: Part):
    """Build the layer in Equinox, for one example (C, H, W), same parameters."""
    key, channels = jax.random.key(0), part.in_shape[-1]
    match part.layer:
        case fnn.Serial():
            return eqx.nn.Sequential(list(map(module, part.children())))
        case fnn.Residual():
            sides = map(module, part.children())
            return Residual(*(eqx.nn.Sequential([side]) for side in sides))
        case fnn.BatchNorm(momentum=momentum, eps=eps):
            return eqx.nn.BatchNorm(
                channels, "batch", eps=eps, momentum=momentum, mode="batch"
            )
        case fnn.Dense(features=outputs, bias=bias):
            linear = eqx.nn.Linear(channels, outputs, use_bias=bias, key=key)
            return _with_params(linear, *part.outputs_first())
        case fnn.Conv(features=outputs, bias=bias):
            size, strides, padding = part.geometry()
            conv = eqx.nn.Conv(
                len(size), channels, outputs, size, strides, padding,
                groups=part.layer.groups, use_bias=bias, key=key,
            )  # fmt: skip
            weight, bias = part.outputs_first()
            if bias is not None:
                bias = bias.reshape(-1, *[1] * len(size))
            return _with_params(conv, weight, bias)
        case fnn.MaxPool():
            size, strides, _ = part.geometry()
            kind = {1: eqx.nn.MaxPool1d, 2: eqx.nn.MaxPool2d}[len(size)]
            return kind(size, strides)
        case fnn.GlobalAvgPool():
            return eqx.nn.Lambda(lambda x: x.mean(tuple(range(1, x.ndim))))
        case fnn.Flatten():
            return eqx.nn.Lambda(jnp.ravel)
        case fnn.Relu():
            return eqx.nn.Lambda(jax.nn.relu)
        case fnn.Identity():
            return eqx.nn.Identity()
    raise NotImplementedError(f"Equinox: {part.layer!r}")


def _with_params(layer, weight, bias):
    """Return the layer with these parameters."""

    def old(layer):
        return (layer.weight,) if bias is None else (layer.weight, layer.bias)

    new = map(jnp.asarray, (weight,) if bias is None else (weight, bias))
    return eqx.tree_at(old, layer, tuple(new))


def peers(network: Network) -> dict[str, Peer]:
    """Compile a step with eqx.filter_jit."""
    initial = eqx.nn.make_with_state(module)(network.part())
    optimizer = optax.adam(LEARNING_RATE)

    def cost(model, state, x, y):
        batched = jax.vmap(model, (0, None), (0, None), axis_name="batch")
        logits, state = batched(x, state)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean(), state

    @eqx.filter_jit(donate="all-except-first")
    def compiled(data, model, state, opt_state):
        x, y, indices = data
        grad_fn = eqx.filter_value_and_grad(cost, has_aux=True)
        (loss, state), grads = grad_fn(model, state, x[indices], y[indices])
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (eqx.apply_updates(model, updates), state, opt_state), loss

    def start():
        copied = (
            jnp.copy(a) if eqx.is_array(a) else a for a in jax.tree.leaves(initial)
        )
        model, state = jax.tree.unflatten(jax.tree.structure(initial), copied)
        return model, state, optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    def step(carry, x, y, indices):
        return compiled((x, y, indices), *carry)

    def to_device(a):
        return jnp.asarray(np.moveaxis(a, -1, 1) if a.ndim > 2 else a)

    return {"Equinox, filter_jit per batch": by_steps(start, step, to_device)}
