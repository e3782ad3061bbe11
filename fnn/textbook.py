"""The lecture's loops, line by line: a neural network one could check with a pencil.

Everything is written out, example by example and unit by unit, in float64 NumPy, with
no vectorised product in the forward or backward pass. It is slow on purpose: it is the
page that faster code is held against, so it must be readable next to the mathematics.

Layers l = 1..L have s_l units (the bias not counted), all units are sigmoids, n is the
number of examples and K = s_L the number of outputs. The lecture counts from 1 and
Python from 0; loops run over the lecture's indices, and only the brackets subtract 1:

    lecture                              here
    Θ^(l)_ij  i = 1..s_(l+1), j = 0..s_l  thetas[l - 1][i - 1, j]   (column 0: the bias)
    a^(l)_j   j = 1..s_l                  activations[l - 1][j - 1]
    a^(l)_0   = 1                         not stored: see `_unit`
    δ^(l)_j   l = 2..L                    deltas[l - 2][j - 1]      (there is no δ^(1))

So `thetas[l - 1]`, `deltas[l - 1]` and `activations[l - 1]` are Θ^(l), δ^(l+1), a^(l):
just the three that meet in ∂J/∂Θ^(l)_ij = a^(l)_j δ^(l+1)_i.
"""
# ruff: noqa: E741  (l is a layer, as in the lecture)

import math
from collections.abc import Sequence
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


# -------------------------------------------------- 1. Forward propagation


def sigmoid(z: float) -> float:
    """The logistic function g(z) = 1 / (1 + e^(-z)), of one number.

    Its derivative is g'(z) = g(z) (1 − g(z)).

    Args:
        z: A number.

    Returns:
        A number in [0, 1].

    Example:
        >>> sigmoid(0.0), sigmoid(-1000.0), sigmoid(1000.0)
        (0.5, 0.0, 1.0)
    """
    # Of the two equal forms, the one whose exponential cannot overflow.
    if z >= 0:
        return 1 / (1 + math.exp(-z))
    return math.exp(z) / (1 + math.exp(z))


def weighted_inputs(theta: Matrix, a: Vector) -> Vector:
    """z^(l+1) = Θ^(l) a^(l), that is z^(l+1)_i = Σ_{j=0..s_l} Θ^(l)_ij a^(l)_j.

    Args:
        theta: Θ^(l), shape (s_(l+1), s_l + 1).
        a: a^(l), shape (s_l,), without its bias unit a_0 = 1.

    Returns:
        z^(l+1), shape (s_(l+1),).

    Example:
        >>> weighted_inputs(np.array([[0.5, 1.0, 2.0]]), np.array([10.0, 100.0]))
        array([210.5])
    """
    s_next, s = _units(theta)
    z = np.zeros(s_next)
    for i in range(1, s_next + 1):
        for j in range(0, s + 1):
            z[i - 1] += theta[i - 1, j] * _unit(a, j)
    return z


def forward(thetas: Sequence[ArrayLike], x: ArrayLike) -> list[Vector]:
    """All activations for one example.

        a^(1) = x;   z^(l+1) = Θ^(l) a^(l),  a^(l+1) = g(z^(l+1));   h_Θ(x) = a^(L)

    Args:
        thetas: Θ^(1) .. Θ^(L−1), of shapes (s_(l+1), s_l + 1).
        x: One example, shape (s_1,).

    Returns:
        [a^(1), .., a^(L)] of shapes (s_l,), without bias units; the last is h_Θ(x).

    Raises:
        ValueError: If the shapes do not fit together.

    Example:
        The logical AND, as one unit that fires when both inputs do:

        >>> and_unit = np.array([[-30.0, 20.0, 20.0]])
        >>> [round(float(forward([and_unit], x)[-1][0])) for x in [(0, 1), (1, 1)]]
        [0, 1]
    """
    matrices = _network(thetas)
    a = _vector(x, expected=_units(matrices[0])[1], name="x", what="inputs (s_1)")
    activations = [a]
    for theta in matrices:
        a = np.array([sigmoid(z) for z in weighted_inputs(theta, a)])
        activations.append(a)
    return activations


# -------------------------------------------------- 2. Cost


