"""The oracle, compared with finite differences, with JAX, and with the lecture."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import textbook

# No two layers are equal, so that a transposed or shifted index is noticed.
NETWORKS = {
    "logistic regression": (3, 1),
    "no hidden layer": (4, 3),
    "one hidden layer": (4, 5, 3),
    "two hidden layers": (3, 5, 4, 2),
    "three hidden layers": (2, 6, 3, 5, 4),
}


def problem(sizes, n=7, seed=0):
    rng = np.random.default_rng(seed)
    thetas = textbook.initialise(sizes, seed=seed)
    X = rng.normal(size=(n, sizes[0]))
    Y = rng.integers(0, 2, size=(n, sizes[-1])).astype(np.float64)
    return thetas, X, Y


@jax.jit
@jax.value_and_grad
def jax_cost_and_gradients(thetas, X, Y, lam):
    """Compute the same J, vectorised, with JAX's own functions."""
    a = X
    for theta in thetas[:-1]:
        a = jax.nn.sigmoid(a @ theta[:, 1:].T + theta[None, :, 0])
    z = a @ thetas[-1][:, 1:].T + thetas[-1][None, :, 0]
    losses = jax.nn.softplus(z) - Y * z
    penalty = sum(jnp.sum(theta[:, 1:] ** 2) for theta in thetas)
    return losses.sum() / len(X) + lam / (2 * len(X)) * penalty


def largest_difference(left, right):
    return max(np.max(np.abs(a - b)) for a, b in zip(left, right, strict=True))


# ------------------------------------------------- forward and cost


def test_sigmoid_at_known_points():
    assert textbook.sigmoid(0.0) == 0.5
    assert textbook.sigmoid(math.log(3)) == pytest.approx(0.75, abs=1e-15)
    assert textbook.sigmoid(-math.log(3)) == pytest.approx(0.25, abs=1e-15)


def test_sigmoid_neither_overflows_nor_loses_small_values():
    assert textbook.sigmoid(-1e4) == 0.0
    assert textbook.sigmoid(1e4) == 1.0
    assert textbook.sigmoid(-700.0) == pytest.approx(math.exp(-700.0), rel=1e-14)


def test_forward_by_hand():
    theta_1 = np.array([[1.0, 2.0, -1.0], [0.0, -3.0, 1.0], [0.5, 0.0, 0.0]])
    theta_2 = np.array([[-1.0, 1.0, 2.0, 4.0]])
    a1, a2, a3 = textbook.forward([theta_1, theta_2], [1.0, 3.0])
    g = textbook.sigmoid
    np.testing.assert_array_equal(a1, [1.0, 3.0])
    np.testing.assert_allclose(a2, [g(0.0), g(0.0), g(0.5)], atol=1e-15)
    np.testing.assert_allclose(a3, [g(-1 + 0.5 + 2 * 0.5 + 4 * g(0.5))], atol=1e-15)


def test_cost_of_logistic_regression_is_the_written_formula():
    [theta], X, Y = problem((3, 1))
    h = 1 / (1 + np.exp(-(theta[0, 0] + X @ theta[0, 1:])))
    y = Y[:, 0]
    written = -np.mean(y * np.log(h) + (1 - y) * np.log(1 - h))
    written += 0.6 / (2 * len(X)) * np.sum(theta[0, 1:] ** 2)
    assert textbook.cost([theta], X, Y, lam=0.6) == pytest.approx(written, abs=1e-14)


@pytest.mark.parametrize("z", [1e3, -1e3, 1e8, -1e8])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_saturated_outputs_have_the_right_and_finite_cost(z, y):
    theta = np.array([[z, 0.0]])
    limit = z if y == 0 else -z  # −log(1 − g(z)) → z and −log g(z) → −z
    expected = max(limit, 0.0)
    assert textbook.cost([theta], [[1.0]], [[y]]) == pytest.approx(expected, rel=1e-12)
    assert np.isfinite(textbook.gradients([theta], [[1.0]], [[y]])[0]).all()


# ------------------------------------------------- backpropagation


@pytest.mark.parametrize("lam", [0.0, 0.8])
@pytest.mark.parametrize("sizes", NETWORKS.values(), ids=NETWORKS)
def test_gradients_agree_with_finite_differences(sizes, lam):
    thetas, X, Y = problem(sizes)
    D = textbook.gradients(thetas, X, Y, lam)
    numerical = textbook.numerical_gradients(thetas, X, Y, lam)
    # A cost of J is rounded to about 1e-16 J, and the slope to 1e-16 J / h = 1e-11 J.
    J = textbook.cost(thetas, X, Y, lam)
    assert largest_difference(D, numerical) < 1e-10 * max(J, 1.0)


