"""Rematerialisation: a layer that saves its input, and runs its forward again.

    forward     y = f(x; Θ),  of which x alone is saved
    backward    f(x; Θ) once more, and then f's own backward

A network of L equal blocks saves L inputs and what one block saves, in place of what L
blocks save; a step takes up to a third longer, one forward more.

Legend: Θ the parameters of a layer.
"""

from typing import NamedTuple

import jax
from jax import lax

from fnn.core import Backward, Forward, Layer, expect_layer, layer, leaf
from fnn.typing import KeyArray, PyTree

__all__ = ["Remat", "remat"]


class Train(NamedTuple):
    """The arguments of a forward in training, saved for the backward."""

    x: PyTree
    state: PyTree
    key: KeyArray | None


class Eval(NamedTuple):
    """The arguments of a forward in evaluation, saved for the backward."""

    x: PyTree
    state: PyTree
    key: KeyArray | None


@layer
class Remat(Layer):
    """A layer that saves only its input; built by `fnn.remat`.

    It has the variables, the path and the key of the layer inside.

    Args:
        layer: f.
    """

    layer: Layer = leaf()

    @property
    def wrapped(self) -> Layer:
        return self.layer

    def with_children(self, *layers: Layer) -> Layer:
        # What has other children is looked at from inside: it computes the same, and
        # saves everything.
        return self.layer.with_children(*layers) if layers else self

    def forward(
        self, params: PyTree, state: PyTree, x: PyTree, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        # For autodiff, which would save what f computes on the way.
        @jax.checkpoint
        def run(params: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
            out = self.layer.forward(params, state, x, key=key, train=train)
            return out.y, out.state

        y, moved = run(params, x)
        saved = (Train if train else Eval)(x, state, key)
        return Forward(y, saved, moved if train else state)

    def backward(self, params: PyTree, saved: Train | Eval, dy: PyTree) -> Backward:
        x, state, key = saved
        # The barrier keeps the compiler from taking this forward for the first one,
        # and from running it before dy is there.
        x, dy = lax.optimization_barrier((x, dy))
        train = isinstance(saved, Train)
        out = self.layer.forward(params, state, x, key=key, train=train)
        return self.layer.backward(params, out.saved, dy)

    def __repr__(self) -> str:
        return f"remat({self.layer!r})"


def remat(net: Layer) -> Layer:
    """Save memory: keep only x of a layer or block, and run its forward again.

        net = fnn.serial(*[fnn.remat(block(64)) for _ in range(12)], fnn.Dense(10))

    Both engines do so, and compute the same numbers as without it. Variables, paths and
    keys are those of the layer inside. A network that is made from this one with other
    layers inside (a rule, a probe, frozen layers) saves everything again, and a plan
    leaves the layer as it is.

    Args:
        net: a layer, or a network; it pays for a block that saves more than its x.

    Returns:
        The layer that saves x.

    Raises:
        TypeError: it is not a layer.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> block = fnn.serial(fnn.Dense(3), fnn.Tanh(), fnn.Dense(3), fnn.Tanh())
        >>> net = fnn.serial(fnn.remat(block), fnn.Dense(1))
        >>> variables = net.init(jax.random.key(0), (3,))
        >>> saved = net.forward(*variables, jnp.ones((5, 3))).saved
        >>> jax.tree.map(jnp.shape, saved[0])  # its x, no state, no key
        Eval(x=(5, 3), state=((), (), (), ()), key=None)

    Source: Chen et al., arXiv:1604.06174, section 4.
    """
    expect_layer("remat: net", net)
    return Remat(net)
