"""A step of fnn.fit on a dense network, against the least that it must compute.

That floor is the sum of the step's matrix products and of the optimizer's update, each
alone in a compiled loop at the shapes that the step has. Beyond it, the step shuffles,
gathers the batch, and computes activations, biases and the loss.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnn
from fnn.layers.dense import dweight
from networks import LEARNING_RATE, NETWORKS, Network
from peers import fnn_fit
from timing import interleave, loop, nudge, ratio

__all__ = ["ROWS", "measure"]

ROWS = {name: NETWORKS[name] for name in ("784-1024-1024-10",)}


def product_run(
    f: Callable[[jax.Array, jax.Array], jax.Array], a: jax.Array, b: jax.Array
) -> Callable[[], float]:
    """Return a run of f(a, b) in a compiled loop; a run returns its seconds."""

    def body(carry, zero):
        a, b, previous = carry
        a, b = nudge((a, b), zero, previous)
        return a, b, f(a, b)

    return loop(body, (a, b, f(a, b)))


def product_runs(network: Network) -> Iterator[tuple[str, int, Callable[[], float]]]:
    """Yield (name, FLOPs, run) of each dense layer's products: forward, dW and dx."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    parts = network.part().children()
    dense = [part for part in parts if isinstance(part.layer, fnn.Dense)]
    for i, part in enumerate(dense):
        weight, n = part.params.weight, network.batch_size
        x, dy = normal(n, weight.shape[0]), normal(n, weight.shape[1])
        flops = 2 * n * weight.size
        yield f"{i}: x W", flops, product_run(lambda x, w: x @ w, x, weight)
        yield f"{i}: xᵀ dy", flops, product_run(dweight, x, dy)
        if i:  # the data have no delta
            yield f"{i}: dy Wᵀ", flops, product_run(lambda dy, w: dy @ w.T, dy, weight)


def update_run(network: Network) -> Callable[[], float]:
    """Return a run of the optimizer's update in a compiled loop."""
    params, optimizer = network.variables().params, fnn.optimizers.adam(LEARNING_RATE)

    def body(carry, zero):
        params, state, grads = carry
        grads = nudge(grads, zero, jax.tree.leaves(params)[0])
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, grads

    grads = jax.tree.map(lambda p: 0.01 * jnp.ones_like(p), params)
    return loop(body, (params, optimizer.init(params), grads))


def measure(network: Network, rounds: int = 20) -> dict:
    """Measure the milliseconds of the step and of each part of its floor."""
    x, y = network.data()
    train, batch_size = fnn_fit(network)["fnn.fit"], network.batch_size
    steps = len(x) / batch_size

    def step() -> float:
        return train(x, y, batch_size, 1).seconds[0] / steps

    step()  # compiles
    flops, parts = {}, {}
    for name, count, run in product_runs(network):
        flops[name], parts[name] = count, run
    parts["Adam's update"] = update_run(network)
    times = interleave({"step": step} | parts, rounds)
    floor = sum(times[name] for name in parts)
    return {
        "step_ms": float(np.median(times["step"])) * 1e3,
        "floor_ms": float(np.median(floor)) * 1e3,
        "step_to_floor": ratio(times["step"], floor)._asdict(),
        "parts": {
            name: {
                "ms": (ms := float(np.median(times[name])) * 1e3),
                "gflop_per_s": flops[name] / ms / 1e6 if name in flops else None,
            }
            for name in parts
        },
    }
