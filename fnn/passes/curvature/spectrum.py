"""The spectrum of a curvature matrix, from products alone: Lanczos, by `matfree`.

From a random start v, k products give a tridiagonal matrix T whose eigenvalues θ_i and
first components τ_i of eigenvectors are a quadrature of the spectral density:

    φ(λ) = (1/P) Σ_p δ(λ − λ_p)  ≈  mean over starts of Σ_i τ_i² δ(λ − θ_i)

which is exact for polynomials of degree 2k − 1, up to the random starts. The largest
and the smallest θ come close to the extreme eigenvalues long before the others.

Legend: P parameters, k products, S starts.
"""

import importlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fnn.checks import check_key, positive_integer
from fnn.passes.curvature.operator import CurvatureOperator
from fnn.typing import Array, Float

__all__ = ["Spectrum", "spectrum"]


class Spectrum(NamedTuple):
    """A quadrature of the density of eigenvalues.

    Args:
        nodes: θ (S, k), sorted for each start.
        weights: τ² (S, k), which sum to 1 for each start.
    """

    nodes: Array
    weights: Array

    @property
    def largest(self) -> Array:
        """Return the largest eigenvalue that was found."""
        return self.nodes.max()

    @property
    def smallest(self) -> Array:
        """Return the smallest eigenvalue that was found."""
        return self.nodes.min()

    def moment(self, power: int) -> Array:
        """Return the estimate of (1/P) Σ_p λ_pᵖᵒʷᵉʳ, of tr M / P for the first."""
        return (self.weights * self.nodes**power).sum(1).mean()

    def density(self, grid: Float[Array, "G"], width: float) -> Float[Array, "G"]:
        """Return the density on a grid, each node blurred by a normal distribution.

        Args:
            grid: eigenvalues.
            width: the standard deviation of the blur.
        """
        distance = (grid[:, None, None] - self.nodes) / width
        bumps = jnp.exp(-0.5 * jnp.square(distance)) / (width * (2 * jnp.pi) ** 0.5)
        return (bumps * self.weights).sum(2).mean(1)


def spectrum(
    matrix: CurvatureOperator, key: Array, *, products: int = 30, starts: int = 4
) -> Spectrum:
    """Estimate the spectrum of a curvature matrix by Lanczos' iteration.

    The iteration, with full reorthogonalisation, is that of `matfree`
    (pip install 'fnn[spectra]'). It keeps k vectors of P numbers.

    Args:
        matrix: what `fnn.curvature.operator` returned.
        key: the key that the starts are drawn from.
        products: k, at most P.
        starts: S; more of them lower the noise of the density.

    Returns:
        A `Spectrum`.

    Raises:
        ImportError: `matfree` is not installed.
        ValueError: k or S is not a positive integer, or k is larger than P.

    Example:
        >>> import pytest; _ = pytest.importorskip("matfree")
        >>> import jax, jax.numpy as jnp, fnn
        >>> net, loss = fnn.serial(fnn.Dense(1, bias=False)), fnn.losses.SquaredError()
        >>> variables = net.init(jax.random.key(0), (2,))
        >>> batch = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.zeros(2)
        >>> matrix = fnn.curvature.operator(net, loss, variables, batch)
        >>> found = fnn.curvature.spectrum(matrix, jax.random.key(1), products=2)
        >>> print(f"{found.smallest:.3f} {found.largest:.3f}")  # diag(0.5, 2)
        0.500 2.000

    Source: Ubaru, Chen and Saad, SIAM J. Matrix Anal. Appl. 38 (2017); of networks:
    Ghorbani, Krishnan and Xiao, arXiv:1901.10159.
    """
    key = check_key(key)
    products = positive_integer("products", products)
    starts = positive_integer("starts", starts)
    size, _ = matrix.shape
    if products > size:
        raise ValueError(
            f"spectrum: products must be at most the {size} parameters, got {products}"
        )
    try:
        decomp: Any = importlib.import_module("matfree.decomp")
    except ImportError as error:
        raise ImportError(
            "spectra are computed by matfree, which is not installed: "
            "pip install 'fnn[spectra]'"
        ) from error
    flat, _ = ravel_pytree(matrix.like)
    tridiagonal = decomp.tridiag_sym(products, reortho="full", custom_vjp=False)

    def quadrature(key: Array) -> tuple[Array, Array]:
        start = jax.random.normal(key, flat.shape, flat.dtype)
        t = tridiagonal(lambda v: matrix @ v, start / jnp.linalg.norm(start))[1]
        nodes, vectors = jnp.linalg.eigh(t)
        return nodes, jnp.square(vectors[0])

    with jax.numpy_dtype_promotion("standard"):  # matfree mixes dtypes freely
        found = jax.jit(lambda keys: jax.lax.map(quadrature, keys))(
            jax.random.split(key, starts)
        )
    return Spectrum(*found)
