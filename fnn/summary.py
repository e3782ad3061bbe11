"""A network at a glance: what each layer makes of one example, and what it costs."""

import math
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.checks import check_in_shape
from fnn.core import Layer, Reach, expect_layer
from fnn.layers.branches import Parallel, Residual
from fnn.network import Node, output_shape, path_of, walk
from fnn.probes import Seen, record

__all__ = ["Summary", "SummaryRow", "count_flops", "summary"]


class SummaryRow(NamedTuple):
    """One layer: its path, the shape it gives one example, its size and its work.

    `receptive_field` is how many places of the input, along each of its spatial axes, a
    number of the output can depend on; () where examples are vectors.
    """

    path: str
    out_shape: tuple[int, ...]
    params: int
    flops: int
    receptive_field: tuple[int, ...]


class Summary(NamedTuple):
    """The rows of a network, in forward order; printed, a table."""

    in_shape: tuple[int, ...]
    rows: tuple[SummaryRow, ...]

    @property
    def params(self) -> int:
        """How many numbers are optimised."""
        return sum(row.params for row in self.rows)

    @property
    def flops(self) -> int:
        """Floating-point operations of one example's forward pass."""
        return sum(row.flops for row in self.rows)

    def __str__(self) -> str:
        head = ("layer", "output", "params", "FLOPs", "sees")
        body = [
            (
                *(row.path, _shape(row.out_shape), f"{row.params:,}", f"{row.flops:,}"),
                _shape(row.receptive_field),
            )
            for row in self.rows
        ]
        body.insert(0, ("input", _shape(self.in_shape), "", "", ""))
        total = ("total", "", f"{self.params:,}", f"{self.flops:,}", "")
        columns = 5 if len(self.in_shape) > 1 else 4  # vectors have no places to see
        head, *body, total = (row[:columns] for row in (head, *body, total))
        widths = [
            max(map(len, column)) for column in zip(head, *body, total, strict=True)
        ]

        def line(row: tuple[str, ...]) -> str:
            cells = zip(row[1:], widths[1:], strict=True)
            return row[0].ljust(widths[0]) + "".join(f"  {c:>{w}}" for c, w in cells)

        lines = [line(row).rstrip() for row in (head, *body, total)]
        rule = "─" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def summary(net: Layer, in_shape: tuple[int, ...]) -> Summary:
    """What each layer of a network makes of one example, and what it costs.

    Nothing is computed: shapes come from tracing the forward, operations from XLA's
    own count of what it would run in evaluation mode (a multiplication and an addition
    are two; what XLA does not count, such as a comparison, is not in it).

    Args:
        net: the network.
        in_shape: the shape of ONE example, without the batch axis.

    Returns:
        A `Summary`: print it, or read its `rows`, `params` and `flops`. For images the
        table's last column, "sees", is the receptive field.

    Raises:
        ValueError: a layer does not fit the shape it is given.

    Example:
        >>> import fnn
        >>> net = fnn.serial(fnn.Dense(128), fnn.Relu(), fnn.Dense(10))
        >>> print(fnn.summary(net, (784,)))
        layer    output   params    FLOPs
        ─────────────────────────────────
        input       784
        0/Dense     128  100,480  200,832
        1/Relu      128        0      128
        2/Dense      10    1,290    2,570
        ─────────────────────────────────
        total            101,770  203,530
    """
    expect_layer("net", net)
    check_in_shape(in_shape)
    key = jax.random.key(0)
    variables = jax.eval_shape(lambda: net.init(key, in_shape))
    x = jax.ShapeDtypeStruct((1, *in_shape), jnp.zeros(()).dtype)
    seen = jax.eval_shape(lambda v, x: record(net, v, x), variables, x)
    fields = _fields(net, seen, len(in_shape) - 1)
    rows = []
    for node in walk(net, variables):
        parts = len(node.layer.children)
        own = node.variables.params[parts:] if parts else node.variables.params
        sizes = [math.prod(a.shape) for a in jax.tree.leaves(own)]
        if parts and not sizes:
            continue  # all it has is its parts', which have rows of their own
        x = seen[node.path].x
        shape = output_shape(node.layer, node.variables, x.shape[1:])
        flops = 0 if parts else _flops(node, x)
        places = zip(fields[node.path], in_shape[:-1], strict=True)
        sees = tuple(_pixels(*place) for place in places)
        rows.append(SummaryRow(node.path, shape, sum(sizes), flops, sees))
    return Summary(tuple(in_shape), tuple(rows))


def _flops(node: Node, x: jax.ShapeDtypeStruct) -> int:
    run = jax.jit(lambda params, state, x: node.layer.forward(params, state, x).y)
    return int(count_flops(run, *node.variables, x))


def count_flops(program: Any, *arguments: Any, **options: Any) -> float:
    """The floating-point operations of a jitted function, as XLA counts them.

    Before compilation: nothing is fused away yet. And for the CPU, which is always
    there: what a GPU hands to a library is not counted.
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        counted = program.lower(*arguments, **options).cost_analysis() or {}
    return counted.get("flops", 0.0)


# ---- Receptive fields ------------------------------------------------------------


class _Field(NamedTuple):
    """What a number can depend on, along one spatial axis of the input.

    `size` places, and the next number depends on those `step` further on.
    """

    size: float | Fraction = 1
    step: int | Fraction = 1


_EVERYTHING = _Field(math.inf)


def _fields(net: Layer, seen: dict[str, Seen], axes: int) -> dict[str, tuple]:
    """The field of every layer's output, by path."""
    found: dict[str, tuple] = {}

    def through(layer: Layer, path: str, field: tuple) -> tuple:
        inner = [
            (child, path_of(path, label, child))
            for label, child in layer.children.items()
        ]
        if isinstance(layer, Parallel | Residual):
            branches = [through(child, place, field) for child, place in inner]
            field = tuple(map(_wider, *branches))
        elif inner and (len(inner) == 1 or not layer.kind):  # one after the other
            for child, place in inner:
                field = through(child, place, field)
        else:
            for child, place in inner:
                through(child, place, (_EVERYTHING,) * axes)
            reach = layer.reach(seen[path].x.shape[1:])
            field = _beyond(field, None if inner else reach)
        found[path] = field
        return field

    through(net, net.kind, (_Field(),) * axes)
    return found


def _beyond(field: tuple, reach: tuple[Reach, ...] | None) -> tuple:
    """The field of what looks at numbers of this field."""
    if reach is None:
        return (_EVERYTHING,) * len(field)
    if len(reach) != len(field):  # no places any more: each number keeps its field
        return field
    return tuple(
        _Field(f.size + (r.extent - 1) * f.step, f.step * r.step)
        for f, r in zip(field, reach, strict=True)
    )


def _wider(*fields: _Field) -> _Field:
    return _Field(max(f.size for f in fields), max(f.step for f in fields))


def _pixels(field: _Field, size: int) -> int:
    return size if field.size >= size else math.ceil(field.size)


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "()"
