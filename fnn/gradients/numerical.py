"""Gradients from the definition of the derivative, as difference quotients.

    central difference      ∂f/∂θ_i ≈ (f(θ + h e_i) − f(θ − h e_i)) / 2h
    along a direction v     ∇f·v    ≈ (f(θ + h v) − f(θ − h v)) / 2h

Taylor's theorem leaves a truncation error h² f'''/6, and rounding leaves ε |f| / h.
Their sum is smallest near h = ε^(1/3): 6e-6 in float64, 5e-3 in float32. (Press et al.,
Numerical Recipes, section 5.7.)

Legend: P numbers in all parameters together, M coordinates or directions.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fnn.checks import check_key
from fnn.own_code import explain_own_code
from fnn.transfers import own_numbers_may_move
from fnn.typing import Array, Float, KeyArray, Number, PyTree, Shaped

__all__ = [
    "Differences",
    "HSweep",
    "best_h",
    "differences",
    "directional_derivatives",
    "h_sweep",
    "numerical_gradients",
]

#: A scalar function of the parameters.
Objective = Callable[[PyTree], Array]

#: The bytes that the copies of the largest array may take at one time.
MEMORY = 2**26


def best_h(dtype: Any) -> float:
    """Return ε^(1/3), where truncation and rounding balance for an f of scale 1."""
    return float(jnp.finfo(dtype).eps) ** (1 / 3)


class Differences(NamedTuple):
    """The difference quotients of f for M steps of size h, each array of shape (M,).

    `left` and `right` are the slopes on either side, which agree where f is smooth
    and not at a kink; `central` is the estimate of the derivative.
    """

    left: Array
    right: Array
    central: Array


def differences(
    f: Objective,
    params: PyTree,
    directions: Shaped[Array, "M"] | Shaped[Array, "M P"],
    h: Number,
) -> Differences:
    """Compute difference quotients of f at `params`, many at a time under `vmap`.

    Args:
        f: a scalar function of the parameters.
        params: the parameters to differentiate at; P numbers of one dtype.
        directions: (M,) integers, coordinates of the raveled parameters; or (M, P)
            vectors v.
        h: the step.

    Returns:
        Three slopes for each direction. At most 256 directions run together, and no
        more than fit into memory: their copies of the largest array, of the parameters
        or within f, take at most `MEMORY` bytes.
    """
    theta, unravel = ravel_pytree(params)
    value = f(params)

    def along(direction: Array) -> Differences:
        if direction.ndim:
            plus, minus = theta + h * direction, theta - h * direction
            up = down = h
        else:
            plus, minus = theta.at[direction].add(h), theta.at[direction].add(-h)
            # The steps as they are after rounding θ ± h.
            up = plus[direction] - theta[direction]
            down = theta[direction] - minus[direction]
        above, below = f(unravel(plus)), f(unravel(minus))
        right, left = (above - value) / up, (value - below) / down
        return Differences(left, right, (above - below) / (up + down))

    largest = max(_largest_array(f, params), theta.nbytes)
    batch_size = int(np.clip(MEMORY // (4 * largest + 1), 1, 256))
    return jax.lax.map(along, directions, batch_size=min(batch_size, len(directions)))


def _largest_array(f: Objective, params: PyTree) -> int:
    """Return the bytes of the largest array that f computes."""
    equations = jax.make_jaxpr(f)(params).jaxpr.eqns
    shapes: list[Any] = [var.aval for e in equations for var in e.outvars]
    sizes = [s.size * s.dtype.itemsize for s in shapes if hasattr(s, "dtype")]
    return max(sizes, default=0)


def _by_leaf(f: Objective, params: PyTree) -> Iterator[tuple[Array, Objective]]:
    """Yield each leaf, and f as a function of this leaf alone.

    Then `vmap` copies what depends on the leaf, and computes all else once: the layers
    before it, which see no difference.
    """
    leaves, tree = jax.tree.flatten(params)
    for i, leaf in enumerate(leaves):

        def of_leaf(leaf: Array, i: int = i) -> Array:
            return f(jax.tree.unflatten(tree, [*leaves[:i], leaf, *leaves[i + 1 :]]))

        yield leaf, of_leaf


@own_numbers_may_move()
@explain_own_code()
def numerical_gradients(
    f: Objective, params: PyTree, *, h: float | None = None
) -> PyTree:
    """Compute the whole gradient by central differences.

    It takes two evaluations of f for each number in the parameters.

    Args:
        f: a scalar function of the parameters, such as `fnn.objective(...)`.
        params: the parameters to differentiate at. In float64
            (`with jax.enable_x64(True)`) about ten digits are right, in float32 about
            three.
        h: the step; ε^(1/3) by default.

    Returns:
        A tree like `params`.

    Raises:
        ValueError: h is not positive.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> with jax.enable_x64(True):
        ...     fnn.numerical_gradients(lambda w: (w**3).sum(), jnp.array([1.0, 2.0]))
        Array([ 3., 12.], dtype=float64)
    """
    theta, _ = ravel_pytree(params)
    h = _check_step(best_h(theta.dtype) if h is None else h)

    @jax.jit
    def gradient(params: PyTree) -> PyTree:
        grads = [
            differences(of_leaf, leaf, jnp.arange(leaf.size), h).central
            for leaf, of_leaf in _by_leaf(f, params)
        ]
        leaves, tree = jax.tree.flatten(params)
        shaped = [
            grad.reshape(leaf.shape).astype(leaf.dtype)
            for grad, leaf in zip(grads, leaves, strict=True)
        ]
        return jax.tree.unflatten(tree, shaped)

    return gradient(jax.tree.map(jnp.asarray, params))


@own_numbers_may_move()
@explain_own_code()
def directional_derivatives(
    f: Objective,
    params: PyTree,
    grads: PyTree,
    *,
    key: KeyArray,
    directions: int = 8,
    h: float | None = None,
) -> tuple[Float[Array, "M"], Float[Array, "M"]]:
    """Check a gradient along random directions, at two evaluations of f for each.

    A wrong gradient g differs from ∇f by some e ≠ 0, and e·v ≠ 0 for almost every v:
    the cost does not grow with the number of parameters. The check finds that something
    is wrong, but not where.

    Args:
        f: a scalar function of the parameters.
        params: the parameters to differentiate at; P numbers.
        grads: the gradient to check, a tree like `params`.
        key: draws the directions, uniform on the unit sphere.
        directions: M.
        h: the step along the unit vector; ε^(1/3) by default.

    Returns:
        `(numerical, claimed)`, each (M,): difference quotients, and g·v.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> f = lambda w: (w**2).sum()
        >>> w = jnp.arange(1000.0) / 1000
        >>> numerical, claimed = fnn.directional_derivatives(
        ...     f, w, jax.grad(f)(w), key=jax.random.key(0))
        >>> bool(jnp.allclose(numerical, claimed, atol=1e-1))
        True
    """
    key = check_key(key)
    theta, _ = ravel_pytree(params)
    flat_grads = _raveled_like(theta, grads)
    h = _check_step(best_h(theta.dtype) if h is None else h)
    v = jax.random.normal(key, (directions, theta.size), theta.dtype)
    v = v / jnp.linalg.norm(v, axis=1, keepdims=True)
    slopes = jax.jit(lambda params, v: differences(f, params, v, h).central)
    return slopes(params, v), v @ flat_grads


class HSweep(NamedTuple):
    """The error of the numerical gradient for each step.

    `h` and `error` have shape (S,); error is the largest absolute difference to the
    given gradient, divided by the largest entry of that. `best` is the h of the
    smallest error, `theory` is ε^(1/3).
    """

    h: np.ndarray
    error: np.ndarray
    best: float
    theory: float


@own_numbers_may_move()
@explain_own_code()
def h_sweep(
    f: Objective,
    params: PyTree,
    grads: PyTree,
    *,
    h: Sequence[float] | np.ndarray | None = None,
    coordinates: int = 256,
) -> HSweep:
    """Measure how the error of central differences depends on the step h.

    Plotted with two logarithmic axes it is a V: left of the best h rounding dominates
    and the error falls as 1/h; right of it truncation does and the error grows as h².

    Args:
        f: a scalar function of the parameters.
        params: the parameters to differentiate at, in float32 or float64.
        grads: the gradient that is taken for the truth, a tree like `params`.
        h: the S steps; by default 1e-12 to 1e-1, four a decade.
        coordinates: how many of the P coordinates are used, evenly spread.

    Returns:
        An `HSweep`: the steps, the error of each, and the best step.

    Raises:
        ValueError: a step is not positive, or `grads` is of another size.

    Example:
        >>> import jax, jax.numpy as jnp, fnn
        >>> f = lambda w: jnp.sin(w).sum()
        >>> w = jnp.linspace(0.0, 1.0, 5)
        >>> sweep = fnn.h_sweep(f, w, jnp.cos(w))
        >>> bool(1e-4 < sweep.best < 1e-1), round(sweep.theory, 4)
        (True, 0.0049)
    """
    theta, _ = ravel_pytree(params)
    claimed = _raveled_like(theta, grads)
    steps = 10.0 ** np.arange(-12, -0.99, 0.25) if h is None else np.asarray(h, float)
    for step in steps:
        _check_step(step)
    count = min(coordinates, theta.size)
    at = np.unique(np.linspace(0, theta.size - 1, count).astype(int))

    @jax.jit
    def errors(params: PyTree) -> Array:
        """Compute the largest error of each step."""
        found: list[Array] = []
        start = 0
        for leaf, of_leaf in _by_leaf(f, params):
            chosen = at[(start <= at) & (at < start + leaf.size)]
            start += leaf.size
            if not chosen.size:
                continue
            own = jnp.asarray(chosen - start + leaf.size)

            def error(
                step: Array, of_leaf: Objective = of_leaf, leaf: Array = leaf,
                own: Array = own, truth: Array = claimed[chosen],
            ) -> Array:  # fmt: skip
                return jnp.abs(differences(of_leaf, leaf, own, step).central - truth)

            found.append(jax.lax.map(error, jnp.asarray(steps, theta.dtype)))
        return jnp.concatenate(found, axis=1).max(1)

    params = jax.tree.map(jnp.asarray, params)
    error = np.asarray(errors(params)) / float(jnp.abs(claimed[at]).max())
    # A step that is lost in rounding gives 0/0: no error is larger.
    error = np.where(np.isfinite(error), error, np.inf)
    return HSweep(steps, error, float(steps[error.argmin()]), best_h(theta.dtype))


def _check_step(h: float) -> float:
    if not h > 0:
        raise ValueError(f"the step h must be a positive number, got {h}")
    return float(h)


def _raveled_like(theta: Array, grads: PyTree) -> Array:
    """Return the gradients as one vector, of the size of the parameters θ."""
    flat, _ = ravel_pytree(grads)
    if flat.shape != theta.shape:
        raise ValueError(
            f"expected gradients of the {theta.size} numbers in params, got {flat.size}"
        )
    return flat
