"""Records of what the backward of each layer is given, kept for one walk back.

What is asked of single examples is computed from the records of all layers:

    the gradient g_n of example n       from its factors (see `factors`)
    a weighted sum Σ_n w_n g_n          backward(params, saved, w · dy), which is linear

The records form a tree like the parameters, with one for each layer. A parameter of a
layer made of layers, such as the δ of a probe, has its gradients (N, ...) in the tree.

Legend: N examples.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.core import Layer
from fnn.layers.frozen import Frozen
from fnn.layers.shared import Shared, filled, summed
from fnn.passes.factors import (
    Factor,
    is_factor,
    nothing,
    squared_norms,
    sum_of_squares,
    sum_of_two,
)
from fnn.passes.formulas import Axes, factors_of, has_formula, one_by_one
from fnn.shapes import count_examples
from fnn.typing import Array, Float, PyTree

__all__ = [
    "AnyRecord",
    "Record",
    "SharedRecord",
    "factors_in",
    "records_in",
    "squares_in",
    "sum_of_squares_in",
    "total_of",
    "weighted_sum",
    "weighted_sum_of",
]


class AnyRecord(ABC):
    """The contract of records: the gradients of single examples, and what they give."""

    @property
    @abstractmethod
    def of_params(self) -> PyTree:
        """Return the parameters that it is about."""

    @property
    def has_params(self) -> bool:
        """Return whether there is any parameter."""
        return bool(jax.tree.leaves(self.of_params))

    @property
    @abstractmethod
    def is_frozen(self) -> bool:
        """Return whether all of its parameters have no gradient."""

    @abstractmethod
    def factors(self) -> PyTree:
        """Return the factors of single examples' gradients, a tree like params."""

    @abstractmethod
    def weighted_sum(self, weights: Array) -> PyTree:
        """Compute Σ_n w_n g_n, a tree like params."""

    @abstractmethod
    def of_layers(self) -> "list[Record]":
        """Return the records of single layers that it is made of."""

    def map_factors(self, f: Callable[[Factor], Array]) -> PyTree:
        """Compute f of each parameter's factors, in a tree like params.

        Args:
            f: a function of the factors of some examples that returns an array with an
                entry for each of them.
        """
        return jax.tree.map(f, self.factors(), is_leaf=is_factor)

    def sum_factors(self, f: Callable[[Factor, Array], Array]) -> PyTree:
        """Compute f of each parameter's factors and the parameter, a tree like params.

        Args:
            f: a function that returns a sum over the examples whose factors it gets.
        """
        return jax.tree.map(f, self.factors(), self.of_params, is_leaf=is_factor)


