"""The lecture's loops, line by line: a neural network to check with a pencil.

It computes example by example and unit by unit, in float64. It is slow on purpose:
faster code is compared with it. Layers l = 1..L have s_l sigmoid units, and K = s_L.
Loops run over the lecture's indices; only inside brackets, where Python counts from 0,
is 1 subtracted:

    lecture                               here
    Θ^(l)_ij  i = 1..s_(l+1), j = 0..s_l  thetas[l - 1][i - 1, j]   (column 0: the bias)
    a^(l)_j   j = 1..s_l                  activations[l - 1][j - 1] (a_0 = 1 not stored)
    δ^(l)_j   l = 2..L                    deltas[l - 2][j - 1]      (there is no δ^(1))

In every Args, thetas is Θ^(1) .. Θ^(L−1), of shapes (s_(l+1), s_l + 1); x and y are an
example and its targets in [0, 1], and X and Y are n of them, one in each row.
"""
# ruff: noqa: E741  (l is a layer, as in the lecture)

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Descent",
    "cost",
    "deltas",
    "forward",
    "gradient_descent",
    "gradients",
    "initialise",
    "numerical_gradients",
    "sigmoid",
    "weighted_inputs",
]

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Data = ArrayLike
Thetas = Sequence[Data]


def sigmoid(z: float) -> float:
    """Return the logistic function g(z) = 1 / (1 + e^(−z)); g'(z) = g(z) (1 − g(z)).

    Args:
        z: a number.

    Returns:
        g(z), in [0, 1].

    Example:
        >>> sigmoid(0.0), sigmoid(-1000.0), sigmoid(1000.0)
        (0.5, 0.0, 1.0)
    """
    # Both forms are equal; the one whose exponential cannot overflow is computed.
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def weighted_inputs(theta: Matrix, a: Vector) -> Vector:
    """Return z^(l+1) = Θ^(l) a^(l): z^(l+1)_i = Σ_{j=0..s_l} Θ^(l)_ij a^(l)_j.

    Args:
        theta: Θ^(l), of shape (s_(l+1), s_l + 1).
        a: a^(l), of shape (s_l,), without the bias.

    Returns:
        z^(l+1), of shape (s_(l+1),).

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> weighted_inputs(np.array([[0.5, 1.0, 2.0]]), np.array([10.0, 100.0]))
        array([210.5])
    """
    z, expected = np.zeros(len(theta)), (len(theta), *(s_l + 1 for s_l in a.shape))
    _expect_shape(f"Θ^(l) for a^(l) of shape {a.shape}", expected, theta.shape)
    for _, i, j in _indices([theta], j_from=0):
        a_j = 1.0 if j == 0 else a[j - 1]
        z[i - 1] += theta[i - 1, j] * a_j
    return z


def forward(thetas: Thetas, x: Data) -> list[Vector]:
    """Compute all activations of one example.

        a^(1) = x,    a^(l+1) = g(z^(l+1)),    a^(L) = h_Θ(x)

    Args:
        thetas: [Θ^(1), .., Θ^(L−1)].
        x: the example, of shape (s_1,).

    Returns:
        [a^(1), .., a^(L)], of shapes (s_l,), without bias units.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> and_unit = np.array([[-30.0, 20.0, 20.0]])  # fires when both inputs do
        >>> [round(float(forward([and_unit], x)[-1][0])) for x in [(0, 1), (1, 1)]]
        [0, 1]
    """
    a = [np.asarray(x, np.float64)]
    for theta in _matrices(thetas):
        a.append(np.array([sigmoid(z) for z in weighted_inputs(theta, a[-1])]))
    return a


