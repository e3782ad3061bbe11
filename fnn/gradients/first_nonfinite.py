"""Finding the first number of a training step that is not finite."""

from functools import partial

import jax
from jax.tree_util import keystr, tree_flatten_with_path

from fnn.checks import check_key, check_pair
from fnn.core import Layer, Variables
from fnn.dtypes import all_finite
from fnn.gradients.engines import Engine, value_and_grad
from fnn.losses import Loss
from fnn.network import named_params, walk
from fnn.own_code import explain_own_code
from fnn.placement import with_automatic_axes
from fnn.planning.planned import plain
from fnn.probes import probe_with_outputs, read_outputs
from fnn.transfers import own_numbers_may_move
from fnn.typing import Array, Batch

__all__ = ["first_nonfinite"]


@with_automatic_axes
@own_numbers_may_move()
@explain_own_code()
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

    The order is that of the computation: the inputs, the layers' outputs forward, their
    new state, the loss, δ at each layer's output backward, the gradients of the
    parameters. A plan is replaced by the network that it was made of.

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
        A name such as "the output of 2/Dense", "the new state 1/BatchNorm.var" or "δ at
        the output of 0/Conv"; None where all numbers are finite.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> net = fnn.serial(fnn.Dense(3), fnn.Lambda(jnp.log), fnn.Dense(2))
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> batch = jnp.ones((4, 2)), jnp.zeros((4, 2))
        >>> fnn.first_nonfinite(net, fnn.losses.SquaredError(), variables, batch)
        'the output of 1/Lambda'
    """
    batch = check_pair("batch", batch)
    key = None if key is None else check_key(key)
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
        after = probed_variables._replace(state=out.state)
        outputs, states = read_outputs(probed, after), _read_states(probed, after)
        values = {"the minibatch's x": x, "the parameters": variables.params}
        values |= {f"the output of {path}": y for path, y in outputs.items()}
        values |= {f"the new state {name}": number for name, number in states.items()}
        values["the loss"] = out.loss
        grads = named_params(probed, out.grads)
        for path in reversed(outputs):
            rows = [row for row in grads if f"{row}.".startswith(f"{path}.delta.")]
            values[f"δ at the output of {path}"] = [grads.pop(row) for row in rows]
        values |= {f"the gradient of {name}": grad for name, grad in grads.items()}
        names[:] = values
        return [all_finite(value) for value in values.values()]

    return dict(zip(names, flags(variables, batch, key), strict=True))


def _read_states(net: Layer, variables: Variables) -> dict[str, Array]:
    """Return the states of the layers by name, such as `1/BatchNorm.var`."""
    return {
        f"{node.path}.{keystr(keys, simple=True, separator='.')}": leaf
        for node in walk(net, variables)
        if not node.layer.children
        for keys, leaf in tree_flatten_with_path(node.variables.state)[0]
    }
