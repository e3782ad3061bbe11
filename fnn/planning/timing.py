"""Time short programs: in a compiled loop, as often as the clock needs.

In the loop every result enters the next iteration: the next x is x + ε dx, the next dy
is dy + ε y, and the parameters follow in the same way. ε is zero, but the compiler does
not know it, so nothing can be left out or moved out of the loop. Reading and writing
these arrays takes time, too, which draws ratios towards 1.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.core import Backward
from fnn.typing import Array, PyTree

__all__ = ["Body", "fed_back", "long_enough", "loop", "seconds_of"]

#: The body of a loop: from what it carries, and a zero, to what the next one carries.
Body = Callable[[Any, Array], Any]

#: From params, x and dy to y and the gradients.
Gradient = Callable[[PyTree, Array, Array], tuple[PyTree, Backward]]


def fed_back(gradient: Gradient) -> Body:
    """Return the body of a loop in which every result enters the next iteration."""

    def body(carry: Any, zero: Array) -> Any:
        params, x, dy = carry
        y, (dx, dparams) = gradient(params, x, dy)
        return jax.tree.map(lambda a, b: a + zero * b, carry, (dparams, dx, y))

    return body


def loop(body: Body, carry: Any, at_least: float) -> Callable[[], float]:
    """Return a run of a body in one compiled loop; it returns seconds per iteration.

    All that the body computes must depend on the carry it gets and enter the carry it
    returns, or else XLA may compute it once, or not at all. `zero` is 0, but the
    compiler does not know it: a result times zero can be added to the next carry, and
    changes nothing. A run takes `at_least` so many seconds.
    """
    # The count is known only at run time, so that one program serves all counts. An
    # accelerator then asks the host before every iteration, so it gets several at once.
    unroll = 1 if jax.default_backend() == "cpu" else 16

    @jax.jit
    def looped(carry: Any, count: int, zero: Array) -> Any:
        def few(_: Array, carry: Any) -> Any:
            return lax.fori_loop(0, unroll, lambda _, c: body(c, zero), carry)

        return lax.fori_loop(0, count, few, carry)

    def calls(count: int) -> float:
        zero = jnp.zeros(())
        return seconds_of(lambda: jax.block_until_ready(looped(carry, count, zero)))

    run = long_enough(calls, at_least)
    return lambda: run() / unroll


def long_enough(timed: Callable[[int], float], at_least: float) -> Callable[[], float]:
    """Return a run that repeats as often as `at_least` seconds need.

    `timed` returns the seconds of so many repetitions, the run those of one. The first
    call compiles, and does not count.
    """
    timed(1)
    count, took = 1, timed(1)
    while took < at_least:
        count = max(count + 1, round(count * min(10, 1.2 * at_least / took)))
        took = timed(count)
    return lambda: timed(count) / count


def seconds_of(run: Callable[[], object]) -> float:
    """Return the wall-clock seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
