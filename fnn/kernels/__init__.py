"""Fast forward/backward pairs in the inner layout; README.md derives them."""

from fnn.kernels.block import Block
from fnn.kernels.im2col import Im2col
from fnn.kernels.winograd import Winograd

__all__ = ["Block", "Im2col", "Winograd"]
