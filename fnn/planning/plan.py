"""Planning: an equivalent network, of the same variables, that runs faster.

Layers in a row are a path through a small graph. Before and after each of them images
lie in one of two layouts; an edge is a plain layer (outer to outer), a stage that does
one layer or several (inner to inner), or a turn from one layout to the other, each with
its milliseconds. The plan is the cheapest path. Layers made of layers are planned from
the inside out: each is an edge that costs what its own cheapest path does.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.checks import check_in_shape, check_instances, positive_integer
from fnn.core import Layer, children, kind, layer, leaf, path_of
from fnn.layers import Identity, Parallel, Residual, Serial
from fnn.layers.probe import record
from fnn.planning.costs import Costs, built_in
from fnn.planning.rules import MODES, RULES, Terms, plain_cost
from fnn.planning.stage import Absorbed
from fnn.planning.stages import InnerParallel, InnerResidual

__all__ = ["Change", "Plan", "plan"]

OUTER, INNER = "outer", "inner"


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
class Plan(Layer):
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
        return kind(self.net)

    @property
    def penalized(self):
        """As in the plain network."""
        return self.net.penalized

    @property
    def children(self):
        return children(self.net)

    def with_children(self, *layers):
        return self.net.with_children(*layers)

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


def plan(
    net: Layer,
    in_shape: tuple[int, ...],
    *,
    batch_size: int = 64,
    mode: str = "fast",
    platform: str | None = None,
    costs: Costs | None = None,
    ensemble: bool = False,
) -> Plan:
    """Plan a network: replace its layers by kernels where that is expected to pay.

    Results differ from the plain network's by rounding: a convolution by Winograd
    rounds a few times as much as one by the definition (`Toom.growth` has the bound),
    everything else as another order of the same sums. Dropout's masks and the winners
    of pooling are the same; see `kernels.winograd` for ties.

    Args:
        net: the network.
        in_shape: the shape of ONE example, no batch axis.
        batch_size: for which it shall be fast. It works with any.
        mode: "fast"; "exact", without Winograd; or "memory", which keeps no patches
            from forward to backward but makes them again.
        platform: "cpu", "gpu" or "tpu"; by default that of JAX. Only for the CPU is
            there anything to do: elsewhere XLA's own convolutions are hard to beat.
        costs: a table of `load_costs`, made on your machine by scripts/bench/costs.py.
        ensemble: for `vmap` over the variables, where XLA's convolution would become a
            grouped one, many times slower: every convolution that can becomes a product
            of matrices, whatever it costs alone.

    Returns:
        A `Plan`, a layer with the variables of `net`.

    Raises:
        ValueError, TypeError: what does not fit, in plain words.

    Example:
        >>> import fnn
        >>> net = fnn.serial(fnn.Conv(8, 3), fnn.Relu(), fnn.MaxPool(2),
        ...                  fnn.Flatten(), fnn.Dense(10))
        >>> planned = fnn.plan(net, (28, 28, 1), platform="cpu")
        >>> [change.path for change in planned.changes]
        ['0/Conv+Relu+MaxPool']
    """
    check_instances(net=net)
    check_in_shape(in_shape)
    in_shape = tuple(in_shape)
    batch_size = positive_integer("plan: batch_size", batch_size)
    if mode not in MODES:
        raise ValueError(f"plan: mode must be one of {MODES}, got {mode!r}")
    platform = platform or jax.default_backend()
    if platform not in ("cpu", "gpu", "tpu", "cuda", "rocm"):
        raise ValueError(
            f'plan: platform must be "cpu", "gpu" or "tpu", got {platform!r}'
        )
    if isinstance(net, Plan):
        net = net.plain
    if platform != "cpu":
        return Plan(net, net, in_shape, (), f"on a {platform} XLA's convolutions stay")
    terms = Terms(batch_size, mode, costs or built_in(), ensemble)
    planner = _Planner(terms, _shapes(net, in_shape))
    best = planner.options(net, kind(net))[OUTER, OUTER]
    if not best.changes:
        return Plan(net, net, in_shape, (), "no rule applies, or none would pay")
    (planned,) = best.layers
    before = planner.plain(net, kind(net))
    note = (
        f"Milliseconds expected for {batch_size} examples, forward and backward: "
        f"{best.cost:.2f} in place of {before:.2f},\nthe turning of images into the "
        f'inner layout included. Mode "{mode}"; costs of {terms.costs.machine}.'
    )
    return Plan(planned, net, in_shape, best.changes, note)


def _shapes(net: Layer, in_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shape of one example that reaches each layer, by path; nothing is run."""

    def seen(key: Any, x: Any) -> Any:
        return record(net, net.init(key, in_shape), x, key)

    x = jax.ShapeDtypeStruct((1, *in_shape), jnp.zeros(()).dtype)
    found = jax.eval_shape(seen, jax.random.key(0), x)
    return {path: entry.x.shape[1:] for path, entry in found.items()}


# ---- The cheapest path -----------------------------------------------------------


class Choice(NamedTuple):
    """A path: its milliseconds, the layers along it, and what was changed."""

    cost: float = 0.0
    layers: tuple[Layer, ...] = ()
    changes: tuple[Change, ...] = ()

    def then(self, other: "Choice") -> "Choice":
        """One path after the other."""
        return Choice(*(a + b for a, b in zip(self, other, strict=True)))


class _Planner(NamedTuple):
    terms: Terms
    shapes: dict[str, tuple[int, ...]]

    def options(self, net: Layer, path: str) -> dict[tuple[str, str], Choice]:
        """The cheapest replacement of a layer, by the layouts before and after it."""
        if type(net) is not Serial:
            return self._row([net], [path])
        labels = children(net)
        paths = [path_of(path, label, child) for label, child in labels.items()]
        return {
            ends: choice._replace(layers=(Serial(choice.layers),))
            for ends, choice in self._row(list(net.layers), paths).items()
        }

    def plain(self, net: Layer, path: str) -> float:
        """Milliseconds of the plain network."""
        if labels := children(net):
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
                place = path.removesuffix(kind(first)) + kind(offer.stage)
                change = Change(place, offer.name, before, offer.cost)
                said = () if type(first) is Identity else (change,)
                changed = Choice(offer.cost, (offer.stage, *rest), said)
                yield count, (INNER, INNER), changed

    def _side_by_side(self, net: Layer, path: str) -> dict[tuple[str, str], Choice]:
        """A residual block, or parallel branches: all branches in the same layout."""
        found = {}
        inner = InnerResidual if type(net) is Residual else InnerParallel
        branches = [
            self.options(child, path_of(path, label, child))
            for label, child in children(net).items()
        ]
        for here in (OUTER, INNER):
            if here == INNER and getattr(net, "merge", "sum") != "sum":
                continue
            total = Choice()
            for options in branches:
                total = total.then(options[here, here])
            made = net.with_children(*total.layers)
            if here == INNER:
                made = inner(**{f: getattr(made, f) for f in made.__dataclass_fields__})
            found[here, here] = total._replace(layers=(made,))
        return found


def _improve(here: dict[str, Choice], layout: str, choice: Choice) -> None:
    if layout not in here or choice.cost < here[layout].cost:
        here[layout] = choice
