"""Losses at the edges: infinite and huge outputs, NaN, an empty batch; both engines.

A row of outputs stands among good ones, which must keep their δ whatever it holds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.losses import (
    Huber,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
)

INF, NAN = np.inf, np.nan
DTYPES = pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
N, K = 4, 3

#: A bad row of outputs, its class, and J of the batch: a number, or `FINITE`.
FINITE = "finite"
SOFTMAX = [
    # A class that is ruled out: it costs nothing where t = 0.
    ([-INF, 1, 2], 1, FINITE),
    ([-INF, -INF, 1], 2, FINITE),
    ([-INF, 1, 2], 0, INF),
    ([-INF, -INF, 1], 1, INF),
    # Nothing that softmax could rank.
    ([-INF, -INF, -INF], 0, NAN),
    ([INF, 0, 1], 0, NAN),
    ([INF, 0, 1], 1, NAN),
    ([INF, INF, 0], 2, NAN),
    ([INF, -INF, 0], 0, NAN),
    ([NAN, 0, 1], 0, NAN),
    ([NAN, 0, 1], 2, NAN),
    ([NAN, -INF, INF], 1, NAN),
]
SIGMOID = [
    # A certain answer: right, or infinitely wrong.
    ([-INF, 1, 2], 1, FINITE),
    ([-INF, 1, 2], 0, INF),
    ([INF, 1, 2], 0, FINITE),
    ([INF, 1, 2], 1, INF),
    ([-INF, INF, -INF], 1, FINITE),
    ([-INF, -INF, -INF], 2, INF),
    ([INF, INF, INF], 2, INF),
    ([NAN, 1, 2], 0, NAN),
    ([NAN, 1, 2], 1, NAN),
    ([NAN, INF, 2], 0, NAN),
]
REAL = [
    ([INF, 0, 1], 0, INF),
    ([-INF, 0, 1], 1, INF),
    ([INF, -INF, 1], 1, INF),
    ([NAN, 0, 1], 1, NAN),
    ([NAN, INF, 1], 1, NAN),
]
ROWS = [
    *((SoftmaxCrossEntropy(), *row) for row in SOFTMAX),
    # With smoothing every class has t > 0, and a −∞ anywhere costs inf.
    *(
        (SoftmaxCrossEntropy(s), z, y, NAN if expected is NAN else INF)
        for s in (0.1, 1.0)
        for z, y, expected in SOFTMAX
    ),
    *((SigmoidCrossEntropy(), *row) for row in SIGMOID),
    *((loss, *row) for loss in (SquaredError(), Huber(), Huber(1e20)) for row in REAL),
]


def batch_of(loss, z, y, as_rows):
    outputs = np.linspace(-1, 1, N * K).reshape(N, K)
    outputs[1] = z
    labels = np.array([0, y, 1, 2])
    if isinstance(loss, SquaredError | Huber):
        return outputs, np.eye(K)[labels].astype(np.float32)
    return outputs, np.eye(K)[labels] if as_rows else labels


@jax.jit
def both_engines(loss, z, y):
    return loss.delta(z, y), *jax.value_and_grad(loss.value)(z, y)


def run(loss, z, y, dtype):
    """Return δ, J and autodiff's gradient of J, in float64."""
    with jax.enable_x64(dtype == "float64"), np.errstate(over="ignore"):
        y = jnp.asarray(y)
        y = y.astype(jnp.float32) if dtype != "float64" and y.ndim == 2 else y
        out = both_engines(loss, jnp.asarray(z).astype(dtype), y)
        return tuple(np.asarray(a, np.float64) for a in out)


def assert_same_gradient(delta, gradient, dtype):
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(gradient, delta, rtol=4 * eps, atol=4 * eps)


@pytest.mark.one_in(3)
@DTYPES
@pytest.mark.parametrize("as_rows", [False, True], ids=["classes", "one-hot"])
def test_a_bad_row_is_seen_and_both_engines_agree(dtype, as_rows):
    for loss, z, y, expected in ROWS:
        delta, value, gradient = run(loss, *batch_of(loss, z, y, as_rows), dtype)
        what = f"{loss!r}, z = {z}, class {y}"
        if expected is FINITE:
            assert np.isfinite(value), what
        else:
            np.testing.assert_equal(value, expected, what)
        assert_same_gradient(delta, gradient, dtype)
        assert np.isfinite(delta[[0, 2, 3]]).all(), what


