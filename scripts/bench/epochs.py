"""An epoch of training on MNIST: fnn.fit and its peers.

All have the same data, architecture, initial parameters, batch size, optimizer (Adam,
1e-3) and dtype (float32), and a fresh order. Only the epoch is timed: no compiling, no
initialising, no moving of the data set to the device.

A peer whose epoch would take longer than `EPOCH_BUDGET` is measured on as many steps
as fit into that, at least two, and its seconds are scaled up to the epoch; `share` in
the results is the part of the epoch that was run.
"""

import importlib
from collections.abc import Callable

import jax
import numpy as np

from networks import NETWORKS, Network
from peers import Peer, fnn_fit
from timing import interleave, ratio

__all__ = ["ROWS", "check", "measure"]

ROWS = NETWORKS
EPOCH_BUDGET = 3.0  # seconds for an epoch of one peer
LIBRARIES = ("jax", "flax", "equinox", "torch")


def candidates(network: Network) -> tuple[dict[str, Peer], dict[str, str]]:
    """Return the peers that can be built here, and why the others cannot."""
    found, skipped = fnn_fit(network), {}
    for library in LIBRARIES:
        try:
            found |= importlib.import_module(f"peers_{library}").peers(network)
        except (ImportError, NotImplementedError) as error:
            skipped[library] = _reason(error)
    return found, skipped


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


# ---- Are they the same? ----------------------------------------------------------

STEPS = 3
# On other devices than the CPU, products of float32 are computed in fewer bits.
TOLERANCE, TOLERANCE_ELSEWHERE = {"cpu": 1e-4}, 5e-3


def check(network: Network) -> bool:
    """Return whether all peers have fnn's losses in the first steps; print them.

    All steps are on one batch. The first loss shows that parameters and forward are the
    same; the next ones show that gradients and update are.
    """
    x, y = (part[: network.batch_size] for part in network.data())
    found, skipped = candidates(network)
    tolerance = TOLERANCE.get(jax.default_backend(), TOLERANCE_ELSEWHERE)
    passed = True
    expected = found["fnn.fit"](x, y, network.batch_size, STEPS).losses
    for peer, train in found.items():
        try:
            losses = train(x, y, network.batch_size, STEPS).losses
        except Exception as error:
            skipped[peer] = _reason(error)
            continue
        same = bool(np.abs(np.subtract(losses, expected)).max() <= tolerance)
        passed &= same
        shown = " ".join(f"{loss:.6f}" for loss in losses)
        print(f"  {peer:38}{shown}  {'same' if same else 'DIFFERENT'}", flush=True)
    for peer, reason in skipped.items():
        print(f"  {peer:38}skipped: {reason}", flush=True)
    return passed


# ---- How long do they take? ------------------------------------------------------


def measure(network: Network, rounds: int = 10) -> dict:
    """Measure seconds per epoch, and their ratio to fnn's (above 1: fnn is faster)."""
    data = network.data()
    found, skipped = candidates(network)
    runs, shares = {}, {}
    for peer, train in found.items():
        try:
            runs[peer], shares[peer] = _warm(train, data, network.batch_size)
        except Exception as error:  # such as a compiler that torch.compile misses
            skipped[peer] = _reason(error)
    times = interleave(runs, rounds)
    return {
        "images": network.images,
        "batch_size": network.batch_size,
        "peers": {
            peer: {
                "seconds": float(np.median(t)),
                "to_fnn": ratio(t, times["fnn.fit"])._asdict(),
                "share": shares[peer],
            }
            for peer, t in times.items()
        },
        "skipped": skipped,
    }


def _warm(
    train: Peer, data: tuple[np.ndarray, np.ndarray], batch_size: int
) -> tuple[Callable[[], float], float]:
    """Compile a run that returns the seconds of an epoch; return it and its share.

    The share is the part of the epoch that the run measures.
    """

    def seconds(images: int) -> float:
        x, y = (part[:images] for part in data)
        return train(x, y, batch_size, 1).seconds[0]

    steps = len(data[0]) / batch_size
    per_step = _seconds_per_step(seconds, batch_size, steps=2)
    # Two steps may mislead, as an epoch has costs of its own; sixteen do less.
    if per_step * 16 < EPOCH_BUDGET < per_step * steps:
        per_step = _seconds_per_step(seconds, batch_size, steps=16)
    measured = min(steps, max(2, int(EPOCH_BUDGET / per_step)))
    images, scale = int(measured * batch_size), steps / measured

    def run() -> float:
        # Not the first: the threads of the peer before may still spin, and caches and
        # the heap are as that peer left them.
        seconds(images)
        return seconds(images) * scale

    run()
    return run, measured / steps


def _seconds_per_step(
    seconds: Callable[[int], float], batch_size: int, steps: int
) -> float:
    seconds(steps * batch_size)  # compiles
    return seconds(steps * batch_size) / steps
