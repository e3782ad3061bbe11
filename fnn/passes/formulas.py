"""The factors of each layer's gradient: one formula for each class of layers.

A formula is a function of what the layer's backward is given, and returns a tree like
the parameters, with the gradients of single examples in place of their sum:

    formula(layer, params, saved, dy) -> a tree like params, of factors

It stands beside the layer's own `dparams`, and reads like it with the sum over the
examples left out. A layer without one has the general formula: its own backward, which
is linear in dy, for one example after another.

Legend: N examples, T places (positions of an image), K positions of a template, G
groups, each of J inputs and L outputs, C features.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.core import Layer
from fnn.describe import describe, shown
from fnn.layers.batch_norm import BatchNorm
from fnn.layers.convolution import Conv, ConvParams, ConvTranspose
from fnn.layers.dense import Dense, DenseParams, DenseTranspose
from fnn.layers.embedding import Embedding, EmbeddingParams
from fnn.layers.group_norm import GroupNorm, InstanceNorm
from fnn.layers.normalization import LayerNorm, NormParams, RMSNorm, RMSNormParams
from fnn.layers.padding import COPY_MODES, pad
from fnn.layers.piecewise import PRelu, PReluParams
from fnn.layers.windows import Window
from fnn.passes.factors import Outer, Rows, is_factor
from fnn.shapes import count_examples
from fnn.typing import Array, Float, PyTree

__all__ = [
    "Axes",
    "factors_of",
    "has_formula",
    "one_by_one",
    "padded_input",
    "register",
]

Formula = Callable[[Any, Any, Any, Any], PyTree]

#: For each array that a layer saved, in the order of the tree's leaves, the axis of the
#: examples, or None for an array that all of them share.
Axes = tuple[int | None, ...]

_FORMULAS: dict[type, Formula] = {}


def register(*layers: type) -> Callable[[Formula], Formula]:
    """Register a formula for the factors of a layer's gradient.

    Args:
        *layers: classes of layers. A subclass needs a formula of its own, since it may
            compute something else.

    Returns:
        A decorator of the formula: a function `(layer, params, saved, dy)` that returns
        a tree like `params`. Each part is an `Outer(a, b)`, or an array (N, ...) with
        the gradient of each example. `fnn.per_example.check` compares it with the
        layer's own backward.

    Raises:
        TypeError: an argument is not a class of layers.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> @fnn.layer
        ... class Scale(fnn.Layer):
        ...     def init(self, key, in_shape):
        ...         return fnn.Variables(jnp.ones(in_shape), ())
        ...     def forward(self, params, state, x, *, key=None, train=False):
        ...         return fnn.Forward(params * x, saved=x, state=state)
        ...     def backward(self, params, saved, dy):
        ...         return fnn.Backward(params * dy, (dy * saved).sum(0))
        >>> @fnn.per_example.register(Scale)
        ... def gradients_of_scale(layer, params, saved, dy):
        ...     return dy * saved  # as in backward, without the sum over examples
    """
    for layer in layers:
        if not isinstance(layer, type) or not issubclass(layer, Layer):
            raise TypeError(
                "register expected classes of layers, such as fnn.Dense, "
                f"got {shown(layer)}"
            )

    def decorator(formula: Formula) -> Formula:
        for layer in layers:
            _FORMULAS[layer] = formula
        return formula

    return decorator


def has_formula(layer: Layer) -> bool:
    """Return whether there is a formula for exactly this class."""
    return type(layer) in _FORMULAS


def factors_of(layer: Layer, params: PyTree, saved: PyTree, dy: PyTree) -> PyTree:
    """Return the factors of a layer's gradient by its formula.

    Raises:
        ValueError: the formula returned another tree than that of the parameters.
    """
    factors = _FORMULAS[type(layer)](layer, params, saved, dy)
    expected, got = jax.tree.structure(params), _structure(factors)
    if expected != got:
        raise ValueError(
            f"the formula for {layer!r} must return a tree like the parameters "
            f"{describe(params)}, with an Outer or an array (N, ...) for each, got "
            f"{describe(factors)}"
        )
    return factors


def _structure(factors: PyTree) -> Any:
    return jax.tree.structure(jax.tree.map(lambda _: 0, factors, is_leaf=is_factor))


# ---- The general formula ---------------------------------------------------------


def one_by_one(
    layer: Layer, params: PyTree, saved: PyTree, dy: PyTree, axes: Axes | None
) -> PyTree:
    """Return the gradient of each example by the layer's own backward.

    Args:
        layer: any layer that does not mix examples.
        params: its parameters.
        saved: what its forward saved.
        dy: δ (N, ...), an array or a tree of arrays.
        axes: where the examples are in `saved`. Then each is taken out and passed back
            alone. None where they cannot be taken out: the whole batch is passed back N
            times, with a δ that is zero for all examples but one.
    """
    count = count_examples(dy)
    if axes is None or count == 1:
        return lax.map(
            lambda n: _dparams(layer, params, saved, _only(dy, n)), jnp.arange(count)
        )
    arrays, tree = jax.tree.flatten(saved)
    positions = list(axes)

    def alone(arrays: list[Array], dy: PyTree) -> PyTree:
        batches = [
            array if axis is None else jnp.expand_dims(array, axis)
            for array, axis in zip(arrays, positions, strict=True)
        ]
        dy = jax.tree.map(lambda a: a[None], dy)
        return _dparams(layer, params, jax.tree.unflatten(tree, batches), dy)

    return jax.vmap(alone, in_axes=(positions, 0))(arrays, dy)


def _dparams(layer: Layer, params: PyTree, saved: PyTree, dy: PyTree) -> PyTree:
    return layer.backward(params, saved, dy).dparams


def _only(dy: PyTree, n: Array) -> PyTree:
    """Return dy with zeros for all examples but one."""

    def one(dy: Array) -> Array:
        is_it = jnp.arange(len(dy)) == n
        return jnp.where(is_it.reshape(-1, *[1] * (dy.ndim - 1)), dy, 0)

    return jax.tree.map(one, dy)


# ---- fnn's own layers ------------------------------------------------------------


@register(Dense)
def _dense(layer: Dense, params: PyTree, saved: Array, dy: Array) -> DenseParams:
    """Return x and dy: dW_n = x_nᵀ dy_n, db_n = dy_n."""
    x, dy = _with_places(saved), _with_places(dy)
    weight: Any = Outer(x, dy)
    return DenseParams(weight, dy.sum(1) if layer.bias else ())


@register(DenseTranspose)
def _dense_transpose(
    layer: DenseTranspose, params: PyTree, saved: Array, dy: Array
) -> DenseParams:
    """Return dy and x: dW_n = dy_nᵀ x_n, db_n = dy_n."""
    x, dy = _with_places(saved), _with_places(dy)
    weight: Any = Outer(dy, x)
    return DenseParams(weight, dy.sum(1) if layer.bias else ())


@register(Conv)
def _conv(layer: Conv, params: PyTree, saved: Array, dy: Array) -> ConvParams:
    """Return the patches of x, and dy: dW_nk = Σ_p x_n,(sp+dk−lo)ᵀ dy_np."""
    x, window = padded_input(layer, saved)
    patches = _patches(x, window, dy.shape[1:-1], layer.groups)
    weight: Any = Outer(patches, _grouped(dy, layer.groups))
    return ConvParams(weight, _with_places(dy).sum(1) if layer.bias else ())


@register(ConvTranspose)
def _conv_transpose(
    layer: ConvTranspose, params: PyTree, saved: Array, dy: Array
) -> ConvParams:
    """Return the patches of dy, and x: the convolution's dW with the two swapped."""
    window = layer.window_for(saved.shape[1:-1])
    patches = _patches(dy, window, saved.shape[1:-1], layer.groups)
    weight: Any = Outer(patches, _grouped(saved, layer.groups))
    return ConvParams(weight, _with_places(dy).sum(1) if layer.bias else ())


