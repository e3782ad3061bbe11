"""Health: how large activations, δ, parameters and updates are, layer by layer.

It is measured once per epoch, on the first minibatch, with the variables that the epoch
ended with. That costs one step more, next to the hundreds of an epoch.

Legend: N examples of a minibatch, K units, L layers.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fnn.core import Layer
from fnn.gradients.engines import Engine, objective, value_and_grad
from fnn.layers.freezing import keep_frozen
from fnn.losses import Loss
from fnn.network import map_params, named_params, walk
from fnn.probes import probe_with_outputs, read_outputs
from fnn.training.compiled.descent import Carry, update
from fnn.training.compiled.meshes import put_numbers, shard_batch
from fnn.training.run.history import Record
from fnn.training.run.spec import RunSpec
from fnn.typing import Array, Batch, Float, KeyArray, Number, PyTree, Scalar

__all__ = ["STATISTICS", "health_history", "measure_health"]

#: The statistics of each layer. Units are the last axis of its output y (N, ..., K).
#:
#:     dead                the share of units whose output is the same everywhere
#:     activation, delta   √ mean y²,  √ mean δ²  with δ = ∂J/∂y
#:     ..._spread          the standard deviations of y and of δ
#:     parameters          ‖Θ‖ of the layer's own parameters
#:     updates             ‖ΔΘ‖ of the next step
STATISTICS = (
    *("dead", "activation", "activation_spread", "delta", "delta_spread"),
    *("parameters", "updates"),
)

Health = dict[str, dict[str, float]]


def measure_health(spec: RunSpec, carry: Carry, epoch: int) -> Health:
    """Measure the statistics of every layer.

    Args:
        spec: the specification of the run.
        carry: the state after the epoch.
        epoch: the number of the epoch, from which the masks are drawn.

    Returns:
        Numbers by the layer's path and the statistic's name; 0 for the parameters of a
        layer that has none.
    """
    nodes = walk(spec.plain_net, carry.variables)
    names = [node.path for node in nodes if not node.layer.children]
    measured = _statistics(
        *(spec.plain_net, spec.loss, spec.optimizer, carry, spec.sample),
        *(jax.random.fold_in(spec.key, put_numbers(epoch, spec.mesh)), spec.l2),
        engine=spec.engine,
        n=spec.n,
        mesh=spec.mesh,
    )
    return {
        name: dict(zip(STATISTICS, map(float, row), strict=True))
        for name, row in zip(names, jax.device_get(measured), strict=True)
    }


def health_history(records: list[Record]) -> dict[str, dict[str, np.ndarray]]:
    """Return arrays with an entry an epoch, by layer and statistic.

    The entry is NaN for an epoch in which health was not measured, of a run that was
    resumed with health=True.
    """
    measured = [record.get("health") for record in records]
    layers: Health = next(filter(None, measured), {})
    unknown = {name: dict.fromkeys(STATISTICS, np.nan) for name in layers}
    measured = [health or unknown for health in measured]
    return {
        name: {
            statistic: np.array([health[name][statistic] for health in measured])
            for statistic in STATISTICS
        }
        for name in layers
    }


@partial(jax.jit, static_argnames=("engine", "n", "mesh"))
def _statistics(
    net: Layer,
    loss: Loss,
    optimizer: Any,
    carry: Carry,
    sample: Batch,
    key: KeyArray,
    l2: Number | None,
    *,
    engine: Engine,
    n: int | None,
    mesh: Mesh | None,
) -> Float[Array, "L 7"]:
    """Return the seven statistics of every layer."""
    params = carry.variables.params
    x, y = shard_batch(sample, mesh)
    penalty = 0.0 if l2 is None else l2
    probed, variables = probe_with_outputs(net, carry.variables, x)
    out = value_and_grad(probed, loss, engine, l2=penalty, n=n)(
        variables, (x, y), key=key
    )
    by_name = named_params(probed, out.grads)
    grads = map_params(lambda name, layer, leaf: by_name[name], net, params)
    precision = getattr(engine, "precision", None)
    options = dict(key=key, l2=penalty, n=n, precision=precision)
    cost = objective(net, loss, carry.variables, (x, y), **options)
    updates, _ = update(optimizer, grads, carry, out.loss, cost)
    updates = named_params(net, keep_frozen(net, updates))
    own = named_params(net, params)

    def of_layer(path: str, y: PyTree) -> Float[Array, "7"]:
        rows = [row for row in by_name if f"{row}.".startswith(f"{path}.delta.")]
        delta = _in_a_row([by_name[row] for row in rows])
        dead = _in_a_row([_is_dead(part) for part in jax.tree.leaves(y)])
        y = _in_a_row(jax.tree.leaves(y))
        return jnp.stack(
            [
                *(dead.mean(), _rms(y), _spread(y)),
                *(_rms(delta), _spread(delta)),
                *(_norm(path, own), _norm(path, updates)),
            ]
        )

    outputs = read_outputs(probed, variables._replace(state=out.state))
    return jnp.stack([of_layer(path, y) for path, y in outputs.items()])


def _in_a_row(parts: list[Array]) -> Float[Array, "n"]:
    """Return all numbers of some arrays in float32."""
    return jnp.concatenate([part.astype(jnp.float32).ravel() for part in parts])


def _is_dead(y: Array) -> Array:
    """Return for each unit whether its output is the same everywhere."""
    units = y.reshape(-1, y.shape[-1])
    return (units == units[:1]).all(0)


def _rms(a: Array) -> Scalar:
    return jnp.sqrt(jnp.square(a).mean())


def _spread(a: Array) -> Scalar:
    return a.std()


def _norm(path: str, named: dict[str, Array]) -> Scalar:
    """Return the norm of all parameters of one layer."""
    own = [a for name, a in named.items() if name.rpartition(".")[0] == path]
    squares = [jnp.square(a.astype(jnp.float32)).sum() for a in own]
    return jnp.sqrt(sum(squares, jnp.zeros(())))
