"""Metrics that compare every example with every other by accident.

Outputs (N, 1) beside labels (N,) broadcast to (N, N), and the mean of these numbers
looks like any other. Both JAX and NumPy put in the missing axis without a word; here it
is noticed, while axes that are written out, as in y[None, :], are nobody's mistake.
"""

import re
import warnings
from typing import Any

import jax
import numpy as np

__all__ = ["Paired", "describe_pairs", "expect_no_pairs", "watched"]

#: The shapes of two arrays, or of more.
Shapes = tuple[tuple[int, ...], ...]


class Paired(Exception):
    """An operation of NumPy that pairs every example with every other."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.shapes = shapes


def describe_pairs(name: str, shapes: Shapes, outputs: Any, y: Any) -> str:
    """Return the text of an error about a metric that pairs examples."""
    n = outputs.shape[0]
    return (
        f"metric {name!r} combines arrays of shapes {' and '.join(map(str, shapes))}, "
        f"which broadcasting turns into {n} × {n} numbers: every example with every "
        f"other. It is handed outputs of shape {outputs.shape} and y of shape "
        f"{y.shape}. Give both one shape, by outputs[:, 0] or y[:, None]. Where all "
        "pairs are wanted, write out both axes: a[:, None] and b[None, :]."
    )


def _pairs(shapes: Shapes, n: int) -> bool:
    """Return whether arrays without pairs of examples have them once broadcast."""
    if any(shape.count(n) > 1 for shape in shapes):
        return False
    return np.broadcast_shapes(*shapes).count(n) > 1


# ---- Traced functions ------------------------------------------------------------


def expect_no_pairs(name: str, metric: Any, outputs: Any, y: Any) -> bool | None:
    """Raise where a traced metric pairs examples without writing out the axes.

    It is traced for another number of examples, M, which is no other size; if it
    refuses M, for the same number.

    Returns:
        Whether it returns (M,) for M examples; None where it refuses them.
    """
    n = outputs.shape[0]
    for size in (_another_size(outputs, y), n):
        arguments = [
            jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype) for a in (outputs, y)
        ]
        try:
            found, shape = _trace(metric, arguments, size)
        except Exception:  # it may hold arrays of its own, for n examples
            continue
        if found and n > 1:
            shown = [tuple(n if i == size else i for i in shape) for shape in found]
            raise ValueError(describe_pairs(name, tuple(shown), outputs, y))
        return shape == (size,) if size != n else None
    return None


def _another_size(outputs: Any, y: Any) -> int:
    """Return a number of examples that is no other size: there nothing is by chance."""
    taken = {*outputs.shape, *y.shape}
    return next(size for size in range(61, 62 + len(taken)) if size not in taken)


def _trace(
    metric: Any, arguments: list[Any], n: int
) -> tuple[Shapes | None, tuple[int, ...]]:
    """Trace a metric; return shapes that pair examples, if any, and of its result."""
    # Without `jit`, whose cached functions would not warn a second time.
    with (
        warnings.catch_warnings(record=True) as caught,
        jax.numpy_rank_promotion("warn"),
        jax.disable_jit(),
    ):
        warnings.simplefilter("always")
        jaxpr, result = jax.make_jaxpr(metric, return_shape=True)(*arguments)
    texts = [str(warning.message) for warning in caught]
    promoted = [_shapes_in(text) for text in texts if "rank promotion" in text]
    found = [shapes for shapes in promoted if shapes and _pairs(shapes, n)]
    if _broadcasts_both(jaxpr.jaxpr, n):
        found.append(((n, 1), (n,)))
    return found[0] if found else None, result.shape


def _shapes_in(text: str) -> Shapes:
    """Return the shapes in JAX's warning, as in "on shapes (5, 1) (5,)"."""
    found = re.findall(r"\(((?:\d+, ?)*\d*)\)", text)
    return tuple(tuple(map(int, re.findall(r"\d+", shape))) for shape in found)


def _broadcasts_both(jaxpr: Any, n: int) -> bool:
    """Return whether an operation has broadcast an (n, 1) and an (n,) to (n, n).

    `jnp.where` and others do so without a warning.
    """
    columns: set[Any] = set()
    rows: set[Any] = set()
    for equation in jaxpr.eqns:
        variables = {v for v in equation.invars if not hasattr(v, "val")}
        if variables & columns and variables & rows:
            return True
        (result, *_) = equation.outvars or [None]
        if equation.primitive.name != "broadcast_in_dim" or result is None:
            continue
        if result.aval.shape == (n, n):
            before = equation.invars[0].aval.shape
            axes = tuple(map(int, equation.params["broadcast_dimensions"]))
            if before == (n, 1) and axes == (0, 1):
                columns.add(result)
            if before == (n,) and axes == (1,):
                rows.add(result)
    return False


# ---- NumPy's arrays --------------------------------------------------------------


class _Watched(np.ndarray):
    """An array of n examples that notices when another one is broadcast against it."""

    n: int

    def __array_finalize__(self, obj: Any) -> None:
        self.n = getattr(obj, "n", 0)

    def __array_ufunc__(
        self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any
    ) -> Any:
        if method == "__call__" and ufunc.signature is None:  # element by element
            _expect_no_promotion(inputs, self.n)
        if out is not None:
            options["out"] = tuple(map(_plain, out))
        result = getattr(ufunc, method)(*map(_plain, inputs), **options)
        if isinstance(result, tuple):
            return tuple(watched(part, self.n) for part in result)
        return watched(result, self.n)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func in (np.where, np.broadcast_arrays):
            _expect_no_promotion(args, self.n)
        return super().__array_function__(func, types, args, kwargs)


def _expect_no_promotion(inputs: Any, n: int) -> None:
    """Raise where arrays of n examples get another axis, and become pairs of them."""
    shapes = tuple(a.shape for a in inputs if isinstance(a, _Watched))
    if len({len(shape) for shape in shapes}) > 1 and _pairs(shapes, n):
        raise Paired(shapes)


def _plain(a: Any) -> Any:
    return a.view(np.ndarray) if isinstance(a, _Watched) else a


def watched(a: Any, n: int) -> Any:
    """Return an array of n examples that notices broadcasts; a number as it is."""
    if n < 2 or not isinstance(a, np.ndarray):
        return a
    array = a.view(_Watched)
    array.n = n
    return array
