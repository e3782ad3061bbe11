"""Norms and inner products of arrays on the host.

Written as sums of products: `np.vdot` and `np.linalg.norm` go to a library that starts
threads of its own, which wait for those of JAX and take a hundred times as long.
"""

import math
from typing import Any

import numpy as np

__all__ = ["cosine", "inner", "largest", "norm"]


def inner(a: Any, b: Any) -> float:
    """Compute ⟨a, b⟩."""
    return float((np.asarray(a) * np.asarray(b)).sum())


def norm(a: Any) -> float:
    """Compute |a|₂."""
    return math.sqrt(inner(a, a))


def cosine(a: Any, b: Any) -> float:
    """Compute the cosine of the angle between a and b; 1 if both are zero."""
    norms = norm(a) * norm(b)
    return inner(a, b) / norms if norms else float(not np.any(np.asarray(a) != b))


def largest(a: Any) -> float:
    """Compute |a|∞, and 0 of no entries."""
    a = np.asarray(a)
    return float(max(a.max(initial=0), -a.min(initial=0)))  # no copy, as by np.abs
