"""Layers that mix the examples of a batch have no gradient of one example.

BatchNorm in training is one: μ and σ are those of the batch, so that the loss of one
example depends on all others. fnn's other layers treat each example by itself. Of a
layer from elsewhere this is found out by a small experiment: its forward is run twice,
on stand-ins for its parameters and for a batch, with all examples replaced but the
first one. If y of the first one changes, then it depends on the others.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks import is_key
from fnn.core import Layer
from fnn.layers.batch_norm import Train
from fnn.layers.function import Lambda
from fnn.typing import Array, KeyArray, PyTree

__all__ = ["expect_independent"]


def expect_independent(
    path: str,
    saved: PyTree,
    layer: Layer,
    params: PyTree,
    state: PyTree,
    x: Array,
    key: KeyArray | None,
    train: bool,
) -> None:
    """Raise where a layer mixes the examples of a batch.

    Raises:
        ValueError: the layer has statistics of the batch, or y of one example depends
            on another one. The error names the layer.
    """
    parts = jax.tree.leaves(saved, is_leaf=lambda part: isinstance(part, Train))
    if any(isinstance(part, Train) for part in parts):
        raise ValueError(
            f"{path or 'the network'} normalises by statistics of the batch: in "
            "training, no example has a gradient of its own. Use fnn.GroupNorm or "
            f"fnn.LayerNorm in place of {layer!r}, or pass train=False to use its "
            "running statistics."
        )
    is_known = type(layer).__module__.startswith("fnn.layers.")
    if is_known and not isinstance(layer, Lambda):
        return
    if len(x) > 1 and _mixes(layer, params, state, x, key, train):
        raise ValueError(
            f"{path or 'the network'}, {layer!r}, mixes examples: its y of one example "
            "depends on the other ones in the batch, so that no example has a gradient "
            "of its own."
        )


def _mixes(
    layer: Layer, params: PyTree, state: PyTree, x: Array, key: KeyArray | None,
    train: bool,
) -> bool:  # fmt: skip
    """Return whether y of the first example changes with the other ones."""
    draw = np.random.default_rng(0)
    first, others, replaced = (
        draw.normal(size=(count, *x.shape[1:])) for count in (1, len(x) - 1, len(x) - 1)
    )
    # The numbers are concrete, also while a function is traced around this.
    with jax.ensure_compile_time_eval():
        variables = jax.tree.map(_stand_in, (params, state))
        ys = [
            _forward(layer, *variables, jnp.asarray(batch, x.dtype), _key(key), train)
            for batch in (
                np.concatenate([first, others]),
                np.concatenate([first, replaced]),
            )
        ]
        one, two = (np.asarray(y[0], np.float64) for y in ys)
    size = np.abs(one[np.isfinite(one)]).max(initial=0)
    return not np.allclose(one, two, rtol=0, atol=1e-3 * size, equal_nan=True)


@partial(jax.jit, static_argnames="train")
def _forward(
    layer: Layer, params: PyTree, state: PyTree, x: Array, key: KeyArray | None,
    train: bool,
) -> Array:  # fmt: skip
    return layer.forward(params, state, x, key=key, train=train).y


def _stand_in(leaf: Any) -> Array:
    """Return numbers of the same shape and dtype, around 1."""
    if is_key(leaf):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    numbers = 1 + 0.5 * np.sin(np.arange(leaf.size)).reshape(leaf.shape)
    return jnp.asarray(numbers, leaf.dtype)


def _key(key: KeyArray | None) -> KeyArray | None:
    return None if key is None else jax.random.key(0)
