"""How far the audit scales the loss, so that gradients stay within float16's range."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from fnn.core import Layer, Variables
from fnn.gradients.audit.report import Row
from fnn.gradients.engines import value_and_grad
from fnn.gradients.precision import Scaled
from fnn.losses import Loss
from fnn.planning import plain
from fnn.probes import probe_all
from fnn.typing import Batch

__all__ = ["scaled_for_float16", "unscaled"]


def scaled_for_float16(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: Batch,
    *,
    key: Array | None,
    train: bool,
    l2: float,
    n: int,
) -> tuple[Loss, float]:
    """The loss, and λ, times a power of two that brings the largest gradient to 2¹⁰.

    With that much room float16, which ends at 2¹⁶, overflows in no layer, and what
    vanishes below 2⁻²⁴ is nothing beside the scale that it is judged on.
    """
    probed, probed_variables = probe_all(plain(net), variables, batch[0])
    grad = partial(value_and_grad(probed, loss, "autodiff", l2=l2, n=n), train=train)
    grads = jax.jit(grad)(probed_variables, batch, key=key).grads
    largest = max(float(jnp.abs(g).max(initial=0)) for g in jax.tree.leaves(grads))
    s = 2.0 ** math.floor(10 - math.log2(largest or 1.0))
    return Scaled(loss, s), l2 * s


def unscaled(row: Row, loss: Loss) -> Row:
    """The row of a scaled loss in the units of the loss itself."""
    if not isinstance(loss, Scaled):
        return row
    s = float(loss.scale)
    return row._replace(largest=row.largest / s, error=row.error / s)
