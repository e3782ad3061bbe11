"""A summary of a network: each layer's output shape, size, work, receptive field."""

import math
from fractions import Fraction
from typing import Any, NamedTuple

import jax

from fnn.checks import check_in_shape
from fnn.core import Layer, Reach, expect_layer
from fnn.layers.branches import Parallel, Residual
from fnn.layers.shared import Shared
from fnn.letters import printable
from fnn.network import Node, map_params, output_shape, path_of, walk
from fnn.shapes import abstract_batch, by_part, example_shape, is_shape
from fnn.tables import format_rows, format_shape, rule
from fnn.typing import InShape, PyTree
from fnn.visits import Seen, record

__all__ = ["Summary", "SummaryRow", "count_flops", "summary"]


class SummaryRow(NamedTuple):
    """One layer of a network.

    Args:
        path: its path, such as `2/Dense`.
        out_shape: the shape of its output for one example.
        params: the number of its parameters.
        flops: the floating-point operations of its forward pass for one example.
        receptive_field: the number of input positions, along each spatial axis, that
            one output number can depend on; () where examples are vectors.
    """

    path: str
    out_shape: InShape
    params: int
    flops: int
    receptive_field: tuple[int, ...]


class Summary(NamedTuple):
    """The rows of a network, in forward order; it prints as a table.

    Args:
        in_shape: the shape of one example.
        rows: a `SummaryRow` for every layer.
    """

    in_shape: InShape
    rows: tuple[SummaryRow, ...]

    @property
    def params(self) -> int:
        """Return the number of parameters."""
        return sum(row.params for row in self.rows)

    @property
    def flops(self) -> int:
        """Return the floating-point operations of one example's forward pass."""
        return sum(row.flops for row in self.rows)

    def __str__(self) -> str:
        rows = [
            ("layer", "output", "params", "FLOPs", "sees"),
            *((f"input{name}", s, "", "", "") for name, s in _by_part(self.in_shape)),
        ]
        for path, out_shape, params, flops, field in self.rows:
            numbers = f"{params:,}", f"{flops:,}", format_shape(field)
            (_, first), *others = _by_part(out_shape)
            rows.append((path, first, *numbers))
            rows += [("", shape, "", "", "") for _, shape in others]
        rows.append(("total", "", f"{self.params:,}", f"{self.flops:,}", ""))
        if not _axes(self.in_shape):  # vectors have no positions to see
            rows = [row[:-1] for row in rows]
        header, *body, total = format_rows(rows, "<" + ">" * (len(rows[0]) - 1))
        line = rule([*body, total])
        return printable("\n".join([header, line, *body, line, total]))


