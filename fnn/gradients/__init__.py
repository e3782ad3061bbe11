"""Gradients by hand, by autodiff and from the definition, and their comparison."""

from fnn.gradients.audit.compare import compare_gradients
from fnn.gradients.audit.report import NodeCheck, Report, Row
from fnn.gradients.engines import (
    ENGINES,
    Engine,
    Gradients,
    autodiff,
    manual,
    objective,
    value_and_grad,
)
from fnn.gradients.explain.explain import explain
from fnn.gradients.explain.explanation import Explanation, Factor
from fnn.gradients.first_nonfinite import first_nonfinite
from fnn.gradients.numerical import (
    HSweep,
    directional_derivatives,
    h_sweep,
    numerical_gradients,
)

__all__ = [
    "ENGINES",
    "Engine",
    "Explanation",
    "Factor",
    "Gradients",
    "HSweep",
    "NodeCheck",
    "Report",
    "Row",
    "autodiff",
    "compare_gradients",
    "directional_derivatives",
    "explain",
    "first_nonfinite",
    "h_sweep",
    "manual",
    "numerical_gradients",
    "objective",
    "value_and_grad",
]
