"""Planning: an equivalent network that runs faster, and says why."""

from fnn.planning.costs import Costs, load_costs
from fnn.planning.planned import Change, Plan, plain
from fnn.planning.planner import plan
from fnn.planning.terms import MODES

__all__ = ["MODES", "Change", "Costs", "Plan", "load_costs", "plain", "plan"]
