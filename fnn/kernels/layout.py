"""The inner layout: the batch last.

Outside, images are (N, H, W, C), which people and XLA's own convolutions expect. The
kernels want (C, H, W, N):

    a pixel's neighbour in memory is the same pixel of the next example, so that a
    shift, a stride or a window along H or W moves whole runs of N numbers, never one;
    a channel is one contiguous row: its sum, its mean and its bias are over rows;
    a convolution is a product of (O, K I) with (K I, H' W' N), of which H', W' and N
    are one long axis without any transposition.
"""

import jax.numpy as jnp
from jax import Array

__all__ = ["turn"]


def turn(x: Array) -> Array:
    """Swap the batch and the channels: from one layout to the other, and back."""
    return jnp.swapaxes(x, 0, -1)
