"""The mask of `adamw` and `adadelta`, which says which weights decay.

Legend: λ weight decay, θ parameters.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.describe import shown
from fnn.typing import PyTree

__all__ = ["as_mask", "decaying_params"]

#: A function from parameters to a tree of booleans, or None: all weights decay.
Mask = Callable[[PyTree], PyTree] | None


@dataclasses.dataclass(frozen=True)
class FixedMask:
    """A mask that can be hashed: a function that returns a tree of booleans."""

    leaves: tuple[bool, ...]
    treedef: Any

    def __call__(self, params: PyTree) -> PyTree:
        return jax.tree.unflatten(self.treedef, self.leaves)


def as_mask(name: str, mask: Any) -> Mask:
    """Return a mask in the form that can be compiled in.

    Args:
        name: such as `AdamW.mask`, for errors.
        mask: a tree of bools like the parameters or a prefix of it, a function from
            parameters to such a tree, or None.

    Raises:
        TypeError: a leaf is neither True nor False.
    """
    leaves, treedef = jax.tree.flatten(mask)
    if isinstance(mask, FixedMask) or mask is None:
        return mask
    if leaves and all(callable(x) and not isinstance(x, type) for x in leaves):
        return mask  # a tree of bools may be callable itself, as Equinox's modules are
    return FixedMask(tuple(_as_bool(name, leaf) for leaf in leaves), treedef)


def decaying_params(name: str, params: PyTree, mask: Mask) -> PyTree:
    """Return the parameters, with zeros for weights that do not decay.

    Raises:
        ValueError: there are no parameters, or the mask is not like them.
        TypeError: a leaf of the mask is neither True nor False.
    """
    if params is None:
        raise ValueError(
            f"{name} decays the parameters and needs to see them: expected "
            "update(grads, state, params), got no params"
        )
    if mask is None:
        return params
    chosen = mask(params)
    try:
        decays = jax.tree.broadcast(chosen, params)
    except ValueError as error:
        raise ValueError(
            f"{name}: the mask must be a tree of bools like the parameters, or a "
            f"prefix of it, got {jax.tree.structure(chosen)} for "
            f"{jax.tree.structure(params)}"
        ) from error

    def zero_unless_decaying(param: Any, decay: Any) -> Any:
        decays = _as_bool(f"{name}: a leaf of the mask", decay)
        # Where there is no gradient, Equinox has functions among the parameters.
        return param if decays or callable(param) else jnp.zeros_like(param)

    return jax.tree.map(zero_unless_decaying, params, decays)


def _as_bool(name: str, leaf: Any) -> bool:
    """Return True or False; an array of one boolean is one."""
    is_array = isinstance(leaf, np.bool_ | np.ndarray | jax.Array)
    if isinstance(leaf, bool) or (
        is_array
        and leaf.dtype == bool
        and leaf.ndim == 0
        and not isinstance(leaf, jax.core.Tracer)
    ):
        return bool(leaf)
    raise TypeError(
        f"{name} must be True or False for every weight, or a function from parameters "
        f"to a tree of such, got {shown(leaf)}"
    )