def cost(
    thetas: Sequence[ArrayLike], X: ArrayLike, Y: ArrayLike, lam: float = 0.0
) -> float:
    """The negative log-likelihood, averaged over examples, plus the penalty.

        J(Θ) = −(1/n) Σ_{t=1..n} Σ_{k=1..K} [ y_k log h_k + (1 − y_k) log(1 − h_k) ]
               + (λ/2n) Σ_{l=1..L−1} Σ_{i=1..s_(l+1)} Σ_{j=1..s_l} (Θ^(l)_ij)²

    with h = h_Θ(x) of example t. One layer and K = 1 is logistic regression. The bias
    column j = 0 is not penalised.

    Args:
        thetas: Θ^(1) .. Θ^(L−1), of shapes (s_(l+1), s_l + 1).
        X: The examples, shape (n, s_1).
        Y: The targets in [0, 1], shape (n, K).
        lam: λ, the strength of the penalty.

    Returns:
        J(Θ), finite even where an output is exactly 0 or 1.

    Raises:
        ValueError: If the shapes do not fit together.

    Example:
        With all weights 0 every output is 1/2, and each costs log 2:

        >>> round(cost([np.zeros((1, 3))], X=[[1, 2], [3, 4]], Y=[[0], [1]]), 6)
        0.693147
    """
    matrices, X, Y = _problem(thetas, X, Y)
    n, K = Y.shape
    likelihood = 0.0
    for x, y in zip(X, Y, strict=True):
        a = forward(matrices, x)
        z = weighted_inputs(matrices[-1], a[-2])  # z^(L)
        for k in range(1, K + 1):
            likelihood += y[k - 1] * _log_sigmoid(z[k - 1])
            likelihood += (1 - y[k - 1]) * _log_sigmoid(-z[k - 1])  # 1 − g(z) = g(−z)

    # The lecture's sum has the limits s_(l−1) and s_l. Θ^(l) has s_(l+1) rows and, the
    # bias aside, s_l columns: with the lecture's limits some weights escape or do not
    # exist, and Θ^(1) would need a layer 0.
    squares = 0.0
    for theta in matrices:
        s_next, s = _units(theta)
        for i in range(1, s_next + 1):
            for j in range(1, s + 1):
                squares += theta[i - 1, j] ** 2
    return float(-likelihood / n + lam / (2 * n) * squares)


def _log_sigmoid(z: float) -> float:
    """The logarithm of a sigmoid, from the logit: min(z, 0) − log(1 + e^(−|z|)).

    From z ≈ 37 on g(z) rounds to 1, and log(1 − g(z)) would be −inf.
    """
    return min(z, 0.0) - math.log1p(math.exp(-abs(z)))


