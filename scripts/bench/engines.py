"""The handwritten backward against jax.grad: time per step, compile time, memory.

A step is what a training loop does: gradients, Adam's update, new parameters. Both
engines run it on the same networks through the same code; only the engine differs.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import interleave, ratio, seconds

import fnn

__all__ = ["measure"]

BATCH, CLASSES = 128, 10
ENGINES = ("manual", "autodiff")
LOSS = fnn.losses.SoftmaxCrossEntropy()


def residual_network() -> fnn.Layer:
    """Ten dense layers of 256: one in, four blocks of two, one out."""

    def block() -> fnn.Layer:
        half = [fnn.BatchNorm(), fnn.Relu(), fnn.Dropout(0.1), fnn.Dense(256)]
        return fnn.residual(fnn.serial(*half, *half))

    return fnn.serial(
        fnn.Dense(256), *(block() for _ in range(4)), fnn.Relu(), fnn.Dense(CLASSES)
    )


NETWORKS = {
    "784-128-10": fnn.serial(fnn.Dense(128), fnn.Relu(), fnn.Dense(CLASSES)),
    "784-1024-1024-10": fnn.serial(
        fnn.Dense(1024), fnn.Relu(), fnn.Dense(1024), fnn.Relu(), fnn.Dense(CLASSES)
    ),
    "residual, 10 layers": residual_network(),
}


def steps(net: fnn.Layer, engine: str, count: int, carry, batch, key):
    """`count` training steps in one scan."""
    grad_fn = fnn.value_and_grad(net, LOSS, engine)
    optimizer = fnn.optimizers.adam(1e-3)

    def step(carry, t):
        (params, state), memory = carry
        at = fnn.Variables(params, state)
        out = grad_fn(at, batch, key=jax.random.fold_in(key, t))
        updates, memory = optimizer.update(out.grads, memory, params)
        params = optax.apply_updates(params, updates)
        return (fnn.Variables(params, out.state), memory), out.loss

    return jax.lax.scan(step, carry, jnp.arange(count))


def measure(rounds: int = 30) -> dict[str, dict]:
    """For each network: manual / autodiff in time, compile time and memory."""
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.random((BATCH, 784)), jnp.float32)
    y = jnp.asarray(draw.integers(0, CLASSES, BATCH), jnp.int32)
    key = jax.random.key(0)
    results = {}
    for name, net in NETWORKS.items():
        variables = net.init(key, (784,))
        carry = variables, fnn.optimizers.adam(1e-3).init(variables.params)
        arguments = carry, (x, y), key
        results[name] = _compare(net, arguments, rounds)
        print(name, results[name], flush=True)
    return results


def _compare(net: fnn.Layer, arguments: tuple, rounds: int) -> dict:
    def compiled(engine: str, count: int):
        return jax.jit(partial(steps, net, engine, count)).lower(*arguments).compile()

    def compile_once(engine: str) -> float:
        jax.clear_caches()
        return seconds(lambda: compiled(engine, 1))

    def run_once(run) -> float:
        return seconds(lambda: jax.block_until_ready(run(*arguments)))

    # As many steps as make a round of about half a second.
    one = compiled("autodiff", 1)
    count = max(4, round(0.5 / min(run_once(one) for _ in range(3))))
    programs = {engine: compiled(engine, count) for engine in ENGINES}
    memory = {engine: _memory(net, engine, arguments) for engine in ENGINES}
    many = {engine: partial(run_once, run) for engine, run in programs.items()}
    for run in many.values():
        run()
    times = interleave(many, rounds)
    compiles = {engine: partial(compile_once, engine) for engine in ENGINES}
    compiles = interleave(compiles, max(20, rounds))
    return {
        "step_ms": {e: float(np.median(t)) / count * 1e3 for e, t in times.items()},
        "step_ratio": ratio(times["manual"], times["autodiff"])._asdict(),
        "compile_s": {e: float(np.median(t)) for e, t in compiles.items()},
        "compile_ratio": ratio(compiles["manual"], compiles["autodiff"])._asdict(),
        "memory_bytes": memory,
        "memory_ratio": memory["manual"] / memory["autodiff"],
    }


def _memory(net: fnn.Layer, engine: str, arguments: tuple) -> int:
    """Temporary bytes of the gradient alone.

    In a loop over one batch XLA would also keep there what does not change with it.
    """
    (variables, _), batch, key = arguments
    grad_fn = jax.jit(fnn.value_and_grad(net, LOSS, engine))
    compiled = grad_fn.lower(variables, batch, key=key).compile()
    return compiled.memory_analysis().temp_size_in_bytes
