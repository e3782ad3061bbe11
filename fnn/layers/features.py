"""One number for each feature, and images: to every position, and back.

    there   y_n...c = b_c
    back    db_c = Σ_n... dy_n...c

Legend: C features, the last axis; all others count examples and positions.
"""

from jax import lax

from fnn.typing import Array, Float

__all__ = ["per_feature", "sum_per_feature"]


def per_feature(vector: Array, x: Array) -> Array:
    """Return a vector (C,) with as many axes as x, (1, ..., 1, C), to combine with x.

    NumPy's rules would add these axes. `jax_numpy_rank_promotion="raise"`, by which
    users find mistakes in their own code, forbids that.
    """
    return lax.expand_dims(vector, range(x.ndim - 1))


def sum_per_feature(dy: Float[Array, "... C"]) -> Float[Array, "C"]:
    """Return the sum over all axes but the last."""
    return dy.sum(tuple(range(dy.ndim - 1)))
