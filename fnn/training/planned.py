"""The network as it is trained: planned, unless the caller wants otherwise."""

from fnn.core import Layer
from fnn.gradients.engines import Engine, manual
from fnn.planning import MODES, Plan, plan

__all__ = ["as_written", "planned"]


def planned(
    net: Layer,
    mode: str | None,
    in_shape: tuple[int, ...],
    batch_size: int,
    engine: Engine,
    ensemble: bool = False,
) -> Layer:
    """The network that is compiled; a compiled program depends on nothing else.

    Args:
        net: the network. One that is a plan already stays it.
        mode: of the plan, or None for none.
        in_shape: of one example.
        batch_size: to plan for.
        engine: the engine; only the manual one is planned for.
        ensemble: whether it will be mapped over variables.
    """
    if mode is not None and (not isinstance(mode, str) or mode not in MODES):
        modes = ", ".join(map(repr, MODES))
        raise ValueError(f"plan must be {modes} or None, got {mode!r}")
    if isinstance(net, Plan):
        return net.net
    if mode is None or engine is not manual:
        return net
    made = plan(net, in_shape, batch_size=batch_size, mode=mode, ensemble=ensemble)
    return made.net


def as_written(net: Layer) -> Layer:
    """The network that a plan was made of; any other is that itself."""
    return net.plain if isinstance(net, Plan) else net
