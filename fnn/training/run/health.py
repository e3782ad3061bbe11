"""Health: how large activations, δ, parameters and updates are, layer by layer.

Once per epoch, on the first B training examples, with the variables that the epoch
ended with: a step more, next to the hundreds of an epoch.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fnn.gradients.engines import value_and_grad
from fnn.network import map_params, named_params, walk
from fnn.probes import outputs_of, show
from fnn.training.compiled.descent import Carry
from fnn.training.compiled.meshes import split
from fnn.training.run.history import Record
from fnn.training.run.spec import Job

__all__ = ["STATISTICS", "history_of_health", "measure_health"]

#: What is measured of each layer. Units are the last axis of its output y (N, ..., K).
#:
#:     dead                the share of units whose output is the same everywhere
#:     activation, delta   √ mean y²,  √ mean δ²  with δ = ∂J/∂y
#:     ..._spread          their standard deviations
#:     parameters          ‖Θ‖ of the layer's own
#:     updates             ‖ΔΘ‖ of the next step
STATISTICS = (
    *("dead", "activation", "activation_spread", "delta", "delta_spread"),
    *("parameters", "updates"),
)

Health = dict[str, dict[str, float]]


def measure_health(job: Job, carry: Carry, epoch: int) -> Health:
    """The statistics of every layer by path; 0 for parameters where it has none.

    Args:
        job: of the run.
        carry: what the epoch ended with.
        epoch: its number, from which the masks are drawn.
    """
    nodes = walk(job.written, carry.variables)
    names = [node.path for node in nodes if not node.layer.children]
    measured = _measure(
        *(job.written, job.loss, job.optimizer, carry, job.sample),
        *(jax.random.fold_in(job.key, epoch), job.l2),
        engine=job.engine,
        n=job.n,
        mesh=job.mesh,
    )
    return {
        name: dict(zip(STATISTICS, map(float, row), strict=True))
        for name, row in zip(names, np.asarray(measured), strict=True)
    }


def history_of_health(records: list[Record]) -> dict[str, dict[str, Any]]:
    """By layer and statistic: an array with an entry an epoch.

    NaN for epochs of a run that did not measure it, and went on as one that does.
    """
    measured = [record.get("health") for record in records]
    layers = next(filter(None, measured), {})
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
def _measure(net, loss, optimizer, carry, sample, key, l2, *, engine, n, mesh) -> Array:
    """The statistics (layers, 7)."""
    params = carry.variables.params
    x, y = split(sample, mesh)
    penalty = 0.0 if l2 is None else l2
    shown, variables = show(net, carry.variables, x)
    out = value_and_grad(shown, loss, engine, l2=penalty, n=n)(
        variables, (x, y), key=key
    )
    by_name = named_params(shown, out.grads)
    grads = map_params(lambda name, layer, leaf: by_name[name], net, params)
    updates, _ = optimizer.update(grads, carry.optimizer_state, params)
    updates, own = named_params(net, updates), named_params(net, params)

    def of_layer(path: str, out: Array) -> Array:
        delta = by_name[f"{path}.delta"]
        units = out.reshape(-1, out.shape[-1])
        still = (units == units[:1]).all(0)
        return jnp.stack(
            [
                *(still.mean(dtype=jnp.float32), _rms(out), _spread(out)),
                *(_rms(delta), _spread(delta)),
                *(_norm(path, own), _norm(path, updates)),
            ]
        )

    outputs = outputs_of(shown, variables._replace(state=out.state))
    return jnp.stack([of_layer(path, y) for path, y in outputs.items()])


def _rms(a: Array) -> Array:
    return jnp.sqrt(jnp.square(a.astype(jnp.float32)).mean())


def _spread(a: Array) -> Array:
    return a.astype(jnp.float32).std()


def _norm(path: str, named: dict[str, Array]) -> Array:
    """Of all parameters of one layer."""
    own = [a for name, a in named.items() if name.rpartition(".")[0] == path]
    squares = [jnp.square(a.astype(jnp.float32)).sum() for a in own]
    return jnp.sqrt(sum(squares, jnp.zeros(())))
