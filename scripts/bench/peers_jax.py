"""Plain JAX and optax: the forward written out, differentiated by jax.grad."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import fnn
from networks import LEARNING_RATE, Network, Part
from peers import Peer, Run, by_steps

__all__ = ["peers"]

DIMENSIONS = {3: ("NHC", "HIO", "NHC"), 4: ("NHWC", "HWIO", "NHWC")}


def forward(part: Part, params, state, x):
    """Compute the output in training, and the new running statistics."""
    match part.layer:
        case fnn.Serial():
            states = []
            for child, p, s in zip(part.children(), params, state, strict=True):
                x, s = forward(child, p, s, x)
                states.append(s)
            return x, tuple(states)
        case fnn.Residual():
            (y, s), (shortcut, t) = (
                forward(child, p, s, x)
                for child, p, s in zip(part.children(), params, state, strict=True)
            )
            return y + shortcut, type(state)(s, t)
        case fnn.Parallel(merge="concatenate"):
            ys, states = zip(
                *(
                    forward(child, p, s, x)
                    for child, p, s in zip(part.children(), params, state, strict=True)
                ),
                strict=True,
            )
            return jnp.concatenate(ys, -1), states
        case fnn.BatchNorm(momentum=momentum, eps=eps):
            axes = tuple(range(x.ndim - 1))
            mean, var = x.mean(axes), x.var(axes)
            running = (mean, var * x[..., 0].size / (x[..., 0].size - 1))
            state = jax.tree.map(
                lambda old, new: momentum * old + (1 - momentum) * new,
                state,
                type(state)(*running),
            )
            normalized = (x - mean) * lax.rsqrt(var + eps)
            return normalized * params.scale + params.bias, state
        case fnn.Dense():
            return x @ params.weight + params.bias, state
        case fnn.Conv(bias=bias):
            _, strides, padding = part.geometry()
            x = lax.conv_general_dilated(
                *(x, params.weight, strides, padding),
                dimension_numbers=DIMENSIONS[x.ndim],
                feature_group_count=part.layer.groups,
            )
            return x + params.bias if bias else x, state
        case fnn.MaxPool():
            size, strides, _ = part.geometry()
            size, strides = (1, *size, 1), (1, *strides, 1)
            return lax.reduce_window(x, -jnp.inf, lax.max, size, strides, "VALID"), ()
        case fnn.AvgPool():
            size, strides, _ = part.geometry()
            window = (1, *size, 1), (1, *strides, 1)
            return lax.reduce_window(x, 0.0, lax.add, *window, "VALID") / np.prod(
                size, dtype=np.float32
            ), ()
        case fnn.GlobalAvgPool():
            return x.mean(tuple(range(1, x.ndim - 1))), state
        case fnn.Flatten():
            return x.reshape(len(x), -1), state
        case fnn.Relu():
            return jax.nn.relu(x), state
        case fnn.Identity():
            return x, state
        case fnn.Gelu(approximate=approximate):
            return jax.nn.gelu(x, approximate), state
        case fnn.LayerNorm(eps=eps):
            mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
            normalized = (x - mean) * lax.rsqrt(var + eps)
            return normalized * params.scale + params.bias, state
        case fnn.Dropout(rate=rate):
            # The numbers of the batch make a key, since no step has one here.
            bits = lax.bitcast_convert_type(x.sum(), np.uint32)
            kept = jax.random.bernoulli(jax.random.key(bits), 1 - rate, x.shape)
            return jnp.where(kept, x / (1 - rate), 0), state
    raise NotImplementedError(f"plain JAX: {part.layer!r}")


def peers(network: Network) -> dict[str, Peer]:
    """Return two peers: a jitted step per batch, and the whole epoch as one scan."""
    part, optimizer = network.part(), optax.adam(LEARNING_RATE)

    def cost(params, state, x, y):
        logits, state = forward(part, params, state, x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean(), state

    def start():
        params, state = jax.tree.map(jnp.copy, part.variables)
        return params, state, optimizer.init(params)

    def step(carry, x, y, indices):
        params, state, opt_state = carry
        grad_fn = jax.value_and_grad(cost, has_aux=True)
        (loss, state), grads = grad_fn(params, state, x[indices], y[indices])
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), state, opt_state), loss

    return {
        "jax + optax, a jitted step per batch": by_steps(
            start, jax.jit(step, donate_argnums=0)
        ),
        "jax + optax, one scan": _by_scan(start, step),
    }


def _by_scan(start, step) -> Peer:
    """Compile an epoch; a remainder is one smaller step in the same program."""

    def epoch(carry, x, y, key, batch_size):
        n = len(x) // batch_size * batch_size
        order = jax.random.permutation(key, len(x))

        def scan_step(carry, indices):
            return step(carry, x, y, indices)

        carry, losses = lax.scan(scan_step, carry, order[:n].reshape(-1, batch_size))
        if n < len(x):
            carry, last = scan_step(carry, order[n:])
            losses = jnp.append(losses, last)
        return carry, losses

    compiled = jax.jit(epoch, static_argnums=4, donate_argnums=0)

    def train(x, y, batch_size, epochs) -> Run:
        x, y, carry = jnp.asarray(x), jnp.asarray(y), start()
        run = Run([], [])
        for key in jax.random.split(jax.random.key(0), epochs):
            start_time = time.perf_counter()
            carry, losses = jax.block_until_ready(
                compiled(carry, x, y, key, batch_size)
            )
            run.seconds.append(time.perf_counter() - start_time)
            run.losses.append(float(np.mean(losses)))
        return run

    return train
