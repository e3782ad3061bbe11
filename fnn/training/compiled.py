"""The compiled programs of training; on many devices what comes out stays in place."""

from functools import cache
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnn.training.descent import Carry
from fnn.training.epoch import NONE, Epoch, epoch, steps

__all__ = ["run_epoch", "run_epoch_on", "run_steps", "run_steps_on"]

_static = {
    epoch: ("engine", "batch_size", "mesh", "guard"),
    steps: ("engine", "mesh", "guard", "n"),
}


def _compiled(function: Any, **options: Any) -> Any:
    return jax.jit(
        function,
        static_argnames=_static[function],
        donate_argnames=("carry",),
        **options,
    )


#: `epoch`, compiled. The carry that goes in is donated: use the one that comes out.
run_epoch = _compiled(epoch)
#: `steps`, compiled likewise.
run_steps = _compiled(steps)


def run_epoch_on(mesh: Mesh | None, carry: Carry) -> Any:
    """`run_epoch` for a carry on many devices: what comes out lies where it lay.

    Left to XLA, some of it would lie elsewhere, and the next epoch compile once more.
    """
    return run_epoch if mesh is None else _in_place(epoch, carry, mesh)


def run_steps_on(mesh: Mesh | None, carry: Carry) -> Any:
    """The same for `run_steps`."""
    return run_steps if mesh is None else _in_place(steps, carry, mesh)


def _in_place(function: Any, carry: Carry, mesh: Mesh) -> Any:
    leaves, structure = jax.tree.flatten(jax.tree.map(lambda a: a.sharding, carry))
    return _kept_in_place(function, tuple(leaves), structure, mesh)


@cache
def _kept_in_place(function: Any, leaves: tuple, structure: Any, mesh: Mesh) -> Any:
    carry: Any = jax.tree.unflatten(structure, leaves)
    everywhere: Any = NamedSharding(mesh, PartitionSpec())
    rest = everywhere, everywhere, jax.tree.map(lambda _: everywhere, NONE)
    return _compiled(function, out_shardings=Epoch(carry, *rest))
