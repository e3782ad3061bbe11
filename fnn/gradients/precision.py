"""Mixed precision: the network in 8 or 11 bits, sums and parameters in 24.

    z = float32( net( half(Θ), half(x) ) )           half: to bfloat16 or float16;
                                                     x stays as it is where it holds ids
    δ = s ∂L/∂z, in float32                          s the loss scale, 1 without one
    g = float32( backward( half(δ) ) ) / s           of Θ's dtype, as Θ itself

Parameters, their gradients, the loss, its δ, the penalty and what layers track (the
running statistics of BatchNorm) stay in float32. Every engine can compute this: it is
called with a network whose first and last operations are casts, and a loss times s.

Sums are accumulated in float32 and rounded once. XLA does so in products and
convolutions; JAX does in `jnp.sum`, but not where it transposes a broadcast: by
`jax.grad`, on a CPU, the bias of a convolution gets 512 where 16,384 ones are added.
`with_wide_sums` mends this in any engine.

Legend: s the loss scale, Θ parameters, N examples.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnn.core import Backward, Forward, Layer, Variables, layer, leaf
from fnn.describe import shown
from fnn.dtypes import all_finite
from fnn.gradients.jaxpr import bind, replace_operations
from fnn.losses import Loss
from fnn.pytree import pytree, tree_where
from fnn.typing import Array, Batch, InShape, KeyArray, Number, PyTree

__all__ = [
    "PRECISIONS",
    "HalfPrecision",
    "MixedPrecision",
    "ScaledLoss",
    "cast",
    "cast_on_host",
    "check_precision",
    "engine_in_precision",
    "net_in_precision",
    "with_loss_scale",
    "with_wide_sums",
]

#: The half precisions: names of dtypes that a network can be computed in.
PRECISIONS = ("bfloat16", "float16")


def check_precision(precision: Any) -> str | None:
    """Return the name of a half precision; None for that of the parameters."""
    if precision is None:
        return None
    try:
        name = jnp.dtype(precision).name
    except TypeError:
        name = ""
    if name not in PRECISIONS:
        raise ValueError(
            f"precision must be {' or '.join(map(repr, PRECISIONS))}, or None for that "
            f"of the parameters, got {shown(precision)}. For float64, enable it "
            "(jax.enable_x64) and pass variables and data of that dtype."
        )
    return name


def engine_in_precision(engine: Callable[..., Any], precision: str | None) -> Any:
    """Return the engine itself, or the same engine in mixed precision."""
    precision = check_precision(precision)
    return engine if precision is None else MixedPrecision(engine, precision)


@dataclasses.dataclass(frozen=True)
class MixedPrecision:
    """An engine that computes the network in half precision: the module's equations.

    It has an engine's signature and can be passed wherever an engine can. `engine` is
    called with float32 parameters and a network that casts them.

    Args:
        engine: a function with an engine's signature.
        precision: "bfloat16" or "float16".
        loss_scale: s, a number or a traced scalar; a power of two loses nothing. None
            for 1. Where a gradient is not finite, as after an overflow, the state of
            the layers is returned unchanged; the optimizer must skip the step (see
            `fnn.optimizers.loss_scaled`).

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> from fnn.gradients.engines import manual
        >>> net, loss = fnn.serial(fnn.Dense(3)), fnn.losses.SoftmaxCrossEntropy()
        >>> variables = net.init(jax.random.key(0), (4,))
        >>> batch = jnp.ones((5, 4)), jnp.array([0, 1, 2, 0, 1])
        >>> grad_fn = fnn.value_and_grad(net, loss, MixedPrecision(manual, "bfloat16"))
        >>> out = grad_fn(variables, batch)
        >>> print(out.grads[0].weight.dtype, out.outputs.dtype)
        float32 float32

    Source: Micikevicius et al., arXiv:1710.03740, sections 3.1 to 3.3.
    """

    engine: Callable[..., Any]
    precision: str
    loss_scale: Number | None = None

    @property
    def __name__(self) -> str:
        return getattr(self.engine, "__name__", "engine")

    def __call__(
        self,
        net: Layer,
        loss: Loss,
        variables: Variables,
        batch: Batch,
        *,
        key: KeyArray | None,
        train: bool,
        l2: Number,
        n: int | Array,
    ) -> Any:
        s = self.loss_scale
        net = net_in_precision(net, self.precision)
        if s is not None:
            loss, l2 = ScaledLoss(loss, s), l2 * s

        def run(variables: Variables, batch: Batch) -> Any:
            options = dict(key=key, train=train, l2=l2, n=n)
            return self.engine(net, loss, variables, batch, **options)

        out = with_wide_sums(run, variables, batch)
        if s is None:
            return out
        value, grads = jax.tree.map(
            lambda a: a / jnp.asarray(s, a.dtype), (out.loss, out.grads)
        )
        state = tree_where(all_finite(grads), out.state, variables.state)
        return out._replace(loss=value, grads=grads, state=state)


def with_loss_scale(engine: Callable[..., Any], loss_scale: Number | None) -> Any:
    """Return the engine with this s; raise where it is not one of half precision."""
    if loss_scale is None:
        return engine
    if not isinstance(engine, MixedPrecision):
        raise ValueError(
            "loss_scale keeps gradients within the range of float16: pass precision="
            '"float16", or leave loss_scale out'
        )
    return dataclasses.replace(engine, loss_scale=loss_scale)


def net_in_precision(net: Layer, precision: str | None) -> Layer:
    """Return the network itself, or the same computed in half precision."""
    precision = check_precision(precision)
    return net if precision is None else HalfPrecision(net, precision)


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """Cast the floating-point arrays of a tree; leave all other parts as they are."""

    def one(part: Any) -> Any:
        if hasattr(part, "dtype") and jnp.issubdtype(part.dtype, jnp.floating):
            return jnp.asarray(part, dtype)
        return part

    return jax.tree.map(one, tree)


def cast_on_host(tree: PyTree, dtype: Any) -> PyTree:
    """Cast as `cast` does, by NumPy: JAX would compile a program for each shape."""

    def one(part: Any) -> Any:
        if hasattr(part, "dtype") and jnp.issubdtype(part.dtype, jnp.floating):
            return jax.device_put(np.asarray(part).astype(dtype))
        return part

    return jax.tree.map(one, tree)


# ---- The network and the loss that the engine is called with ---------------------


@layer
class HalfPrecision(Layer):
    """A network computed in half precision between two casts, with its variables.

    Inputs that may be ids (see `fnn.Embedding`) are not cast.
    """

    net: Layer = leaf()
    precision: str = "bfloat16"

    @property
    def wrapped(self) -> Layer:
        return self.net

    @property
    def penalized(self) -> tuple[str, ...]:  # pyrefly: ignore[bad-override]
        return self.net.penalized

    def with_children(self, *layers: Layer) -> Layer:
        return HalfPrecision(self.net.with_children(*layers), self.precision)

    def forward(
        self,
        params: PyTree,
        state: PyTree,
        x: Array,
        *,
        key: KeyArray | None = None,
        train: bool = False,
    ) -> Forward:
        half_params = cast(params, self.precision)
        half_x = x if self.net.takes_ids else cast(x, self.precision)
        out = self.net.forward(half_params, state, half_x, key=key, train=train)
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(x)]
        wide = jnp.result_type(jnp.float32, *dtypes)
        y = jax.tree.map(lambda y: y.astype(wide), out.y)
        return Forward(y, saved=out.saved, state=out.state)

    def backward(self, params: PyTree, saved: PyTree, dy: Array) -> Backward:
        half_params, half_dy = cast((params, dy), self.precision)
        dx, dparams = self.net.backward(half_params, saved, half_dy)
        like_params = jax.tree.map(lambda g, p: g.astype(p.dtype), dparams, params)
        wide = jax.tree.leaves(dy)[0].dtype
        dx = jax.tree.map(lambda dx: dx.astype(wide), dx)
        return Backward(dx=dx, dparams=like_params)


@pytree
class ScaledLoss(Loss):
    """A loss times s: s J and s δ, so that small gradients do not vanish in float16."""

    loss: Loss = leaf()
    scale: Number = leaf(1.0)

    def value(self, z: PyTree, y: PyTree) -> Array:
        value = self.loss.value(z, y)
        return jnp.asarray(self.scale, value.dtype) * value

    def delta(self, z: PyTree, y: PyTree) -> PyTree:
        return jax.tree.map(
            lambda delta: jnp.asarray(self.scale, delta.dtype) * delta,
            self.loss.delta(z, y),
        )

    def check(self, out_shape: InShape, y: PyTree) -> None:
        self.loss.check(out_shape, y)


# ---- Accumulators ----------------------------------------------------------------


def with_wide_sums(fn: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
    """Compute fn(*arguments), with sums of half-precision numbers added up in float32.

    Sums in functions that fn calls are included; sums in the bodies of its loops are
    not. The result is not meant to be differentiated once more: rules of
    `jax.custom_jvp` are lost.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.ones((64, 16, 16, 3), jnp.bfloat16)
        >>> slope = jax.grad(lambda b: (x + b).astype(jnp.float32).sum())
        >>> print(with_wide_sums(slope, jnp.ones(3, jnp.bfloat16)))
        [16384 16384 16384]
    """
    return replace_operations(fn, _sum_in_float32)(*arguments)


def _sum_in_float32(
    primitive: Any, inputs: list[Any], params: dict[str, Any]
) -> list[Any]:
    """Sum half-precision numbers in float32; leave any other operation as it is."""
    if primitive is not lax.reduce_sum_p or inputs[0].dtype.name not in PRECISIONS:
        return bind(primitive, inputs, params)
    (total,) = bind(primitive, [inputs[0].astype(jnp.float32)], params)
    return [total.astype(inputs[0].dtype)]
