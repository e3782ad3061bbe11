"""The search for a plan: the fastest, or the fastest that saves memory."""

import dataclasses

import jax

from fnn.core import Layer
from fnn.planning.comparing import faster_measured
from fnn.planning.memory import autodiff_step, manual_step, temporary_bytes
from fnn.planning.options import PlanOptions
from fnn.planning.planned import Plan
from fnn.planning.route import OUTER, Planner
from fnn.shapes import abstract_batch, example_shape, hashable
from fnn.typing import Array, InShape, KeyArray, PyTree
from fnn.visits import record

__all__ = ["fastest_plan", "fastest_plan_within_memory", "shapes_by_path"]

#: The share of autodiff's memory that a plan of mode "memory" may need. It is below 1
#: because the step that is compiled here is not quite the user's.
MEMORY_SHARE = 0.95


def fastest_plan_within_memory(
    net: Layer, in_shape: InShape, options: PlanOptions
) -> Plan:
    """Return the fastest of some plans that needs no more memory than autodiff."""
    size = net, in_shape, options.batch_size
    limit = None
    for restricted in (
        options,
        options._replace(keep_patches=False),
        options._replace(matrix_products=False),
    ):
        plan = fastest_plan(net, in_shape, restricted)
        if not plan.changes:
            break
        limit = limit or temporary_bytes(autodiff_step(net), *size)
        needed = temporary_bytes(manual_step(plan.net), *size)
        if needed <= MEMORY_SHARE * limit:
            note = (
                f"{plan.note}\nTemporary memory of a step: {needed / 1e6:.1f} MB, "
                f"where autodiff takes {limit / 1e6:.1f}."
            )
            return dataclasses.replace(plan, note=note)
    return Plan(
        net, net, hashable(in_shape), (), "every plan takes more memory than autodiff"
    )


def fastest_plan(net: Layer, in_shape: InShape, options: PlanOptions) -> Plan:
    """Return the plan that is expected to take the least time."""
    planner = Planner(options, shapes_by_path(net, in_shape))
    best = planner.routes(net, net.kind)[OUTER, OUTER]
    if not best.changes:
        return Plan(
            net, net, hashable(in_shape), (), "no rewrite applies, or none would pay"
        )
    (planned,) = best.layers
    before = planner.plain_cost(net, net.kind)
    note = (
        f"A batch of {options.batch_size}, forward and backward: {best.cost:.2f} ms "
        f"expected in place of {before:.2f},\ntransposes of images included. "
        f'Mode "{options.mode}"; costs of\n{options.costs.machine}.'
    )
    plan = Plan(planned, net, hashable(in_shape), best.changes, note)
    return faster_measured(plan, in_shape, options) if options.compare else plan


def shapes_by_path(net: Layer, in_shape: InShape) -> dict[str, InShape]:
    """Return the shape of one example of each layer's x, by path; nothing is run."""

    def record_all(key: KeyArray, x: Array) -> dict[str, PyTree]:
        return record(net, net.init(key, in_shape), x, key)

    recorded = jax.eval_shape(record_all, jax.random.key(0), abstract_batch(in_shape))
    return {path: example_shape(entry.x) for path, entry in recorded.items()}
