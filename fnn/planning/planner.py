"""Planning: an equivalent network, with the same variables, that runs faster.

`rewrites` lists which stages can replace which layers, `costs` holds their measured
costs, `route` finds the cheapest route through all of them, and `search` the plan.
"""

import jax

from fnn.checks import check_in_shape, positive_integer
from fnn.core import Layer, expect_layer
from fnn.describe import shown
from fnn.planning.costs import Costs, known_costs
from fnn.planning.options import MODES, PlanOptions
from fnn.planning.planned import Plan
from fnn.shapes import hashable
from fnn.typing import InShape

__all__ = ["plan"]


def plan(
    net: Layer,
    in_shape: InShape,
    *,
    batch_size: int = 64,
    mode: str = "fast",
    platform: str | None = None,
    costs: Costs | None = None,
    ensemble: bool = False,
) -> Plan:
    """Plan a network: replace its layers by kernels where that is expected to pay.

    Results differ from the plain network's by rounding: a convolution by Winograd
    rounds a few times as much as one by the definition (`Transforms.growth` bounds it),
    everything else as another order of the same sums. Dropout's masks and the argmax of
    pooling are the same; see `kernels.winograd` for equal maxima.

    Args:
        net: the network.
        in_shape: the shape of ONE example, no batch axis.
        batch_size: the batch size to optimise for. The plan works with any.
        mode: "fast"; "exact", without Winograd; or "memory", the fastest that needs no
            more temporary memory than autodiff. To find it, a step of either is
            compiled, which takes seconds.
        platform: "cpu", "gpu" or "tpu"; by default the one that JAX uses. Plans change
            networks on the CPU only: elsewhere XLA's convolutions are hard to beat.
        costs: a table of `measure_costs` or `load_costs`. By default it is the one that
            `measure_costs` has made on this machine, or that of processors with the
            same vector instructions. Where there is neither, costs are a guess: then a
            step of the plan and one of the plain network are compiled and timed, which
            takes a few seconds, and the faster one is the plan. The answer is kept in
            the user's cache folder.
        ensemble: whether the plan is for `vmap` over the variables, where XLA's
            convolution would become a grouped one, many times slower. Every convolution
            that can then becomes a product of matrices, whatever it costs alone.

    Returns:
        A `Plan`, a layer with the variables of `net`.

    Raises:
        ValueError: in_shape, batch_size, mode or platform is not one of the above.
        TypeError: `net` is not a layer, or `costs` not a table.

    Example:
        >>> import fnn
        >>> net = fnn.serial(fnn.Conv(8, 3), fnn.Relu(), fnn.MaxPool(2),
        ...                  fnn.Flatten(), fnn.Dense(10))
        >>> planned = fnn.plan(net, (28, 28, 1), platform="cpu")
        >>> [change.path for change in planned.changes]
        ['0/Conv+Relu+MaxPool']
    """
    expect_layer("net", net)
    in_shape = check_in_shape(in_shape)
    batch_size = positive_integer("plan: batch_size", batch_size)
    if mode not in MODES:
        raise ValueError(f"plan: mode must be one of {MODES}, got {shown(mode)}")
    platform = platform or jax.default_backend()
    if platform not in ("cpu", "gpu", "tpu", "cuda", "rocm"):
        raise ValueError(
            f'plan: platform must be "cpu", "gpu" or "tpu", got {shown(platform)}'
        )
    if isinstance(net, Plan):
        net = net.plain
    if platform != "cpu":
        return Plan(
            net, net, hashable(in_shape), (), f"on a {platform} XLA's convolutions stay"
        )
    if costs is not None and not isinstance(costs, Costs):
        raise TypeError(
            "plan: costs must be a table of fnn.measure_costs or fnn.load_costs, got "
            f"{type(costs).__name__}"
        )
    table, hold = (costs, True) if costs else known_costs()
    # Under vmap the plain network is so slow that nothing need be compared.
    compare = not hold and not ensemble
    options = PlanOptions(batch_size, mode, table, ensemble, compare)
    # Not at the top: stages and kernels would be a tenth of `import fnn`.
    from fnn.planning.search import fastest_plan, fastest_plan_within_memory

    search = fastest_plan_within_memory if mode == "memory" else fastest_plan
    return search(net, in_shape, options)
