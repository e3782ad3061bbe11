"""Problems small enough to draw: points in the plane, and functions to minimise.

The classification problems are pure functions of a key. They return `(x, y)`, with x
`(n, 2)` float32 and y `(n,)` int32. Of K classes, point i belongs to class i mod K: any
slice of the data has as many points of each class, give or take one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from fnn.checks import as_array, as_inputs, as_number, check_key, expect_integer

__all__ = [
    "Target",
    "ill_conditioned_bowl",
    "rosenbrock",
    "spirals",
    "two_moons",
    "xor",
]


def xor(
    key: Array, n: int, noise: float | Array = 0.1
) -> tuple[Float[Array, "n 2"], Int[Array, "n"]]:
    """Draw points for the exclusive or: two classes that no straight line separates.

        x = c + noise · ε,   c ∈ {0, 1}²,   ε ~ N(0, I),   y = c_1 ⊕ c_2

    Args:
        key: A `jax.random` key.
        n: The number of points; the four corners c alternate.
        noise: The standard deviation around each corner.

    Returns:
        x `(n, 2)` float32 and y `(n,)` int32.

    Raises:
        ValueError: If `n` is below 1 or `noise` is negative.

    Example:
        >>> x, y = xor(jax.random.key(0), 4, noise=0)
        >>> x.tolist(), y.tolist()
        ([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]], [0, 1, 0, 1])
    """
    key = _check_points(key, n, noise)
    corners = jnp.array([[0, 0], [0, 1], [1, 1], [1, 0]], jnp.float32)
    corner = jnp.arange(n, dtype=jnp.int32) % 4
    return corners[corner] + noise * _normal(key, (n, 2)), corner % 2


def two_moons(
    key: Array, n: int, noise: float | Array = 0.1
) -> tuple[Float[Array, "n 2"], Int[Array, "n"]]:
    """Draw points of two half circles, each with one end inside the other.

        class 0: (cos t, sin t),   class 1: (1 − cos t, ½ − sin t),   t ~ U(0, π)

    plus noise · ε, ε ~ N(0, I).

    Args:
        key: A `jax.random` key.
        n: The number of points; the classes alternate.
        noise: The standard deviation in both coordinates.

    Returns:
        x `(n, 2)` float32 and y `(n,)` int32.

    Raises:
        ValueError: If `n` is below 1 or `noise` is negative.

    Example:
        >>> x, y = two_moons(jax.random.key(0), 100)
        >>> x.shape, y.shape
        ((100, 2), (100,))
    """
    key_t, key_noise = jax.random.split(_check_points(key, n, noise))
    t = jax.random.uniform(key_t, (n,), jnp.float32, maxval=np.pi)
    y = jnp.arange(n, dtype=jnp.int32) % 2
    upper = jnp.stack([jnp.cos(t), jnp.sin(t)], axis=1)
    lower = jnp.stack([1 - jnp.cos(t), 0.5 - jnp.sin(t)], axis=1)
    x = jnp.where(y[:, None] == 0, upper, lower)
    return x + noise * _normal(key_noise, (n, 2)), y


def spirals(
    key: Array, n: int, classes: int = 3, noise: float | Array = 0.2
) -> tuple[Float[Array, "n 2"], Int[Array, "n"]]:
    """Draw points on the arms of a spiral, one class on each arm.

        x = t (cos φ, sin φ),   φ = 2π y / classes + 4t + noise · ε,   t ~ U(0, 1)

    with ε ~ N(0, 1): the noise is in the angle.

    Args:
        key: A `jax.random` key.
        n: The number of points; the classes alternate.
        classes: The number of arms.
        noise: The standard deviation of the angle, in radians.

    Returns:
        x `(n, 2)` float32, in the unit disc, and y `(n,)` int32.

    Raises:
        ValueError: If `n` is below 1, `classes` below 2, or `noise` is negative.

    Example:
        >>> x, y = spirals(jax.random.key(0), 6, classes=3)
        >>> y.tolist()
        [0, 1, 2, 0, 1, 2]
    """
    key_t, key_noise = jax.random.split(_check_points(key, n, noise))
    expect_integer("classes", classes)
    if classes < 2:
        raise ValueError(f"expected two or more classes, got classes={classes}")
    t = jax.random.uniform(key_t, (n,), jnp.float32)
    y = jnp.arange(n, dtype=jnp.int32) % classes
    arm = 2 * np.pi / classes * y.astype(jnp.float32)
    phi = arm + 4 * t + noise * _normal(key_noise, (n,))
    return t[:, None] * jnp.stack([jnp.cos(phi), jnp.sin(phi)], axis=1), y


class Target(NamedTuple):
    """A function of a vector to minimise, with its minimum."""

    f: Callable[[Array], Array]  #: θ `(dim,)` -> a scalar, of θ's dtype
    start: np.ndarray  #: the usual start of an optimizer, float32
    minimum: np.ndarray  #: the minimum, float32; f is 0 there


def ill_conditioned_bowl(condition_number: float = 100.0, dim: int = 2) -> Target:
    """Return a convex bowl, steep along one axis and shallow along another.

        f(θ) = ½ Σ_i c_i θ_i²,   c_i from 1 to κ in geometric steps

    The curvatures c_i are the eigenvalues of the Hessian. Gradient descent diverges for
    a learning rate above 2/κ, and with a smaller one it is slow along the shallow axis.
    The axes are those of the coordinates, which favours optimizers with one step size
    per coordinate.

    Args:
        condition_number: κ, at least 1.
        dim: The number of coordinates, at least 2.

    Returns:
        A `Target` with start (1, .., 1) and minimum (0, .., 0).

    Raises:
        ValueError: If `condition_number` is below 1 or `dim` below 2.

    Example:
        >>> bowl = ill_conditioned_bowl(condition_number=100.0, dim=3)
        >>> jax.grad(bowl.f)(jnp.asarray(bowl.start)).tolist()
        [1.0, 10.0, 100.0]
    """
    condition_number = as_number("condition_number", condition_number)
    if not 1 <= condition_number < np.inf:
        raise ValueError(
            f"condition_number must be finite and at least 1, got {condition_number}: "
            f"it is the largest curvature over the smallest"
        )
    _check_dim(dim)
    curvatures = np.geomspace(1.0, condition_number, dim)

    def f(theta: Array) -> Array:
        theta = _check_point(theta, dim)
        return 0.5 * jnp.sum(jnp.asarray(curvatures, theta.dtype) * theta**2)

    return Target(f, np.ones(dim, np.float32), np.zeros(dim, np.float32))


def rosenbrock(dim: int = 2) -> Target:
    """Return Rosenbrock's function: a curved valley, easy to find, hard to follow.

        f(θ) = Σ_{i<dim} 100 (θ_{i+1} − θ_i²)² + (1 − θ_i)²

    Args:
        dim: The number of coordinates, at least 2.

    Returns:
        A `Target` with start (−1.2, 1, −1.2, ..) and minimum (1, .., 1).

    Raises:
        ValueError: If `dim` is below 2.

    Example:
        >>> banana = rosenbrock()
        >>> float(banana.f(banana.minimum)), round(float(banana.f(banana.start)), 3)
        (0.0, 24.2)

    Source: H. H. Rosenbrock, "An automatic method for finding the greatest or least
    value of a function", The Computer Journal 3 (1960), 175-184.
    """
    _check_dim(dim)

    def f(theta: Array) -> Array:
        theta = _check_point(theta, dim)
        this, following = theta[:-1], theta[1:]
        return jnp.sum(100 * (following - this**2) ** 2 + (1 - this) ** 2)

    start = np.where(np.arange(dim) % 2 == 0, -1.2, 1.0).astype(np.float32)
    return Target(f, start, np.ones(dim, np.float32))


def _normal(key: Array, shape: tuple[int, ...]) -> Float[Array, "..."]:
    # float32 whatever JAX's default is, so that a key always returns the same points.
    return jax.random.normal(key, shape, jnp.float32)


def _check_points(key: Any, n: Any, noise: Any) -> Array:
    """Return the key, if points can be drawn with it."""
    expect_integer("n", n)
    if n < 1:
        raise ValueError(f"expected at least one point, got n={n}")
    # A traced noise, as in a sweep over noises, has no value to check.
    is_traced = isinstance(noise, jax.core.Tracer) and noise.ndim == 0
    if not is_traced and not as_number("noise", noise) >= 0:
        raise ValueError(
            f"noise is a standard deviation and must be 0 or more, got {noise}"
        )
    return check_key(key)


def _check_dim(dim: Any) -> None:
    expect_integer("dim", dim)
    if dim < 2:
        raise ValueError(f"expected two or more coordinates, got dim={dim}")


def _check_point(theta: Array, dim: int) -> Float[Array, "dim"]:
    theta = as_inputs(as_array("theta", theta))
    if theta.shape != (dim,):
        raise ValueError(
            f"expected a point of shape ({dim},), got shape {theta.shape}: evaluate "
            f"many points with jax.vmap(target.f)"
        )
    return theta
