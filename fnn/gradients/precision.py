"""Mixed precision: the network in 8 or 11 bits, everything that adds up in 24.

    z = float32( net( half(Θ), half(x) ) )           half: to bfloat16 or float16
    δ = s ∂L/∂z, in float32                          s the loss scale, 1 without one
    g = float32( backward( half(δ) ) ) / s           of Θ's dtype, as Θ itself

Parameters, their gradients, the loss, its δ, the penalty and what layers track (the
running statistics of BatchNorm) stay in float32. Every engine computes this: it is
given a network whose first and last operations are casts, and a loss times s.

Sums are accumulated in float32 and rounded once. XLA does so in products and
convolutions; JAX does in `jnp.sum`, but not where it transposes a broadcast: by
`jax.grad`, on a CPU, the bias of a convolution gets 512 where 16,384 ones are added.
`with_wide_sums` mends that, whoever wrote the sum.

Legend: s the loss scale, Θ parameters, N examples.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from fnn.core import Backward, Forward, Layer, layer, leaf
from fnn.dtypes import all_finite
from fnn.gradients.jaxpr import as_written, interpret, traced
from fnn.losses import Loss
from fnn.pytree import pytree
from fnn.typing import PyTree

__all__ = [
    "PRECISIONS",
    "MixedPrecision",
    "Narrowed",
    "Scaled",
    "cast",
    "check_precision",
    "in_precision",
    "narrowed",
    "with_loss_scale",
    "with_wide_sums",
]

#: What a network may be computed in, besides the dtype of its parameters.
PRECISIONS = ("bfloat16", "float16")


def check_precision(precision: Any) -> str | None:
    """The precision's name; None for that of the parameters."""
    if precision is None:
        return None
    try:
        name = jnp.dtype(precision).name
    except TypeError:
        name = ""
    if name not in PRECISIONS:
        raise ValueError(
            f"precision must be {' or '.join(map(repr, PRECISIONS))}, or None for that "
            f"of the parameters, got {precision!r}. For float64, enable it "
            "(jax.enable_x64) and pass variables and data of that dtype."
        )
    return name


def in_precision(engine: Callable, precision: str | None) -> Any:
    """The engine itself, or the same engine in mixed precision."""
    precision = check_precision(precision)
    return engine if precision is None else MixedPrecision(engine, precision)


@dataclasses.dataclass(frozen=True)
class MixedPrecision:
    """An engine that computes the network in half precision: the module's equations.

    It has an engine's signature and goes wherever an engine does. `engine` gets float32
    parameters and a network that casts them.

    Args:
        engine: a function with an engine's signature.
        precision: "bfloat16" or "float16".
        loss_scale: s, a number or a traced scalar; a power of two loses nothing. None
            for 1. Where a gradient is not finite, as after an overflow, the state of
            the layers comes back as it was; whoever takes the step must leave it out
            (see `fnn.optimizers.loss_scaled`).

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> from fnn.gradients import manual
        >>> net, loss = fnn.serial(fnn.Dense(3)), fnn.losses.SoftmaxCrossEntropy()
        >>> variables = net.init(jax.random.key(0), (4,))
        >>> batch = jnp.ones((5, 4)), jnp.array([0, 1, 2, 0, 1])
        >>> grad_fn = fnn.value_and_grad(net, loss, MixedPrecision(manual, "bfloat16"))
        >>> out = grad_fn(variables, batch)
        >>> print(out.grads[0].weight.dtype, out.outputs.dtype)
        float32 float32

    Source: Micikevicius et al., arXiv:1710.03740, sections 3.1 to 3.3.
    """

    engine: Callable
    precision: str
    loss_scale: float | Array | None = None

    @property
    def __name__(self) -> str:
        return getattr(self.engine, "__name__", "engine")

    def __call__(self, net, loss, variables, batch, *, key, train, l2, n) -> Any:
        s = self.loss_scale
        net = narrowed(net, self.precision)
        scaled, weight = (loss, l2) if s is None else (Scaled(loss, s), l2 * s)

        def run(variables, batch):
            how = dict(key=key, train=train, l2=weight, n=n)
            return self.engine(net, scaled, variables, batch, **how)

        out = with_wide_sums(run, variables, batch)
        if s is None:
            return out
        value, grads = jax.tree.map(
            lambda a: a / jnp.asarray(s, a.dtype), (out.loss, out.grads)
        )
        ok = all_finite(grads)
        kept = jax.tree.map(
            lambda new, old: jnp.where(ok, new, old), out.state, variables.state
        )
        return out._replace(loss=value, grads=grads, state=kept)