@pytest.mark.parametrize("sizes", NETWORKS.values(), ids=NETWORKS)
def test_cost_and_gradients_agree_with_jax(sizes):
    thetas, X, Y = problem(sizes)
    for lam in (0.0, 0.8):
        with jax.enable_x64(True):
            J, D = jax.device_get(jax_cost_and_gradients(thetas, X, Y, lam))
        assert {J.dtype, *(d.dtype for d in D)} == {np.dtype(np.float64)}
        assert textbook.cost(thetas, X, Y, lam) == pytest.approx(float(J), abs=1e-12)
        assert largest_difference(textbook.gradients(thetas, X, Y, lam), D) < 1e-12


def test_deltas_are_the_slopes_of_the_cost_in_z():
    # A bias adds to its z and to nothing else, so ∂cost/∂z^(l)_j = ∂cost/∂Θ^(l−1)_j0.
    thetas, X, Y = problem((3, 5, 4, 2), n=1)
    blame = textbook.deltas(thetas, textbook.forward(thetas, X[0]), Y[0])
    biases = [s[:, 0] for s in textbook.numerical_gradients(thetas, X, Y)]
    assert [len(delta) for delta in blame] == [5, 4, 2]  # there is no δ^(1)
    assert largest_difference(blame, biases) < 1e-10


def test_worked_case_of_two_hidden_layers():
    # δ_2^(3) = Θ_12^(3) δ_1^(4) a_2^(3) (1 − a_2^(3)): four layers, one output. Row 1
    # of Θ^(3) is Python's row 0; column 2 is column 2, the bias being column 0.
    thetas, X, Y = problem((3, 5, 4, 1), n=1)
    _, _, a_3, a_4 = textbook.forward(thetas, X[0])
    _, delta_3, delta_4 = textbook.deltas(thetas, [X[0], _, a_3, a_4], Y[0])
    theta_12 = thetas[2][0, 2]
    assert delta_4[0] == a_4[0] - Y[0, 0]
    expected = theta_12 * delta_4[0] * a_3[1] * (1 - a_3[1])
    assert delta_3[1] == pytest.approx(expected, abs=1e-15)
    assert abs(delta_3[0] - expected) > 1e-4  # another unit has another blame


def test_numerical_gradients_do_not_write_into_the_parameters():
    thetas, X, Y = problem((2, 3, 1))
    for theta in thetas:
        theta.setflags(write=False)
    textbook.numerical_gradients(thetas, X, Y)


# ------------------------------------------------- training


def test_initialise_is_random_bounded_and_repeatable():
    thetas = textbook.initialise((4, 6, 3), seed=1, spread=0.25)
    assert [theta.shape for theta in thetas] == [(6, 5), (3, 7)]
    values = np.concatenate([theta.ravel() for theta in thetas])
    assert np.unique(values).size == values.size
    assert 0.2 < np.abs(values).max() <= 0.25
    assert largest_difference(thetas, textbook.initialise((4, 6, 3), 1, 0.25)) == 0.0
    assert largest_difference(thetas, textbook.initialise((4, 6, 3), 2, 0.25)) > 0.0


@pytest.mark.parametrize("constant", [0.0, 0.3])
def test_a_constant_start_keeps_hidden_units_equal_for_ever(constant):
    _, X, Y = problem((3, 4, 2))
    start = [np.full((4, 4), constant), np.full((2, 5), constant)]
    descent = textbook.gradient_descent(start, X, Y, learning_rate=1.0, max_epochs=50)
    hidden = descent.thetas[0]
    assert np.abs(hidden - start[0]).max() > 1e-2  # they do learn
    np.testing.assert_allclose(hidden, np.tile(hidden[0], (4, 1)), atol=1e-13)


def test_gradient_descent_takes_the_written_step():
    thetas, X, Y = problem((3, 4, 2))
    descent = textbook.gradient_descent(
        thetas, X, Y, learning_rate=0.5, lam=0.1, max_epochs=1
    )
    D = textbook.gradients(thetas, X, Y, 0.1)
    expected = [theta - 0.5 * d for theta, d in zip(thetas, D, strict=True)]
    assert largest_difference(descent.thetas, expected) < 1e-15
    assert descent.costs == [
        textbook.cost(thetas, X, Y, 0.1),
        textbook.cost(descent.thetas, X, Y, 0.1),
    ]


