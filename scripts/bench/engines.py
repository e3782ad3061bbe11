"""The handwritten backward against jax.grad: time per step, compile time, memory.

A step is the body of a compiled training loop: it cuts a batch from the data on the
device, and computes its gradients, Adam's update and the new parameters. Both engines
run on the same networks through the same code; only the engine differs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnn
from networks import LEARNING_RATE, NETWORKS, Network
from timing import (
    interleave,
    loop,
    ratio,
    rounds_within,
    seconds,
    temporary_bytes,
)

__all__ = ["ROWS", "measure"]

ENGINES = ("manual", "autodiff")
LOSS = fnn.losses.SoftmaxCrossEntropy()
STEPS = 8  # different batches
STEP_BUDGET, COMPILE_BUDGET = 60.0, 90.0  # seconds for the rounds of one network


def residual_network() -> fnn.Layer:
    """Build ten dense layers of 256: one in, four blocks of two, one out."""

    def block() -> fnn.Layer:
        half = [fnn.BatchNorm(), fnn.Relu(), fnn.Dropout(0.1), fnn.Dense(256)]
        return fnn.residual(fnn.serial(*half, *half))

    return fnn.serial(
        fnn.Dense(256), *(block() for _ in range(4)), fnn.Relu(), fnn.Dense(10)
    )


RESIDUAL = Network(residual_network(), (784,), 12_800, 128)
ROWS = {
    name: network
    for name, network in NETWORKS.items()
    if name not in ("LeNet, batch 32", "LeNet, batch 256")
} | {"residual, 10 dense layers": RESIDUAL}


def training_step(network: Network, engine: str) -> Callable[[tuple, Any], tuple]:
    """Return a step: (variables, opt_state, t), data -> the same three after it."""
    grad_fn = fnn.value_and_grad(network.net, LOSS, engine)
    optimizer, key = fnn.optimizers.adam(LEARNING_RATE), jax.random.key(0)

    def step(carry, data):
        variables, opt_state, t = carry
        n = network.batch_size
        x, y = (jax.lax.dynamic_slice_in_dim(a, t % STEPS * n, n) for a in data)
        out = grad_fn(variables, (x, y), key=jax.random.fold_in(key, t))
        updates, opt_state = optimizer.update(out.grads, opt_state, variables.params)
        params = optax.apply_updates(variables.params, updates)
        return fnn.Variables(params, out.state), opt_state, t + 1

    return step


def batches(network: Network) -> tuple[jax.Array, jax.Array]:
    """Draw random images and labels, enough for all the steps."""
    rng, n = np.random.default_rng(0), STEPS * network.batch_size
    x, y = rng.random((n, *network.in_shape)), rng.integers(0, 10, n)
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32)


def measure(network: Network, rounds: int = 30) -> dict:
    """Measure manual / autodiff: time of a step, compile time, memory."""
    n, (x, y) = network.batch_size, batches(network)
    variables = network.variables()
    opt_state = fnn.optimizers.adam(LEARNING_RATE).init(variables.params)
    carry, key = (variables, opt_state, jnp.asarray(0)), jax.random.key(0)

    def run(engine: str) -> Callable[[], float]:
        step = training_step(network, engine)

        def body(carry, zero):
            carry, data = carry
            return step(carry, data), data

        return loop(body, (carry, (x, y)))

    def compile_once(engine: str) -> float:
        jax.clear_caches()
        step = jax.jit(training_step(network, engine))
        return seconds(lambda: step.lower(carry, (x, y)).compile())

    def gradient(engine: str):
        grad_fn = fnn.value_and_grad(network.net, LOSS, engine)
        return lambda variables, batch: grad_fn(variables, batch, key=key)

    runs = {engine: run(engine) for engine in ENGINES}
    times = interleave(runs, rounds_within(STEP_BUDGET, runs, rounds))
    compiles = {engine: partial(compile_once, engine) for engine in ENGINES}
    compile_rounds = rounds_within(COMPILE_BUDGET, compiles, rounds)
    compiles = interleave(compiles, compile_rounds)
    # Memory is that of the gradient alone: what the loop adds is the same for both.
    batch = x[:n], y[:n]
    memory = {e: temporary_bytes(gradient(e), variables, batch) for e in ENGINES}
    return {
        "step_ms": {e: float(np.median(t)) * 1e3 for e, t in times.items()},
        "step_ratio": ratio(times["manual"], times["autodiff"])._asdict(),
        "compile_s": {e: float(np.median(t)) for e, t in compiles.items()},
        "compile_ratio": ratio(compiles["manual"], compiles["autodiff"])._asdict(),
        "memory_bytes": memory,
        "memory_ratio": memory["manual"] / memory["autodiff"],
    }
