"""The minibatches of an epoch: their examples, their order and their keys.

Legend: N training examples, B batch size, S = ⌈N/B⌉ steps, T = ⌊N/B⌋ full ones, R the
examples of the last, smaller step.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from fnn.augmentations import Augmentation
from fnn.shapes import count_examples
from fnn.training.compiled.meshes import shard_batch
from fnn.typing import Array, Batch, Int, KeyArray

__all__ = [
    "AUGMENTATION",
    "EpochOrder",
    "batch_sizes",
    "epoch_keys",
    "epoch_order",
    "minibatch",
    "shuffle",
    "subset",
]

#: Folded into a step's key for the augmentation: "augm" in ASCII. The layers fold in
#: small numbers, 0 for the first child.
AUGMENTATION = 0x6175676D


class EpochOrder(NamedTuple):
    """The examples of every step of an epoch, and the key of its steps.

    full: the indices (T, B) of the full steps.
    rest: the indices (R,) of the last, smaller step.
    step_key: k_step.
    """

    full: Array
    rest: Array
    step_key: Array


def batch_sizes(n: int, batch_size: int) -> np.ndarray:
    """Return the sizes (S,) of the batches of n examples, the smaller one last."""
    steps, rest = divmod(n, batch_size)
    return np.array([batch_size] * steps + [rest] * (rest > 0))


def epoch_keys(key: KeyArray, number: int | Array) -> tuple[KeyArray, KeyArray]:
    """Return k_order and k_step of the epoch with this number; `key` is the run's."""
    order_key, step_key = jax.random.split(jax.random.fold_in(key, number))
    return order_key, step_key


def epoch_order(
    key: KeyArray, number: int | Array, n: int, batch_size: int
) -> EpochOrder:
    """Return the examples of every step of an epoch.

        (k_order, k_step) = split(fold_in(key, number))
        order = shuffle(k_order, N)
        step t: the examples order[tB : (t+1)B]

    Args:
        key: the key of the run.
        number: the number of the epoch: 1, 2, ...
        n: N.
        batch_size: B, at most N.
    """
    order_key, step_key = epoch_keys(key, number)
    steps = n // batch_size
    full, rest = jnp.split(shuffle(order_key, n), [steps * batch_size])
    return EpochOrder(full.reshape(steps, batch_size), rest, step_key)


def minibatch(
    data: Batch,
    indices: Int[Array, "B"] | None,
    t: int | Array,
    step_key: KeyArray,
    augment: Augmentation | None,
    mesh: Mesh | None,
) -> tuple[Batch, KeyArray]:
    """Return the minibatch of step t as the network gets it, and the step's key.

        k_t = fold_in(k_step, t)
        x ← augment(fold_in(k_t, 0x6175676D), x)

    Args:
        data: x and y.
        indices: the examples of the minibatch; None for all of `data`.
        t: the number of the step.
        step_key: k_step of the epoch.
        augment: an augmentation, or None.
        mesh: the devices that the minibatch is sharded over, or None.
    """
    key = jax.random.fold_in(step_key, t)
    if indices is not None:
        # One gather a step: faster than shuffling all data first, and no second copy.
        data = jax.tree.map(
            lambda part: part.at[indices].get(mode="promise_in_bounds"), data
        )
    x, y = shard_batch(data, mesh)
    if augment is not None:
        x = augment(jax.random.fold_in(key, AUGMENTATION), x)
    return (x, y), key


def shuffle(key: KeyArray, n: int) -> Int[Array, "n"]:
    """Return the numbers 0 .. n−1 in random order.

    They are sorted by at least 32 random bits each, a few bits at a time (least
    significant first, as in a radix sort): position and bits share one word, and words
    sort three times as fast as pairs. `jax.random.permutation` sorts pairs, twice, and
    took a sixth of an epoch of a small network on MNIST.

    Args:
        key: a random key.
        n: how many numbers.

    Returns:
        Integers (n,).

    Example:
        >>> import jax
        >>> sorted(shuffle(jax.random.key(0), 5).tolist())
        [0, 1, 2, 3, 4]
    """
    for_position = max((n - 1).bit_length(), 1)
    rounds = math.ceil(32 / (32 - for_position))
    position = jnp.arange(n, dtype=jnp.uint32)
    order = position
    for round_key in jax.random.split(key, rounds):
        bits = jax.random.bits(round_key, (n,), jnp.uint32)
        words = lax.sort((bits << for_position) | position, is_stable=False)
        order = order[words & ((1 << for_position) - 1)]
    return order.astype(jnp.int32)


def subset(data: Batch, size: int | float | None, key: KeyArray) -> Batch:
    """Select random examples: a number of them (int), a share (float), all (None)."""
    if size is None:
        return data
    n = count_examples(data)
    count = max(1, round(size * n)) if isinstance(size, float) else size
    if count > n:
        raise ValueError(
            f"EarlyStopping: subset={count} is more than the {n} validation examples"
        )
    chosen = shuffle(key, n)[:count]
    return jax.tree.map(lambda part: part[chosen], data)
