"""An epoch of private training: DP-SGD, in one program.

    step t: each example is in the batch with probability q = B/N, for itself
    g = (1/B) [ Σ_n min(1, C/‖g_n‖) g_n + σ C ξ ] + ∂penalty/∂Θ
    Θ ← Θ + update(g)

The size of such a batch varies. It is read in chunks of B + 2√B examples: mostly one,
and as many as are needed, so that no example that was drawn is left out. All numbers
are drawn from the key k_t of the step, as `epoch` says.

Legend: N training examples, B the expected size of a batch, M the size of a chunk.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from fnn.augmentations import Augmentation
from fnn.core import Layer, Variables
from fnn.gradients.penalty import has_penalty, penalty_grads
from fnn.layers.freezing import keep_frozen
from fnn.losses import Loss
from fnn.optimizers import loss_scale
from fnn.passes.per_example.clipping import clipped_sum
from fnn.passes.per_example.private import Private, steps_per_epoch
from fnn.shapes import count_examples
from fnn.training.compiled.descent import Carry
from fnn.training.compiled.epoch import NO_BAD_STEPS, Epoch
from fnn.training.compiled.order import epoch_keys, minibatch
from fnn.typing import Array, Batch, Int, KeyArray, Number, PyTree, Scalar

__all__ = ["private_epoch", "run_private_epoch"]

#: Folded into a step's key: "samp", "chun", "nois" in ASCII.
SAMPLING, CHUNK, NOISE = 0x73616D70, 0x6368756E, 0x6E6F6973


def private_epoch(
    net: Layer,
    loss: Loss,
    optimizer: Any,
    private: Private,
    carry: Carry,
    data: Batch,
    key: KeyArray,
    number: int | Array,
    l2: Number | None = None,
    *,
    augment: Augmentation | None = None,
    precision: str | None = None,
    batch_size: int,
) -> Epoch:
    """Take ⌈N/B⌉ private steps.

    Args:
        net: the network.
        loss: the loss.
        optimizer: one that `descent.as_optimizer` returned. It gets gradients alone,
            and neither the loss nor a function that computes it, which are not private.
        private: C, σ and how to clip.
        carry: the state before the first step.
        data: x (N, ...) and y (N, ...), on the device.
        key: the key of the run.
        number: the number of this epoch: 1, 2, ...
        l2: λ of the penalty λ/(2N) Σ Θ², or None.
        augment: a function of a key and a chunk, or None.
        precision: a half precision to compute in, or None.
        batch_size: B, the expected size of a batch.

    Returns:
        An `Epoch`; its losses are the means of the batches, which are not private.
    """
    n = count_examples(data)
    chunk = min(n, batch_size + math.ceil(2 * math.sqrt(batch_size)))
    sums = clipped_sum(
        *(net, loss, private.clip), per_layer=private.per_layer, precision=precision
    )
    _, step_key = epoch_keys(key, number)

    def step(carry: Carry, t: Array) -> tuple[Carry, Scalar]:
        k_t = jax.random.fold_in(step_key, t)
        drawn, count = _poisson_sample(jax.random.fold_in(k_t, SAMPLING), n, batch_size)
        drawn = jnp.append(drawn, jnp.zeros(chunk, drawn.dtype))
        params = carry.variables.params

        def add(i: Array, total: tuple[PyTree, Scalar]) -> tuple[PyTree, Scalar]:
            indices = lax.dynamic_slice(drawn, (i * chunk,), (chunk,))
            is_drawn = i * chunk + jnp.arange(chunk) < count
            chunk_key = jax.random.fold_in(k_t, CHUNK)
            batch, k = minibatch(data, indices, i, chunk_key, augment, None)
            found, losses = sums(carry.variables, batch, key=k, weights=is_drawn)
            losses = jnp.where(is_drawn, losses, 0).astype(jnp.float32)
            return jax.tree.map(jnp.add, total, (found, losses.sum()))

        zeros = jax.tree.map(jnp.zeros_like, params), jnp.zeros(())
        chunks = -(-count // chunk)
        total, losses = lax.fori_loop(0, chunks, add, zeros)
        noise = _noise_like(total, private, jax.random.fold_in(k_t, NOISE))
        grads = jax.tree.map(lambda s, e: (s + e) / batch_size, total, noise)
        if l2 is not None and has_penalty(l2):
            of_penalty = penalty_grads(net, params, l2, n)
            grads = jax.tree.map(jnp.add, grads, of_penalty)
        mean = losses / jnp.maximum(count, 1).astype(losses.dtype)
        return _descend(net, optimizer, carry, grads), mean

    steps = jnp.arange(steps_per_epoch(n, batch_size))
    carry, losses = lax.scan(step, carry, steps)
    return Epoch(carry, losses, jnp.isfinite(losses).all(), NO_BAD_STEPS)


def _poisson_sample(
    key: KeyArray, n: int, expected: int
) -> tuple[Int[Array, "n"], Int[Array, ""]]:
    """Draw each of n examples with probability q = B/n, rounded down to 32 bits.

    Returns:
        The numbers of the drawn examples, in order and then zeros, and their number.
    """
    threshold = min(expected * 2**32 // n, 2**32 - 1)
    is_drawn = jax.random.bits(key, (n,), jnp.uint32) < jnp.uint32(threshold)
    ranks = jnp.cumsum(is_drawn, dtype=jnp.int32) - 1
    places = jnp.where(is_drawn, ranks, n)
    numbers = (
        jnp.zeros(n, jnp.int32)
        .at[places]
        .set(jnp.arange(n, dtype=jnp.int32), mode="drop")
    )
    return numbers, is_drawn.sum(dtype=jnp.int32)


def _noise_like(total: PyTree, private: Private, key: KeyArray) -> PyTree:
    """Draw σ C ξ; in float32 whatever the dtype."""
    leaves, tree = jax.tree.flatten(total)
    scale = jnp.asarray(private.noise_multiplier, jnp.float32)
    scale = scale * jnp.asarray(private.clip, jnp.float32)
    drawn = [
        scale * jax.random.normal(jax.random.fold_in(key, i), a.shape, jnp.float32)
        for i, a in enumerate(leaves)
    ]
    pairs = zip(drawn, leaves, strict=True)
    return jax.tree.unflatten(tree, [d.astype(a.dtype) for d, a in pairs])


def _descend(net: Layer, optimizer: Any, carry: Carry, grads: PyTree) -> Carry:
    """Take one step, with an optimizer that gets nothing but the gradient."""
    if loss_scale(carry.optimizer_state) is not None:
        raise ValueError(
            "private training clips unscaled gradients: give it an optimizer without "
            "loss_scaled, and precision='bfloat16' or none"
        )
    (params, state), optimizer_state = carry
    grads = keep_frozen(net, grads)  # noise must not move them
    try:
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
    except TypeError as error:
        error.add_note(
            "in private training an optimizer gets the noisy gradient alone: one that "
            "wants the loss (L-BFGS, Polyak, plateau) would look at the data"
        )
        raise
    params = optax.apply_updates(params, keep_frozen(net, updates))
    return Carry(Variables(params, state), optimizer_state)


#: `private_epoch`, compiled. The carry that goes in is donated.
run_private_epoch = jax.jit(
    private_epoch,
    static_argnames=("precision", "batch_size"),
    donate_argnames=("carry",),
)