@register(LayerNorm, InstanceNorm, GroupNorm)
def _norm(layer: Layer, params: PyTree, saved: Any, dy: Array) -> NormParams:
    """Return dγ_n = Σ_p dy_np x̂_np and dβ_n = Σ_p dy_np."""
    normalized, _ = saved
    scale = _with_places(dy * normalized).sum(1)
    return NormParams(scale, _with_places(dy).sum(1))


@register(BatchNorm)
def _batch_norm(layer: Layer, params: PyTree, saved: Any, dy: Array) -> NormParams:
    """Return the same, in evaluation: in training examples have no own gradient."""
    return _norm(layer, params, saved.arrays, dy)


@register(RMSNorm)
def _rms_norm(layer: Layer, params: PyTree, saved: Any, dy: Array) -> RMSNormParams:
    """Return dγ_n = Σ_p dy_np x̂_np."""
    return RMSNormParams(_norm(layer, params, saved, dy).scale)


@register(PRelu)
def _prelu(layer: PRelu, params: PReluParams, saved: Array, dy: Array) -> PReluParams:
    """Return ds_n = Σ_p dy_np x_np where x ≤ 0, over all that share a slope."""
    x = saved
    slopes = jnp.where(x > 0, 0, dy * x)
    shared = tuple(range(1, x.ndim - params.slope.ndim))
    return PReluParams(slopes.sum(shared))


