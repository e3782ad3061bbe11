"""Measure plans: making and compiling them, each mode, and ensembles.

A step is a gradient and Adam's update, in a compiled loop. An ensemble is eight
networks from different keys on the same batches, trained in these ways: `vmap` over the
variables of a plan for ensembles; `lax.map` over the variables of an ordinary plan, at
every step or around a run of eight steps; and, as the baseline, one network alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import fnn
from engines import STEPS, batches, training_step
from fnn.planning.options import MODES
from networks import NETWORKS, Network
from timing import interleave, loop, ratio, rounds_within, seconds, temporary_bytes

__all__ = ["ROWS", "measure"]

ROWS = {
    name: network for name, network in NETWORKS.items() if name.endswith("batch 64")
}
LOSS = fnn.losses.SoftmaxCrossEntropy()
MEMBERS = 8
BUDGET, COMPILE_BUDGET = 60.0, 60.0  # seconds for the rounds


def measure(network: Network, rounds: int = 20) -> dict:
    """Measure seconds to plan and compile, and milliseconds of a step in each way."""
    plans = {mode: _plan(network, mode=mode) for mode in MODES}
    nets = {"plain": network.net} | {mode: plan.net for mode, plan in plans.items()}
    data = batches(network)
    runs = {mode: _loop(network._replace(net=net), data) for mode, net in nets.items()}
    times = interleave(runs, rounds_within(BUDGET, runs, rounds))
    batch = tuple(a[: network.batch_size] for a in data)
    variables = network.variables()
    memory = {
        mode: temporary_bytes(fnn.value_and_grad(net, LOSS), variables, batch)
        for mode, net in nets.items()
    }
    autodiff = fnn.value_and_grad(network.net, LOSS, "autodiff")
    return {
        "plan_s": min(seconds(lambda: _plan(network)) for _ in range(5)),
        "compile_ratio": _compiling(network, nets["fast"])._asdict(),
        "modes": {
            mode: {
                "ms": float(np.median(t)) * 1e3,
                "to_plain": ratio(t, times["plain"])._asdict(),
                "memory_bytes": memory[mode],
            }
            for mode, t in times.items()
        },
        "autodiff_memory_bytes": temporary_bytes(autodiff, variables, batch),
        "ensemble": _ensembles(network, data, rounds),
    }


def _plan(network: Network, **options: Any) -> fnn.Plan:
    size = network.batch_size
    return fnn.plan(network.net, network.in_shape, batch_size=size, **options)


def _start(network: Network, key: Any) -> tuple:
    variables = network.net.init(key, network.in_shape)
    opt_state = fnn.optimizers.adam(1e-3).init(variables.params)
    return variables, opt_state, jnp.asarray(0)


def _loop(network: Network, data: tuple) -> Callable[[], float]:
    step = training_step(network, "manual")
    start = _start(network, jax.random.key(0))
    return loop(lambda carry, zero: (step(carry[0], carry[1]), carry[1]), (start, data))


def _compiling(network: Network, planned: fnn.Layer):
    """Compare seconds to compile a step: planned and manual / plain and autodiff."""
    start, data = _start(network, jax.random.key(0)), batches(network)

    def compile_once(net: fnn.Layer, engine: str) -> float:
        jax.clear_caches()
        step = jax.jit(training_step(network._replace(net=net), engine))
        return seconds(lambda: step.lower(start, data).compile())

    runs = {
        "planned": lambda: compile_once(planned, "manual"),
        "autodiff": lambda: compile_once(network.net, "autodiff"),
    }
    times = interleave(runs, rounds_within(COMPILE_BUDGET, runs, 10))
    return ratio(times["planned"], times["autodiff"])


def _ensembles(network: Network, data: tuple, rounds: int) -> dict:
    """Measure milliseconds of a step of one member, and its ratio to one alone."""
    keys = jax.random.split(jax.random.key(0), MEMBERS)
    members = jax.vmap(lambda key: _start(network, key))(keys)
    alone = training_step(network._replace(net=_plan(network).net), "manual")
    ensemble = _plan(network, ensemble=True).net
    vectorized = training_step(network._replace(net=ensemble), "manual")

    def each(carry: tuple, zero: Any) -> tuple:
        starts, data = carry
        return lax.map(lambda start: alone(start, data), starts), data

    def each_run(carry: tuple, zero: Any) -> tuple:
        starts, data = carry

        def run(start: tuple) -> tuple:
            return lax.fori_loop(0, STEPS, lambda _, c: alone(c, data), start)

        return lax.map(run, starts), data

    def at_once(carry: tuple, zero: Any) -> tuple:
        starts, data = carry
        return jax.vmap(vectorized, (0, None))(starts, data), data

    def one(carry: tuple, zero: Any) -> tuple:
        start, data = carry
        return alone(start, data), data

    first = jax.tree.map(lambda a: a[0], members)
    runs = {
        "one after the other": loop(one, (first, data)),
        "lax.map of 8 steps": loop(each_run, (members, data)),
        "lax.map of a step": loop(each, (members, data)),
        "vmap": loop(at_once, (members, data)),
    }
    times = interleave(runs, rounds_within(BUDGET, runs, rounds))
    for way in times.keys() - {"one after the other"}:
        times[way] = times[way] / MEMBERS
    times["lax.map of 8 steps"] = times["lax.map of 8 steps"] / STEPS
    return {
        way: {
            "ms": float(np.median(t)) * 1e3,
            "to_one": ratio(t, times["one after the other"])._asdict(),
        }
        for way, t in times.items()
    }
