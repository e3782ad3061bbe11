"""Scaling the loss of an audit, so that gradients stay within float16's range."""

import math
from functools import partial

import jax
import jax.numpy as jnp

from fnn.core import Layer, Variables
from fnn.gradients.audit.report import Row
from fnn.gradients.engines import value_and_grad
from fnn.gradients.precision import ScaledLoss
from fnn.losses import Loss
from fnn.planning.planned import plain
from fnn.probes import probe_with_input
from fnn.typing import Batch, KeyArray

__all__ = ["scaled_for_float16", "unscaled"]


def scaled_for_float16(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: Batch,
    *,
    key: KeyArray | None,
    train: bool,
    l2: float,
    n: int,
) -> tuple[Loss, float]:
    """Multiply the loss and λ by a power of two: the largest gradient becomes 2¹⁰.

    Then float16, which ends at 2¹⁶, overflows in no layer; and numbers that vanish
    below 2⁻²⁴ are too small to matter on the scale that they are judged on.
    """
    probed, probed_variables = probe_with_input(plain(net), variables, batch[0])
    grad = partial(value_and_grad(probed, loss, "autodiff", l2=l2, n=n), train=train)
    grads = jax.jit(grad)(probed_variables, batch, key=key).grads
    largest = max(float(jnp.abs(g).max(initial=0)) for g in jax.tree.leaves(grads))
    s = 2.0 ** math.floor(10 - math.log2(largest or 1.0))
    return ScaledLoss(loss, s), l2 * s


def unscaled(row: Row, loss: Loss) -> Row:
    """Return the row of a scaled loss in the units of the loss itself."""
    if not isinstance(loss, ScaledLoss):
        return row
    s = float(loss.scale)
    return row._replace(largest=row.largest / s, error=row.error / s)
