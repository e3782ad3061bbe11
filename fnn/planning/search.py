"""The search for a plan: the cheapest, or the fastest that is frugal with memory."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fnn.core import Layer
from fnn.planning.memory import step_by_autodiff, step_by_hand, temporary_bytes
from fnn.planning.planned import Plan
from fnn.planning.route import OUTER, Planner
from fnn.planning.terms import Terms
from fnn.probes import record

__all__ = ["cheapest", "frugal"]

#: Of autodiff's memory, for the mode "memory": the step compared is not quite yours.
SPARE = 0.95


def frugal(net: Layer, in_shape: tuple[int, ...], terms: Terms) -> Plan:
    """The fastest of some plans that takes no more memory than autodiff."""
    limit = None
    for tried in (
        terms,
        terms._replace(keep=False),
        terms._replace(products=False),
    ):
        planned = cheapest(net, in_shape, tried)
        if not planned.changes:
            break
        asked = net, in_shape, terms.batch_size
        limit = limit or temporary_bytes(step_by_autodiff(net), *asked)
        taken = temporary_bytes(step_by_hand(planned.net), *asked)
        if taken <= SPARE * limit:
            said = f"{taken / 1e6:.1f} MB, where autodiff takes {limit / 1e6:.1f}"
            return dataclasses.replace(
                planned, note=f"{planned.note}\nTemporary memory of a step: {said}."
            )
    return Plan(net, net, in_shape, (), "every plan takes more memory than autodiff")


def cheapest(net: Layer, in_shape: tuple[int, ...], terms: Terms) -> Plan:
    """The plan that is expected to take the least time."""
    planner = Planner(terms, _shapes(net, in_shape))
    best = planner.options(net, net.kind)[OUTER, OUTER]
    if not best.changes:
        return Plan(net, net, in_shape, (), "no rule applies, or none would pay")
    (planned,) = best.layers
    before = planner.plain(net, net.kind)
    note = (
        f"A batch of {terms.batch_size}, forward and backward: {best.cost:.2f} ms "
        f"expected in place of {before:.2f},\nthe turning of images included. "
        f'Mode "{terms.mode}"; costs of {terms.costs.machine}.'
    )
    return Plan(planned, net, in_shape, best.changes, note)


def _shapes(net: Layer, in_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shape of one example that reaches each layer, by path; nothing is run."""

    def seen(key: Any, x: Any) -> Any:
        return record(net, net.init(key, in_shape), x, key)

    x = jax.ShapeDtypeStruct((1, *in_shape), jnp.zeros(()).dtype)
    found = jax.eval_shape(seen, jax.random.key(0), x)
    return {path: entry.x.shape[1:] for path, entry in found.items()}
