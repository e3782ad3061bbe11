"""The guard of JAX on transfers, and fnn's own numbers.

`jax.transfer_guard("disallow")` finds arrays that move to the device, or back, without
being told to, such as at every step of a loop. Outside `jit` it also forbids what must
move: a rate, an index and the 0 of a ReLU are Python's numbers. With this module fnn
lets its own pass. The loop of `fnn.fit` does without: it moves numbers by
`jax.device_put` and `jax.device_get` only, which the guard allows.
"""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import numpy as np

from fnn.typing import PyTree

__all__ = ["own_numbers_may_move"]

_GUARDS: dict[str, Any] = {
    "jax_transfer_guard_host_to_device": jax.transfer_guard_host_to_device,
    "jax_transfer_guard_device_to_device": jax.transfer_guard_device_to_device,
    "jax_transfer_guard_device_to_host": jax.transfer_guard_device_to_host,
}


@contextmanager
def own_numbers_may_move(*given: PyTree) -> Generator[None, None, None]:
    """Lift the guards "disallow" and "log" inside the `with` statement.

    Args:
        *given: what a user passed. If an array of NumPy is among it, the guards stay:
            they are there to find that.
    """
    watching = [name for name in _GUARDS if getattr(jax.config, name) in _IMPLICIT]
    with ExitStack() as lifted:
        if watching and not _hold_host_arrays(given):
            for name in watching:
                lifted.enter_context(_GUARDS[name]("allow"))
        yield


_IMPLICIT = ("disallow", "log")


def _hold_host_arrays(trees: PyTree) -> bool:
    return any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(trees))
