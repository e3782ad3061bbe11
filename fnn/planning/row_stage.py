"""Images with one axis, planned as rows of images with two.

A signal of L positions is an image of 1 × L pixels. So the stages for images serve it,
too: the layers are those of windows 1 × k, and an axis of size 1 comes and goes, which
moves no number.

    x (C, L, N) -> (C, 1, L, N),    W (k, I, O) -> (1, k, I, O)
"""

import dataclasses
from typing import Any

from fnn.core import Backward, Forward, layer, leaf
from fnn.layers.convolution import Conv, ConvParams
from fnn.layers.pooling import AvgPool, MaxPool
from fnn.planning.stage import Stage
from fnn.typing import Array, Float, KeyArray, PyTree

__all__ = ["RowStage", "as_row", "pair"]


def as_row(layer: Any) -> Any:
    """Return the layer that does to a row what this one does to a signal."""
    if type(layer) is Conv:
        sizes = dict(kernel_size=layer.kernel_size, dilation=layer.dilation)
    elif type(layer) in (MaxPool, AvgPool):
        sizes = dict(window=layer.window)
    else:
        return layer
    sizes |= dict(stride=layer.stride)
    wide = {name: (1, _one(value)) for name, value in sizes.items() if value}
    padding = layer.padding
    if not isinstance(padding, str):
        padding = ((0, 0), pair(_one(padding)))
    return dataclasses.replace(layer, **wide, padding=padding)


def _one(value: Any) -> Any:
    """Return the entry for the only axis."""
    return value[0] if isinstance(value, tuple) else value


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """Return a pair as it is, and a number twice."""
    return value if isinstance(value, tuple) else (value, value)


@layer
class RowStage(Stage):
    """A stage for layers of one axis, by a stage for the same layers of a row.

    Args:
        layers: the plain layers.
        stage: that of the rows.
    """

    stage: Stage = leaf()

    def inner_forward(
        self, params: PyTree, state: PyTree, x: Float[Array, "C L N"], *,
        key: KeyArray | None, train: bool,
    ) -> Forward:  # fmt: skip
        rows = _row_params(params)
        out = self.stage.inner_forward(rows, state, x[:, None], key=key, train=train)
        # Without pixels, as after a mean over all of them, there is no axis to remove.
        return out._replace(y=out.y[:, 0] if out.y.ndim == 4 else out.y)

    def inner_backward(
        self, params: PyTree, saved: PyTree, dy: Float[Array, "C *L N"]
    ) -> Backward:
        dy = dy[:, None] if dy.ndim == 3 else dy
        dx, dparams = self.stage.inner_backward(_row_params(params), saved, dy)
        if isinstance(dparams, ConvParams):
            dparams = dparams._replace(weight=dparams.weight[0])
        return Backward(dx[:, 0], dparams)


def _row_params(params: PyTree) -> PyTree:
    """Return the parameters of the layer of rows."""
    if isinstance(params, ConvParams):
        return params._replace(weight=params.weight[None])
    return params
