"""The lecture's loops, line by line: a neural network one could check with a pencil.

Everything is written out, example by example and unit by unit, in float64 NumPy. It is
slow on purpose: faster code is held against this page, and this page against the
mathematics. Layers l = 1..L have s_l sigmoid units (the bias not counted), n is the
number of examples, K = s_L that of outputs. Loops run over the lecture's indices, from
1; only the brackets, in which Python counts from 0, subtract:

    lecture                               here
    Θ^(l)_ij  i = 1..s_(l+1), j = 0..s_l  thetas[l - 1][i - 1, j]   (column 0: the bias)
    a^(l)_j   j = 1..s_l                  activations[l - 1][j - 1] (a_0 = 1 not stored)
    δ^(l)_j   l = 2..L                    deltas[l - 2][j - 1]      (there is no δ^(1))

So `thetas[l - 1]`, `deltas[l - 1]` and `activations[l - 1]` are Θ^(l), δ^(l+1), a^(l):
just the three that meet in ∂J/∂Θ^(l)_ij = a^(l)_j δ^(l+1)_i.
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


# ---- 1. Forward propagation ----------------------------------------------------------
def sigmoid(z: float) -> float:
    """The logistic function g(z) = 1 / (1 + e^(−z)) of one number; g' = g (1 − g).

    >>> sigmoid(0.0), sigmoid(-1000.0), sigmoid(1000.0)
    (0.5, 0.0, 1.0)
    """
    # Of the two equal forms, the one whose exponential cannot overflow.
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def weighted_inputs(theta: Matrix, a: Vector) -> Vector:
    """z^(l+1) = Θ^(l) a^(l), that is z^(l+1)_i = Σ_{j=0..s_l} Θ^(l)_ij a^(l)_j.

    Args:
        theta: Θ^(l), shape (s_(l+1), s_l + 1).
        a: a^(l), shape (s_l,), without its bias unit a_0 = 1.

    Returns:
        z^(l+1), shape (s_(l+1),).

    >>> weighted_inputs(np.array([[0.5, 1.0, 2.0]]), np.array([10.0, 100.0]))
    array([210.5])
    """
    z = np.zeros(len(theta))
    for _, i, j in _indices([theta], j_from=0):
        a_j = 1.0 if j == 0 else a[j - 1]
        z[i - 1] += theta[i - 1, j] * a_j
    return z


def forward(thetas: Sequence[ArrayLike], x: ArrayLike) -> list[Vector]:
    """All activations of one example: a^(1) = x, a^(l+1) = g(z^(l+1)), a^(L) = h_Θ(x).

    Args:
        thetas: Θ^(1) .. Θ^(L−1), of shapes (s_(l+1), s_l + 1).
        x: One example, shape (s_1,).

    Returns:
        [a^(1), .., a^(L)] of shapes (s_l,), without bias units.

    Raises:
        ValueError: If the shapes do not fit together.

    >>> and_unit = np.array([[-30.0, 20.0, 20.0]])  # fires when both inputs do
    >>> [round(float(forward([and_unit], x)[-1][0])) for x in [(0, 1), (1, 1)]]
    [0, 1]
    """
    matrices, s = _network(thetas)
    _expect("x of shape", (s[1],), np.shape(x))
    activations = [np.asarray(x, np.float64)]
    for theta in matrices:
        z = weighted_inputs(theta, activations[-1])
        activations.append(np.array([sigmoid(z_i) for z_i in z]))
    return activations


# ---- 2. Cost -------------------------------------------------------------------------
def cost(
    thetas: Sequence[ArrayLike], X: ArrayLike, Y: ArrayLike, lam: float = 0.0
) -> float:
    """The negative log-likelihood per example, plus the penalty on all but the biases.

        J(Θ) = −(1/n) Σ_{t=1..n} Σ_{k=1..K} [ y_k log h_k + (1 − y_k) log(1 − h_k) ]
               + (λ/2n) Σ_{l=1..L−1} Σ_{i=1..s_(l+1)} Σ_{j=1..s_l} (Θ^(l)_ij)²

    Args:
        thetas: Θ^(1) .. Θ^(L−1), of shapes (s_(l+1), s_l + 1).
        X: The examples, shape (n, s_1).
        Y: The targets in [0, 1], shape (n, K); np.eye(K)[labels] for class labels.
        lam: λ, the strength of the penalty.

    Returns:
        J(Θ), finite even where an output is exactly 0 or 1.

    Raises:
        ValueError: If the shapes do not fit together.

    >>> round(cost([np.zeros((1, 3))], X=[[1, 2]], Y=[[0]]), 6)  # h = 1/2 costs log 2
    0.693147
    """
    matrices, X, Y = _problem(thetas, X, Y)
    n, K = Y.shape
    likelihood = 0.0
    for x, y in zip(X, Y, strict=True):
        z = weighted_inputs(matrices[-1], forward(matrices, x)[-2])  # z^(L)
        for k in range(1, K + 1):
            likelihood += y[k - 1] * _log_sigmoid(z[k - 1])
            likelihood += (1 - y[k - 1]) * _log_sigmoid(-z[k - 1])  # 1 − g(z) = g(−z)
    # The lecture's penalty has the limits s_(l−1) and s_l, with which some weights
    # escape or do not exist: Θ^(l) has s_(l+1) rows and, the bias aside, s_l columns.
    squares = 0.0
    for l, i, j in _indices(matrices, j_from=1):
        squares += matrices[l - 1][i - 1, j] ** 2
    return float(-likelihood / n + lam / (2 * n) * squares)


def _log_sigmoid(z: float) -> float:
    """log g(z), from z itself: from z ≈ 37 on g(z) rounds to 1, and log(1 − g) is −∞."""
    return min(z, 0.0) - math.log1p(math.exp(-abs(z)))


# ---- 3. Backpropagation --------------------------------------------------------------
def deltas(
    thetas: Sequence[ArrayLike], activations: Sequence[Vector], y: ArrayLike
) -> list[Vector]:
    """The errors δ^(l)_j = ∂cost/∂z^(l)_j of one example: the blame of each unit.

        δ^(L) = a^(L) − y
        δ^(l) = (Θ^(l))ᵀ δ^(l+1) ⊙ a^(l) ⊙ (1 − a^(l))     for l = L−1, .., 2

    A unit's blame is its share in the blame of the units it feeds, in proportion to
    the connecting weights. The bias row of (Θ^(l))ᵀ is dropped: nothing feeds a bias.

    Args:
        thetas: Θ^(1) .. Θ^(L−1), of shapes (s_(l+1), s_l + 1).
        activations: All that `forward` returned for the example.
        y: Its targets, shape (K,).

    Returns:
        [δ^(2), .., δ^(L)] of shapes (s_l,).

    Raises:
        ValueError: If the shapes do not fit together.

    >>> and_unit = np.array([[-30.0, 20.0, 20.0]])
    >>> deltas([and_unit], forward([and_unit], [1, 1]), y=[0])[0].round(3)
    array([1.])
    """
    matrices, s = _network(thetas)
    L = len(s)
    _expect("activations of sizes", [*s.values()], [len(a) for a in activations])
    _expect("y of shape", (s[L],), np.shape(y))
    # The lecture's δ is the derivative of y log h + (1 − y) log(1 − h), which is y − a.
    # a − y belongs to what is minimised: the *negative* log-likelihood.
    delta = {L: activations[L - 1] - np.asarray(y, np.float64)}
    for l in range(L - 1, 1, -1):
        theta, a = matrices[l - 1], activations[l - 1]
        delta[l] = np.zeros(s[l])
        for j in range(1, s[l] + 1):
            blame = 0.0
            for i in range(1, s[l + 1] + 1):
                blame += theta[i - 1, j] * delta[l + 1][i - 1]
            delta[l][j - 1] = blame * a[j - 1] * (1 - a[j - 1])
    return [delta[l] for l in range(2, L + 1)]


def gradients(
    thetas: Sequence[ArrayLike], X: ArrayLike, Y: ArrayLike, lam: float = 0.0
) -> list[Matrix]:
    """Backpropagation: D^(l)_ij = ∂J/∂Θ^(l)_ij, the derivative of `cost`.

        Δ^(l)_ij = 0;   for every example:   Δ^(l)_ij ← Δ^(l)_ij + a^(l)_j δ^(l+1)_i
        D^(l)_ij = (1/n) Δ^(l)_ij + (λ/n) Θ^(l)_ij    without the λ for j = 0

    Args:
        thetas, X, Y, lam: As in `cost`.

    Returns:
        [D^(1), .., D^(L−1)], of shapes (s_(l+1), s_l + 1).

    Raises:
        ValueError: If the shapes do not fit together.

    >>> gradients([np.zeros((1, 3))], X=[[1, 2], [3, 4]], Y=[[0], [1]])
    [array([[ 0. , -0.5, -0.5]])]
    """
    matrices, X, Y = _problem(thetas, X, Y)
    n = len(X)
    Delta = [np.zeros_like(theta) for theta in matrices]
    for x, y in zip(X, Y, strict=True):
        a = forward(matrices, x)
        delta = deltas(matrices, a, y)  # delta[l - 1] is δ^(l+1)
        for l, i, j in _indices(matrices, j_from=0):
            # Once the lecture writes a_i δ_i. Unit i is one of layer l + 1: it has a
            # δ^(l+1)_i, but layer l need not even have a unit i.
            a_j = 1.0 if j == 0 else a[l - 1][j - 1]
            Delta[l - 1][i - 1, j] += a_j * delta[l - 1][i - 1]
    D = [Delta_l / n for Delta_l in Delta]
    for l, i, j in _indices(matrices, j_from=1):
        # The lecture adds λ Θ_ij. The penalty is (λ/2n) Σ Θ², and its derivative is
        # (λ/n) Θ_ij; the numerical gradient agrees.
        D[l - 1][i - 1, j] += lam / n * matrices[l - 1][i - 1, j]
    return D


# ---- 4. Training ---------------------------------------------------------------------
def initialise(sizes: Sequence[int], seed: int, spread: float = 1.0) -> list[Matrix]:
    """Random Θ^(l)_ij, uniform in [−spread, spread], biases included.

    Never a constant: the hidden units of a layer would compute the same, receive the
    same blame and the same update, and stay equal for ever.

    Args:
        sizes: s_1, .., s_L: the units of every layer, biases not counted.
        seed: The same seed gives the same parameters.
        spread: The largest absolute value drawn.

    Returns:
        [Θ^(1), .., Θ^(L−1)] of shapes (s_(l+1), s_l + 1).

    Raises:
        ValueError: If there are fewer than two layers, or one without units.

    >>> [theta.shape for theta in initialise([4, 3, 2], seed=0)]
    [(3, 5), (2, 4)]
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(
            f"expected two or more layers of one or more units, got sizes="
            f"{list(sizes)}: give the units of every layer, such as [4, 3, 2]"
        )
    rng = np.random.default_rng(seed)
    shapes = [(sizes[l], sizes[l - 1] + 1) for l in range(1, len(sizes))]
    return [rng.uniform(-spread, spread, size=shape) for shape in shapes]