# -------------------------------------------------- 3. Backpropagation


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
        activations: a^(1) .. a^(L) of that example, from `forward`.
        y: Its targets, shape (K,).

    Returns:
        [δ^(2), .., δ^(L)] of shapes (s_l,).

    Raises:
        ValueError: If the shapes do not fit together.

    Example:
        >>> and_unit = np.array([[-30.0, 20.0, 20.0]])
        >>> a = forward([and_unit], [0, 1])
        >>> [delta_2] = deltas([and_unit], a, y=[1])  # it said 0, it should say 1
        >>> delta_2.round(3)
        array([-1.])
    """
    matrices = _network(thetas)
    L = len(matrices) + 1
    K, _ = _units(matrices[-1])
    sizes = [_units(theta)[1] for theta in matrices] + [K]
    if [len(a) for a in activations] != sizes:
        raise ValueError(
            f"expected the activations of {L} layers, of {sizes} units, got "
            f"{[len(a) for a in activations]}: pass all that forward(thetas, x) "
            f"returned, which has no bias units"
        )
    y = _vector(y, expected=K, name="y", what="targets (K)")

    # The lecture defines cost = y log h + (1 − y) log(1 − h), without the minus sign,
    # and δ as its derivative. That derivative is y − a. δ^(L) = a − y is right, and
    # belongs to the cost that is minimised: the *negative* log-likelihood.
    delta = {L: np.zeros(K)}
    for k in range(1, K + 1):
        delta[L][k - 1] = activations[L - 1][k - 1] - y[k - 1]

    for l in range(L - 1, 1, -1):
        theta, a = matrices[l - 1], activations[l - 1]
        s_next, s = _units(theta)
        delta[l] = np.zeros(s)
        for j in range(1, s + 1):
            blame = 0.0
            for i in range(1, s_next + 1):
                blame += theta[i - 1, j] * delta[l + 1][i - 1]
            delta[l][j - 1] = blame * a[j - 1] * (1 - a[j - 1])
    return [delta[l] for l in range(2, L + 1)]


def gradients(
    thetas: Sequence[ArrayLike], X: ArrayLike, Y: ArrayLike, lam: float = 0.0
) -> list[Matrix]:
    """Backpropagation: D^(l)_ij = ∂J/∂Θ^(l)_ij, the derivative of `cost`.

        Δ^(l)_ij = 0;   for every example:   Δ^(l)_ij ← Δ^(l)_ij + a^(l)_j δ^(l+1)_i
        D^(l)_ij = (1/n) Δ^(l)_ij + (λ/n) Θ^(l)_ij    for j ≠ 0
        D^(l)_ij = (1/n) Δ^(l)_ij                     for j = 0

    Args:
        thetas: Θ^(1) .. Θ^(L−1), of shapes (s_(l+1), s_l + 1).
        X: The examples, shape (n, s_1).
        Y: The targets in [0, 1], shape (n, K).
        lam: λ, the strength of the penalty.

    Returns:
        [D^(1), .., D^(L−1)], each of the shape of its Θ^(l).

    Raises:
        ValueError: If the shapes do not fit together.

    Example:
        >>> gradients([np.zeros((1, 3))], X=[[1, 2], [3, 4]], Y=[[0], [1]])
        [array([[ 0. , -0.5, -0.5]])]
    """
    matrices, X, Y = _problem(thetas, X, Y)
    L = len(matrices) + 1
    n = len(X)
    Delta = [np.zeros_like(theta) for theta in matrices]
    for x, y in zip(X, Y, strict=True):
        a = forward(matrices, x)
        delta = deltas(matrices, a, y)  # delta[l - 1] is δ^(l+1)
        for l in range(1, L):
            s_next, s = _units(matrices[l - 1])
            for i in range(1, s_next + 1):
                for j in range(0, s + 1):
                    # Once the lecture writes a_i δ_i. Unit i is one of layer l + 1: it
                    # has a δ^(l+1)_i, but layer l need not even have a unit i.
                    Delta[l - 1][i - 1, j] += _unit(a[l - 1], j) * delta[l - 1][i - 1]

    D = [np.zeros_like(theta) for theta in matrices]
    for l in range(1, L):
        s_next, s = _units(matrices[l - 1])
        for i in range(1, s_next + 1):
            for j in range(0, s + 1):
                D[l - 1][i - 1, j] = Delta[l - 1][i - 1, j] / n
                if j != 0:
                    # The lecture adds λ Θ_ij. The penalty is (λ/2n) Σ Θ², and its
                    # derivative is (λ/n) Θ_ij; the numerical gradient agrees.
                    D[l - 1][i - 1, j] += lam / n * matrices[l - 1][i - 1, j]
    return D


# -------------------------------------------------- 4. Training


def initialise(sizes: Sequence[int], seed: int, spread: float = 1.0) -> list[Matrix]:
    """Random parameters Θ^(l)_ij, uniform in [−spread, spread], biases included.

    Never a constant: the hidden units of a layer would compute the same, receive the
    same blame and the same update, and stay equal for ever.

    Args:
        sizes: s_1, .., s_L: the number of units of every layer, biases not counted.
        seed: The same seed gives the same parameters.
        spread: The largest absolute value drawn.

    Returns:
        [Θ^(1), .., Θ^(L−1)] of shapes (s_(l+1), s_l + 1).

    Raises:
        ValueError: If there are fewer than two layers, or one without units.

    Example:
        >>> [theta.shape for theta in initialise([4, 3, 2], seed=0)]
        [(3, 5), (2, 4)]
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(
            f"expected two or more layers of at least one unit, got sizes="
            f"{list(sizes)}: give the units of every layer from input to output, "
            f"such as [4, 3, 2]"
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
        thetas: Where to start: Θ^(1) .. Θ^(L−1), left as they are.
        X: The examples, shape (n, s_1). One epoch is one pass over all of them.
        Y: The targets in [0, 1], shape (n, K).
        learning_rate: α.
        lam: λ, the strength of the penalty.
        tolerance: Converged when no weight moved by as much as this in an epoch.
        max_epochs: Stop after so many epochs in any case.

    Returns:
        A `Descent`: the last parameters, the cost along the way, and whether it
        converged.

    Raises:
        ValueError: If the shapes do not fit together, or `max_epochs` is below 1.

    Example:
        >>> start = initialise([1, 1], seed=0)
        >>> descent = gradient_descent(start, [[0], [1]], [[0], [1]], learning_rate=1)
        >>> descent.costs[-1] < 0.02 < descent.costs[0]
        True
    """
    if max_epochs < 1:
        raise ValueError(f"expected max_epochs of at least 1, got {max_epochs}")
    matrices = _network(thetas)
    costs = [cost(matrices, X, Y, lam)]
    converged = False
    for _ in range(max_epochs):
        D = gradients(matrices, X, Y, lam)
        updates = [-learning_rate * gradient for gradient in D]
        matrices = [
            theta + update for theta, update in zip(matrices, updates, strict=True)
        ]
        costs.append(cost(matrices, X, Y, lam))
        converged = all(float(np.max(np.abs(u))) < tolerance for u in updates)
        if converged:
            break
    return Descent(matrices, costs, converged)


# -------------------------------------------------- 6. Gradient checking


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
        thetas: Θ^(1) .. Θ^(L−1), of shapes (s_(l+1), s_l + 1).
        X: The examples, shape (n, s_1).
        Y: The targets in [0, 1], shape (n, K).
        lam: λ, the strength of the penalty.
        h: The step. Too small and the two costs cancel, too large and the slope is no
            longer that at Θ; in float64 about ε^(1/3) ≈ 1e-5 is best.

    Returns:
        One array per Θ^(l), of its shape.

    Raises:
        ValueError: If the shapes do not fit together.

    Example:
        >>> numerical = numerical_gradients([np.zeros((1, 2))], [[3]], [[1]])
        >>> numerical[0].round(8)
        array([[-0.5, -1.5]])
    """
    matrices = [theta.copy() for theta in _network(thetas)]
    slopes = [np.zeros_like(theta) for theta in matrices]
    for theta, slope in zip(matrices, slopes, strict=True):
        for i, j in np.ndindex(*theta.shape):
            weight = theta[i, j]
            theta[i, j] = weight + h
            above = cost(matrices, X, Y, lam)
            theta[i, j] = weight - h
            below = cost(matrices, X, Y, lam)
            theta[i, j] = weight
            slope[i, j] = (above - below) / (2 * h)
    return slopes


# -------------------------------------------------- indices and shapes


def _units(theta: Matrix) -> tuple[int, int]:
    """(s_(l+1), s_l), the limits of every loop over Θ^(l)."""
    s_next, columns = theta.shape
    return s_next, columns - 1


def _unit(a: Vector, j: int) -> float:
    """a^(l)_j, where a_0 = 1 is the bias unit."""
    return 1.0 if j == 0 else a[j - 1]


def _network(thetas: Sequence[ArrayLike]) -> list[Matrix]:
    """The parameters as float64 matrices that fit together."""
    matrices = [np.asarray(theta, np.float64) for theta in thetas]
    if not matrices:
        raise ValueError("expected at least one Θ, got none: see initialise(sizes, 0)")
    for l, theta in enumerate(matrices, start=1):
        if theta.ndim != 2 or theta.shape[0] < 1 or theta.shape[1] < 2:
            raise ValueError(
                f"Θ^({l}) must be a matrix of shape (s_{l + 1}, s_{l} + 1), column 0 "
                f"being the bias, got shape {theta.shape}"
            )
        if l > 1 and theta.shape[1] != matrices[l - 2].shape[0] + 1:
            s = matrices[l - 2].shape[0]
            raise ValueError(
                f"Θ^({l}) must have s_{l} + 1 = {s + 1} columns, as Θ^({l - 1}) has "
                f"{s} rows, got shape {theta.shape}: the bias is column 0 of every Θ"
            )
    return matrices


def _vector(values: ArrayLike, *, expected: int, name: str, what: str) -> Vector:
    """One example or one target as a float64 vector of the expected length."""
    vector = np.asarray(values, np.float64)
    if vector.shape != (expected,):
        raise ValueError(
            f"{name} must hold {expected} {what}, shape ({expected},), got shape "
            f"{vector.shape}: this function takes one example, without the bias unit"
        )
    return vector


def _problem(
    thetas: Sequence[ArrayLike], X: ArrayLike, Y: ArrayLike
) -> tuple[list[Matrix], Matrix, Matrix]:
    """The parameters and the data in float64, all fitting together."""
    matrices = _network(thetas)
    X, Y = np.asarray(X, np.float64), np.asarray(Y, np.float64)
    (_, s_1), (K, _) = _units(matrices[0]), _units(matrices[-1])
    if X.ndim != 2 or X.shape[1] != s_1 or len(X) == 0:
        raise ValueError(
            f"X must have shape (n, {s_1}), one row per example and no bias column, "
            f"got shape {X.shape}"
        )
    if Y.shape != (len(X), K):
        raise ValueError(
            f"Y must have shape (n, K) = ({len(X)}, {K}), got shape {Y.shape}: write "
            f"class labels as one row of zeros and a one per example, np.eye(K)[labels]"
        )
    return matrices, X, Y
