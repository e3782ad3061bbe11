"""Planned layers, the plain ones that they replace, and the table of a plan."""

from abc import abstractmethod
from typing import NamedTuple

from fnn.core import Backward, Forward, Layer, Reach, Variables, layer, leaf
from fnn.letters import printable
from fnn.shapes import example_shape, format_shapes, hashable
from fnn.tables import format_rows
from fnn.typing import Array, InShape, KeyArray, PyTree

__all__ = ["Change", "Plan", "Planned", "plain"]


class Planned(Layer):
    """A layer that computes the same as a plain one, with the same variables."""

    @abstractmethod
    def to_plain(self) -> Layer:
        """Return the plain layer, which has the same variables."""


def plain(net: Layer) -> Layer:
    """Return the network that a planned one computes, with the same variables.

    Args:
        net: a network, planned as a whole, in parts, or not at all.

    Returns:
        The network with every planned layer replaced by the plain one; `net` itself
        where there is none.

    Example:
        >>> import fnn
        >>> net = fnn.serial(fnn.Conv(8, 3), fnn.Relu())
        >>> fnn.plain(fnn.plan(net, (28, 28, 1), platform="cpu")) == net
        True
    """
    if isinstance(net, Planned):
        return net.to_plain()
    before = list(net.children.values())
    after = [plain(child) for child in before]
    same = all(a is b for a, b in zip(before, after, strict=True))
    return net if same else net.with_children(*after)


class Change(NamedTuple):
    """The replacement of layers in a row by one stage.

    `path` is the stage's, such as `0/Conv+Relu+MaxPool`, `kernel` names the algorithm,
    and `before` and `after` are the milliseconds expected for a batch, forward and
    backward.
    """

    path: str
    kernel: str
    before: float
    after: float


@layer
class Plan(Planned):
    """A network that computes the same as `plain`, with the same variables, by kernels.

    It is a layer like any other: train it, audit it, nest it. Its children are the
    planned layers, at the paths of the plain ones. Built by `fnn.plan`; print it to
    see the changes and their expected times.

    Args:
        net: the planned network.
        plain: the network that was planned.
        in_shape: the shape of one example, for which the plan was made.
        changes: the replacements, one for each stage.
        note: the conditions of the plan, or why nothing was changed.
    """

    net: Layer = leaf()
    plain: Layer = leaf()
    in_shape: InShape = ()
    changes: tuple[Change, ...] = ()
    note: str = ""

    @property
    def wrapped(self) -> Layer:
        return self.net

    def with_children(self, *layers: Layer) -> Layer:
        return self.net.with_children(*layers)

    def to_plain(self) -> Layer:
        return self.plain

    def init(self, key: KeyArray, in_shape: InShape) -> Variables:
        return self.plain.init(key, in_shape)

    def forward(
        self, params: PyTree, state: PyTree, x: Array, *,
        key: KeyArray | None = None, train: bool = False,
    ) -> Forward:  # fmt: skip
        if hashable(example_shape(x)) != self.in_shape:
            raise ValueError(
                f"this plan was made for examples of shape {self.in_shape}, got x of "
                f"shape {format_shapes(x)}: plan the network for {example_shape(x)}, "
                "or use the plain one, plan.plain"
            )
        return self.net.forward(params, state, x, key=key, train=train)

    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        return self.net.backward(params, saved, dy)

    def reach(self, in_shape: InShape) -> tuple[Reach, ...] | None:
        return self.plain.reach(in_shape)

    def __repr__(self) -> str:
        return f"plan({self.plain!r}, {self.in_shape})"

    def __str__(self) -> str:
        if not self.changes:
            return printable(f"Nothing to plan: {self.note}.")
        rows = [("layer", "done by", "before", "after")]
        rows += [
            (c.path, c.kernel, f"{c.before:.3f}", f"{c.after:.3f}")
            for c in self.changes
        ]
        return printable("\n".join([*format_rows(rows, "<<>>"), self.note]))
