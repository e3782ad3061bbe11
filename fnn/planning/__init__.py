"""Planning: an equivalent network that runs faster, and a table of the changes."""

from fnn.planning.costs import Costs, load_costs
from fnn.planning.options import MODES
from fnn.planning.planned import Change, Plan, plain
from fnn.planning.planner import plan

__all__ = ["MODES", "Change", "Costs", "Plan", "load_costs", "plain", "plan"]
