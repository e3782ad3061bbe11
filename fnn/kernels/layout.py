"""The inner layout of the kernels: the batch last.

Outside the kernels, images are (N, H, W, C), which people and XLA's own convolutions
expect. The kernels work on (C, H, W, N):

    a pixel's neighbour in memory is the same pixel of the next example, so that a
    shift, a stride or a window along H or W moves whole runs of N numbers, never one;
    a channel is one contiguous row: its sum, its mean and its bias are over rows;
    a convolution is a product of (O, K I) with (K I, H' W' N), of which H', W' and N
    are one long axis without any transposition.

Legend: N examples, H × W pixels, C channels; S are all axes between the batch and
the channels.
"""

import jax.numpy as jnp

from fnn.typing import Array, Float, Shaped

__all__ = ["ALL_BUT_CHANNELS", "per_channel", "swap_batch_and_channels"]

#: The axes of an image (C, H, W, N) that hold the numbers of one channel.
ALL_BUT_CHANNELS = (1, 2, 3)


def swap_batch_and_channels(x: Shaped[Array, "N *S C"]) -> Shaped[Array, "C *S N"]:
    """Convert from one layout to the other; the same function converts back."""
    return jnp.swapaxes(x, 0, -1)


def per_channel(values: Float[Array, "C"]) -> Float[Array, "C 1 1 1"]:
    """Reshape one number for each channel, so that it broadcasts over (C, H, W, N)."""
    return values[:, None, None, None]