@DTYPES
def test_delta_of_a_ruled_out_class(dtype):
    """It is a − t as for any other output: the other engine's, too (see above)."""
    for loss, y, first in [
        (SoftmaxCrossEntropy(), 1, 0.0),
        (SoftmaxCrossEntropy(), 0, -1 / N),
        (SoftmaxCrossEntropy(0.3), 1, -0.1 / N),
        (SigmoidCrossEntropy(), 1, 0.0),
        (SigmoidCrossEntropy(), 0, -1 / N),
    ]:
        delta, *_ = run(loss, *batch_of(loss, [-INF, 1, 2], y, False), dtype)
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(delta[1, 0], first, atol=eps)
        assert np.isfinite(delta).all()


# ---- Losses beyond the largest number --------------------------------------------

LARGEST = {name: float(jnp.finfo(name).max) for name in ("float32", "float64")}

#: One output of the second example, in units of the largest number or of its square
#: root; its class (of the regressions all targets are 0); and J / largest.
ROOT, WHOLE = 0.5, 1.0
HUGE = [
    # The square is too large for the dtype, and its share of the mean is not.
    (SquaredError(), 1.5, ROOT, 0, 1.5**2 / 2 / N),
    (SquaredError(), -2.5, ROOT, 0, 2.5**2 / 2 / N),
    (SquaredError(), 3.0, ROOT, 0, INF),
    (SquaredError(), -0.9, WHOLE, 0, INF),
    (Huber(), 0.9, WHOLE, 0, 0.9 / N),
    (Huber(), -0.9, WHOLE, 0, 0.9 / N),
    (SigmoidCrossEntropy(), 0.9, WHOLE, 1, 0.9 / N),
    (SigmoidCrossEntropy(), -0.9, WHOLE, 0, 0.9 / N),
    (SoftmaxCrossEntropy(), 0.9, WHOLE, 1, 0.9 / N),
    (SoftmaxCrossEntropy(), -0.9, WHOLE, 0, 0.9 / N),
    (SoftmaxCrossEntropy(0.3), 0.9, WHOLE, 1, 0.9 / N * (0.8 + 0.1)),
    (SoftmaxCrossEntropy(0.3), -0.9, WHOLE, 0, 0.9 / N * 0.8),
]


@pytest.mark.parametrize("dtype", LARGEST)
def test_nothing_is_cut_off_and_nothing_that_fits_is_inf(dtype):
    for loss, size, power, label, expected in HUGE:
        z, y = np.zeros((N, K)), np.array([0, label, 1, 2])
        z[1, 0] = size * LARGEST[dtype] ** power
        if isinstance(loss, SquaredError | Huber):
            y = np.zeros((N, K), np.float32)
        delta, value, gradient = run(loss, z, y, dtype)
        what = f"{loss!r}, z = {z[1]}"
        assert np.isfinite(delta).all() and delta[1, 0] != 0, what
        assert_same_gradient(delta, gradient, dtype)
        np.testing.assert_allclose(
            value / LARGEST[dtype], expected, rtol=1e-5, err_msg=what
        )


def test_the_difference_of_two_huge_logits_is_not_formed():
    """Softmax: z − max is −6e38, and its share of J a tenth of that."""
    z = np.array([[3e38, -3e38, 0.0]] + [[0.0, 0.0, 0.0]] * 3)
    delta, value, gradient = run(
        SoftmaxCrossEntropy(0.3), z, np.array([0, 1, 1, 2]), "float32"
    )
    np.testing.assert_allclose(value, (0.1 * 6e38 + 0.1 * 3e38) / N, rtol=1e-5)
    assert_same_gradient(delta, gradient, "float32")


# ---- An empty batch; a run that is told of an infinite loss ----------------------


@pytest.mark.parametrize(
    "loss", [SoftmaxCrossEntropy(0.1), SigmoidCrossEntropy(), SquaredError(), Huber()]
)
def test_an_empty_batch_costs_nothing(loss):
    z, y = jnp.zeros((0, K)), jnp.zeros((0, K))
    delta, value, gradient = both_engines(loss, z, y)
    assert value == 0 and delta.shape == gradient.shape == (0, K)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("engine", ["manual", "autodiff"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_masked_class_trains_and_smoothing_it_is_reported(engine, smoothing):
    """The third class is masked: legitimate, unless smoothing asks for it."""
    mask = fnn.Lambda(lambda z: jnp.where(jnp.arange(3) == 2, -jnp.inf, z))
    net = fnn.serial(fnn.Dense(3), mask)
    x = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    result = fnn.fit(
        net, SoftmaxCrossEntropy(smoothing), fnn.optimizers.sgd(1.0),
        train=(x, (x[:, 0] > 0).astype(np.int32)), key=jax.random.key(0), epochs=3,
        batch_size=6, engine=engine, on_nonfinite="stop",
    )  # fmt: skip
    if smoothing:
        assert result.stopped == "diverged"
        assert result.nonfinite[:2] == (1, 0)
    else:
        assert result.stopped == "epochs"
        assert result.history["train_loss"][-1] < result.history["train_loss"][0]
