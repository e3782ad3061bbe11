"""The cheapest path through a network.

Layers in a row are a path through a small graph. Before and after each of them images
lie in one of two layouts; an edge is a plain layer (outer to outer), a stage that does
one layer or several (inner to inner), or a turn from one layout to the other, each with
its milliseconds. Layers made of layers are planned from the inside out: each is an edge
that costs what its own cheapest path does.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from fnn.core import Layer
from fnn.layers import Identity, Parallel, Residual, Serial
from fnn.network import path_of
from fnn.planning.planned import Change
from fnn.planning.rewrites import RULES, plain_cost
from fnn.planning.stage import Absorbed
from fnn.planning.stages import InnerParallel, InnerResidual
from fnn.planning.terms import Terms

__all__ = ["INNER", "OUTER", "Choice", "Planner"]

OUTER, INNER = "outer", "inner"


class Choice(NamedTuple):
    """A path: its milliseconds, the layers along it, and what was changed."""

    cost: float = 0.0
    layers: tuple[Layer, ...] = ()
    changes: tuple[Change, ...] = ()

    def then(self, other: "Choice") -> "Choice":
        """One path after the other."""
        return Choice(
            self.cost + other.cost,
            self.layers + other.layers,
            self.changes + other.changes,
        )


class Planner(NamedTuple):
    """Finds paths, given the shape of one example that reaches each layer, by path."""

    terms: Terms
    shapes: dict[str, tuple[int, ...]]

    def options(self, net: Layer, path: str) -> dict[tuple[str, str], Choice]:
        """The cheapest replacement of a layer, by the layouts before and after it."""
        if type(net) is not Serial:
            return self._row([net], [path])
        labels = net.children
        paths = [path_of(path, label, child) for label, child in labels.items()]
        return {
            ends: choice._replace(layers=(Serial(choice.layers),))
            for ends, choice in self._row(list(net.layers), paths).items()
        }

    def plain(self, net: Layer, path: str) -> float:
        """Milliseconds of the plain network."""
        if labels := net.children:
            parts = (
                self.plain(c, path_of(path, label, c)) for label, c in labels.items()
            )
            return sum(parts)
        return plain_cost(net, self.shapes[path], self.terms)

    def _row(self, layers: list[Layer], paths: list[str]) -> dict:
        """The cheapest paths along layers in a row, from and to either layout."""
        found = {}
        for start in (OUTER, INNER):
            best: list[dict[str, Choice]] = [{} for _ in range(len(layers) + 1)]
            best[0][start] = Choice()
            for i, path in enumerate([*paths, paths[-1] if paths else ""]):
                self._turn(best[i], self.shapes[path])
                if i == len(layers):
                    break
                for count, (before, after), choice in self._edges(
                    layers[i:], paths[i:]
                ):
                    if before in best[i]:
                        _improve(best[i + count], after, best[i][before].then(choice))
            found |= {(start, end): choice for end, choice in best[-1].items()}
        return found

    def _turn(self, here: dict[str, Choice], shape: tuple[int, ...]) -> None:
        count = math.prod(shape) * self.terms.batch_size
        turn = Choice(self.terms.costs.element("turn", count))
        for a, b in ((OUTER, INNER), (INNER, OUTER)):
            if a in here:
                _improve(here, b, here[a].then(turn))

    def _edges(self, layers: Sequence[Layer], paths: Sequence[str]):
        """From here on: how many layers, between which layouts, at what cost."""
        first, path = layers[0], paths[0]
        if type(first) in (Serial, Residual, Parallel):
            inside = self.options if type(first) is Serial else self._side_by_side
            for ends, choice in inside(first, path).items():
                yield 1, ends, choice
            return
        shape = self.shapes[path]
        yield 1, (OUTER, OUTER), Choice(plain_cost(first, shape, self.terms), (first,))
        for rule in RULES:
            for offer in rule.offers(tuple(layers), shape, self.terms):
                count = len(rule.pattern)
                rest = tuple(map(Absorbed, layers[1:count]))
                before = sum(map(self.plain, layers[:count], paths[:count]))
                place = path.removesuffix(first.kind) + offer.stage.kind
                change = Change(place, offer.name, before, offer.cost)
                said = () if type(first) is Identity else (change,)
                changed = Choice(offer.cost, (offer.stage, *rest), said)
                yield count, (INNER, INNER), changed

    def _side_by_side(self, net: Layer, path: str) -> dict[tuple[str, str], Choice]:
        """A residual block, or parallel branches: all branches in the same layout."""
        found = {}
        branches = [
            self.options(child, path_of(path, label, child))
            for label, child in net.children.items()
        ]
        for here in (OUTER, INNER):
            if here == INNER and getattr(net, "merge", "sum") != "sum":
                continue
            total = Choice()
            for options in branches:
                total = total.then(options[here, here])
            if here == OUTER:
                made = net.with_children(*total.layers)
            elif type(net) is Residual:
                made = InnerResidual(*total.layers)
            else:
                made = InnerParallel(total.layers)
            found[here, here] = total._replace(layers=(made,))
        return found


def _improve(here: dict[str, Choice], layout: str, choice: Choice) -> None:
    if layout not in here or choice.cost < here[layout].cost:
        here[layout] = choice
