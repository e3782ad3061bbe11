"""The network that is trained: a planned one, unless the caller wants otherwise."""

import jax

from fnn.core import Layer
from fnn.describe import shown
from fnn.gradients.engines import Engine, manual
from fnn.planning.options import MODES
from fnn.planning.planned import Plan
from fnn.planning.planner import plan
from fnn.typing import InShape

__all__ = ["WHOLE_BATCHES", "plan_network", "remainder_network"]

#: From this number of whole batches on, the smaller last one goes through plain layers:
#: the step is a small part of an epoch then, and a second plan to compile takes a third
#: of the first epoch's overhead.
WHOLE_BATCHES = 16


def plan_network(
    net: Layer,
    mode: str | None,
    in_shape: InShape,
    batch_size: int,
    engine: Engine,
    ensemble: bool = False,
) -> Layer:
    """Return the network that is compiled; a compiled program depends on nothing else.

    Args:
        net: the network. One that is a plan already stays as it is.
        mode: the mode of the plan, or None for no plan.
        in_shape: the shape of one example.
        batch_size: the batch size to plan for.
        engine: the engine; only networks for the manual engine are planned.
        ensemble: whether the network will be mapped over variables.

    Raises:
        ValueError: there is no such mode.
    """
    if mode is not None and (not isinstance(mode, str) or mode not in MODES):
        modes = ", ".join(map(repr, MODES))
        raise ValueError(f"plan must be {modes} or None, got {shown(mode)}")
    if isinstance(net, Plan):
        return net.net
    if mode is None or engine is not manual:
        return net
    made = plan(net, in_shape, batch_size=batch_size, mode=mode, ensemble=ensemble)
    return made.net


def remainder_network(
    net: Layer, plain_net: Layer, n: int, batch_size: int
) -> Layer | None:
    """Return the network of an epoch's smaller last step; None for that of the others.

    Args:
        net: the network of all other steps.
        plain_net: the layers that it was planned from.
        n: the number of examples.
        batch_size: the batch size.
    """
    is_planned = jax.tree.structure(net) != jax.tree.structure(plain_net)
    steps, rest = divmod(n, batch_size)
    return plain_net if is_planned and rest and steps >= WHOLE_BATCHES else None
