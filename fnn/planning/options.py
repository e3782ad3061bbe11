"""The options of a plan."""

from typing import NamedTuple

from fnn.planning.costs import Costs

__all__ = ["MODES", "PlanOptions"]

#: What a plan may do: "fast" everything, "exact" no Winograd, "memory" nothing that
#: needs more temporary memory than autodiff.
MODES = ("fast", "exact", "memory")


class PlanOptions(NamedTuple):
    """The options of a plan, as `fnn.plan` describes them, and three of its own.

    `compare` says that the costs are a guess, so that the plan is measured. With
    `keep_patches` the forward keeps patches for the backward; with `matrix_products` a
    convolution may become a product of matrices.
    """

    batch_size: int
    mode: str
    costs: Costs
    ensemble: bool = False
    compare: bool = False
    keep_patches: bool = True
    matrix_products: bool = True
