"""Stages: layers that work in the inner layout, and stand in for plain ones.

A stage takes the place of a layer and keeps its variables. What follows that layer and
has none (an activation, a pooling) may be done in the same stage; in its own place an
`Absorbed` is left, which does nothing. So a planned network has the variables, the
paths and the keys of the plain one, and `plain` turns it back into that.

A stage is a layer like any other: it takes and gives (N, H, W, C), and turns both. Two
turns between neighbouring stages undo one another, and the compiler drops them: images
stay in the inner layout as long as one stage follows another.
"""

from typing import Any

from jax import Array

from fnn.core import Backward, Forward, Layer, Reach, layer, leaf
from fnn.kernels.layout import turn
from fnn.layers import Serial
from fnn.planning.planned import Planned
from fnn.typing import PyTree

__all__ = ["Absorbed", "Inside", "Stage", "Turned"]


class Inside(Layer):
    """A layer written in the inner layout: `inside`, `inside_backward`."""

    def inside(
        self, params: PyTree, state: PyTree, x: Array, *, key: Any, train: bool
    ) -> Forward:
        """`forward` from (C, H, W, N) to (C', ..., N)."""
        raise NotImplementedError

    def inside_backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        """`backward` from (C', ..., N) to (C, H, W, N)."""
        raise NotImplementedError

    def forward(self, params, state, x, *, key=None, train=False):
        out = self.inside(params, state, turn(x), key=key, train=train)
        return out._replace(y=turn(out.y))

    def backward(self, params, saved, dy):
        out = self.inside_backward(params, saved, turn(dy))
        return out._replace(dx=turn(out.dx))


@layer
class Turned(Layer):
    """A layer seen from the inner layout."""

    layer: Layer = leaf()

    def forward(self, params, state, x, *, key=None, train=False):
        out = self.layer.forward(params, state, turn(x), key=key, train=train)
        return out._replace(y=turn(out.y))

    def backward(self, params, saved, dy):
        out = self.layer.backward(params, saved, turn(dy))
        return out._replace(dx=turn(out.dx))


@layer
class Stage(Inside, Planned):
    """Plain `layers` done as one; the first one's variables are the stage's."""

    layers: tuple[Layer, ...] = leaf()

    def stands_for(self) -> Layer:
        return Chain(self.layers)

    @property
    def kind(self):
        return self.stands_for().kind

    def init(self, key, in_shape):
        return self.stands_for().init(key, in_shape)

    def reach(self, in_shape):
        return self.stands_for().reach(in_shape)


@layer
class Chain(Layer):
    """Layers one after the other; the first one's variables are the whole's."""

    layers: tuple[Layer, ...] = leaf()

    @property
    def kind(self):
        return "+".join(layer.kind for layer in self.layers)

    def init(self, key, in_shape):
        return self.layers[0].init(key, in_shape)

    def reach(self, in_shape):
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

    def forward(self, params, state, x, *, key=None, train=False):
        variables = self._spread(params), self._spread(state)
        out = Serial(self.layers).forward(*variables, x, key=key, train=train)
        return out._replace(state=out.state[0])

    def backward(self, params, saved, dy):
        dx, dparams = Serial(self.layers).backward(self._spread(params), saved, dy)
        return Backward(dx, dparams[0])

    def _spread(self, tree: PyTree) -> tuple:
        return (tree, *[()] * (len(self.layers) - 1))


@layer
class Absorbed(Layer):
    """In the place of a layer that a stage before it has done already: y = x."""

    layer: Layer = leaf()

    def forward(self, params, state, x, *, key=None, train=False):
        return Forward(x, saved=(), state=state)

    def backward(self, params, saved, dy):
        return Backward(dy, ())