def cost(thetas: Thetas, X: Data, Y: Data, lam: float = 0.0) -> float:
    """Compute the negative log-likelihood per example, plus the penalty on weights.

        J(Θ) = −(1/n) Σ_{t=1..n} Σ_{k=1..K} [ y_k log h_k + (1 − y_k) log(1 − h_k) ]
               + (λ/2n) Σ_{l=1..L−1} Σ_{i=1..s_(l+1)} Σ_{j=1..s_l} (Θ^(l)_ij)²

    Args:
        thetas: [Θ^(1), .., Θ^(L−1)].
        X: the examples, of shape (n, s_1).
        Y: the labels, of shape (n, K).
        lam: λ, the strength of the penalty.

    Returns:
        J(Θ), finite even where h_k is 0 or 1.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> round(cost([np.zeros((1, 3))], X=[[1, 2]], Y=[[0]]), 6)  # h = 1/2: log 2
        0.693147
    """
    matrices, X, Y = _as_float64(thetas, X, Y)
    n, K = Y.shape
    likelihood = 0.0
    for x, y in zip(X, Y, strict=True):
        z = weighted_inputs(matrices[-1], forward(matrices, x)[-2])  # z^(L)
        for k in range(1, K + 1):
            # From z, as h is rounded to 1 for z above 37, and log(1 − h) would be −∞.
            log_h, log_1_h = -np.logaddexp(0, -z[k - 1]), -np.logaddexp(0, z[k - 1])
            likelihood += y[k - 1] * log_h + (1 - y[k - 1]) * log_1_h
    # The lecture's sum has the limits s_(l−1) and s_l, which leave out some weights, or
    # name some that do not exist: Θ^(l) has s_(l+1) rows, and s_l columns and a bias.
    weights = _indices(matrices, j_from=1)
    squares = sum(matrices[l - 1][i - 1, j] ** 2 for l, i, j in weights)
    return float(-likelihood / n + lam / (2 * n) * squares)


def deltas(thetas: Thetas, activations: Sequence[Vector], y: Data) -> list[Vector]:
    """Compute the errors δ^(l)_j = ∂cost/∂z^(l)_j of one example: each unit's blame.

        δ^(L) = a^(L) − y
        δ^(l) = (Θ^(l))ᵀ δ^(l+1) ⊙ a^(l) ⊙ (1 − a^(l))     for l = L−1, .., 2

    A unit's blame is its share in the blame of the units it feeds, in proportion to
    the connecting weights. The bias row of (Θ^(l))ᵀ is dropped: nothing feeds a bias.

    Args:
        thetas: [Θ^(1), .., Θ^(L−1)].
        activations: [a^(1), .., a^(L)], from `forward`.
        y: the labels, of shape (K,).

    Returns:
        [δ^(2), .., δ^(L)], of shapes (s_l,).

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> deltas([np.zeros((1, 2))], forward([np.zeros((1, 2))], [3]), y=[1])
        [array([-0.5])]
    """
    matrices = _matrices(thetas)
    L, K = len(matrices) + 1, len(matrices[-1])
    expected = [*((theta.shape[1] - 1,) for theta in matrices), (K,), (K,)]
    _expect_shape(
        "a^(1), .., a^(L), y", expected, [np.shape(v) for v in (*activations, y)]
    )
    # The lecture's δ is the derivative of y log h + (1 − y) log(1 − h), which is y − a.
    # a − y belongs to what is minimised: the *negative* log-likelihood.
    delta = {L: activations[L - 1] - np.asarray(y, np.float64)}
    for l in range(L - 1, 1, -1):
        theta, a = matrices[l - 1], activations[l - 1]
        delta[l] = np.zeros(len(a))
        for j in range(1, len(a) + 1):
            units = range(1, len(theta) + 1)  # of layer l + 1, which unit j feeds
            blame = sum(theta[i - 1, j] * delta[l + 1][i - 1] for i in units)
            delta[l][j - 1] = blame * a[j - 1] * (1 - a[j - 1])
    return [delta[l] for l in range(2, L + 1)]


