"""One epoch of 784-128-10 on MNIST: fnn.fit, plain JAX with optax, and torch.

The same data, batch size, optimizer and dtype; a fresh order in each epoch. fnn runs
through its public API: `fnn.fit`, whose history has the seconds of every epoch.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import interleave, ratio, seconds

import fnn

__all__ = ["measure"]

BATCH, HIDDEN, CLASSES, RATE = 128, 128, 10, 1e-3


def _fnn(x, y):
    net = fnn.serial(fnn.Dense(HIDDEN), fnn.Relu(), fnn.Dense(CLASSES))
    loss, optimizer = fnn.losses.SoftmaxCrossEntropy(), fnn.optimizers.adam(RATE)

    def run() -> float:
        result = fnn.fit(
            net, loss, optimizer, train=(x, y), key=jax.random.key(0), epochs=1,
            batch_size=BATCH,
        )  # fmt: skip
        return float(result.history["seconds"][0])

    return run


def _jax_parts(x, y):
    """Plain JAX and optax, as their documentation writes it."""
    keys = jax.random.split(jax.random.key(0))
    init = jax.nn.initializers.he_normal()
    params = {
        "w1": init(keys[0], (x.shape[1], HIDDEN)),
        "b1": jnp.zeros(HIDDEN),
        "w2": init(keys[1], (HIDDEN, CLASSES)),
        "b2": jnp.zeros(CLASSES),
    }
    optimizer = optax.adam(RATE)

    def cost(p, x, y):
        hidden = jax.nn.relu(x @ p["w1"] + p["b1"])
        logits = hidden @ p["w2"] + p["b2"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(carry, x, y):
        params, state = carry
        loss, grads = jax.value_and_grad(cost)(params, x, y)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    return (params, optimizer.init(params)), step


def _jax_steps(x, y):
    """A jitted step per batch, batches cut on the host."""
    start, step = _jax_parts(x, y)
    jitted = jax.jit(step)
    draw = np.random.default_rng(0)

    def epoch() -> None:
        carry = start
        order = draw.permutation(len(x))
        for i in range(0, len(x), BATCH):
            chosen = order[i : i + BATCH]
            carry, loss = jitted(carry, x[chosen], y[chosen])
        jax.block_until_ready((carry, loss))

    return lambda: seconds(epoch)


def _jax_scan(x, y):
    """jax.grad in one scan over the epoch."""
    start, step = _jax_parts(x, y)
    x, y = jnp.asarray(x), jnp.asarray(y)
    steps = len(x) // BATCH

    @jax.jit
    def scanned(carry, key):
        order = jax.random.permutation(key, len(x))[: steps * BATCH]

        def one(carry, chosen):
            return step(carry, x[chosen], y[chosen])

        return jax.lax.scan(one, carry, order.reshape(steps, BATCH))

    key = jax.random.key(0)
    return lambda: seconds(lambda: jax.block_until_ready(scanned(start, key)))


def _torch(x, y):
    """Eager, as the tutorial writes it."""
    try:
        import torch
    except ImportError:
        return None
    nn = torch.nn
    net = nn.Sequential(
        nn.Linear(x.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)
    )
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    loss = nn.CrossEntropyLoss()
    x, y = torch.tensor(x), torch.tensor(y).long()

    def epoch() -> None:
        for chosen in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            loss(net(x[chosen]), y[chosen]).backward()
            optimizer.step()

    return lambda: seconds(epoch)


def measure(rounds: int = 20) -> dict:
    """Seconds per epoch, and each peer's ratio to fnn (above 1: fnn is faster)."""
    x, y = fnn.data.mnist().train
    x = x.reshape(len(x), -1)
    runs = {
        "fnn.fit": _fnn(x, y),
        "jax + optax, jitted step per batch": _jax_steps(x, y),
        "jax + optax, one scan": _jax_scan(x, y),
        "torch eager": _torch(x, y),
    }
    runs = {name: run for name, run in runs.items() if run is not None}
    for run in runs.values():
        run()  # compiles
    times = interleave(runs, rounds)
    return {
        name: {
            "seconds": float(np.median(t)),
            "to_fnn": ratio(t, times["fnn.fit"])._asdict(),
        }
        for name, t in times.items()
    }
