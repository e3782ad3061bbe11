"""What it costs to watch a run: fit with an option, against fit without, whole runs."""

from collections.abc import Callable, Iterator

import jax
import numpy as np

import fnn
from networks import NETWORKS, Network
from timing import interleave, ratio, seconds

__all__ = ["ROWS", "measure"]

ROWS = {name: NETWORKS[name] for name in ("784-128-10", "LeNet, batch 64")}
EXAMPLES, EPOCHS = 60_000, 2


def measure(network: Network, rounds: int = 7) -> dict:
    """The time of each variant as a multiple of a plain run on arrays.

    Epochs as long as those of MNIST: some of what is watched costs a step an epoch.
    """
    x, y = (np.asarray(part) for part in network.data())
    repeat = np.arange(EXAMPLES) % len(x)
    x, y = x[repeat], y[repeat]
    n, size = EXAMPLES, network.batch_size
    order = np.random.default_rng(0)

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        shuffled = order.permutation(n)
        for i in range(0, n - size + 1, size):
            yield x[shuffled[i : i + size]], y[shuffled[i : i + size]]

    variants = {
        "arrays": {},
        "a generator of batches": {"train": fnn.Batches(batches, n=n)},
        'on_nonfinite="stop"': {"on_nonfinite": "stop"},
        'on_nonfinite="skip"': {"on_nonfinite": "skip"},
        "health": {"health": True},
    }
    runs = {name: _run(network, (x, y), given) for name, given in variants.items()}
    for run in runs.values():
        run()  # compiles
    times = interleave({n: lambda r=r: seconds(r) for n, r in runs.items()}, rounds)
    plain = times["arrays"]
    return {
        "epochs": EPOCHS,
        "seconds": {name: float(np.median(t)) for name, t in times.items()},
        "to_arrays": {name: ratio(t, plain)._asdict() for name, t in times.items()},
    }


def _run(network: Network, data: tuple, given: dict) -> Callable[[], object]:
    options = {
        "train": data,
        "key": jax.random.key(0),
        "epochs": EPOCHS,
        "batch_size": network.batch_size,
    }
    loss, optimizer = fnn.losses.SoftmaxCrossEntropy(), fnn.optimizers.adam(1e-3)
    return lambda: fnn.fit(network.net, loss, optimizer, **options | given)