class Descent(NamedTuple):
    """What `gradient_descent` found, and how it went."""

    thetas: list[Matrix]  #: Θ after the last update
    costs: list[float]  #: J before the first update and after each one
    converged: bool  #: whether the last update was below the tolerance


def gradient_descent(
    thetas: Sequence[ArrayLike],
    X: ArrayLike,
    Y: ArrayLike,
    *,
    learning_rate: float,
    lam: float = 0.0,
    tolerance: float = 1e-6,
    max_epochs: int = 1000,
) -> Descent:
    """Θ^(l) ← Θ^(l) − α D^(l), once per epoch, until the weights converge.

    Args:
        thetas, X, Y, lam: As in `cost`; Θ is where to start, and left as it is.
        learning_rate: α.
        tolerance: Converged when no weight moved by as much as this in an epoch.
        max_epochs: Stop after so many epochs, passes over all examples, in any case.

    Returns:
        The last parameters, of the shapes of `thetas`, and the cost along the way.

    Raises:
        ValueError: If the shapes do not fit together, or `max_epochs` is below 1.

    >>> start = initialise([1, 1], seed=0)
    >>> descent = gradient_descent(start, [[0], [1]], [[0], [1]], learning_rate=1)
    >>> descent.costs[-1] < 0.02 < descent.costs[0]
    True
    """
    if max_epochs < 1:
        raise ValueError(f"expected max_epochs of at least 1, got {max_epochs}")
    matrices, _ = _network(thetas)
    costs, converged = [cost(matrices, X, Y, lam)], False
    while not converged and len(costs) <= max_epochs:
        D = gradients(matrices, X, Y, lam)
        updates = [-learning_rate * D_l for D_l in D]
        matrices = [theta + u for theta, u in zip(matrices, updates, strict=True)]
        costs.append(cost(matrices, X, Y, lam))
        converged = all(np.abs(u).max() < tolerance for u in updates)
    return Descent(matrices, costs, converged)