@dataclasses.dataclass(frozen=True)
class Record(AnyRecord):
    """A record of what one layer's backward is given; to JAX it is a leaf of a tree.

    Args:
        path: the layer's path.
        layer: the layer.
        params: its parameters.
        saved: what its forward saved.
        dy: δ of its output (N, ...), an array or a tree of arrays.
        find_axes: finds out where the examples are in `saved`.
    """

    path: str
    layer: Layer
    params: PyTree
    saved: PyTree
    dy: PyTree
    find_axes: Callable[[], Axes | None]

    @property
    def of_params(self) -> PyTree:
        return self.params

    @property
    def is_frozen(self) -> bool:
        return isinstance(self.layer, Frozen) and not self.layer.children

    def factors(self) -> PyTree:
        """Return the factors by the layer's formula.

        A layer without one has them formed, by its own backward.
        """
        arguments = self.layer, self.params, self.saved, self.dy
        if not self.has_params:
            return self.params
        if self.is_frozen:
            n = count_examples(self.dy)
            return jax.tree.map(lambda p: nothing(n, p), self.params)
        if has_formula(self.layer):
            return factors_of(*arguments)
        return one_by_one(*arguments, self.find_axes())

    def weighted_sum(self, weights: Array) -> PyTree:
        """Compute Σ_n w_n g_n, a tree like params, by the layer's own backward."""
        dy = _times(weights, self.dy)
        return self.layer.backward(self.params, self.saved, dy).dparams

    def of_layers(self) -> "list[Record]":
        return [self]

    def map_factors(self, f: Callable[[Factor], Array]) -> PyTree:
        def of_chunk(record: "Record") -> PyTree:
            return jax.tree.map(f, record.factors(), is_leaf=is_factor)

        if (chunks := self._chunks()) is None:
            return of_chunk(self)
        results = lax.map(lambda chunk: of_chunk(self._of_chunk(*chunk)), chunks)
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), results)

    def sum_factors(self, f: Callable[[Factor, Array], Array]) -> PyTree:
        def of_chunk(record: "Record") -> PyTree:
            parts = record.factors(), self.params
            return jax.tree.map(f, *parts, is_leaf=is_factor)

        if (chunks := self._chunks()) is None:
            return of_chunk(self)

        def add(total: PyTree, chunk: Any) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, total, of_chunk(self._of_chunk(*chunk))), None

        shapes = jax.eval_shape(lambda: of_chunk(self))
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        return lax.scan(add, zeros, chunks)[0]

    def _chunks(self) -> tuple[list[Array], PyTree] | None:
        """Return `saved` and dy cut into chunks, along a new first axis, or None.

        Factors that are much larger than what they are made of, as the patches of a
        convolution, are made for a few examples at a time: then they stay in the cache.
        """
        if not (self.has_params and has_formula(self.layer)):
            return None
        factors, kept = map(
            _bytes, (jax.eval_shape(self.factors), (self.saved, self.dy))
        )
        limit, n = _chunk_bytes(), count_examples(self.dy)
        if factors <= max(limit, kept) or (axes := self.find_axes()) is None:
            return None
        most = max(1, limit * n // factors)
        size = max(d for d in range(1, most + 1) if n % d == 0)

        def cut(array: Array, axis: int | None) -> Array:
            if axis is None:
                return jnp.broadcast_to(array, (n // size, *array.shape))
            before, after = array.shape[:axis], array.shape[axis + 1 :]
            return jnp.moveaxis(
                array.reshape(*before, n // size, size, *after), axis, 0
            )

        pairs = zip(jax.tree.leaves(self.saved), axes, strict=True)
        dy = jax.tree.map(lambda a: cut(a, 0), self.dy)
        return [cut(*pair) for pair in pairs], dy

    def _of_chunk(self, arrays: list[Array], dy: PyTree) -> "Record":
        saved = jax.tree.unflatten(jax.tree.structure(self.saved), arrays)
        return dataclasses.replace(self, saved=saved, dy=dy)


@dataclasses.dataclass(frozen=True)
class SharedRecord(AnyRecord):
    """The records of all places of a network whose tied places share parameters.

    The gradient of a parameter is the sum of those at all its places, example by
    example; of factors, all places are places of one sum.

    Args:
        layer: the network.
        params: its parameters, once.
        records: the records of all places, a tree like the parameters at all of them.
    """

    layer: Shared
    params: PyTree
    records: PyTree

    @property
    def of_params(self) -> PyTree:
        return self.params

    @property
    def is_frozen(self) -> bool:
        return all(record.is_frozen for record in self.of_layers())

    def factors(self) -> PyTree:
        filled_in = filled(self.layer.net, self.params)

        def summand(factor: Factor, param: Array) -> _Summand:
            return _Summand(factor, param.shape)

        inner = factors_in(self.records)
        summands = jax.tree.map(summand, inner, filled_in, is_leaf=is_factor)
        sums = summed(self.layer.net, self.params, summands)
        return jax.tree.map(lambda s: s.factor, sums)

    def weighted_sum(self, weights: Array) -> PyTree:
        sums = jax.tree.map(lambda r: weighted_sum_of(r, weights), self.records)
        return summed(self.layer.net, self.params, sums)

    def of_layers(self) -> list[Record]:
        return [
            record for part in records_in(self.records) for record in part.of_layers()
        ]


@dataclasses.dataclass(frozen=True)
class _Summand:
    """The factors of a parameter at one place; to JAX it is a leaf of a tree."""

    factor: Factor
    shape: tuple[int, ...]

    def __add__(self, other: "_Summand") -> "_Summand":
        return _Summand(sum_of_two(self.factor, other.factor, self.shape), self.shape)


def _bytes(tree: PyTree) -> int:
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))


def _chunk_bytes() -> int:
    """Return how many bytes of factors are made at a time: a core's cache, or more."""
    return 2**20 if jax.default_backend() == "cpu" else 2**26


def _times(weights: Array, dy: PyTree) -> PyTree:
    """Multiply each example's entry of dy by its weight, in dy's dtype."""

    def one(dy: Array) -> Array:
        return weights.reshape(-1, *[1] * (dy.ndim - 1)).astype(dy.dtype) * dy

    return jax.tree.map(one, dy)


# ---- Trees of records ------------------------------------------------------------


def records_in(records: PyTree) -> list[AnyRecord]:
    """Return all records in a tree."""
    return [r for r in jax.tree.leaves(records) if isinstance(r, AnyRecord)]


def factors_in(records: PyTree) -> PyTree:
    """Return the factors of all records, a tree like the network's parameters."""
    return jax.tree.map(
        lambda r: r.factors() if isinstance(r, AnyRecord) else r, records
    )


def squares_in(records: PyTree) -> PyTree:
    """Compute ‖g_n‖² of each parameter for all examples: a tree like params of (N,)."""

    def one(part: AnyRecord | Array) -> PyTree:
        if isinstance(part, AnyRecord):
            return part.map_factors(squared_norms)
        return squared_norms(part)

    return jax.tree.map(one, records)


def total_of(squares: PyTree, n: int) -> Float[Array, "N"]:
    """Add up the squared norms in a tree; zeros where there is no parameter."""
    leaves = jax.tree.leaves(squares)
    return sum(leaves[1:], start=leaves[0]) if leaves else jnp.zeros(n)


def sum_of_squares_in(records: PyTree) -> PyTree:
    """Compute Σ_n g_n², entry by entry, a tree like params."""

    def squares(factor: Factor, param: Array) -> Array:
        return sum_of_squares(factor, param.shape)

    def one(part: AnyRecord | Array) -> PyTree:
        if isinstance(part, AnyRecord):
            return part.sum_factors(squares)
        return sum_of_squares(part, part.shape)

    return jax.tree.map(one, records)


def weighted_sum(records: PyTree, weights: Array, params: PyTree) -> PyTree:
    """Compute Σ_n w_n g_n over all records, a tree like params and of their dtypes."""
    sums = jax.tree.map(lambda part: weighted_sum_of(part, weights), records)
    return jax.tree.map(lambda g, p: g.astype(p.dtype), sums, params)


def weighted_sum_of(part: AnyRecord | Array, weights: Array) -> PyTree:
    """Compute Σ_n w_n g_n of one part of a tree of records.

    The gradient of a probe's δ has an entry for each example, which is not summed.
    """
    if isinstance(part, AnyRecord):
        return part.weighted_sum(weights)
    return _times(weights, part)
