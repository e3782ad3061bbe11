"""Finding the first number of a training step that is not finite."""

from functools import partial

import jax

from fnn.core import Layer, Variables
from fnn.dtypes import all_finite
from fnn.gradients.engines import Engine, value_and_grad
from fnn.losses import Loss
from fnn.network import named_params
from fnn.placement import with_automatic_axes
from fnn.planning.planned import plain
from fnn.probes import probe_with_outputs, read_outputs
from fnn.transfers import own_numbers_may_move
from fnn.typing import Array, Batch

__all__ = ["first_nonfinite"]


@with_automatic_axes
@own_numbers_may_move()
def first_nonfinite(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: Batch,
    *,
    key: Array | None = None,
    l2: float = 0.0,
    n: int | None = None,
    engine: str | Engine = "manual",
) -> str | None:
    """Name the first number of a training step that is NaN or infinite.

    The order is that of the computation: the inputs, the layers' outputs forward, the
    loss, δ at each layer's output backward, the gradients of the parameters. A plan is
    replaced by the network that it was made of.

    Args:
        net: the network.
        loss: the loss.
        variables: its variables, before the step.
        batch: x (N, ...) and y (N, ...).
        key: the key of the step.
        l2: λ of the penalty.
        n: n of the penalty, as in `value_and_grad`.
        engine: the engine, as in `value_and_grad`. One of mixed precision computes
            in that precision, where numbers overflow sooner.

    Returns:
        A name such as "the output of 2/Dense" or "δ at the output of 0/Conv"; None
        where all numbers are finite.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Dense(3), fnn.Lambda(jnp.log), fnn.Dense(2))
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> batch = jnp.ones((4, 2)), jnp.zeros((4, 2))
        >>> fnn.first_nonfinite(net, fnn.losses.SquaredError(), variables, batch)
        'the output of 1/Lambda'
    """
    finite = _finite_by_name(plain(net), loss, variables, batch, key, l2, n, engine)
    return next((name for name, flag in finite.items() if not bool(flag)), None)


#: Fast compilation, for a program that runs once.
_QUICKLY = {"xla_backend_optimization_level": 0}


def _finite_by_name(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: Batch,
    key: Array | None,
    l2: float,
    n: int | None,
    engine: str | Engine,
) -> dict[str, Array]:
    """Return whether each number is finite, by name, in the order of computation."""
    names: list[str] = []

    @partial(jax.jit, compiler_options=_QUICKLY)
    def flags(variables: Variables, batch: Batch, key: Array | None) -> list[Array]:
        x, _ = batch
        probed, probed_variables = probe_with_outputs(net, variables, x)
        grad_fn = value_and_grad(probed, loss, engine, l2=l2, n=n)
        out = grad_fn(probed_variables, batch, key=key)
        outputs = read_outputs(probed, probed_variables._replace(state=out.state))
        values = {"the minibatch's x": x, "the parameters": variables}
        values |= {f"the output of {path}": y for path, y in outputs.items()}
        values["the loss"] = out.loss
        grads = named_params(probed, out.grads)
        for path in reversed(outputs):
            values[f"δ at the output of {path}"] = grads.pop(f"{path}.delta")
        values |= {f"the gradient of {name}": grad for name, grad in grads.items()}
        names[:] = values
        return [all_finite(value) for value in values.values()]

    return dict(zip(names, flags(variables, batch, key), strict=True))
