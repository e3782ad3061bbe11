"""Planning: an equivalent network, of the same variables, that runs faster.

`rules` says which stages there are for which layers, `costs` what they cost, as
measured, `paths` finds the cheapest way through all of them, and `search` the plan.
"""

import jax

from fnn.checks import check_in_shape, positive_integer
from fnn.core import Layer, expect_layer
from fnn.planning.costs import Costs, built_in
from fnn.planning.planned import Plan
from fnn.planning.terms import MODES, Terms

__all__ = ["plan"]


def plan(
    net: Layer,
    in_shape: tuple[int, ...],
    *,
    batch_size: int = 64,
    mode: str = "fast",
    platform: str | None = None,
    costs: Costs | None = None,
    ensemble: bool = False,
) -> Plan:
    """Plan a network: replace its layers by kernels where that is expected to pay.

    Results differ from the plain network's by rounding: a convolution by Winograd
    rounds a few times as much as one by the definition (`Toom.growth` has the bound),
    everything else as another order of the same sums. Dropout's masks and the winners
    of pooling are the same; see `kernels.winograd` for ties.

    Args:
        net: the network.
        in_shape: the shape of ONE example, no batch axis.
        batch_size: for which it shall be fast. It works with any.
        mode: "fast"; "exact", without Winograd; or "memory", the fastest that takes no
            more temporary memory than autodiff. For that a step of either is compiled,
            which takes seconds.
        platform: "cpu", "gpu" or "tpu"; by default that of JAX. Only for the CPU is
            there anything to do: elsewhere XLA's own convolutions are hard to beat.
        costs: a table of `load_costs`, made on your machine by `scripts/bench/costs`.
        ensemble: for `vmap` over the variables, where XLA's convolution would become a
            grouped one, many times slower: every convolution that can becomes a product
            of matrices, whatever it costs alone.

    Returns:
        A `Plan`, a layer with the variables of `net`.

    Raises:
        ValueError, TypeError: what does not fit, in plain words.

    Example:
        >>> import fnn
        >>> net = fnn.serial(fnn.Conv(8, 3), fnn.Relu(), fnn.MaxPool(2),
        ...                  fnn.Flatten(), fnn.Dense(10))
        >>> planned = fnn.plan(net, (28, 28, 1), platform="cpu")
        >>> [change.path for change in planned.changes]
        ['0/Conv+Relu+MaxPool']
    """
    expect_layer("net", net)
    check_in_shape(in_shape)
    in_shape = tuple(in_shape)
    batch_size = positive_integer("plan: batch_size", batch_size)
    if mode not in MODES:
        raise ValueError(f"plan: mode must be one of {MODES}, got {mode!r}")
    platform = platform or jax.default_backend()
    if platform not in ("cpu", "gpu", "tpu", "cuda", "rocm"):
        raise ValueError(
            f'plan: platform must be "cpu", "gpu" or "tpu", got {platform!r}'
        )
    if isinstance(net, Plan):
        net = net.plain
    if platform != "cpu":
        return Plan(net, net, in_shape, (), f"on a {platform} XLA's convolutions stay")
    if costs is not None and not isinstance(costs, Costs):
        raise TypeError(
            "plan: costs must be a table that fnn.load_costs has read, got "
            f"{type(costs).__name__}"
        )
    terms = Terms(batch_size, mode, costs or built_in(), ensemble)
    # Not at the top: stages and kernels would be a tenth of `import fnn`.
    from fnn.planning.search import cheapest, frugal

    search = frugal if mode == "memory" else cheapest
    return search(net, in_shape, terms)
