"""Layers made of layers, on the same input: around a shortcut, or side by side.

The chain rule for a fork: what flows back along the branches is added up.
"""

import dataclasses
from itertools import accumulate
from typing import NamedTuple

import jax.numpy as jnp

from fnn.core import Backward, Forward, Layer, Variables, layer, leaf
from fnn.layers.activations import Identity
from fnn.layers.combinators import child_backward, expect_layers, gather
from fnn.network import child_key, child_variables, located, output_shape
from fnn.typing import PyTree

__all__ = ["Parallel", "Residual", "parallel", "residual"]


def residual(body: Layer, projection: Layer | None = None) -> "Residual":
    """A shortcut around `body`: y = body(x) + x, or body(x) + projection(x)."""
    return Residual(body, Identity() if projection is None else projection)


def parallel(*branches: Layer, merge: str = "sum") -> "Parallel":
    """Branches side by side on the same x, merged by "sum" or "concatenate"."""
    return Parallel(branches, merge)


class Pair(NamedTuple):
    """What belongs to the two sides of a residual block."""

    body: PyTree
    projection: PyTree


@layer
class Residual(Layer):
    """A shortcut around a body; built by `fnn.residual`.

        forward     y = f(x) + p(x)         p the identity where none is given
        backward    dx = (∂f/∂x)ᵀ dy + (∂p/∂x)ᵀ dy

    Args:
        body: f.
        projection: p, where f changes the shape.

    Raises:
        ValueError: f and p give different shapes.

    Example:
        >>> import jax, fnn
        >>> block = fnn.residual(fnn.serial(fnn.Relu(), fnn.Dense(4)), fnn.Dense(4))
        >>> block.init(jax.random.key(0), (3,)).params.projection.weight.shape
        (3, 4)

    Source: He et al., arXiv:1512.03385, eqs. 1 and 2.
    """

    body: Layer = leaf()
    projection: Layer = leaf(Identity())

    def __post_init__(self) -> None:
        expect_layers("residual", (self.body, self.projection))

    @property
    def children(self):
        return {"body": self.body, "projection": self.projection}

    def with_children(self, *layers):
        return dataclasses.replace(self, body=layers[0], projection=layers[1])

    def init(self, key, in_shape):
        made, shapes = _init_side_by_side(self, key, in_shape)
        _expect_same_shape(self, shapes)
        return Variables(*(Pair(*part) for part in gather(made)))

    def forward(self, params, state, x, *, key=None, train=False):
        body, projection = _forward_side_by_side(self, params, state, x, key, train)
        _expect_same_shape(self, [body.y.shape, projection.y.shape])
        saved, states = (
            Pair(body.saved, projection.saved),
            Pair(body.state, projection.state),
        )
        return Forward(body.y + projection.y, saved=saved, state=states)

    def backward(self, params, saved, dy):
        body, projection = _backward_side_by_side(self, params, saved, [dy, dy])
        dparams = Pair(body.dparams, projection.dparams)
        return Backward(dx=body.dx + projection.dx, dparams=dparams)

    def __repr__(self) -> str:
        shortcut = "" if self.projection == Identity() else f", {self.projection!r}"
        return f"residual({self.body!r}{shortcut})"


