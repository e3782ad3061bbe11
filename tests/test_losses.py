"""Losses: value and delta against NumPy, against each other, and for extreme inputs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import INTEGERS, LOSSES, ONE_HOT, REALS, SOFT, K, N
from hypothesis import given
from hypothesis import strategies as st

import fnn
from fnn.losses import (
    Huber,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
)

EVERY_LOSS = pytest.mark.parametrize("case", LOSSES, ids=[c.name for c in LOSSES])


def logits(case, seed=0):
    return 3 * np.random.default_rng(seed).normal(size=(N, case.outputs))


# ---- The value, transcribed in NumPy ---------------------------------------------


def targets(case):
    """Return the targets that the labels stand for, (N, K) in float64."""
    y = case.labels
    if y.ndim == 2:
        return y.astype(np.float64)
    if case.outputs == 1:
        return y[:, None].astype(np.float64)
    return np.eye(case.outputs)[y.astype(int)]


def sigmoid_cross_entropy(loss, z, t):
    a = 1 / (1 + np.exp(-z))
    return -(t * np.log(a) + (1 - t) * np.log(1 - a)).sum() / len(z)


def softmax_cross_entropy(loss, z, t):
    a = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    t = (1 - loss.label_smoothing) * t + loss.label_smoothing / z.shape[1]
    return -(t * np.log(a)).sum() / len(z)


def squared_error(loss, z, t):
    return ((z - t) ** 2).sum() / 2 / len(z)


def huber(loss, z, t):
    e, d = abs(z - t), loss.threshold
    return np.where(e <= d, e**2 / 2, d * e - d**2 / 2).sum() / len(z)


TRANSCRIBED = {
    SigmoidCrossEntropy: sigmoid_cross_entropy,
    SoftmaxCrossEntropy: softmax_cross_entropy,
    SquaredError: squared_error,
    Huber: huber,
}


@EVERY_LOSS
def test_value_is_the_equation(case):
    z = logits(case)
    expected = TRANSCRIBED[type(case.loss)](case.loss, z, targets(case))
    with jax.enable_x64(True):
        value = case.loss.value(jnp.asarray(z), jnp.asarray(case.labels))
        np.testing.assert_allclose(value, expected, rtol=1e-13)
    single = case.loss.value(jnp.asarray(z, jnp.float32), jnp.asarray(case.labels))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, expected, rtol=1e-5)


@EVERY_LOSS
def test_delta_is_the_derivative_of_value(case):
    with jax.enable_x64(True):
        z, y = jnp.asarray(logits(case)), jnp.asarray(case.labels)
        delta, expected = case.loss.delta(z, y), jax.grad(case.loss.value)(z, y)
        np.testing.assert_allclose(delta, expected, rtol=0, atol=1e-14)
        for seed in (1, 2, 3):  # and central differences along random directions
            direction = np.random.default_rng(seed).normal(size=z.shape)
            step = 1e-6 * direction
            values = [case.loss.value(z + s * step, y) for s in (1, -1)]
            slope = (values[0] - values[1]) / 2e-6
            np.testing.assert_allclose(slope, (delta * direction).sum(), atol=1e-8)


@EVERY_LOSS
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_delta_has_the_outputs_dtype_and_value_at_least_float32(case, dtype):
    z, y = jnp.asarray(logits(case), dtype), jnp.asarray(case.labels)
    assert case.loss.delta(z, y).dtype == dtype
    assert case.loss.delta(z, y).shape == z.shape
    assert case.loss.value(z, y).dtype == jnp.float32
    assert case.loss.value(z, y).shape == ()


@EVERY_LOSS
def test_check_accepts_what_value_accepts(case):
    case.loss.check((case.outputs,), jnp.asarray(case.labels))


@EVERY_LOSS
def test_nan_in_the_outputs_is_not_hidden(case):
    z = jnp.asarray(logits(case), jnp.float32).at[2, 0].set(jnp.nan)
    y = jnp.asarray(case.labels)
    assert jnp.isnan(case.loss.value(z, y))
    assert jnp.isnan(case.loss.delta(z, y)[2, 0])


# ---- Extremes --------------------------------------------------------------------

DTYPES = [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64]


def exact_value(case, z):
    """The value in NumPy's longest floats, which hold the square of any float64."""
    t, z, loss = targets(case).astype(np.longdouble), np.longdouble(z), case.loss
    if isinstance(loss, SoftmaxCrossEntropy):
        t = (1 - loss.label_smoothing) * t + loss.label_smoothing / z.shape[1]
        z = z - z.max(1, keepdims=True)
        elements = t * (np.log(np.exp(z).sum(1, keepdims=True)) - z)
    elif isinstance(loss, SigmoidCrossEntropy):
        elements = t * np.logaddexp(0, -z) + (1 - t) * np.logaddexp(0, z)
    elif isinstance(loss, SquaredError):
        elements = (z - t) ** 2 / 2
    else:
        e, d = abs(z - t), np.longdouble(loss.threshold)
        elements = np.where(e <= d, e**2 / 2, d * e - d**2 / 2)
    return elements.sum() / len(z)


