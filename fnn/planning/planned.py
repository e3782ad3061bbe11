"""Planned layers, the plain ones they stand for, and the table of a plan."""

from abc import abstractmethod
from typing import NamedTuple

from fnn.core import Layer, layer, leaf

__all__ = ["Change", "Plan", "Planned", "plain"]


class Planned(Layer):
    """A layer that computes what a plain one does, with the same variables."""

    @abstractmethod
    def stands_for(self) -> Layer:
        """Return the plain layer, of the same variables."""


def plain(net: Layer) -> Layer:
    """Return the network that a planned one claims to compute, of the same variables.

    A network without planned layers is returned as it is.
    """
    if isinstance(net, Planned):
        return net.stands_for()
    before = list(net.children.values())
    after = [plain(child) for child in before]
    same = all(a is b for a, b in zip(before, after, strict=True))
    return net if same else net.with_children(*after)


class Change(NamedTuple):
    """What a plan does to layers in a row.

    `path` of the stage that does them, such as `0/Conv+Relu+MaxPool`, `kernel` how, and
    the milliseconds expected for a batch, forward and backward, before and after.
    """

    path: str
    kernel: str
    before: float
    after: float


@layer
class Plan(Planned):
    """A network that computes what `plain` does, with the same variables, by kernels.

    It is a layer like any other: train it, audit it, nest it. Its children are the
    planned layers, at the paths of the plain ones. Built by `fnn.plan`; print it to
    see what was done, and why.

    Args:
        net: the planned network.
        plain: the network it was made of.
        in_shape: of the examples it was made for.
        changes: what was done.
        note: why nothing was done, or for what it was.
    """

    net: Layer = leaf()
    plain: Layer = leaf()
    in_shape: tuple[int, ...] = ()
    changes: tuple[Change, ...] = ()
    note: str = ""

    @property
    def kind(self):
        return self.net.kind

    @property
    def children(self):
        return self.net.children

    def with_children(self, *layers):
        return self.net.with_children(*layers)

    def stands_for(self):
        return self.plain

    def init(self, key, in_shape):
        return self.plain.init(key, in_shape)

    def forward(self, params, state, x, *, key=None, train=False):
        if tuple(x.shape[1:]) != self.in_shape:
            raise ValueError(
                f"this plan was made for examples of shape {self.in_shape}, got x of "
                f"shape {x.shape}: plan the network for {tuple(x.shape[1:])}, or use "
                "the plain one, plan.plain"
            )
        return self.net.forward(params, state, x, key=key, train=train)

    def backward(self, params, saved, dy):
        return self.net.backward(params, saved, dy)

    def reach(self, in_shape):
        return self.plain.reach(in_shape)

    def __repr__(self) -> str:
        return f"plan({self.plain!r}, {self.in_shape})"

    def __str__(self) -> str:
        if not self.changes:
            return f"Nothing to plan: {self.note}."
        rows = [("layer", "done by", "before", "after")]
        rows += [
            (c.path, c.kernel, f"{c.before:.3f}", f"{c.after:.3f}")
            for c in self.changes
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}"
            for a, b, c, d in rows
        ]
        return "\n".join([*lines, self.note])
