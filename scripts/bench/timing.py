"""Timing on a noisy machine, where only ratios measured side by side count.

In each round, all candidates run one after the other, each round starting with another
one, so that a disturbance affects all of them alike. The result is the ratio within a
round: its median over the rounds, and a 95% bootstrap interval of that median.
"""

import os
import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np

import fnn.planning.timing
from fnn.planning.machine import instruction_set, processor
from fnn.planning.timing import long_enough
from fnn.planning.timing import seconds_of as seconds

__all__ = [
    "Ratio",
    "interleave",
    "loop",
    "machine",
    "nudge",
    "ratio",
    "repeat",
    "rounds_within",
    "seconds",
    "temporary_bytes",
]


class Ratio(NamedTuple):
    """A median of ratios, and the 95% interval of that median."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        """Return the median and its interval as text."""
        return f"{self.median:#.4g} [{self.low:#.4g}, {self.high:#.4g}]"


def interleave(
    runs: dict[str, Callable[[], float]], rounds: int
) -> dict[str, np.ndarray]:
    """Call every candidate once in each round; a candidate returns its own seconds."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for i in range(rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(runs[name]())
    return {name: np.array(values) for name, values in times.items()}


def ratio(above: np.ndarray, below: np.ndarray) -> Ratio:
    """Return the median and interval of above/below, paired by round."""
    pairs = above / below
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(pairs, size=(10_000, len(pairs))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return Ratio(float(np.median(pairs)), float(low), float(high), len(pairs))


def rounds_within(
    budget: float, runs: dict[str, Callable[[], Any]], rounds: int
) -> int:
    """Return how many rounds fit into `budget` seconds: from three to `rounds`.

    It runs everything once.
    """
    per_round = sum(seconds(run) for run in runs.values())
    return max(3, min(rounds, int(budget / per_round)))


# ---- Short programs, many times --------------------------------------------------

#: Seconds that a run of many repetitions should take, to be well above the clock.
LONG_ENOUGH = 0.15


def repeat(f: Callable[..., Any], *arguments: Any) -> Callable[[], float]:
    """Make a run that calls a compiled function many times; it returns s per call."""

    def calls(count: int) -> float:
        def run() -> None:
            for _ in range(count):
                # Waiting each time: two calls at once would share the cores.
                jax.block_until_ready(f(*arguments))

        return seconds(run)

    return long_enough(calls, LONG_ENOUGH)


def loop(body: Callable[[Any, jax.Array], Any], carry: Any) -> Callable[[], float]:
    """Return a run of `body: (carry, zero) -> carry` in one compiled loop.

    It returns the seconds per iteration; see `fnn.planning.timing.loop`.
    """
    return fnn.planning.timing.loop(body, carry, LONG_ENOUGH)


def nudge(tree: Any, zero: jax.Array, result: jax.Array) -> Any:
    """Return equal arrays, whose first number depends on the first one of `result`.

    Then nothing that is computed from them can be moved out of a loop. Inside a loop
    this is done in place, and costs nothing.
    """
    by = zero * result.ravel()[0]
    return jax.tree.map(lambda a: a.at[(0,) * a.ndim].add(by), tree)


def temporary_bytes(f: Callable[..., Any], *arguments: Any) -> int:
    """Return the bytes that a compiled function needs besides arguments and results."""
    compiled = jax.jit(f).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes


# ---- The machine -----------------------------------------------------------------

LIBRARIES = ("jax", "jaxlib", "optax", "flax", "equinox", "torch")


def machine() -> dict[str, object]:
    """Describe the machine: device, processor, cores, versions, load."""
    device = jax.devices()[0]
    return {
        "device": f"{device.platform}: {device.device_kind}",
        "processor": processor(),
        "instructions": instruction_set(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version for name in LIBRARIES if (version := _version(name))},
        "load": round(os.getloadavg()[0], 2),
    }


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