def summary(net: Layer, in_shape: InShape) -> Summary:
    """Summarise the layers of a network: output shape, size and work for one example.

    Nothing is computed: shapes come from tracing the forward, operations from XLA's
    own count of a forward in evaluation mode (a multiplication and an addition are two;
    operations that XLA does not count, such as a comparison, are left out).

    Args:
        net: the network.
        in_shape: the shape of ONE example, without the batch axis.

    Returns:
        A `Summary`: print it, or read its `rows`, `params` and `flops`. For images the
        table's last column, "sees", is the receptive field.

    Raises:
        TypeError: `net` is not a layer, or `in_shape` is not a shape.
        ValueError: a layer does not fit the shape that it is given.

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
    in_shape = check_in_shape(in_shape)
    key = jax.random.key(0)
    variables = jax.eval_shape(lambda: net.init(key, in_shape))
    x = abstract_batch(in_shape)
    seen = jax.eval_shape(lambda v, x: record(net, v, x), variables, x)
    fields = _receptive_fields(net, seen, len(_axes(in_shape)))
    counts = _parameter_counts(net, variables.params)
    rows = []
    for node in walk(net, variables):
        parts = len(node.layer.children)
        own = node.path, type(node.layer)
        if parts and own not in counts:
            continue  # a layer of layers; these have rows of their own
        x = seen[node.path].x
        shape = output_shape(node.layer, node.variables, example_shape(x))
        flops = 0 if parts else _flops(node, x)
        axes = zip(fields[node.path], _axes(in_shape), strict=True)
        field = tuple(_positions(*axis) for axis in axes)
        params = counts.get(own, 0)
        rows.append(SummaryRow(node.path, shape, params, flops, field))
    return Summary(in_shape, tuple(rows))


def _parameter_counts(net: Layer, params: PyTree) -> dict[tuple[str, type], int]:
    """Return the number of each layer's own parameters, by path and class.

    A wrapper has the path of the layer inside. What is shared counts once, at the first
    of its places.
    """
    counts: dict[tuple[str, type], int] = {}

    def count(path: str, owner: Layer, part: Any) -> Any:
        # A parameter's name may have dots too: it follows the last layer's name.
        place, slash, last = path.rpartition("/")
        own = place + slash + last.partition(".")[0], type(owner)
        counts[own] = counts.get(own, 0) + math.prod(part.shape)
        return part

    map_params(count, net, params)
    return counts


def _axes(in_shape: InShape) -> tuple[int, ...]:
    """Return the sizes of the spatial axes; none where the input is several arrays."""
    return tuple(in_shape[:-1]) if is_shape(in_shape) else ()


def _by_part(shape: InShape) -> list[tuple[str, str]]:
    """Return the name and the shape of each array, ready to be printed."""
    return [
        (f".{name}" if name else "", format_shape(part))
        for name, part in by_part(shape, is_leaf=is_shape).items()
    ]


def _flops(node: Node, x: PyTree) -> int:
    run = jax.jit(lambda params, state, x: node.layer.forward(params, state, x).y)
    return int(count_flops(run, *node.variables, x))


def count_flops(program: Any, *arguments: Any, **options: Any) -> float:
    """Count the floating-point operations of a jitted function, as XLA does.

    They are counted before compilation, when nothing is fused yet; and for the CPU,
    because operations that a GPU leaves to a library are not counted.

    Args:
        program: a function under `jax.jit`.
        arguments: the arguments of one call, or their shapes.
        options: the keyword arguments of this call.

    Returns:
        The number of operations; 0 where JAX runs without a CPU.
    """
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        device = None
    with jax.default_device(device):
        counted = program.lower(*arguments, **options).cost_analysis() or {}
    return counted.get("flops", 0.0)


# ---- Receptive fields ------------------------------------------------------------


class _Field(NamedTuple):
    """The receptive field of a number, along one spatial axis of the input.

    It is `size` positions wide; that of the next number is shifted by `step` positions.
    """

    size: float | Fraction = 1
    step: int | Fraction = 1


#: The field of a number, along each spatial axis of the input.
_Fields = tuple[_Field, ...]

_EVERYTHING = _Field(math.inf)


def _receptive_fields(
    net: Layer, seen: dict[str, Seen], axes: int
) -> dict[str, _Fields]:
    """Return the field of every layer's output, by path."""
    found: dict[str, _Fields] = {}

    def through(layer: Layer, path: str, field: _Fields) -> _Fields:
        layer = _inside(layer)
        inner = [
            (child, path_of(path, label, child))
            for label, child in layer.children.items()
        ]
        if isinstance(layer, Parallel | Residual):
            branches = [through(*child, field) for child in inner]
            field = tuple(map(_wider, *branches))
        elif inner and (len(inner) == 1 or not layer.kind):  # one after the other
            for child in inner:
                field = through(*child, field)
        else:
            for child in inner:
                through(*child, (_EVERYTHING,) * axes)
            x = example_shape(seen[path].x)
            reach = layer.reach(x) if is_shape(x) else (Reach(),) * axes
            field = _beyond(field, None if inner else reach)
        found[path] = field
        return field

    through(net, net.kind, (_Field(),) * axes)
    return found


def _inside(layer: Layer) -> Layer:
    """Return the layer inside wrappers that have its children and its path."""
    inner = layer.net if isinstance(layer, Shared) else layer.wrapped
    return layer if inner is None else _inside(inner)


def _beyond(field: _Fields, reach: tuple[Reach, ...] | None) -> _Fields:
    """Return the field after a layer of this reach; None stands for all its input."""
    if reach is None:
        return (_EVERYTHING,) * len(field)
    if len(reach) != len(field):  # no spatial axes any more: the field stays
        return field
    return tuple(
        _Field(f.size + (r.extent - 1) * f.step, f.step * r.step)
        for f, r in zip(field, reach, strict=True)
    )


def _wider(*fields: _Field) -> _Field:
    return _Field(max(f.size for f in fields), max(f.step for f in fields))


def _positions(field: _Field, size: int) -> int:
    """Return the width of a field, at most the size of the input."""
    return size if field.size >= size else math.ceil(field.size)
