"""Measuring on a noisy machine: only ratios taken side by side count.

The candidates run one after the other, round after round, in an order that turns with
the round, so that a disturbance meets all of them alike. What is reported is the ratio
within a round: its median over the rounds, and a 95% bootstrap interval of that median.
"""

import os
import platform
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["Ratio", "interleave", "machine", "ratio", "seconds"]


class Ratio(NamedTuple):
    """A median of ratios, and the 95% interval of that median."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        """The median and its interval."""
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def interleave(
    runs: dict[str, Callable[[], float]], rounds: int
) -> dict[str, np.ndarray]:
    """Call every candidate once a round; each returns its own seconds."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for i in range(rounds):
        turn = i % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(runs[name]())
    return {name: np.array(values) for name, values in times.items()}


def ratio(above: np.ndarray, below: np.ndarray) -> Ratio:
    """Median and interval of above/below, paired by round."""
    pairs = above / below
    draw = np.random.default_rng(0)
    medians = np.median(draw.choice(pairs, size=(10_000, len(pairs))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return Ratio(float(np.median(pairs)), float(low), float(high), len(pairs))


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    import jax

    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as info:
            models = [line.split(":")[1] for line in info if "model name" in line]
        processor = models[0].strip()
    except (OSError, IndexError):
        pass
    device = jax.devices()[0]
    return {
        "device": f"{device.platform}: {device.device_kind}",
        "processor": processor,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "load": os.getloadavg()[0],
    }