def gradients(thetas: Thetas, X: Data, Y: Data, lam: float = 0.0) -> list[Matrix]:
    """Compute D^(l)_ij = ∂J/∂Θ^(l)_ij, the derivative of `cost`, by backpropagation.

        Δ^(l)_ij = 0;   for every example:   Δ^(l)_ij ← Δ^(l)_ij + a^(l)_j δ^(l+1)_i
        D^(l)_ij = (1/n) Δ^(l)_ij + (λ/n) Θ^(l)_ij    without the λ for j = 0

    Args:
        thetas: [Θ^(1), .., Θ^(L−1)].
        X: the examples, of shape (n, s_1).
        Y: the labels, of shape (n, K).
        lam: λ, the strength of the penalty.

    Returns:
        [D^(1), .., D^(L−1)], of the shapes of Θ.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> gradients([np.zeros((1, 3))], X=[[1, 2], [3, 4]], Y=[[0], [1]])
        [array([[ 0. , -0.5, -0.5]])]
    """
    matrices, X, Y = _as_float64(thetas, X, Y)
    n = len(X)
    Delta = [np.zeros_like(theta) for theta in matrices]
    for x, y in zip(X, Y, strict=True):
        a = forward(matrices, x)
        delta = deltas(matrices, a, y)  # delta[l - 1] is δ^(l+1)
        for l, i, j in _indices(matrices, j_from=0):
            # In one place the lecture writes a_i δ_i. But unit i is in layer l + 1: it
            # has a δ^(l+1)_i, while layer l may not even have a unit i.
            a_j = 1.0 if j == 0 else a[l - 1][j - 1]
            Delta[l - 1][i - 1, j] += a_j * delta[l - 1][i - 1]
    D = [Delta_l / n for Delta_l in Delta]
    for l, i, j in _indices(matrices, j_from=1):
        # The lecture adds λ Θ_ij. The penalty is (λ/2n) Σ Θ², and its derivative is
        # (λ/n) Θ_ij; the numerical gradient agrees.
        D[l - 1][i - 1, j] += lam / n * matrices[l - 1][i - 1, j]
    return D


def initialise(sizes: Sequence[int], seed: int, spread: float = 1.0) -> list[Matrix]:
    """Draw random Θ^(l)_ij, uniform in [−spread, spread], biases included.

    They must not be constant: the hidden units of a layer would compute the same,
    receive the same blame and the same update, and stay equal for ever.

    Args:
        sizes: s_1, .., s_L, the numbers of units.
        seed: determines Θ.
        spread: the largest |Θ_ij|.

    Returns:
        [Θ^(1), .., Θ^(L−1)], of shapes (s_(l+1), s_l + 1).

    Raises:
        ValueError: there are fewer than two layers, or one has no units.

    Example:
        >>> [theta.shape for theta in initialise([4, 3, 2], seed=0)]
        [(3, 5), (2, 4)]
    """
    if len(sizes) < 2 or min(sizes) < 1:
        got = f"got sizes={list(sizes)}: give the units of all layers, as in [4, 3, 2]"
        raise ValueError(f"expected two or more layers of one or more units, {got}")
    rng = np.random.default_rng(seed)
    shapes = [(sizes[l], sizes[l - 1] + 1) for l in range(1, len(sizes))]
    return [rng.uniform(-spread, spread, size=shape) for shape in shapes]


class Descent(NamedTuple):
    """The result of `gradient_descent`."""

    thetas: list[Matrix]  #: Θ after the last update
    costs: list[float]  #: J before the first update and after each one
    converged: bool  #: whether the last update was below the tolerance


