"""Compare a plan with the plain network, where the costs are those of other processors.

A step of either is compiled and timed, a forward and a backward, which takes a few
seconds. The answer is kept in the user's cache folder, so that a network is measured
once on a machine.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from fnn.core import Layer, Variables
from fnn.folders import write_whole
from fnn.planning.costs import own_costs_file
from fnn.planning.memory import manual_step
from fnn.planning.options import PlanOptions
from fnn.planning.planned import Plan
from fnn.planning.timing import loop
from fnn.shapes import abstract_batch
from fnn.typing import Array, InShape, KeyArray, PyTree

__all__ = ["faster_measured"]

#: Variables, a batch x and a key.
Carry = tuple[Variables, PyTree, KeyArray]

#: Runs of either step, in turns, of which the fastest counts; and their seconds.
RUNS, LONG_ENOUGH = 5, 0.1


def faster_measured(plan: Plan, in_shape: InShape, options: PlanOptions) -> Plan:
    """Return the plan, or one that changes nothing where that is faster here."""
    if not plan.changes:
        return plan
    key = _key(plan, options)
    known = _read(_answers_file())
    if key not in known:
        # A plan may be made while a program is traced, which must not trace this.
        with jax.ensure_compile_time_eval():
            known[key] = _milliseconds(plan, in_shape, options.batch_size)
        # Without a folder to write to, it is measured again for the next plan.
        with contextlib.suppress(OSError):
            write_whole(_answers_file(), json.dumps(known, indent=1))
    planned, plain = known[key]
    measured = f"Measured on this machine: {planned:.2f} ms, plain {plain:.2f}."
    if planned > plain:
        why = f"the plan takes longer here. {measured[:-1]}"
        return dataclasses.replace(plan, net=plan.plain, changes=(), note=why)
    return dataclasses.replace(plan, note=f"{plan.note}\n{measured}")


def _milliseconds(
    plan: Plan, in_shape: InShape, batch_size: int
) -> tuple[float, float]:
    """Return the milliseconds of a step of the plan and of the plain network."""
    runs = [_run(net, in_shape, batch_size) for net in (plan.net, plan.plain)]
    rounds = [[run() for run in runs] for _ in range(RUNS)]
    planned, plain = map(min, zip(*rounds, strict=True))
    return planned * 1e3, plain * 1e3


def _run(net: Layer, in_shape: InShape, batch_size: int) -> Callable[[], float]:
    """Return a run of many steps in a loop, which follow their gradients."""
    step = manual_step(net)

    def body(carry: Carry, zero: Array) -> Carry:
        variables, x, key = carry
        dparams, state = step(variables, x, key)
        params = jax.tree.map(partial(_follow, zero), variables.params, dparams)
        # Not x itself, or what is computed from it alone could move out of the loop.
        x = jax.tree.map(partial(_follow, zero), x, x)
        return Variables(params, state), x, key

    key = jax.random.key(0)
    x = jax.tree.map(
        lambda a: jnp.ones(a.shape, a.dtype), abstract_batch(in_shape, batch_size)
    )
    return loop(body, (net.init(key, in_shape), x, key), LONG_ENOUGH)


def _follow(zero: Array, value: Array, by: Array) -> Array:
    return value + (zero * by).astype(value.dtype)


def _key(plan: Plan, options: PlanOptions) -> str:
    """Return a short name of the network, its batch and the changes."""
    parts = plan.plain, plan.in_shape, options.batch_size, plan.changes
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _answers_file() -> Path:
    own = own_costs_file()
    return own.with_name(f"plans-{own.name}")


def _read(path: Path) -> dict[str, tuple[float, float]]:
    """Return the answers of earlier plans; none where the file cannot be read."""
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError):
        return {}