@EVERY_LOSS
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_value_is_exact_or_inf_and_delta_finite_for_any_finite_outputs(case, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        y = jnp.asarray(case.labels)
        run = jax.jit(
            lambda z: (
                case.loss.delta(z, y),
                *jax.value_and_grad(case.loss.value)(z, y),
            )
        )

        @given(
            st.lists(
                st.one_of(
                    st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.999]),
                    st.floats(-1, 1),
                ),
                min_size=N * case.outputs,
                max_size=N * case.outputs,
            ),
            st.sampled_from([1.0, 1e-3, 1e-30]),
        )
        def check(shares, scale):
            largest = float(jnp.finfo(dtype).max)
            z = np.reshape(shares, (N, -1)) * (scale * largest)
            z = jnp.asarray(z, dtype)
            delta, value, gradient = (np.asarray(a, np.float64) for a in run(z))
            assert np.isfinite(delta).all()
            # Up to rounding, of the half precision that both are cast to.
            near = 8 * float(jnp.finfo(dtype).eps)
            np.testing.assert_allclose(gradient, delta, rtol=near, atol=near)
            most = np.finfo(np.float64 if dtype == jnp.float64 else np.float32).max
            exact = exact_value(case, np.asarray(z).astype(np.longdouble))
            if not 0.999 < exact / most < 1.001:
                expected = float(exact) if exact < most else np.inf
                np.testing.assert_allclose(value, expected, rtol=1e-5)

        check()


@pytest.mark.parametrize("loss", [SigmoidCrossEntropy(), SoftmaxCrossEntropy()])
def test_a_confident_mistake_keeps_its_delta(loss):
    """Where σ or softmax saturates, δ is a − t and not 0."""
    z = jnp.array([[1e4, -1e4], [-1e4, 1e4]])
    delta = loss.delta(z, jnp.array([1, 1]))
    np.testing.assert_array_equal(delta, [[0.5, -0.5], [0, 0]])


@pytest.mark.parametrize("magnitude", [30.0, 80.0])
def test_a_confident_success_keeps_the_digits_of_its_small_loss(magnitude):
    z, y = jnp.array([[magnitude]]), jnp.array([1])
    value = SigmoidCrossEntropy().value(z, y)
    np.testing.assert_allclose(value, np.exp(-magnitude), rtol=1e-5)


# ---- Labels ----------------------------------------------------------------------

INDEX_DTYPES = [np.uint8, np.int8, np.int16, np.int32]


