"""Where the first number that is not finite comes from."""

from functools import partial

import jax
from jax import Array

from fnn.core import Layer, Variables
from fnn.dtypes import all_finite
from fnn.gradients.engines import Engine, value_and_grad
from fnn.losses import Loss
from fnn.network import named_params
from fnn.planning import plain
from fnn.probes import outputs_of, show

__all__ = ["first_nonfinite"]


def first_nonfinite(
    net: Layer,
    loss: Loss,
    variables: Variables,
    batch: tuple[Array, Array],
    *,
    key: Array | None = None,
    l2: float = 0.0,
    n: int | None = None,
    engine: str | Engine = "manual",
) -> str | None:
    """Say which number of a training step is the first that is NaN or infinite.

    The order is that of the computation: the inputs, the layers' outputs forward, the
    loss, δ at each layer's output backward, the gradients of the parameters. Probes
    show δ; a plan is read as the network it was made of.

    Args:
        net: the network.
        loss: the loss.
        variables: its variables, before the step.
        batch: x (N, ...) and y (N, ...).
        key: of the step.
        l2: λ of the penalty.
        n: as in `value_and_grad`.
        engine: as in `value_and_grad`; one of mixed precision looks in that precision,
            where numbers overflow sooner.

    Returns:
        Such as "the output of 2/Dense", "δ at the output of 0/Conv"; None where all is
        finite.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Dense(3), fnn.Lambda(jnp.log), fnn.Dense(2))
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> batch = jnp.ones((4, 2)), jnp.zeros((4, 2))
        >>> fnn.first_nonfinite(net, fnn.losses.SquaredError(), variables, batch)
        'the output of 1/Lambda'
    """
    claimed = plain(net)
    found = _look(claimed, loss, variables, batch, key, l2, n, engine)
    return next((what for what, finite in found.items() if not bool(finite)), None)


#: Compiled quickly, since it runs once.
_QUICKLY = {"xla_backend_optimization_level": 0}


def _look(net, loss, variables, batch, key, l2, n, engine) -> dict[str, Array]:
    """Whether each number is finite, by its name, in the order of the computation."""
    names: list[str] = []

    @partial(jax.jit, compiler_options=_QUICKLY)
    def look(variables, batch, key):
        x, _ = batch
        shown, given = show(net, variables, x)
        out = value_and_grad(shown, loss, engine, l2=l2, n=n)(given, batch, key=key)
        outputs = outputs_of(shown, given._replace(state=out.state))
        values = {"the minibatch's x": x, "the parameters": variables}
        values |= {f"the output of {path}": y for path, y in outputs.items()}
        values["the loss"] = out.loss
        grads = named_params(shown, out.grads)
        for path in reversed(outputs):
            values[f"δ at the output of {path}"] = grads.pop(f"{path}.delta")
        values |= {f"the gradient of {name}": grad for name, grad in grads.items()}
        names[:] = values
        return [all_finite(value) for value in values.values()]

    finite = look(variables, batch, key)
    return dict(zip(names, finite, strict=True))