def with_loss_scale(engine: Callable, loss_scale: float | Array | None) -> Any:
    """The engine with this s; only one in half precision has a use for it."""
    if loss_scale is None:
        return engine
    if not isinstance(engine, MixedPrecision):
        raise ValueError(
            "loss_scale keeps gradients within the range of float16: pass precision="
            '"float16", or leave loss_scale out'
        )
    return dataclasses.replace(engine, loss_scale=loss_scale)


def narrowed(net: Layer, precision: str | None) -> Any:
    """The network itself, or the same computed in half precision between two casts."""
    precision = check_precision(precision)
    return net if precision is None else Narrowed(net, precision)


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """Floating-point arrays in the given precision; all else as it is."""

    def one(part: Any) -> Any:
        if hasattr(part, "dtype") and jnp.issubdtype(part.dtype, jnp.floating):
            return jnp.asarray(part, dtype)
        return part

    return jax.tree.map(one, tree)


# ---- What the engine is given ----------------------------------------------------


@layer
class Narrowed(Layer):
    """A network computed in half precision between two casts, with its variables."""

    net: Layer = leaf()
    precision: str = "bfloat16"

    @property
    def kind(self):
        return self.net.kind

    @property
    def children(self):
        return self.net.children

    @property
    def penalized(self):  # pyrefly: ignore[bad-override]
        return self.net.penalized

    def with_children(self, *layers):
        return Narrowed(self.net.with_children(*layers), self.precision)

    def forward(self, params, state, x, *, key=None, train=False):
        narrow = cast((params, x), self.precision)
        out = self.net.forward(narrow[0], state, narrow[1], key=key, train=train)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return Forward(out.y.astype(wide), saved=out.saved, state=out.state)

    def backward(self, params, saved, dy):
        narrow = cast((params, dy), self.precision)
        dx, dparams = self.net.backward(narrow[0], saved, narrow[1])
        like_params = jax.tree.map(lambda g, p: g.astype(p.dtype), dparams, params)
        return Backward(dx=dx.astype(dy.dtype), dparams=like_params)


@pytree
class Scaled(Loss):
    """A loss times s: s J and s δ, so that small gradients do not vanish in float16."""

    loss: Loss = leaf()
    scale: float | Array = leaf(1.0)

    def value(self, z, y):
        value = self.loss.value(z, y)
        return jnp.asarray(self.scale, value.dtype) * value

    def delta(self, z, y):
        delta = self.loss.delta(z, y)
        return jnp.asarray(self.scale, delta.dtype) * delta

    def check(self, out_shape, y):
        self.loss.check(out_shape, y)


# ---- Accumulators ----------------------------------------------------------------


def with_wide_sums(fn: Callable[..., Any], *arguments: Any) -> Any:
    """fn(*arguments), its sums over half-precision numbers accumulated in float32.

    The program of `fn` is run operation by operation, the functions that it calls
    included; the bodies of its loops are left as they are. Its result is not meant to
    be differentiated once more: rules of `jax.custom_jvp` are lost.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.ones((64, 16, 16, 3), jnp.bfloat16)
        >>> slope = jax.grad(lambda b: (x + b).astype(jnp.float32).sum())
        >>> print(with_wide_sums(slope, jnp.ones(3, jnp.bfloat16)))
        [16384 16384 16384]
    """
    program, structure = traced(fn, *arguments)
    return jax.tree.unflatten(
        structure, interpret(program, jax.tree.leaves(arguments), _wide)
    )


def _wide(primitive: Any, inputs: list, params: dict) -> list:
    """A sum of half-precision numbers in float32, and any other operation as it is."""
    if primitive is not lax.reduce_sum_p or inputs[0].dtype.name not in PRECISIONS:
        return as_written(primitive, inputs, params)
    (total,) = as_written(primitive, [inputs[0].astype(jnp.float32)], params)
    return [total.astype(inputs[0].dtype)]