@register(Embedding)
def _embedding(
    layer: Embedding, params: EmbeddingParams, saved: Array, dy: Array
) -> EmbeddingParams:
    """Return the ids and dy: row x_nt of dW_n gets dy_nt."""
    ids = saved.reshape(len(saved), math.prod(saved.shape[1:]))
    is_row = (saved < layer.num_embeddings)[..., None]
    weight: Any = Rows(ids, _with_places(jnp.where(is_row, dy, 0)))
    return EmbeddingParams(weight)


def _with_places(x: Array) -> Float[Array, "N T C"]:
    """Join the axes between the examples and the features: one place if there is none.

    Sizes are written out: an empty batch cannot infer them.
    """
    return x.reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1])


def _grouped(x: Array, groups: int) -> Float[Array, "N T G L"]:
    x = _with_places(x)
    return x.reshape(*x.shape[:2], groups, x.shape[-1] // groups)


def padded_input(layer: Conv, x: Array) -> tuple[Array, Window]:
    """Return a convolution's input with its padding, and its windows on that."""
    window = layer.window_for(x.shape[1:-1])
    if layer.padding in COPY_MODES:
        x = pad(x, layer.padding, window.padding)
    else:
        x = _with_zeros(x, window)
    return x, window._replace(padding=((0, 0),) * len(window.size))


def _with_zeros(x: Array, window: Window) -> Array:
    """Pad images with zeros, as far as the window says."""
    # An amount below 0 cuts off, as of a transposed convolution with output_padding.
    amounts = ((0, 0, 0), *((lo, hi, 0) for lo, hi in window.padding), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), amounts)


def _patches(
    x: Array, window: Window, output_sizes: tuple[int, ...], groups: int
) -> Float[Array, "N T G KJ"]:
    """Return what the template covers at each of its positions, group by group."""
    padded = _with_zeros(x, window)
    # Positions that are in no window are left out by the stride, or cut off here.
    at_offsets = [
        _grouped(window.values_at(offset, padded, output_sizes), groups)
        for offset in window.offsets()
    ]
    patches = jnp.stack(at_offsets, axis=3)  # (N, T, G, K, J)
    return patches.reshape(*patches.shape[:3], math.prod(patches.shape[3:]))
