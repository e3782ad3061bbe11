"""The cheapest route through a network.

Layers in a row are planned as a route through a small graph. Before and after each of
them, images are in one of two layouts. An edge is a plain layer (outer to outer), a
stage for one layer or several (inner to inner), or a transpose from one layout to the
other, each with its milliseconds. Layers made of layers are planned from the inside
out: each is an edge that costs as much as its own cheapest route.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fnn.core import Layer
from fnn.layers.activations import Identity
from fnn.layers.branches import Parallel, Residual
from fnn.layers.combinators import Serial
from fnn.layers.several import Each, Fork
from fnn.network import path_of
from fnn.planning.options import PlanOptions
from fnn.planning.planned import Change
from fnn.planning.rewrites import REWRITES, plain_cost
from fnn.planning.stage import Absorbed
from fnn.planning.stages import InnerParallel, InnerResidual
from fnn.shapes import is_shape
from fnn.typing import InShape

__all__ = ["INNER", "OUTER", "Planner", "Route"]

OUTER, INNER = "outer", "inner"

#: The layouts before and after a layer.
Ends = tuple[str, str]


class Route(NamedTuple):
    """A route: its milliseconds, the layers along it, and the changes."""

    cost: float = 0.0
    layers: tuple[Layer, ...] = ()
    changes: tuple[Change, ...] = ()

    def then(self, other: "Route") -> "Route":
        """Return this route followed by another one."""
        return Route(
            self.cost + other.cost,
            self.layers + other.layers,
            self.changes + other.changes,
        )


class Edge(NamedTuple):
    """A route past the next `count` layers, between two layouts."""

    count: int
    ends: Ends
    route: Route


class Planner(NamedTuple):
    """A search for routes; `shapes` holds each layer's input shape, by path."""

    options: PlanOptions
    shapes: dict[str, InShape]

    def routes(self, net: Layer, path: str) -> dict[Ends, Route]:
        """Return the cheapest replacement of a layer, by the layouts at its ends."""
        if type(net) is not Serial:
            return self._serial_routes([net], [path])
        labels = net.children
        paths = [path_of(path, label, child) for label, child in labels.items()]
        return {
            ends: route._replace(layers=(Serial(route.layers),))
            for ends, route in self._serial_routes(list(net.layers), paths).items()
        }

    def plain_cost(self, net: Layer, path: str) -> float:
        """Return the milliseconds of the plain network."""
        if labels := net.children:
            parts = (
                self.plain_cost(child, path_of(path, label, child))
                for label, child in labels.items()
            )
            return sum(parts)
        return plain_cost(net, self.shapes[path], self.options)

    def _serial_routes(
        self, layers: list[Layer], paths: list[str]
    ) -> dict[Ends, Route]:
        """Return the cheapest routes along layers in a row, by their ends."""
        routes: dict[Ends, Route] = {}
        for start in (OUTER, INNER):
            # best[i] holds the cheapest routes to before layer i, by layout.
            best: list[dict[str, Route]] = [{} for _ in range(len(layers) + 1)]
            best[0][start] = Route()
            for i, path in enumerate([*paths, paths[-1] if paths else ""]):
                self._add_transposes(best[i], self.shapes[path])
                if i == len(layers):
                    break
                for count, (before, after), route in self._edges(layers[i:], paths[i:]):
                    if before in best[i]:
                        _improve(best[i + count], after, best[i][before].then(route))
            routes |= {(start, end): route for end, route in best[-1].items()}
        return routes

    def _add_transposes(self, best: dict[str, Route], shape: InShape) -> None:
        if not is_shape(shape):  # several arrays stay as they are
            return
        count = math.prod(shape) * self.options.batch_size
        transpose = Route(self.options.costs.element("transpose", count))
        for before, after in ((OUTER, INNER), (INNER, OUTER)):
            if before in best:
                _improve(best, after, best[before].then(transpose))

    def _edges(self, layers: Sequence[Layer], paths: Sequence[str]) -> Iterator[Edge]:
        """Yield the edges that start before the first of these layers."""
        first, path = layers[0], paths[0]
        if type(first) in (Serial, Residual, Parallel, Fork, Each):
            inside = self.routes if type(first) is Serial else self._parallel_routes
            for ends, route in inside(first, path).items():
                yield Edge(1, ends, route)
            return
        shape = self.shapes[path]
        plain = Route(plain_cost(first, shape, self.options), (first,))
        yield Edge(1, (OUTER, OUTER), plain)
        for rewrite in REWRITES:
            count = len(rewrite.pattern)
            absorbed = tuple(map(Absorbed, layers[1:count]))
            for stage, name, cost in rewrite.candidates(
                tuple(layers), shape, self.options
            ):
                before = sum(map(self.plain_cost, layers[:count], paths[:count]))
                stage_path = path.removesuffix(first.kind) + stage.kind
                change = Change(stage_path, name, before, cost)
                changes = () if type(first) is Identity else (change,)
                route = Route(cost, (stage, *absorbed), changes)
                yield Edge(count, (INNER, INNER), route)

    def _parallel_routes(self, net: Layer, path: str) -> dict[Ends, Route]:
        """Return the routes of a layer whose children are side by side.

        All of them have the same layouts at their ends; the inner ones only where their
        outputs are merged element by element, or along their channels.
        """
        merge, axis = getattr(net, "merge", ""), getattr(net, "axis", 0)
        by_channel = type(net) is Residual or merge in ("sum", "product")
        by_channel |= (merge, axis) == ("concatenate", -1)
        found: dict[Ends, Route] = {}
        branches = [
            self.routes(child, path_of(path, label, child))
            for label, child in net.children.items()
        ]
        for layout in (OUTER, INNER):
            if layout == INNER and not by_channel:
                continue
            total = Route()
            for routes in branches:
                total = total.then(routes[layout, layout])
            if layout == OUTER:
                planned = net.with_children(*total.layers)
            elif type(net) is Residual:
                planned = InnerResidual(*total.layers)
            else:
                planned = InnerParallel(total.layers, merge, axis)
            found[layout, layout] = total._replace(layers=(planned,))
        return found


def _improve(best: dict[str, Route], layout: str, route: Route) -> None:
    if layout not in best or route.cost < best[layout].cost:
        best[layout] = route
