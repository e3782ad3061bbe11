"""KFAC: the Gauss-Newton matrix of one layer as a Kronecker product of two small ones.

The gradient of a weight is Σ_t a_nt b_ntᵀ (see `fnn.passes.factors`). With b_ntr the δ
of a walk back from column r of the loss's root, the layer's block of G is

    G = (1/N) Σ_n Σ_r vec(Σ_t a_nt b_ntrᵀ) vec(Σ_t a_nt b_ntrᵀ)ᵀ  ≈  A ⊗ B

    expand      the places count as examples of their own
                A = 1/(NT) Σ_nt a aᵀ,       B = 1/N Σ_ntr b bᵀ
    reduce      the places of an example are joined first
                A = 1/N Σ_n ā āᵀ,           B = 1/N Σ_nr b̄ b̄ᵀ
                ā_n = 1/T Σ_t a_nt,         b̄_nr = Σ_t b_ntr

The bias is the weight of an input that is always 1: a has a 1 at its end, and the block
is that of the weight's rows and then the bias. It is exact for one example without
places, whatever the network and the loss; for networks that are linear, and the squared
error, where every place has an output of its own (expand), or outputs are means over
places (reduce).

Legend: N examples, T places, G groups, I inputs and O outputs of a group, R columns.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.checks import positive_integer
from fnn.core import Layer, Variables, expect_layer
from fnn.describe import shown
from fnn.dtypes import widen
from fnn.layers.convolution import Conv, ConvTranspose
from fnn.layers.dense import DenseTranspose
from fnn.losses import Loss, expect_loss
from fnn.passes.curvature.diagonal import columns_of_root, sum_over_columns
from fnn.passes.curvature.overlaps import sum_of_patch_products
from fnn.passes.curvature.products import check_curvature_batch
from fnn.passes.factors import Outer
from fnn.passes.formulas import has_formula, padded_input
from fnn.passes.observe import observe
from fnn.passes.records import Record
from fnn.shapes import count_examples
from fnn.typing import Array, Batch, PyTree

__all__ = ["KroneckerFactors", "kfac_factors"]


class KroneckerFactors(NamedTuple):
    """The two factors of one layer's block, G ≈ A ⊗ B.

    Args:
        inputs: A, (I, I), or (I + 1, I + 1) with a bias; I counts the template's
            positions too, in the order of the weight's axes. With groups, one for each
            of them: (G, I, I).
        outputs: B, (O, O), or (G, O, O).
    """

    inputs: Array
    outputs: Array


def kfac_factors(
    net: Layer, loss: Loss, kind: str = "expand", samples: int | None = None
) -> Callable[..., dict[str, KroneckerFactors]]:
    """Make a function that computes KFAC's factors of dense and convolutional layers.

        G_layer ≈ A ⊗ B        A from the inputs, B from δ: see the module's equations

    Args:
        net: the network.
        loss: the loss.
        kind: "expand" or "reduce".
        samples: the number of random walks that estimate B without bias; None for all
            columns of the loss's root, which is exact.

    Returns:
        `f(variables, (x, y), *, key=None, train=True)` -> the `KroneckerFactors` of
        each layer, by path. These layers have none: those whose parameters are no
        weights that multiply, such as normalisations and embeddings; transposed ones;
        and all within `fnn.shared`. A ⊗ B, in the order of
        `weight.reshape(-1)` and then the bias, is the block of G, of the mean loss.

    Raises:
        ValueError: the kind is unknown; or, from f, a layer mixes examples, or a key is
            missing.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(3)), fnn.losses.SoftmaxCrossEntropy()
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> batch = jnp.ones((5, 2)), jnp.array([0, 1, 2, 0, 1])
        >>> f = jax.jit(fnn.curvature.kfac_factors(net, loss))
        >>> a, b = f(variables, batch)["0/Dense"]
        >>> a.shape, b.shape
        ((3, 3), (3, 3))

    Source: Martens and Grosse, arXiv:1503.05671, section 3; Grosse and Martens,
    arXiv:1602.01407; expand and reduce: Eschenhagen et al., arXiv:2311.00636, section
    3; Dangel et al., arXiv:2507.05127.
    """
    expect_layer("net", net)
    expect_loss(loss)
    if kind not in ("expand", "reduce"):
        raise ValueError(
            f'kfac_factors: kind must be "expand" or "reduce", got {shown(kind)}'
        )
    if samples is not None:
        samples = positive_integer("samples", samples)

    def f(
        variables: Variables,
        batch: Batch,
        *,
        key: Array | None = None,
        train: bool = True,
    ) -> dict[str, KroneckerFactors]:
        of, variables, (x, y), key = check_curvature_batch(loss, variables, batch, key)
        seen = observe(net, variables, x, key=key, train=train)
        columns = columns_of_root(net, of, seen.outputs, y, samples, key)
        weights = _weights(seen.records(jax.tree.map(lambda c: c[0], columns)))
        inputs = {path: _inputs(*weight, kind) for path, weight in weights.items()}

        def outputs(column: PyTree) -> dict[str, Array]:
            found = _weights(seen.records(column))
            return {path: _outputs(outer, kind) for path, (_, outer) in found.items()}

        total = sum_over_columns(outputs, columns)
        n = count_examples(x)
        return {
            path: KroneckerFactors(
                _squeeze(inputs[path] / n), _squeeze(total[path] / n)
            )
            for path in weights
        }

    return f


def _weights(records: PyTree) -> dict[str, tuple[Record, Outer]]:
    """Return the record of every layer with a weight, by path, and its factors."""
    found: dict[str, tuple[Record, Outer]] = {}
    for record in jax.tree.leaves(records):
        # Of a transposed layer a is made of δ, and b is the input.
        is_linear = isinstance(record, Record) and has_formula(record.layer)
        if not is_linear or isinstance(record.layer, ConvTranspose | DenseTranspose):
            continue
        factors: Any = record.factors()
        outer = getattr(factors, "weight", None)
        if isinstance(outer, Outer):
            found[record.path] = record, outer
    return found


def _inputs(record: Record, outer: Outer, kind: str) -> Array:
    """Compute N A (G, I, I)."""
    layer, has_bias = record.layer, len(jax.tree.leaves(record.params)) > 1
    if kind == "expand" and isinstance(layer, Conv) and layer.groups == 1:
        x, window = padded_input(layer, widen(record.saved))
        if len(window.size) > 1 and window.size[0] > 1:
            sizes = record.dy.shape[1:-1]
            total = sum_of_patch_products(x, window, sizes, has_one=has_bias)
            return total[None] / math.prod(sizes)
    a, _ = outer.with_all_axes()
    if has_bias:
        a = jnp.concatenate([a, jnp.ones_like(a[..., :1])], axis=-1)
    if kind == "reduce":
        a = a.mean(1, keepdims=True)
    return jnp.einsum("ntgi,ntgj->gij", a, a) / a.shape[1]


def _outputs(outer: Outer, kind: str) -> Array:
    """Compute the part of N B (G, O, O) that one column adds."""
    _, b = outer.with_all_axes()
    if kind == "reduce":
        b = b.sum(1, keepdims=True)
    return jnp.einsum("ntgo,ntgp->gop", b, b)


def _squeeze(matrices: Array) -> Array:
    """Return one matrix where there is one group."""
    return matrices[0] if len(matrices) == 1 else matrices