# ---- 6. Gradient checking ------------------------------------------------------------
def numerical_gradients(
    thetas: Sequence[ArrayLike],
    X: ArrayLike,
    Y: ArrayLike,
    lam: float = 0.0,
    h: float = 1e-5,
) -> list[Matrix]:
    """The slope of `cost` along every single weight, from two costs per weight.

        ∂J/∂Θ^(l)_ij ≈ (J(.., Θ^(l)_ij + h, ..) − J(.., Θ^(l)_ij − h, ..)) / 2h

    Args:
        thetas, X, Y, lam: As in `cost`.
        h: The step. Too small and the two costs cancel, too large and the slope is no
            longer that at Θ; in float64 about ε^(1/3) ≈ 1e-5 is best.

    Returns:
        One slope per weight, of shapes (s_(l+1), s_l + 1).

    Raises:
        ValueError: If the shapes do not fit together.

    >>> numerical_gradients([np.zeros((1, 2))], X=[[3]], Y=[[1]])[0].round(8)
    array([[-0.5, -1.5]])
    """
    matrices = [theta.copy() for theta in _network(thetas)[0]]
    slopes = [np.zeros_like(theta) for theta in matrices]
    for l, i, j in _indices(matrices, j_from=0):
        weight = matrices[l - 1][i - 1, j]
        J = []
        for moved in (weight + h, weight - h):
            matrices[l - 1][i - 1, j] = moved
            J.append(cost(matrices, X, Y, lam))
        matrices[l - 1][i - 1, j] = weight
        slopes[l - 1][i - 1, j] = (J[0] - J[1]) / (2 * h)
    return slopes


