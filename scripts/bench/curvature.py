"""Curvature against one plain gradient: products, the diagonal, KFAC's factors.

Each is timed as the body of a compiled loop, all side by side, on the networks of
`per_example`: the handwritten gradient; Hessian-vector and Gauss-Newton products from
handwritten passes; `jvp` of `jax.grad`, the usual way to a Hessian-vector product; the
diagonal of Gauss-Newton's matrix, of ten classes, exact and from one sample; and KFAC's
factors from one sample, as it is used in training.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import fnn
from per_example import LOSS, ROWS, Case, nudged
from timing import interleave, loop, ratio, rounds_within, temporary_bytes

__all__ = ["ROWS", "measure"]

BUDGET = 180.0  # seconds for the rounds of one network
KEY = jax.random.key(0)


def passes(net: fnn.Layer) -> dict[str, Callable[..., Any]]:
    """Return the functions (variables, batch) -> a tree that are compared."""

    def gradient(variables, batch):
        return fnn.value_and_grad(net, LOSS)(variables, batch).grads

    def along(product):
        def f(variables, batch):
            return product(net, LOSS)(variables, batch, variables.params)

        return f

    def jvp_of_grad(variables, batch):
        def grad(params):
            at = variables._replace(params=params)
            return fnn.value_and_grad(net, LOSS, "autodiff")(at, batch).grads

        return jax.jvp(grad, (variables.params,), (variables.params,))[1]

    def with_key(f):
        return lambda variables, batch: f(variables, batch, key=KEY)

    return {
        "gradient": gradient,
        "Hessian-vector": along(fnn.curvature.hvp),
        "GGN-vector": along(fnn.curvature.ggn_vp),
        "jvp(jax.grad)": jvp_of_grad,
        "GGN diagonal": fnn.curvature.ggn_diagonal(net, LOSS),
        "GGN diagonal, 1 sample": with_key(fnn.curvature.ggn_diagonal(net, LOSS, 1)),
        "KFAC, 1 sample": with_key(fnn.curvature.kfac_factors(net, LOSS, samples=1)),
    }


def measure(case: Case, rounds: int = 10) -> dict:
    """Measure each pass: milliseconds, the ratio to the gradient, temporary memory."""
    given, functions = case.data(), passes(case.net)
    runs = {name: loop(nudged(f), given) for name, f in functions.items()}
    times = interleave(runs, rounds_within(BUDGET, runs, rounds))
    memory = {name: temporary_bytes(f, *given) for name, f in functions.items()}
    return {
        "ms": {name: float(np.median(t)) * 1e3 for name, t in times.items()},
        "to_gradient": {
            name: ratio(t, times["gradient"])._asdict() for name, t in times.items()
        },
        "memory_bytes": memory,
        "memory_to_gradient": {n: m / memory["gradient"] for n, m in memory.items()},
    }
