"""Measuring on a noisy machine: only ratios taken side by side count.

The candidates run one after the other, round after round, in an order that turns with
the round, so that a disturbance meets all of them alike. What is reported is the ratio
within a round: its median over the rounds, and a 95% bootstrap interval of that median.
"""

import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

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
        """The median and its interval."""
        return f"{self.median:#.4g} [{self.low:#.4g}, {self.high:#.4g}]"


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


def rounds_within(
    budget: float, runs: dict[str, Callable[[], Any]], rounds: int
) -> int:
    """As many rounds as fit into that many seconds: at most `rounds`, at least three.

    Runs everything once.
    """
    a_round = sum(seconds(run) for run in runs.values())
    return max(3, min(rounds, int(budget / a_round)))


# ---- Short programs, many times --------------------------------------------------

#: Seconds that a run of many repetitions should take, to be well above the clock.
LONG_ENOUGH = 0.15


def repeat(f: Callable[..., Any], *arguments: Any) -> Callable[[], float]:
    """A run that calls a compiled function many times: its seconds per call."""

    def calls(count: int) -> float:
        def run() -> None:
            for _ in range(count):
                # Waiting each time: two calls at once would share the cores.
                jax.block_until_ready(f(*arguments))

        return seconds(run)

    return _long_enough(calls)


def loop(body: Callable[[Any, jax.Array], Any], carry: Any) -> Callable[[], float]:
    """A run of `body: (carry, zero) -> carry` in one compiled loop.

    It returns the seconds per iteration. What the body computes must end in the carry
    that it returns and depend on the one it gets, or else XLA may compute it once, or
    not at all. `zero` is a zero that the compiler does not know to be one: added in
    proportion, a result enters the next iteration and changes nothing.
    """
    # The count is known only at run time, so that one program serves any. Accelerators
    # would then ask the host before every iteration, and get a few at a time.
    together = 1 if jax.default_backend() == "cpu" else 16

    @jax.jit
    def looped(carry, count, zero):
        def few(_, carry):
            return lax.fori_loop(0, together, lambda _, c: body(c, zero), carry)

        return lax.fori_loop(0, count, few, carry)

    def calls(count: int) -> float:
        zero = jax.numpy.zeros(())
        return seconds(lambda: jax.block_until_ready(looped(carry, count, zero)))

    run = _long_enough(calls)
    return lambda: run() / together


def _long_enough(timed: Callable[[int], float]) -> Callable[[], float]:
    """Chooses the count by itself, after the first call has compiled."""
    timed(1)
    count, took = 1, timed(1)
    while took < LONG_ENOUGH:
        count = max(count + 1, round(count * min(10, 1.2 * LONG_ENOUGH / took)))
        took = timed(count)
    return lambda: timed(count) / count


def nudge(tree: Any, zero: jax.Array, result: jax.Array) -> Any:
    """The same arrays; the first number of each depends on the first of `result`.

    Then nothing that is computed from them can be moved out of a loop. Inside one it is
    done in place, and costs nothing.
    """
    by = zero * result.ravel()[0]
    return jax.tree.map(lambda a: a.at[(0,) * a.ndim].add(by), tree)


def temporary_bytes(f: Callable[..., Any], *arguments: Any) -> int:
    """What the compiled function allocates besides its arguments and results."""
    compiled = jax.jit(f).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes


# ---- Where -----------------------------------------------------------------------

LIBRARIES = ("jax", "jaxlib", "optax", "flax", "equinox", "torch")


def machine() -> dict[str, object]:
    """What the figures were measured on."""
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
        **{name: version for name in LIBRARIES if (version := _version(name))},
        "load": round(os.getloadavg()[0], 2),
    }


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
