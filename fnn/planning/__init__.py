"""Planning: an equivalent network that runs faster, and says why."""

from fnn.planning.costs import Costs, load_costs
from fnn.planning.plan import Change, Plan, plan
from fnn.planning.stage import plain

__all__ = ["Change", "Costs", "Plan", "load_costs", "plain", "plan"]
