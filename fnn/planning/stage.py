"""Stages: layers that work in the inner layout, and replace plain ones.

A stage replaces a layer and keeps its variables. The same stage may include
layers that follow and have no variables (an activation, a pooling); each of them is
replaced by an `Absorbed`, which does nothing. So a planned network has the variables,
the paths and the keys of the plain one, and `plain` converts it back.

A stage is a layer like any other: it takes and returns (N, H, W, C), and transposes
both. Two transposes between neighbouring stages cancel, and the compiler removes them:
images stay in the inner layout as long as one stage follows another.

Legend: images (N, H, W, C) outside, (C, H, W, N) in the inner layout.
"""

from abc import abstractmethod

import jax.numpy as jnp

from fnn.checks import as_inputs
from fnn.core import Backward, Forward, Layer, Reach, Variables, layer, leaf
from fnn.kernels.layout import swap_batch_and_channels
from fnn.layers.combinators import Serial
from fnn.planning.planned import Planned
from fnn.typing import Array, InShape, KeyArray, PyTree

__all__ = ["Absorbed", "InnerLayer", "InnerView", "PlainSequence", "Stage"]


class InnerLayer(Layer):
    """A layer that is written in the inner layout and called in the outer one."""

    @abstractmethod
    def inner_forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None, train: bool,
    ) -> Forward:  # fmt: skip
        """Compute `forward` from x (C, H, W, N) to y (C', ..., N)."""

    @abstractmethod
    def inner_backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        """Compute `backward` from dy (C', ..., N) to dx (C, H, W, N)."""

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        x = swap_batch_and_channels(as_inputs(jnp.asarray(x)))
        out = self.inner_forward(params, state, x, key=key, train=train)
        return out._replace(y=swap_batch_and_channels(out.y))

    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        out = self.inner_backward(params, saved, swap_batch_and_channels(dy))
        return out._replace(dx=swap_batch_and_channels(out.dx))


@layer
class InnerView(Layer):
    """A layer as seen from the inner layout: it takes and returns (C, H, W, N)."""

    layer: Layer = leaf()

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        x = swap_batch_and_channels(x)
        out = self.layer.forward(params, state, x, key=key, train=train)
        return out._replace(y=swap_batch_and_channels(out.y))

    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        out = self.layer.backward(params, saved, swap_batch_and_channels(dy))
        return out._replace(dx=swap_batch_and_channels(out.dx))


@layer
class Stage(InnerLayer, Planned):
    """A layer that computes plain `layers` at once, with the first one's variables."""

    layers: tuple[Layer, ...] = leaf()

    def to_plain(self) -> "PlainSequence":
        return PlainSequence(self.layers)

    @property
    def kind(self) -> str:
        return self.to_plain().kind

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        return self.to_plain().init(key, in_shape)

    def reach(self, in_shape: InShape) -> tuple[Reach, ...] | None:
        return self.to_plain().reach(in_shape)


@layer
class PlainSequence(Layer):
    """A sequence of layers, of which only the first has variables.

    Unlike a `Serial`, it has the variables of that layer, and not a tuple of them.
    """

    layers: tuple[Layer, ...] = leaf()

    @property
    def kind(self) -> str:
        return "+".join(layer.kind for layer in self.layers)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        return self.layers[0].init(key, in_shape)

    def reach(self, in_shape: InShape) -> tuple[Reach, ...] | None:
        fields = (Reach(),) * (len(in_shape) - 1)
        for part in self.layers:
            reach = part.reach(in_shape)
            if reach is None:
                return None
            fields = tuple(
                Reach(int(f.extent + (r.extent - 1) * f.step), f.step * r.step)
                for f, r in zip(fields, reach, strict=True)
            )
        return fields

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        first = self.layers[0]  # the key is its own: no other one draws numbers
        out = first.forward(params, state, x, key=key, train=train)
        rest = self._rest.forward(self._none, self._none, out.y, train=train)
        return Forward(rest.y, (out.saved, rest.saved), out.state)

    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        of_first, of_rest = saved
        dy = self._rest.backward(self._none, of_rest, dy).dx
        return self.layers[0].backward(params, of_first, dy)

    @property
    def _rest(self) -> Serial:
        return Serial(self.layers[1:])

    @property
    def _none(self) -> PyTree:
        """The variables of the others, of which there are none."""
        return ((),) * (len(self.layers) - 1)


@layer
class Absorbed(Layer):
    """A replacement of a layer that the stage before it includes: y = x."""

    layer: Layer = leaf()

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        return Forward(x, saved=(), state=state)

    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        return Backward(dy, ())
