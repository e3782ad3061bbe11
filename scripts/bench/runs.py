"""The cost of watching a run: whole runs of fit with an option, and without."""

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
    """Measure the time of each variant as a multiple of a plain run on arrays.

    Epochs are as long as MNIST's, because some variants cost one step per epoch.
    """
    x, y = (np.asarray(part) for part in network.data())
    repeat = np.arange(EXAMPLES) % len(x)
    x, y = x[repeat], y[repeat]
    n, size = EXAMPLES, network.batch_size
    rng = np.random.default_rng(0)

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        shuffled = rng.permutation(n)
        for i in range(0, n - size + 1, size):
            yield x[shuffled[i : i + size]], y[shuffled[i : i + size]]

    variants = {
        "arrays": {},
        "a generator of batches": {"train": fnn.Batches(batches, n=n)},
        'on_nonfinite="stop"': {"on_nonfinite": "stop"},
        'on_nonfinite="skip"': {"on_nonfinite": "skip"},
        "health": {"health": True},
    }
    runs = {name: _run(network, (x, y), extra) for name, extra in variants.items()}
    for run in runs.values():
        run()  # compiles
    times = interleave({n: lambda r=r: seconds(r) for n, r in runs.items()}, rounds)
    plain = times["arrays"]
    return {
        "epochs": EPOCHS,
        "seconds": {name: float(np.median(t)) for name, t in times.items()},
        "to_arrays": {name: ratio(t, plain)._asdict() for name, t in times.items()},
    }


def _run(network: Network, data: tuple, extra: dict) -> Callable[[], object]:
    options = {
        "train": data,
        "key": jax.random.key(0),
        "epochs": EPOCHS,
        "batch_size": network.batch_size,
    }
    loss, optimizer = fnn.losses.SoftmaxCrossEntropy(), fnn.optimizers.adam(1e-3)
    return lambda: fnn.fit(network.net, loss, optimizer, **options | extra)
