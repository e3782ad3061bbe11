"""Layers made of layers on the same input: residual blocks, and branches side by side.

The chain rule for a fork: the gradients of the branches are added.

Legend: B branches, y_b the output of branch b.
"""

import dataclasses
from typing import NamedTuple

from fnn.core import Backward, Forward, Layer, Variables, layer, leaf
from fnn.layers.activations import Identity
from fnn.layers.combinators import child_backward, expect_layers, join_variables
from fnn.layers.merging import check_merge, merge, merge_backward
from fnn.network import child_key, child_variables, located, output_shape
from fnn.pytree import exportable
from fnn.typing import Array, InShape, KeyArray, PyTree

__all__ = ["Parallel", "Residual", "parallel", "residual"]


def residual(body: Layer, projection: Layer | None = None) -> "Residual":
    """Put a shortcut around a body: y = body(x) + x, or body(x) + projection(x).

    Args:
        body: a layer.
        projection: a layer on the shortcut, where the body changes the shape.

    Returns:
        The block, a `Residual`.

    Raises:
        TypeError: an argument is not a layer.

    Example:
        >>> import fnn
        >>> fnn.residual(fnn.serial(fnn.Relu(), fnn.Dense(3)))
        residual(serial(Relu(), Dense(features=3)))
    """
    return Residual(body, Identity() if projection is None else projection)


def parallel(*branches: Layer, merge: str = "sum", axis: int = -1) -> "Parallel":
    """Put branches side by side on the same x, and merge their outputs.

    Args:
        *branches: at least one layer.
        merge: "sum", "product" (a gate), or "concatenate".
        axis: the axis to concatenate along, of the batch (N, ...), so not 0.

    Returns:
        The block, a `Parallel`.

    Raises:
        TypeError: an argument is not a layer.
        ValueError: there is no branch, `merge` is unknown, or `axis` is 0.

    Example:
        >>> import fnn
        >>> fnn.parallel(fnn.Dense(2), fnn.Identity(), merge="concatenate")
        parallel(Dense(features=2), Identity(), merge='concatenate')
        >>> gate = fnn.serial(fnn.Dense(4), fnn.Sigmoid())
        >>> gated = fnn.parallel(fnn.Dense(4), gate, merge="product")
    """
    return Parallel(branches, merge, axis)


@exportable
class ResidualParts(NamedTuple):
    """The params, states or saved values of the two sides of a residual block."""

    body: PyTree
    projection: PyTree


