"""Gradients whose examples are clipped one by one, as private training sums them.

    c_n = min(1, C / ‖g_n‖),    Ḡ = (1/N) Σ_n c_n g_n

One forward and one walk back serve both steps: the walk keeps what each layer saved and
its δ, from which the norms follow; and because a backward is linear in δ, the sum is
the layer's own backward of c_n δ_n. No gradient of one example is formed for it.

Clipping bounds how much one example can change the sum, by C. It protects nobody by
itself: differential privacy needs noise in proportion to C, examples that are sampled
at random, and an account of all steps. It does not cover hyperparameters that were
chosen by looking at the data, nor statistics that layers track.

Legend: N examples, L layers with parameters that are not frozen.

Source: Abadi et al., arXiv:1607.00133, algorithm 1; the single walk: Bu et al.,
arXiv:2210.00038 ("book-keeping").
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import Layer, Variables, expect_layer
from fnn.describe import shown
from fnn.losses import Loss, expect_loss
from fnn.passes.observe import observe_losses
from fnn.passes.records import (
    AnyRecord,
    squares_in,
    total_of,
    weighted_sum,
    weighted_sum_of,
)
from fnn.typing import Array, Batch, Number, PyTree

__all__ = ["check_clip", "clipped_grad", "clipped_sum"]


def clipped_grad(
    net: Layer,
    loss: Loss,
    clip: Number,
    *,
    per_layer: bool = False,
    precision: str | None = None,
) -> Callable[..., PyTree]:
    """Make a function that computes the mean of the clipped gradients of all examples.

        flat        (1/N) Σ_n min(1, C / ‖g_n‖) g_n
        per layer   each layer's part of g_n is clipped to C/√L, and so g_n to C

    Args:
        net: the network.
        loss: the loss.
        clip: C > 0, the largest norm of an example's gradient; it may be traced.
        per_layer: whether each layer's part is clipped by itself. A network of tied
            places (`fnn.shared`) counts as one layer, and frozen layers do not count.
        precision: "bfloat16" or "float16" to compute the network in it.

    Returns:
        `f(variables, (x, y), *, key=None, train=True, weights=None)` -> a tree like the
        parameters. `weights` (N,) multiply the clipped gradients: 0 leaves out an
        example that only fills the batch. The sum is divided by N all the same.

    Raises:
        ValueError: C is not positive; or, from f, a layer mixes examples.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(1)), fnn.losses.SquaredError()
        >>> variables = jax.tree.map(jnp.zeros_like, net.init(jax.random.key(0), (1,)))
        >>> batch = jnp.zeros((2, 1)), jnp.array([1.0, 30.0])  # gradients −1 and −30
        >>> f = jax.jit(fnn.per_example.clipped_grad(net, loss, 2.0))
        >>> f(variables, batch)[0].bias
        Array([-1.5], dtype=float32)

    Source: Abadi et al., arXiv:1607.00133, algorithm 1; per layer: McMahan et al.,
    arXiv:1710.06963, section 3.
    """
    of_batch = clipped_sum(net, loss, clip, per_layer=per_layer, precision=precision)

    def f(
        variables: Variables,
        batch: Batch,
        *,
        key: Array | None = None,
        train: bool = True,
        weights: Array | None = None,
    ) -> PyTree:
        options = dict(key=key, train=train, weights=weights)
        total, losses = of_batch(variables, batch, **options)
        return jax.tree.map(lambda g: g / len(losses), total)

    return f


def clipped_sum(
    net: Layer,
    loss: Loss,
    clip: Number,
    *,
    per_layer: bool = False,
    precision: str | None = None,
) -> Callable[..., tuple[PyTree, Array]]:
    """Make a function that computes the sum of the clipped gradients, and the losses.

    The arguments are those of `clipped_grad`.

    Returns:
        `f(variables, (x, y), *, key=None, train=True, weights=None)` -> a tree like the
        parameters, and the losses (N,) of the examples.
    """
    expect_layer("net", net)
    expect_loss(loss)
    check_clip(clip)

    def f(
        variables: Variables,
        batch: Batch,
        *,
        key: Array | None = None,
        train: bool = True,
        weights: Array | None = None,
    ) -> tuple[PyTree, Array]:
        records, n, losses = observe_losses(
            *(net, loss, variables, batch),
            key=key,
            train=train,
            precision=precision,
        )
        params = variables[0]

        def scales(records: PyTree, clip: Number) -> Array:
            found = _scales(total_of(squares_in(records), n), clip)
            return found if weights is None else found * weights.astype(found.dtype)

        if not per_layer:
            return weighted_sum(records, scales(records, clip), params), losses
        layers = [
            r
            for r in jax.tree.leaves(records)
            if not isinstance(r, AnyRecord) or (r.has_params and not r.is_frozen)
        ]
        each = clip / max(len(layers), 1) ** 0.5

        def of_layer(record: Any) -> PyTree:
            return weighted_sum_of(record, scales(record, each))

        sums = jax.tree.map(of_layer, records)
        return jax.tree.map(lambda g, p: g.astype(p.dtype), sums, params), losses

    return f


def _scales(squares: Array, clip: Number) -> Array:
    """Return min(1, C/‖g_n‖); 1 for a gradient that is zero."""
    return jnp.minimum(1, jnp.asarray(clip, squares.dtype) / jnp.sqrt(squares))


def check_clip(clip: Any) -> None:
    """Raise unless the largest norm is a positive number, or traced."""
    if isinstance(clip, jax.core.Tracer):
        return
    if isinstance(clip, bool | str) or np.ndim(clip) != 0:
        raise TypeError(f"clip must be a number, the largest norm, got {shown(clip)}")
    if not float(clip) > 0:
        raise ValueError(f"clip is the largest norm and must be positive, got {clip}")
