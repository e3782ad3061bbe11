"""Pointwise convolution: a template of one position is a product of matrices.

    y_p      = x_(sp−lo) W                          forward, for every position p
    dx_(sp−lo) = dy_p Wᵀ,  0 at all other positions     backward
    dW       = Σ_n Σ_p x_(sp−lo)ᵀ dy_p

Legend: images (N, H, ..., I) and (N, P, ..., O) with one to three spatial axes, W
(1, ..., 1, I, O); s, lo, hi: stride, padding before and after.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax

from fnn.typing import Array, Float

__all__ = ["Pointwise"]


@dataclass(frozen=True)
class Pointwise:
    """A convolution with a template of one position, by products of matrices.

    Rounding is that of a sum in another order: |error of y| ≤ n ε Σ|W||x| with n = I
    terms; the same holds for dx with n = O, and for dW with n = N P.

    Args:
        stride: s of each spatial axis.
        padding: the pair (lo, hi) of each spatial axis; a negative one cuts off.
        precision: that of the products.
    """

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    precision: Any = None

    def forward(
        self, x: Float[Array, "N *H I"], weight: Float[Array, "*K I O"]
    ) -> Float[Array, "N *P O"]:
        """Compute y."""
        return jnp.matmul(self._met(x), _matrix(weight), precision=self.precision)

    def backward_dx(
        self, dy: Float[Array, "N *P O"], weight: Float[Array, "*K I O"],
        sizes: Sequence[int], inputs: int,
    ) -> Float[Array, "N *H I"]:  # fmt: skip
        """Compute dx, for x of these spatial sizes and I inputs."""
        dx = jnp.matmul(dy, _matrix(weight).T, precision=self.precision)
        axes = zip(self.stride, self.padding, sizes, dy.shape[1:-1], strict=True)
        ends = [(-lo, h + lo - (p - 1) * s - 1, s - 1) for s, (lo, _), h, p in axes]
        return lax.pad(dx, jnp.zeros((), dx.dtype), [(0, 0, 0), *ends, (0, 0, 0)])

    def backward_dw(
        self, x: Float[Array, "N *H I"], dy: Float[Array, "N *P O"],
        template: Sequence[int],
    ) -> Float[Array, "*K I O"]:  # fmt: skip
        """Compute dW, for a template of these sizes, all 1."""
        x, dy = (a.reshape(-1, a.shape[-1]) for a in (self._met(x), dy))
        dweight = jnp.matmul(x.T, dy, precision=self.precision)
        return dweight.reshape(*template, *dweight.shape)

    def _met(self, x: Float[Array, "N *H I"]) -> Float[Array, "N *P I"]:
        """Return the positions of x that the template meets, and zeros around them."""
        ends = [(0, 0, 0), *((lo, hi, 0) for lo, hi in self.padding), (0, 0, 0)]
        x = lax.pad(x, jnp.zeros((), x.dtype), ends)
        return x[:, *(slice(None, None, s) for s in self.stride)]


def _matrix(weight: Float[Array, "*K I O"]) -> Float[Array, "I O"]:
    return weight.reshape(weight.shape[-2:])
