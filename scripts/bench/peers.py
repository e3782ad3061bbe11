"""A peer: a function that trains one network, and returns its losses and seconds.

    train(x, y, batch_size, epochs) -> Run

Every call starts from the same initial parameters, which are fnn's. A call on all the
images for one epoch is a measurement; a call on a single batch for three epochs gives
the losses of the first three steps, which show that the peers do the same work.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import fnn
from networks import LEARNING_RATE, Network

__all__ = ["Peer", "Run", "by_steps", "fnn_fit"]


class Run(NamedTuple):
    """The result of a peer: each epoch's mean minibatch loss, and its seconds."""

    losses: list[float]
    seconds: list[float]


Peer = Callable[[np.ndarray, np.ndarray, int, int], Run]


def fnn_fit(network: Network) -> dict[str, Peer]:
    """Return fnn through its public API: planned, which is the default, and not."""
    return {
        "fnn.fit": _fit(network, "fast"),
        "fnn.fit, plan=None": _fit(network, None),
    }


def _fit(network: Network, plan: str | None) -> Peer:
    loss = fnn.losses.SoftmaxCrossEntropy()
    optimizer = fnn.optimizers.adam(LEARNING_RATE)
    variables = network.variables()

    def train(x, y, batch_size, epochs) -> Run:
        result = fnn.fit(
            network.net,
            loss,
            optimizer,
            train=(x, y),
            key=jax.random.key(0),
            epochs=epochs,
            batch_size=batch_size,
            variables=variables,
            plan=plan,
        )
        history = result.history
        return Run(history["train_loss"].tolist(), history["seconds"].tolist())

    return train


def by_steps(
    start: Callable[[], Any],
    step: Callable[[Any, Any, Any, Any], tuple[Any, Any]],
    to_device: Callable[[np.ndarray], Any] = jax.numpy.asarray,
    to_indices: Callable[[np.ndarray], Any] = np.asarray,
    wait: Callable[[Any], Any] = jax.block_until_ready,
) -> Peer:
    """Make a peer whose epoch is a Python loop, with a step for every minibatch.

    Args:
        start: makes a fresh carry: parameters, optimizer state.
        step: `(carry, x, y, indices) -> (carry, loss)`. x and y are all the data, on
            the device, and `indices` those of the minibatch: to gather there is faster
            than to cut batches on the host.
        to_device: puts images or labels on the device.
        to_indices: converts the order of an epoch to the library's indices.
        wait: returns when all that was started is done.
    """

    def train(x, y, batch_size, epochs) -> Run:
        rng, run = np.random.default_rng(0), Run([], [])
        x, y, carry = to_device(x), to_device(y), start()
        for _ in range(epochs):
            losses, start_time = [], time.perf_counter()
            order = to_indices(rng.permutation(len(x)).astype(np.int32))
            for i in range(0, len(order), batch_size):
                carry, loss = step(carry, x, y, order[i : i + batch_size])
                losses.append(loss)
            wait((carry, losses))
            run.seconds.append(time.perf_counter() - start_time)
            run.losses.append(float(np.mean([float(loss) for loss in losses])))
        return run

    return train