def test_gradient_descent_lowers_the_cost_every_epoch():
    thetas, X, Y = problem((3, 4, 2))
    descent = textbook.gradient_descent(
        thetas, X, Y, learning_rate=0.3, max_epochs=60, tolerance=0.0
    )
    assert len(descent.costs) == 61
    assert not descent.converged
    assert all(after < before for before, after in itertools.pairwise(descent.costs))


def test_gradient_descent_stops_when_the_weights_converge():
    thetas, X, Y = problem((2, 1))
    descent = textbook.gradient_descent(
        thetas, X, Y, learning_rate=1.0, lam=1.0, tolerance=1e-6, max_epochs=2000
    )
    assert descent.converged
    assert len(descent.costs) < 500
    D = textbook.gradients(descent.thetas, X, Y, 1.0)
    assert max(np.abs(d).max() for d in D) < 1e-6


def test_gradient_descent_learns_exclusive_or():
    X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    Y = np.array([[0], [1], [1], [0]])
    start = textbook.initialise((2, 3, 1), seed=0, spread=2.0)
    descent = textbook.gradient_descent(start, X, Y, learning_rate=5.0, max_epochs=600)
    outputs = [textbook.forward(descent.thetas, x)[-1][0] for x in X]
    assert [round(h) for h in outputs] == [0, 1, 1, 0]
    assert descent.costs[-1] < 0.05


# ----------------------------------------------- where the lecture contradicts itself


@pytest.mark.parametrize("y", [0.0, 1.0])
@pytest.mark.parametrize("z", [-1.3, 0.0, 0.4, 2.0])
def test_10_1_without_the_minus_sign_the_slope_is_y_minus_a(z, y):
    def lecture_cost(z):
        h = textbook.sigmoid(z)
        return y * math.log(h) + (1 - y) * math.log(1 - h)

    def slope(f):
        return (f(z + 1e-5) - f(z - 1e-5)) / 2e-5

    def negative_log_likelihood(z):
        return textbook.cost([np.array([[z, 0.0]])], [[0.0]], [[y]])

    a = textbook.sigmoid(z)
    [delta] = textbook.deltas([np.array([[z, 0.0]])], [np.zeros(1), np.array([a])], [y])
    assert slope(lecture_cost) == pytest.approx(y - a, abs=1e-10)
    assert slope(negative_log_likelihood) == pytest.approx(a - y, abs=1e-10)
    assert delta[0] == a - y


def test_10_2_the_gradient_check_passes_with_lambda_over_n_and_fails_with_lambda():
    lam = 0.8
    thetas, X, Y = problem((3, 5, 4, 2))
    numerical = textbook.numerical_gradients(thetas, X, Y, lam)
    without_penalty = textbook.gradients(thetas, X, Y, lam=0.0)

    def penalised(factor):
        D = [d.copy() for d in without_penalty]
        for d, theta in zip(D, thetas, strict=True):
            d[:, 1:] += factor * theta[:, 1:]
        return D

    assert largest_difference(penalised(lam / len(X)), numerical) < 1e-10
    assert largest_difference(textbook.gradients(thetas, X, Y, lam), numerical) < 1e-10
    assert largest_difference(penalised(lam), numerical) > 0.1


def lecture_gradient(a, delta):
    """Compute Δ_ij += a_i δ_i, as the lecture has it in one place, for one example."""
    Delta = np.zeros((len(delta), len(a)))
    for i, j in np.ndindex(*Delta.shape):
        Delta[i, j] += a[i] * delta[i]
    return Delta


@pytest.mark.parametrize("sizes", [(2, 4), (4, 2), (3, 3)], ids=str)
def test_10_3_the_activation_in_delta_has_index_j_not_i(sizes):
    thetas, X, Y = problem(sizes, n=1)
    [delta] = textbook.deltas(thetas, textbook.forward(thetas, X[0]), Y[0])
    right = np.outer(delta, X[0])
    [D] = textbook.gradients(thetas, X, Y)
    np.testing.assert_allclose(D[:, 1:], right, atol=1e-15)

    s_1, s_2 = sizes
    if s_1 < s_2:  # layer 1 has no unit i for each unit i of layer 2
        with pytest.raises(IndexError):
            lecture_gradient(X[0], delta)
    else:  # the loop runs, and is wrong
        assert np.abs(lecture_gradient(X[0], delta) - right).max() > 0.1
    if s_1 != s_2:  # with whole vectors the shapes do not fit either
        with pytest.raises(ValueError, match="could not be broadcast"):
            X[0] * delta


