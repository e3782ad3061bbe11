"""What a plan is made for."""

from typing import NamedTuple

from fnn.planning.costs import Costs

__all__ = ["MODES", "Terms"]

#: What a plan may do: "fast" everything, "exact" no Winograd, "memory" nothing that
#: takes more temporary memory than autodiff.
MODES = ("fast", "exact", "memory")


class Terms(NamedTuple):
    """What a plan is made for."""

    batch_size: int
    mode: str
    costs: Costs
    ensemble: bool = False
    keep: bool = True  # patches for the backward
    products: bool = True  # convolutions as products of matrices