def gradient_descent(
    thetas: Thetas,
    X: Data,
    Y: Data,
    *,
    learning_rate: float,
    lam: float = 0.0,
    tolerance: float = 1e-6,
    max_epochs: int = 1000,
) -> Descent:
    """Update Θ^(l) ← Θ^(l) − α D^(l) once per epoch, until the weights converge.

    Args:
        thetas: the start, [Θ^(1), .., Θ^(L−1)].
        X: the examples, of shape (n, s_1).
        Y: the labels, of shape (n, K).
        learning_rate: α.
        lam: λ, the strength of the penalty.
        tolerance: the weights have converged when no update reaches it.
        max_epochs: the most updates.

    Returns:
        A `Descent`: the weights, the costs, and whether they converged.

    Raises:
        ValueError: the shapes do not fit, or max_epochs is below 1.

    Example:
        >>> start = [np.zeros((1, 2))]
        >>> descent = gradient_descent(start, [[3]], [[1]], learning_rate=1)
        >>> descent.costs[-1] < 0.001 < descent.costs[0]
        True
    """
    if max_epochs < 1:
        raise ValueError(f"expected max_epochs of at least 1, got {max_epochs}")
    matrices = _matrices(thetas)
    costs, converged = [cost(matrices, X, Y, lam)], False
    while not converged and len(costs) <= max_epochs:
        updates = [-learning_rate * D for D in gradients(matrices, X, Y, lam)]
        matrices = [theta + u for theta, u in zip(matrices, updates, strict=True)]
        costs.append(cost(matrices, X, Y, lam))
        converged = all(np.abs(u).max() < tolerance for u in updates)
    return Descent(matrices, costs, converged)


def numerical_gradients(
    thetas: Thetas, X: Data, Y: Data, lam: float = 0.0, h: float = 1e-5
) -> list[Matrix]:
    """Estimate the slope of `cost` along each single weight, from two costs per weight.

        ∂J/∂Θ^(l)_ij ≈ (J(.., Θ^(l)_ij + h, ..) − J(.., Θ^(l)_ij − h, ..)) / 2h

    Args:
        thetas: [Θ^(1), .., Θ^(L−1)].
        X: the examples, of shape (n, s_1).
        Y: the labels, of shape (n, K).
        lam: λ, the strength of the penalty.
        h: the step. With a small one the two costs cancel, with a large one the slope
            is not that at Θ; best is ε^(1/3) ≈ 1e-5.

    Returns:
        The slopes, of the shapes of Θ.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> numerical_gradients([np.zeros((1, 2))], X=[[3]], Y=[[1]])[0].round(8)
        array([[-0.5, -1.5]])
    """
    matrices = _matrices(thetas)
    slopes = [np.zeros_like(theta) for theta in matrices]
    for l, i, j in _indices(matrices, j_from=0):
        weight = matrices[l - 1][i - 1, j]
        for sign in (+1, -1):
            matrices[l - 1][i - 1, j] = weight + sign * h
            slopes[l - 1][i - 1, j] += sign * cost(matrices, X, Y, lam)
        matrices[l - 1][i - 1, j] = weight
    return [slope / (2 * h) for slope in slopes]


def _indices(matrices: Sequence[Matrix], j_from: int) -> Iterator[tuple[int, int, int]]:
    """Yield (l, i, j) of all weights, in the lecture's order; j_from=1: no biases."""
    for l, theta in enumerate(matrices, start=1):
        for i in range(1, theta.shape[0] + 1):
            for j in range(j_from, theta.shape[1]):
                yield l, i, j


def _matrices(thetas: Thetas) -> list[Matrix]:
    """Return a copy of Θ in float64."""
    if len(thetas) == 0:
        raise ValueError("expected at least one Θ, got none: see initialise(sizes, 0)")
    return [np.array(theta, np.float64) for theta in thetas]


def _as_float64(
    thetas: Thetas, X: Data, Y: Data
) -> tuple[list[Matrix], Matrix, Matrix]:
    """Return Θ, X and Y in float64, or raise if Y has no row for each row of X."""
    matrices, X, Y = _matrices(thetas), np.asarray(X, float), np.asarray(Y, float)
    n = max(len(X), 1)  # there is no average over 0 examples
    _expect_shape(f"Y for X of shape {X.shape}", (n, len(matrices[-1])), Y.shape)
    return matrices, X, Y


def _expect_shape(what: str, expected: object, got: object) -> None:
    """Raise unless both shapes, or lists of shapes, are equal."""
    if got != expected:
        hint = "the bias is column 0 of Θ^(l), not of a; X and Y have a row per example"
        raise ValueError(f"expected {what} to have shape {expected}, got {got}: {hint}")