@pytest.mark.parametrize("dtype", INDEX_DTYPES)
@pytest.mark.parametrize("loss", [SigmoidCrossEntropy(), SoftmaxCrossEntropy(0.1)])
def test_class_indices_and_one_hot_rows_are_the_same(loss, dtype):
    z = jnp.asarray(np.random.default_rng(0).normal(size=(N, K)), jnp.float32)
    indices, rows = jnp.asarray(INTEGERS.astype(dtype)), jnp.asarray(ONE_HOT)
    np.testing.assert_array_equal(loss.value(z, indices), loss.value(z, rows))
    np.testing.assert_array_equal(loss.delta(z, indices), loss.delta(z, rows))


def test_uint8_indices_do_not_wrap_around_in_more_than_256_classes():
    z, loss = jnp.zeros((1, 300)), SoftmaxCrossEntropy()
    delta = loss.delta(z, jnp.array([3], jnp.uint8))
    assert (delta < 0).sum() == 1


def test_delta_is_a_minus_t_over_n_also_where_float32_rows_do_not_quite_sum_to_one():
    """Otherwise a float64 check of float32 labels would find an error of 1e-7."""
    rows = SOFT.astype(np.float32)
    assert (rows.astype(np.float64).sum(1) != 1).any()
    with jax.enable_x64(True):
        z = jnp.asarray(np.random.default_rng(0).normal(size=(N, K)))
        loss, y = SoftmaxCrossEntropy(), jnp.asarray(rows)
        gradient = jax.grad(loss.value)(z, y)
        expected = (jax.nn.softmax(z) - rows.astype(np.float64)) / N
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-15)
        np.testing.assert_allclose(loss.delta(z, y), expected, rtol=0, atol=1e-15)


def test_smoothing_and_threshold_are_leaves():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(N, K)), jnp.float32)
    for make, y in [(SoftmaxCrossEntropy, INTEGERS), (Huber, REALS)]:
        numbers, traces = [0.125, 0.5, 0.75], []

        @jax.jit
        def value(loss, y, traces=traces):
            traces.append(loss)
            return loss.value(z, y)

        y = jnp.asarray(y)
        y = y.astype(jnp.float32) if y.dtype == float else y
        one_by_one = jnp.stack([value(make(number), y) for number in numbers])
        assert len(traces) == 1
        losses = make(jnp.array(numbers))
        vmapped = jax.vmap(lambda loss, y=y: loss.value(z, y))(losses)
        np.testing.assert_allclose(vmapped, one_by_one, rtol=1e-6)


@EVERY_LOSS
def test_losses_are_values(case):
    again = eval(repr(case.loss), vars(fnn.losses))
    assert again == case.loss
    assert hash(again) == hash(case.loss)


# ---- Errors ----------------------------------------------------------------------

SIGMOID, SOFTMAX = SigmoidCrossEntropy(), SoftmaxCrossEntropy()
HALVES = jnp.full((2, 2), 0.5)

