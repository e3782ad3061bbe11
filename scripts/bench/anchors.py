"""What other libraries take for the norms and the clipped sums of single examples.

Each is compared with a plain gradient of its own: eager torch for Opacus and BackPACK,
a compiled JAX function for jax-privacy. Opacus clips in two ways: it forms all
gradients, or ("ghost") finds their norms in one backward pass and goes back a second
time with a weight for each example. The networks are those of `per_example`.

    pip install opacus backpack-for-pytorch jax-privacy     beside torch
"""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np

import fnn
from per_example import CLIP, LOSS, ROWS, Case
from timing import interleave, ratio, repeat, rounds_within

__all__ = ["ROWS", "measure"]

BUDGET = 60.0  # seconds for the rounds of one network

Run = Callable[[], float]


def measure(case: Case, rounds: int = 15) -> dict:
    """Measure each way, as a multiple of the gradient of the same library."""
    runs: dict[str, Run] = {}
    skipped: dict[str, str] = {}
    ways = dict(WAYS)
    try:
        from anchors_torch import WAYS as in_torch

        ways |= in_torch
    except ImportError as error:
        skipped["torch"] = str(error)
    for name, (_, make) in ways.items():
        try:
            runs[name] = make(case)
            runs[name]()  # compiles, and finds what is not supported
        except Exception as error:  # another library's, of any kind
            runs.pop(name, None)
            skipped[name] = f"{type(error).__name__}: {error}"[:200]
    times = interleave(runs, rounds_within(BUDGET, runs, rounds))
    to_own = {}
    for name, found in times.items():
        own, _ = ways[name]
        if own in times:
            to_own[name] = ratio(found, times[own])._asdict()
    return {
        "ms": {name: float(np.median(t)) * 1e3 for name, t in times.items()},
        "to_own_gradient": to_own,
        "skipped": skipped,
    }


# ---- JAX -------------------------------------------------------------------------


def _jax_gradient(case: Case) -> Run:
    variables, batch = case.data()

    def loss(params, x, y):
        return LOSS.value(case.net.forward(params, variables.state, x).y, y)

    return repeat(jax.jit(jax.grad(loss)), variables.params, *batch)


def _jax_privacy(case: Case) -> Run:
    import jax_privacy

    variables, batch = case.data()

    def loss(params, x, y):
        return LOSS.value(case.net.forward(params, variables.state, x).y, y)

    clipped = jax_privacy.clipped_grad(
        loss, l2_clip_norm=CLIP, batch_argnums=(1, 2), keep_batch_dim=True
    )
    return repeat(jax.jit(clipped), variables.params, *batch)


def _of_fnn(which: str, case: Case) -> Run:
    given = case.data()
    functions = {
        "gradient": lambda v, b: fnn.value_and_grad(case.net, LOSS)(v, b).grads,
        "norms": fnn.per_example.norms(case.net, LOSS),
        "clipped": fnn.per_example.clipped_grad(case.net, LOSS, CLIP),
    }
    return repeat(jax.jit(functions[which]), *given)


#: Each way: the plain gradient that it is compared with, and what makes its run.
WAYS: dict[str, tuple[str, Callable[[Case], Run]]] = {
    "fnn: gradient": ("fnn: gradient", partial(_of_fnn, "gradient")),
    "fnn: norms": ("fnn: gradient", partial(_of_fnn, "norms")),
    "fnn: clipped sum": ("fnn: gradient", partial(_of_fnn, "clipped")),
    "jax.grad": ("jax.grad", _jax_gradient),
    "jax-privacy: clipped sum": ("jax.grad", _jax_privacy),
}