# ---- Indices and shapes --------------------------------------------------------------
def _indices(
    matrices: Sequence[Matrix], j_from: int
) -> Iterator[tuple[int, int, int]]:
    """All (l, i, j): l = 1..L−1, i = 1..s_(l+1), j = 0..s_l, or 1..s_l without biases."""
    for l, theta in enumerate(matrices, start=1):
        for i in range(1, theta.shape[0] + 1):
            for j in range(j_from, theta.shape[1]):
                yield l, i, j


def _expect(what: str, expected: object, got: object) -> None:
    """The one check of shapes."""
    if got != expected:
        raise ValueError(
            f"expected {what} {expected}, got {got}: Θ^(l) is a matrix (s_(l+1), s_l + "
            f"1) with the bias in column 0; x and a have no bias unit; X and Y have a "
            f"row per example"
        )


def _network(thetas: Sequence[ArrayLike]) -> tuple[list[Matrix], dict[int, int]]:
    """Θ in float64 and {l: s_l for l = 1..L}."""
    matrices = [np.asarray(theta, np.float64) for theta in thetas]
    # At least one: without Θ^(1) there is no s_1.
    _expect("dimensions", [2] * max(len(matrices), 1), [m.ndim for m in matrices])
    s = dict(enumerate([matrices[0].shape[1] - 1, *map(len, matrices)], start=1))
    for l, theta in enumerate(matrices, start=1):
        _expect(f"Θ^({l}) of shape", (s[l + 1], s[l] + 1), theta.shape)
    return matrices, s


def _problem(
    thetas: Sequence[ArrayLike], X: ArrayLike, Y: ArrayLike
) -> tuple[list[Matrix], Matrix, Matrix]:
    """Everything in float64, fitting together."""
    matrices, s = _network(thetas)
    X, Y = np.asarray(X, np.float64), np.asarray(Y, np.float64)
    n = max(len(X), 1)  # no average over no examples
    _expect("X of shape", (n, s[1]), X.shape)
    _expect("Y of shape", (n, s[len(s)]), Y.shape)
    return matrices, X, Y