def penalty_sum(thetas, limits):
    """Return Σ Θ² over rows 1..limits(l)[0], columns 1..limits(l)[1] of every Θ^(l)."""
    total = 0.0
    for layer, theta in enumerate(thetas, start=1):
        rows, columns = limits(layer)
        for i in range(1, rows + 1):
            for j in range(1, columns + 1):
                total += theta[i - 1, j] ** 2
    return total


@pytest.mark.parametrize("sizes", [(2, 3, 5, 7), (7, 5, 3, 2)], ids=str)
def test_10_4_the_limits_of_the_penalty_are_s_l_and_s_l_plus_1(sizes):
    thetas, X, Y = problem(sizes)
    s = dict(enumerate(sizes, start=1))
    everything = sum(np.sum(theta[:, 1:] ** 2) for theta in thetas)

    def right(layer):
        return s[layer + 1], s[layer]

    def lecture(layer):
        return s[layer], s[layer - 1]

    assert penalty_sum(thetas, right) == pytest.approx(everything, rel=1e-14)
    J = [textbook.cost(thetas, X, Y, lam) for lam in (0.0, 1.0)]
    assert J[1] - J[0] == pytest.approx(everything / (2 * len(X)), rel=1e-12)

    with pytest.raises(KeyError, match="0"):  # Θ^(1) would need a layer 0
        penalty_sum(thetas, lecture)
    s[0] = 1  # even with a layer 0, the limits are not those of any Θ^(l)
    if sizes[0] < sizes[-1]:
        assert penalty_sum(thetas, lecture) < 0.5 * everything  # misses weights
    else:
        with pytest.raises(IndexError):  # reads weights that do not exist
            penalty_sum(thetas, lecture)


# ------------------------------------------------- errors


THETAS = [np.zeros((3, 5)), np.zeros((2, 4))]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: textbook.forward([], [1.0]), "at least one Θ, got none"),
        (
            lambda: textbook.forward([np.zeros((3, 5)), np.zeros((2, 3))], [1.0] * 4),
            r"expected Θ\^\(l\) for a\^\(l\) of shape \(3,\) to have shape \(2, 4\), "
            r"got \(2, 3\): the bias is column 0 of Θ\^\(l\)",
        ),
        (
            lambda: textbook.forward([np.zeros(3)], [1.0]),
            r"Θ\^\(l\) for a\^\(l\) of shape \(1,\) to have shape \(3, 2\), got \(3,\)",
        ),
        (
            lambda: textbook.forward(THETAS, [1.0] * 5),
            r"a\^\(l\) of shape \(5,\) to have shape \(3, 6\), got \(3, 5\): the bias",
        ),
        (
            lambda: textbook.cost(THETAS, np.zeros((6, 5)), np.zeros((6, 2))),
            r"a\^\(l\) of shape \(5,\) to have shape \(3, 6\), got \(3, 5\): the bias",
        ),
        (
            lambda: textbook.cost(THETAS, np.zeros((0, 4)), np.zeros((0, 2))),
            r"Y for X of shape \(0, 4\) to have shape \(1, 2\), got \(0, 2\)",
        ),
        (
            lambda: textbook.gradients(THETAS, np.zeros((6, 4)), np.zeros(6)),
            r"Y for X of shape \(6, 4\) to have shape \(6, 2\), got \(6,\).*a row per",
        ),
        (
            lambda: textbook.deltas(THETAS, [np.zeros(4)], [0.0, 1.0]),
            r"a\^\(1\), .., a\^\(L\), y to .* \[\(4,\), \(3,\), \(2,\), \(2,\)\], got "
            r"\[\(4,\), \(2,\)\]",
        ),
        (
            lambda: textbook.deltas(
                THETAS, textbook.forward(THETAS, [1.0] * 4), [0.0, 1.0, 0.0]
            ),
            r"y to have shape .* \(2,\), \(2,\)\], got .* \(2,\), \(3,\)\]",
        ),
        (
            lambda: textbook.initialise((4,), seed=0),
            r"two or more layers .*got sizes=\[4\]: give the units",
        ),
        (lambda: textbook.initialise((4, 0), seed=0), r"got sizes=\[4, 0\]"),
        (
            lambda: textbook.gradient_descent(
                THETAS, [[0.0] * 4], [[0, 1]], learning_rate=1.0, max_epochs=0
            ),
            "max_epochs of at least 1, got 0",
        ),
    ],
)
def test_errors_say_expected_got_and_how_to_mend(call, message):
    with pytest.raises(ValueError, match=message):
        call()