@layer
class Parallel(Layer):
    """Branches side by side on the same input; built by `fnn.parallel`.

        sum             y = Σ_b f_b(x)          dx = Σ_b (∂f_b/∂x)ᵀ dy
        concatenate     y = [f_1(x) ... f_B(x)] along the last axis,
                        dx = Σ_b (∂f_b/∂x)ᵀ dy_b, dy_b the slice of dy that is f_b's

    Args:
        branches: f_1 ... f_B, at least one.
        merge: "sum" or "concatenate".

    Raises:
        ValueError: an unknown merge, or branches whose shapes cannot be merged.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.parallel(fnn.Dense(2), fnn.Identity(), merge="concatenate")
        >>> variables = net.init(jax.random.key(0), (3,))
        >>> net.forward(*variables, jnp.ones((7, 3))).y.shape
        (7, 5)

    Source: Szegedy et al., arXiv:1409.4842, section 4, for the concatenation.
    """

    branches: tuple[Layer, ...] = leaf()
    merge: str = "sum"

    def __post_init__(self) -> None:
        expect_layers("parallel", self.branches)
        if not self.branches:
            raise ValueError("parallel expected at least one branch, got none")
        if self.merge not in ("sum", "concatenate"):
            raise ValueError(
                f'parallel: merge must be "sum" or "concatenate", got {self.merge!r}'
            )

    @property
    def children(self):
        return {str(i): child for i, child in enumerate(self.branches)}

    def with_children(self, *layers):
        return dataclasses.replace(self, branches=layers)

    def init(self, key, in_shape):
        made, shapes = _init_side_by_side(self, key, in_shape)
        self._check(shapes)
        return gather(made)

    def forward(self, params, state, x, *, key=None, train=False):
        outs = _forward_side_by_side(self, params, state, x, key, train)
        ys = [out.y for out in outs]
        self._check([y.shape for y in ys])
        if self.merge == "sum":
            y = sum(ys[1:], start=ys[0])
        else:
            y = jnp.concatenate(ys, axis=-1)
        # The widths of the branches are shapes: an array without elements keeps each.
        widths = tuple(jnp.zeros((0, y.shape[-1])) for y in ys)
        saved = (tuple(out.saved for out in outs), widths)
        return Forward(y, saved=saved, state=tuple(out.state for out in outs))

    def backward(self, params, saved, dy):
        saved, widths = saved
        if self.merge == "sum":
            dys = [dy] * len(self.branches)
        else:
            ends = list(accumulate(width.shape[-1] for width in widths))
            dys = jnp.split(dy, ends[:-1], axis=-1)
        outs = _backward_side_by_side(self, params, saved, dys)
        dx = sum((out.dx for out in outs[1:]), start=outs[0].dx)
        return Backward(dx=dx, dparams=tuple(out.dparams for out in outs))

    def _check(self, shapes: list[tuple]) -> None:
        if self.merge == "sum":
            _expect_same_shape(self, shapes)
        elif len({shape[:-1] for shape in shapes}) > 1:
            raise ValueError(
                f"{self!r} concatenates along the last axis outputs that differ in "
                f"others: {_by_label(self, shapes)}."
            )

    def __repr__(self) -> str:
        inside = [*map(repr, self.branches)]
        inside += [f"merge={self.merge!r}"] if self.merge != "sum" else []
        return f"parallel({', '.join(inside)})"


# ---- What the two share ----------------------------------------------------------


def _init_side_by_side(
    parent: Layer, key, in_shape: tuple[int, ...]
) -> tuple[list[Variables], list[tuple]]:
    """The children's variables, and the shapes of their outputs."""
    made, shapes = [], []
    for i, (label, child) in enumerate(parent.children.items()):
        with located(parent, label, child, in_shape):
            made.append(child.init(child_key(key, i), in_shape))
            shapes.append(output_shape(child, made[-1], in_shape))
    return made, shapes


def _forward_side_by_side(parent: Layer, params, state, x, key, train) -> list[Forward]:
    outs = []
    parts = child_variables(parent, Variables(params, state))
    labelled = zip(parent.children.items(), parts, strict=True)
    for i, ((label, child), part) in enumerate(labelled):
        with located(parent, label, child, x.shape):
            key_i = child_key(key, i)
            outs.append(child.forward(*part, x, key=key_i, train=train))
    return outs


def _backward_side_by_side(parent: Layer, params, saved, dys) -> list[Backward]:
    labelled = zip(parent.children.items(), params, saved, dys, strict=True)
    return [
        child_backward(parent, label, child, p, s, dy)
        for (label, child), p, s, dy in labelled
    ]


def _expect_same_shape(parent: Layer, shapes: list[tuple]) -> None:
    # Equal, not broadcastable: a silent broadcast would need its own backward.
    if len(set(shapes)) > 1:
        raise ValueError(
            f"{parent!r} adds outputs of different shapes: "
            f"{_by_label(parent, shapes)}. Give the shortcut a projection, or merge "
            "by concatenation."
        )


def _by_label(parent: Layer, shapes: list[tuple]) -> str:
    labelled = zip(parent.children, shapes, strict=True)
    return ", ".join(f"{label} {shape}" for label, shape in labelled)
