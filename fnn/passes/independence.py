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
from fnn.shapes import count_examples
from fnn.typing import Array, KeyArray, PyTree

__all__ = ["expect_independent"]


def expect_independent(
    path: str,
    saved: PyTree,
    layer: Layer,
    params: PyTree,
    state: PyTree,
    x: PyTree,
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
    if (
        not _is_known(layer)
        and count_examples(x) > 1
        and _mixes(layer, params, state, x, key, train)
    ):
        raise ValueError(
            f"{path or 'the network'}, {layer!r}, mixes examples: its y of one example "
            "depends on the other ones in the batch, so that no example has a gradient "
            "of its own."
        )


def _is_known(layer: Layer) -> bool:
    """Return whether it is one of fnn's own layers, and so are all inside."""
    if layer.wrapped is not None:
        return _is_known(layer.wrapped)
    own = type(layer).__module__.startswith("fnn.") and not isinstance(layer, Lambda)
    return own and all(map(_is_known, layer.children.values()))


def _mixes(
    layer: Layer, params: PyTree, state: PyTree, x: PyTree, key: KeyArray | None,
    train: bool,
) -> bool:  # fmt: skip
    """Return whether y of the first example changes with the other ones."""
    draw = np.random.default_rng(0)
    given = jax.tree.map(lambda a: draw.normal(size=a.shape), x)
    replaced = jax.tree.map(
        lambda a: np.concatenate([a[:1], draw.normal(size=a[1:].shape)]), given
    )
    # The numbers are concrete, also while a function is traced around this.
    with jax.ensure_compile_time_eval():
        variables = jax.tree.map(_stand_in, (params, state))
        batches = [
            jax.tree.map(lambda a, like: jnp.asarray(a, like.dtype), batch, x)
            for batch in (given, replaced)
        ]
        ys = [
            jax.tree.leaves(_forward(layer, *variables, batch, _key(key), train))
            for batch in batches
        ]
        pairs = [
            tuple(np.asarray(y[0], np.float64) for y in pair)
            for pair in zip(*ys, strict=True)
        ]
    return any(_differ(*pair) for pair in pairs)


def _differ(one: np.ndarray, two: np.ndarray) -> bool:
    size = np.abs(one[np.isfinite(one)]).max(initial=0)
    return not np.allclose(one, two, rtol=0, atol=1e-3 * size, equal_nan=True)


@partial(jax.jit, static_argnames="train")
def _forward(
    layer: Layer, params: PyTree, state: PyTree, x: PyTree, key: KeyArray | None,
    train: bool,
) -> PyTree:  # fmt: skip
    return layer.forward(params, state, x, key=key, train=train).y


def _stand_in(leaf: Any) -> Array:
    """Return numbers of the same shape and dtype, around 1."""
    if is_key(leaf):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    numbers = 1 + 0.5 * np.sin(np.arange(leaf.size)).reshape(leaf.shape)
    return jnp.asarray(numbers, leaf.dtype)


def _key(key: KeyArray | None) -> KeyArray | None:
    return None if key is None else jax.random.key(0)