@layer
class Residual(Layer):
    """A residual block: a body and a shortcut; built by `fnn.residual`.

        forward     y = f(x) + p(x)         p is the identity where none is given
        backward    dx = (∂f/∂x)ᵀ dy + (∂p/∂x)ᵀ dy

    Args:
        body: f.
        projection: p, where f changes the shape.

    Raises:
        ValueError: f and p return different shapes.

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
    def children(self) -> dict[str, Layer]:
        return {"body": self.body, "projection": self.projection}

    def with_children(self, *layers: Layer) -> Layer:
        return dataclasses.replace(self, body=layers[0], projection=layers[1])

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        variables, shapes = _init_branches(self, key, in_shape)
        _expect_same_shape(self, shapes)
        params, state = join_variables(variables)
        return Variables(ResidualParts(*params), ResidualParts(*state))

    def forward(
        self, params: ResidualParts, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        variables = Variables(params, state)
        body, projection = _forward_branches(self, variables, x, key, train)
        _expect_same_shape(self, [body.y.shape, projection.y.shape])
        saved = ResidualParts(body.saved, projection.saved)
        state = ResidualParts(body.state, projection.state)
        return Forward(body.y + projection.y, saved=saved, state=state)

    def backward(
        self, params: ResidualParts, saved: ResidualParts, dy: Array
    ) -> Backward:
        body, projection = _backward_branches(self, params, saved, [dy, dy])
        dparams = ResidualParts(body.dparams, projection.dparams)
        return Backward(dx=body.dx + projection.dx, dparams=dparams)

    def __repr__(self) -> str:
        shortcut = "" if self.projection == Identity() else f", {self.projection!r}"
        return f"residual({self.body!r}{shortcut})"


@layer
class Parallel(Layer):
    """A block of branches on the same input; built by `fnn.parallel`.

        forward         y_b = f_b(x)
        backward        dx = Σ_b (∂f_b/∂x)ᵀ dy_b

        sum             y = Σ_b y_b             dy_b = dy
        product         y = Π_b y_b             dy_b = dy Π_{c≠b} y_c
        concatenate     y = [y_1 ... y_B]       dy_b the slice of dy that is y_b's

    Args:
        branches: f_1 ... f_B, at least one.
        merge: "sum", "product" or "concatenate".
        axis: the axis to concatenate along, of the batch (N, ...), so not 0.

    Raises:
        ValueError: `merge` is unknown, or the shapes of the branches do not allow it.

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
    axis: int = -1

    def __post_init__(self) -> None:
        expect_layers("parallel", self.branches)
        if not self.branches:
            raise ValueError("parallel expected at least one branch, got none")
        check_merge("parallel: merge", self.merge, self.axis)
        object.__setattr__(self, "axis", int(self.axis))

    @property
    def children(self) -> dict[str, Layer]:
        return {str(i): child for i, child in enumerate(self.branches)}

    def with_children(self, *layers: Layer) -> Layer:
        return dataclasses.replace(self, branches=layers)

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        variables, shapes = _init_branches(self, key, in_shape)
        self._check(shapes, axes_before=0)
        return join_variables(variables)

    def forward(
        self, params: tuple[PyTree, ...], state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        outs = _forward_branches(self, Variables(params, state), x, key, train)
        ys = [out.y for out in outs]
        self._check([y.shape for y in ys], axes_before=1)
        y, merged = merge(ys, self.merge, self.axis)
        saved = (tuple(out.saved for out in outs), merged)
        return Forward(y, saved=saved, state=tuple(out.state for out in outs))

    def backward(
        self, params: tuple[PyTree, ...], saved: PyTree, dy: Array
    ) -> Backward:
        saved, merged = saved
        dys = merge_backward(merged, dy, self.merge, self.axis)
        outs = _backward_branches(self, params, saved, dys)
        dx = sum((out.dx for out in outs[1:]), start=outs[0].dx)
        return Backward(dx=dx, dparams=tuple(out.dparams for out in outs))

    def _check(self, shapes: list[InShape], axes_before: int) -> None:
        """Raise where shapes do not fit; those of `init` lack the axis of examples."""
        if self.merge != "concatenate":
            _expect_same_shape(self, shapes)
            return
        ndim = len(shapes[0])
        axis = self.axis if self.axis < 0 else self.axis - 1 + axes_before
        low = -ndim + axes_before
        if not low <= axis < ndim:
            raise ValueError(
                f"{self!r} concatenates outputs of {ndim - axes_before} axes, without "
                f"that of the examples, along axis {self.axis} of the batch: expected "
                f"{low} to -1, or 1 to {ndim - axes_before}"
            )
        rest = [(*s[:axis], *s[axis:][1:]) for s in shapes]
        if len(set(rest)) > 1:
            along = "the last axis" if axis % ndim == ndim - 1 else f"axis {self.axis}"
            raise ValueError(
                f"{self!r} concatenates along {along} outputs that differ in "
                f"others: {_format_shapes(self, shapes)}."
            )

    def __repr__(self) -> str:
        inside = [*map(repr, self.branches)]
        inside += [f"merge={self.merge!r}"] if self.merge != "sum" else []
        inside += [f"axis={self.axis}"] if self.axis != -1 else []
        return f"parallel({', '.join(inside)})"


# ---- Shared by both --------------------------------------------------------------


def _init_branches(
    parent: Layer, key: KeyArray, in_shape: InShape
) -> tuple[list[Variables], list[InShape]]:
    """Return the variables of each child, and the shape of its output."""
    variables: list[Variables] = []
    shapes: list[InShape] = []
    for i, (label, child) in enumerate(parent.children.items()):
        with located(parent, label, child, in_shape):
            variables.append(child.init(child_key(key, i), in_shape))
            shapes.append(output_shape(child, variables[-1], in_shape))
    return variables, shapes


def _forward_branches(
    parent: Layer, variables: Variables, x: Array, key: KeyArray | None, train: bool
) -> list[Forward]:
    outs: list[Forward] = []
    parts = child_variables(parent, variables)
    labelled = zip(parent.children.items(), parts, strict=True)
    for i, ((label, child), part) in enumerate(labelled):
        with located(parent, label, child, x):
            key_i = child_key(key, i)
            outs.append(child.forward(*part, x, key=key_i, train=train))
    return outs


def _backward_branches(
    parent: Layer, params: PyTree, saved: PyTree, dys: list[Array]
) -> list[Backward]:
    labelled = zip(parent.children.items(), params, saved, dys, strict=True)
    return [
        child_backward(parent, label, child, p, s, dy)
        for (label, child), p, s, dy in labelled
    ]


def _expect_same_shape(parent: Layer, shapes: list[InShape]) -> None:
    # Equal, not broadcastable: a silent broadcast would need its own backward.
    if len(set(shapes)) > 1:
        verb = "multiplies" if getattr(parent, "merge", "") == "product" else "adds"
        raise ValueError(
            f"{parent!r} {verb} outputs of different shapes: "
            f"{_format_shapes(parent, shapes)}. Give the shortcut a projection, or "
            "merge by concatenation."
        )


def _format_shapes(parent: Layer, shapes: list[InShape]) -> str:
    labelled = zip(parent.children, shapes, strict=True)
    return ", ".join(f"{label} {shape}" for label, shape in labelled)