WRONG_CHECKS = {
    "class too high": (
        lambda: SOFTMAX.check((4,), jnp.array([0, 3, 4, 1])),
        "SoftmaxCrossEntropy() expected every label to be a class 0 .. 3, as the "
        "network has 4 outputs; got 4 at y[2]",
    ),
    "class negative": (
        lambda: SIGMOID.check((4,), jnp.array([0, -1])),
        "a class 0 .. 3, as the network has 4 outputs; got -1 at y[1]",
    ),
    "share too high": (
        lambda: SIGMOID.check((2,), HALVES.at[1, 0].set(1.5)),
        "every label to be in [0, 1], as the network has 2 outputs; got 1.5 at y[1, 0]",
    ),
    "share NaN": (
        lambda: SOFTMAX.check((2,), HALVES.at[0, 1].set(jnp.nan)),
        "to be in [0, 1], as the network has 2 outputs; got nan at y[0, 1]",
    ),
    "yes/no too high": (
        lambda: SIGMOID.check((1,), jnp.array([0, 1, 2])),
        "to be in [0, 1], as the network has 1 outputs; got 2 at y[2]",
    ),
    "rows that do not sum to 1": (
        lambda: SOFTMAX.check((2,), jnp.array([[0.5, 0.5], [1.0, 1.0]])),
        "SoftmaxCrossEntropy() expected label rows that sum to 1, got 2 in row 1. For "
        "several yes/no labels an example use SigmoidCrossEntropy.",
    ),
    "float classes": (
        lambda: SOFTMAX.value(jnp.zeros((3, 4)), jnp.zeros(3)),
        "expected labels (N,) of an integer dtype, or rows (N, 4), got float32 of "
        "shape (3,). Class indices: y.astype('int32').",
    ),
    "rows of another width": (
        lambda: SIGMOID.value(jnp.zeros((3, 4)), jnp.zeros((3, 5))),
        "expected labels of shape (N,) or (N, 4) for 4 outputs, got (3, 5)",
    ),
    "image outputs": (
        lambda: SOFTMAX.delta(jnp.zeros((3, 2, 2, 4)), jnp.zeros(3, jnp.int32)),
        "End the network with fnn.Flatten() and fnn.Dense(K).",
    ),
    "softmax of one output": (
        lambda: SOFTMAX.value(jnp.zeros((3, 1)), jnp.zeros(3, jnp.int32)),
        "expected at least 2 outputs, got 1, whose softmax is always 1. For one yes/no "
        "question use SigmoidCrossEntropy.",
    ),
    "fewer labels than outputs": (
        lambda: SOFTMAX.value(jnp.zeros((3, 4)), jnp.zeros(2, jnp.int32)),
        "SoftmaxCrossEntropy() got outputs of shape (3, 4) and labels of shape (2,): "
        "both must have one entry per example on the first axis",
    ),
    "a single label": (
        lambda: SquaredError().value(jnp.zeros((3, 1)), jnp.zeros(())),
        "got outputs of shape (3, 1) and labels of shape ()",
    ),
    "targets of another width": (
        lambda: SquaredError().value(jnp.zeros((3, 4)), jnp.zeros((3, 1))),
        "SquaredError() expected targets of the outputs' shape (N, 4), got (3, 1).",
    ),
    "classes for a regression": (
        lambda: Huber().delta(jnp.zeros((3, 4)), jnp.zeros(3, jnp.int32)),
        "For class labels use jax.nn.one_hot(y, K), or a cross-entropy.",
    ),
    "NaN targets": (
        lambda: SquaredError().check((2,), HALVES.at[1, 1].set(jnp.nan)),
        "SquaredError() expected finite targets, got NaN or inf at y[1, 1]",
    ),
    "infinite targets": (
        lambda: Huber().check((1,), jnp.array([0.0, jnp.inf])),
        "Huber() expected finite targets, got NaN or inf at y[1]",
    ),
    "negative threshold": (
        lambda: Huber(-1),
        "Huber: threshold must be > 0, got -1.0",
    ),
    "smoothing above 1": (
        lambda: SoftmaxCrossEntropy(1.5),
        "label_smoothing is a share and must be in [0, 1], got 1.5",
    ),
    "smoothing that is not a number": (
        lambda: SoftmaxCrossEntropy("much"),
        "SoftmaxCrossEntropy.label_smoothing must be a number, got 'much'",
    ),
}


@pytest.mark.parametrize("name", WRONG_CHECKS)
def test_wrong_labels_say_what_was_expected_and_where_they_are_wrong(name):
    call, text = WRONG_CHECKS[name]
    with pytest.raises((ValueError, TypeError), match=re.escape(text)):
        call()


def test_check_uses_only_shapes_where_labels_are_traced():
    jax.eval_shape(lambda y: SOFTMAX.check((4,), y), jnp.array([99]))
    with pytest.raises(ValueError, match="expected labels of shape"):
        jax.eval_shape(lambda y: SOFTMAX.check((4,), y), jnp.zeros((3, 5)))
