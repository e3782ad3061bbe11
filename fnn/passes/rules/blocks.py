"""The blocks of a network that learn by losses of their own.

A block is a layer with a weight, and what follows it until the next one: activation,
normalisation, pool. A residual block, or any layer made of layers, counts as one.
"""

from typing import Any, NamedTuple

from fnn.core import Layer, Variables, expect_layer
from fnn.layers.combinators import Serial
from fnn.network import child_key
from fnn.passes.rules.base import may_have_weight, rewrite
from fnn.typing import Array, KeyArray, PyTree

__all__ = ["Block", "blocks_of", "settled_serial"]


class Block(NamedTuple):
    """A part of a `serial`: some of its layers in a row.

    Args:
        net: the whole network.
        numbers: the numbers of the block's layers.
    """

    net: Serial
    numbers: range

    def forward(
        self, variables: Variables, x: Array, key: KeyArray | None, train: bool
    ) -> tuple[Array, list[PyTree], list[PyTree]]:
        """Run the block; return y, what its layers saved, and their new states.

        Args:
            variables: those of the whole network.
            x: the block's input.
            key: the key of the whole network.
            train: whether it is in training mode.
        """
        saved: list[PyTree] = []
        states: list[PyTree] = []
        for i in self.numbers:
            part = variables.params[i], variables.state[i]
            child = self.net.layers[i]
            out = child.forward(*part, x, key=child_key(key, i), train=train)
            x = out.y
            saved.append(out.saved)
            states.append(out.state)
        return x, saved, states

    def backward(self, params: PyTree, saved: list[PyTree], dy: Array) -> list[PyTree]:
        """Return the gradients of its layers; nothing is passed below the block."""
        dparams: list[PyTree] = []
        for i, kept in reversed(list(zip(self.numbers, saved, strict=True))):
            dy, dp = self.net.layers[i].backward(params[i], kept, dy)
            dparams.append(dp)
        return dparams[::-1]


def settled_serial(net: Any) -> Serial:
    """Return a `serial` with its initialisers settled; raise for any other layer."""
    expect_layer("net", net)
    settled = rewrite(net, lambda layer, number: layer)
    if not isinstance(settled, Serial) or not settled.layers:
        raise TypeError(
            "a network that learns block by block is a fnn.serial(...) of layers, got "
            f"{net!r}"
        )
    return settled


def blocks_of(net: Serial) -> list[Block]:
    """Return the blocks of a network, which begin where a layer has a weight."""
    starts = [i for i, child in enumerate(net.layers) if _has_weights(child)]
    ends = [*starts[1:], len(net.layers)]
    starts[:1] = [0]  # what comes before the first weight belongs to its block
    return [Block(net, range(*pair)) for pair in zip(starts, ends, strict=True)]


def _has_weights(net: Layer) -> bool:
    children = net.children.values()
    return any(map(_has_weights, children)) if children else may_have_weight(net)
