"""Losses: value and delta against NumPy, against each other, and for extreme inputs."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import INTEGERS, LOSSES, ONE_HOT, REALS, SEVERAL, SOFT, K, N, fourth_power
from hypothesis import given
from hypothesis import strategies as st

import fnn
from fnn.losses import (
    AbsoluteError,
    Hinge,
    Huber,
    KullbackLeibler,
    Lambda,
    Poisson,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
    expect_loss,
)

EVERY_LOSS = pytest.mark.parametrize("case", LOSSES, ids=[c.name for c in LOSSES])


def logits(case, seed=0):
    shape = (N, *case.positions, case.outputs)
    return 3 * np.random.default_rng(seed).normal(size=shape)


# ---- The value, transcribed in NumPy ---------------------------------------------


def targets(case):
    """Return the targets that the labels stand for, (N, ..., K) in float64.

    What an ignored label stands for does not matter.
    """
    y = case.labels
    if y.ndim == 2 + len(case.positions):
        return y.astype(np.float64)
    if case.outputs == 1:
        return y[..., None].astype(np.float64)
    return np.eye(case.outputs)[y.astype(int) % case.outputs]


def counts(case):
    """Return whether each label counts: (N, ...), or (N, ..., K) for rows."""
    return case.labels != getattr(case.loss, "ignore", None)


def sigmoid_cross_entropy(case, z, t):
    """Return K times the mean over all answers, each with its weight."""
    a, total, weight = 1 / (1 + np.exp(-z)), 0, 0
    no, yes = (1, 1) if (w := case.loss.class_weights) is None else w
    kept = counts(case).reshape(*t.shape[:-1], -1) * np.ones(t.shape, bool)
    for share, answer in zip(a[kept], t[kept], strict=True):
        total -= yes * answer * np.log(share)
        total -= no * (1 - answer) * np.log(1 - share)
        weight += yes * answer + no * (1 - answer)
    return case.outputs * total / weight


def softmax_cross_entropy(case, z, t):
    s, w = case.loss.label_smoothing, case.loss.class_weights
    w = np.ones(case.outputs) if w is None else np.array(w)
    kept, total, weight = counts(case), 0, 0
    if kept.ndim == z.ndim:
        kept = kept.any(-1)
    for row, one in zip(z[kept], t[kept], strict=True):
        a = np.exp(row) / np.exp(row).sum()
        total -= (w * ((1 - s) * one + s / len(one)) * np.log(a)).sum()
        weight += (w * one).sum()
    return total / weight


def divergence(case, z, t):
    a = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    return np.where(t > 0, t * np.log(np.maximum(t, 1e-300) / a), 0).sum(-1).mean()


def hinge(case, z, t):
    """Return the mean over labels of max over wrong classes, one label at a time."""
    kept, m, losses = counts(case), case.loss.margin, []
    kept = kept.any(-1) if kept.ndim == z.ndim else kept
    for row, one in zip(z[kept], t[kept], strict=True):
        if len(row) == 1:
            losses.append(max(0, m - (1 if one[0] > 0 else -1) * row[0]))
        else:
            y = one.argmax()
            wrong = [k for k in range(len(row)) if k != y]
            losses.append(max(0, *(m + row[k] - row[y] for k in wrong)))
    return np.mean(losses)


def squared_error(case, z, t):
    return ((z - t) ** 2).sum() / 2 / len(z)


def absolute_error(case, z, t):
    return abs(z - t).sum() / len(z)


def huber(case, z, t):
    e, d = abs(z - t), case.loss.threshold
    return np.where(e <= d, e**2 / 2, d * e - d**2 / 2).sum() / len(z)


def poisson(case, z, t):
    return (np.exp(z) - t * z).sum() / len(z)


TRANSCRIBED = {
    SigmoidCrossEntropy: sigmoid_cross_entropy,
    SoftmaxCrossEntropy: softmax_cross_entropy,
    KullbackLeibler: divergence,
    Hinge: hinge,
    SquaredError: squared_error,
    AbsoluteError: absolute_error,
    Huber: huber,
    Poisson: poisson,
    Lambda: lambda case, z, t: ((z - t) ** 4).mean(),
}


@EVERY_LOSS
def test_value_is_the_equation(case):
    z = logits(case)
    expected = TRANSCRIBED[type(case.loss)](case, z, targets(case))
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


@pytest.mark.one_in(4)
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
    case.loss.check((*case.positions, case.outputs), jnp.asarray(case.labels))


@EVERY_LOSS
def test_nan_in_the_outputs_is_not_hidden(case):
    z, y = jnp.asarray(logits(case), jnp.float32), jnp.asarray(case.labels)
    z = z.at[2, 0].set(jnp.nan)
    assert jnp.isnan(case.loss.value(z, y))
    assert jnp.isnan(case.loss.delta(z, y)[2, 0]).any()


# ---- Extremes --------------------------------------------------------------------

DTYPES = [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64]
IN_EVERY_DTYPE = SigmoidCrossEntropy, SoftmaxCrossEntropy, SquaredError, Huber


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


def is_plain(case):
    """Return whether a case has neither positions nor weights."""
    weighs = [getattr(case.loss, name, None) for name in ("ignore", "class_weights")]
    is_weighted = case.positions or weighs != [None, None]
    return not is_weighted and isinstance(case.loss, IN_EVERY_DTYPE)


def is_quick(case, dtype):
    """Return whether a case runs every time: it takes a second."""
    return dtype == jnp.float32 and not case.positions


FINITE = [
    pytest.param(
        *(case, dtype),
        id=f"{dtype.__name__}-{case.name}",
        marks=() if is_quick(case, dtype) else pytest.mark.thorough,
    )
    for case in LOSSES
    if not isinstance(case.loss, Lambda)  # which is whatever its function is
    for dtype in DTYPES
]


@pytest.mark.one_in(4)
@pytest.mark.parametrize(("case", "dtype"), FINITE)
def test_value_is_exact_or_inf_and_delta_finite_for_any_finite_outputs(case, dtype):
    shape = (N, *case.positions, case.outputs)
    size = math.prod(shape)
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
                min_size=size,
                max_size=size,
            ),
            st.sampled_from([1.0, 1e-3, 1e-30]),
        )
        def check(shares, scale):
            largest = float(jnp.finfo(dtype).max)
            z = np.reshape(shares, shape) * (scale * largest)
            z = jnp.asarray(z, dtype)
            delta, value, gradient = (np.asarray(a, np.float64) for a in run(z))
            assert np.isfinite(delta).all()
            # Up to rounding, of the half precision that both are cast to.
            near = 8 * float(jnp.finfo(dtype).eps)
            np.testing.assert_allclose(gradient, delta, rtol=near, atol=near)
            if not is_plain(case):
                return
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


# ---- Ignored labels and class weights --------------------------------------------

WITH_IGNORE = [SigmoidCrossEntropy, SoftmaxCrossEntropy, Hinge]


@pytest.mark.one_in(5)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("make", WITH_IGNORE)
@pytest.mark.parametrize("rows", [False, True], ids=["classes", "rows"])
def test_what_is_ignored_has_no_influence_at_all(make, rows, bad):
    """Value and delta are those without it, and its delta is 0, in both engines."""
    draw, loss = np.random.default_rng(0), make(ignore=-1)
    z = draw.normal(size=(4, 3, K)).astype(np.float32)
    y = draw.integers(0, K, size=(4, 3))
    y = np.eye(K, dtype=np.float32)[y] if rows else y.astype(np.int32)
    gone = np.zeros((4, 3), bool)
    gone[1, 2] = gone[3, 0] = True
    y[gone] = -1
    z[gone, 1] = bad
    for delta in (loss.delta, jax.grad(loss.value)):
        found = np.asarray(delta(jnp.asarray(z), jnp.asarray(y)))
        np.testing.assert_array_equal(found[gone], 0)
        without = delta(jnp.asarray(z[~gone][None]), jnp.asarray(y[~gone][None]))
        np.testing.assert_allclose(found[~gone], without[0], rtol=1e-5, atol=1e-7)
    value = loss.value(jnp.asarray(z), jnp.asarray(y))
    without = loss.value(jnp.asarray(z[~gone]), jnp.asarray(y[~gone]))
    np.testing.assert_allclose(value, without, rtol=1e-6)


@pytest.mark.parametrize("make", WITH_IGNORE)
@pytest.mark.parametrize("outputs", [1, K])
def test_where_all_labels_are_ignored_value_and_delta_are_zero(make, outputs):
    if make is SoftmaxCrossEntropy and outputs == 1:
        return
    loss, y = make(ignore=7), jnp.full((2, 3), 7)
    z = jnp.full((2, 3, outputs), jnp.nan)
    for value, delta in (
        (loss.value(z, y), loss.delta(z, y)),
        jax.value_and_grad(loss.value)(z, y),
    ):
        assert value == 0
        np.testing.assert_array_equal(delta, jnp.zeros_like(z))


def test_a_label_that_its_dtype_cannot_hold_ignores_nothing():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(N, K)), jnp.float32)
    for dtype in (np.uint8, np.int8, bool):
        y = jnp.asarray((INTEGERS % 2).astype(dtype))
        for ignore in (-1, 300):
            if dtype == np.int8 and ignore == -1:
                continue
            loss = SoftmaxCrossEntropy(ignore=ignore)
            np.testing.assert_allclose(
                loss.value(z, y), SoftmaxCrossEntropy().value(z, y), rtol=1e-6
            )


@pytest.mark.parametrize("make", [tuple, list, np.array, jnp.array])
def test_class_weights_are_leaves(make):
    """Other weights do not compile again, and `vmap` runs over them."""
    z, y = jnp.asarray(np.random.default_rng(0).normal(size=(N, K)), jnp.float32), []
    y, traces = jnp.asarray(INTEGERS), []

    @jax.jit
    def value(loss):
        traces.append(loss)
        return loss.value(z, y)

    weights = [[1, 2, 3, 4], [0.5, 1, 1, 0]]
    losses = [SoftmaxCrossEntropy(class_weights=make(w)) for w in weights]
    one_by_one = [value(loss) for loss in losses]
    assert len(traces) == (1 if make in (tuple, list) else 2)  # int, then float arrays
    both = jax.tree.map(
        lambda *leaves: jnp.stack([jnp.float32(w) for w in leaves]), *losses
    )
    mapped = jax.vmap(lambda loss: loss.value(z, y))(both)
    np.testing.assert_allclose(mapped, one_by_one, rtol=1e-6)
    again = SoftmaxCrossEntropy(class_weights=make(weights[0]))
    assert again == losses[0] != losses[1]
    assert hash(again) == hash(losses[0])


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize(
    ("make", "labels", "weights"),
    [
        (SoftmaxCrossEntropy, INTEGERS, [1, 2, 3, 4]),
        (SigmoidCrossEntropy, SEVERAL, [1, 2]),
    ],
)
def test_the_unit_of_the_weights_does_not_matter(make, labels, weights, scale):
    z = jnp.asarray(np.random.default_rng(0).normal(size=(N, K)), jnp.float32)
    one, other = (make(class_weights=s * np.float32(weights)) for s in (1, scale))
    for name in ("value", "delta"):
        found = [getattr(loss, name)(z, jnp.asarray(labels)) for loss in (one, other)]
        np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-7)


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
    names = vars(fnn.losses) | {"fourth_power": fourth_power}
    text = repr(case.loss)
    if not case.repr_is_code:
        text = re.sub("<function ([a-z_]+) at 0x[0-9a-f]+>", r"\1", text)
    again = eval(text, names)
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
    "a class at a position": (
        lambda: SOFTMAX.check((3, 4), jnp.array([[0, 1, 2], [3, 9, 0]])),
        "SoftmaxCrossEntropy() expected every label to be a class 0 .. 3, as the "
        "network has 4 outputs; got 9 at y[1, 1]",
    ),
    "a share at a position": (
        lambda: SIGMOID.check((3, 2), jnp.zeros((2, 3, 2)).at[1, 2, 0].set(2)),
        "got 2.0 at y[1, 2, 0]",
    ),
    "a row at a position": (
        lambda: SOFTMAX.check((3, 2), jnp.full((2, 3, 2), 0.5).at[1, 2, 0].set(1)),
        "expected label rows that sum to 1, got 1.5 in row 1, 2.",
    ),
    "a target at a position": (
        lambda: AbsoluteError().check(
            (3, 2), jnp.zeros((2, 3, 2)).at[1, 2, 0].set(jnp.inf)
        ),
        "AbsoluteError() expected finite targets, got NaN or inf at y[1, 2, 0]",
    ),
    "labels of other positions": (
        lambda: SOFTMAX.value(jnp.zeros((2, 3, 4)), jnp.zeros((2, 5), jnp.int32)),
        "expected labels of shape (N, 3) or (N, 3, 4) for 4 outputs, got (2, 5)",
    ),
    "rows of one label an example": (
        lambda: SOFTMAX.value(jnp.zeros((2, 3, 4)), jnp.full((2, 4), 0.25)),
        "expected labels (N, 3) of an integer dtype, or rows (N, 3, 4), got float32",
    ),
    "no outputs axis": (
        lambda: SIGMOID.value(jnp.zeros(3), jnp.zeros(3)),
        "expected outputs of shape (N, K), got (N,). End the network with fnn.Fl",
    ),
    "neither a class nor ignored": (
        lambda: SoftmaxCrossEntropy(ignore=-1).check((4,), jnp.array([0, -1, -2])),
        "to be a class 0 .. 3, or -1, which is ignored, as the network has 4 outputs; "
        "got -2 at y[2]",
    ),
    "neither yes, no nor ignored": (
        lambda: SigmoidCrossEntropy(ignore=9).check((2,), jnp.array([[0, 9], [8, 1]])),
        "to be in [0, 1], or 9, which is ignored, as the network has 2 outputs; got 8 "
        "at y[1, 0]",
    ),
    "a row that is ignored in part": (
        lambda: SoftmaxCrossEntropy(ignore=-1).check((2,), jnp.array([[-1.0, 2.0]])),
        "to be in [0, 1], or -1, which is ignored",
    ),
    "an ignored half": (
        lambda: SoftmaxCrossEntropy(ignore=0.5),
        "SoftmaxCrossEntropy: ignore must be the integer that stands for no label",
    ),
    "an ignored flag": (
        lambda: Hinge(ignore=True),
        "Hinge: ignore must be the integer that stands for no label, such as -1, got T",
    ),
    "too few weights": (
        lambda: SoftmaxCrossEntropy(class_weights=(1, 2)).check((4,), jnp.array([0])),
        "SoftmaxCrossEntropy: class_weights must be 4 numbers, one for each class, got "
        "an array of shape (2,)",
    ),
    "weights of K answers": (
        lambda: SigmoidCrossEntropy(class_weights=(1, 2, 3)).value(
            jnp.zeros((2, 3)), jnp.zeros((2, 3))
        ),
        "SigmoidCrossEntropy: class_weights must be 2 numbers",
    ),
    "a negative weight": (
        lambda: SoftmaxCrossEntropy(class_weights=(1, -2)),
        "class_weights must be finite and not negative, got -2.0",
    ),
    "a weight that is NaN": (
        lambda: SoftmaxCrossEntropy(class_weights=np.array([1, np.nan])),
        "class_weights must be finite and not negative, got nan",
    ),
    "weights by name": (
        lambda: SoftmaxCrossEntropy(class_weights={0: 1.0}),
        "class_weights must be a tuple or an array of numbers, one for each class",
    ),
    "a weight that is a word": (
        lambda: SoftmaxCrossEntropy(class_weights=("a", "b")),
        "a class weight must be a number, got 'a'",
    ),
    "divergence from classes": (
        lambda: KullbackLeibler().value(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32)),
        "KullbackLeibler() expected labels of the outputs' shape, rows that sum to 1, "
        "got shape (2,) for outputs (N, 3). For class indices use SoftmaxCrossEntropy.",
    ),
    "divergence from no distribution": (
        lambda: KullbackLeibler().check((2,), jnp.array([[0.5, 0.1]])),
        "expected label rows that sum to 1, got 0.6 in row 0",
    ),
    "a count below 0": (
        lambda: Poisson().check((1,), jnp.array([3, -1])),
        "Poisson() expected targets of at least 0, got -1 at y[1]",
    ),
    "hinge, both kinds of no": (
        lambda: Hinge().check((1,), jnp.array([0, 1, -1])),
        "Hinge() expected labels of a yes/no question to be 0 and 1, or -1 and 1, got "
        "0 at y[0]",
    ),
    "hinge, a third answer": (
        lambda: Hinge().check((1,), jnp.array([0, 1, 2])),
        "got 2 at y[2]",
    ),
    "hinge, soft rows": (
        lambda: Hinge().check((2,), HALVES),
        "Hinge() expected label rows with a single 1, got [0.5, 0.5] at y[0]",
    ),
    "hinge without a margin": (lambda: Hinge(0), "Hinge: margin must be > 0, got 0.0"),
    "lambda of an array": (
        lambda: Lambda(jnp.subtract).value(jnp.zeros((2, 3)), jnp.zeros((2, 3))),
        "must return the mean over the batch, a scalar, got float32[2, 3]. Write .mean",
    ),
    "lambda of an array, checked": (
        lambda: Lambda(jnp.subtract).check((3,), jnp.zeros((2, 3))),
        "must return the mean over the batch, a scalar, got float32[2, 3]. Write .mean",
    ),
    "lambda of a number": (
        lambda: Lambda(3),
        "Lambda: fn must be a function, got 3",
    ),
    "a plain function": (
        lambda: expect_loss(fourth_power),
        "wrap it: fnn.losses.Lambda(fourth_power)",
    ),
    "a lambda": (
        lambda: fnn.value_and_grad(fnn.Dense(1), lambda z, y: z.mean()),
        "wrap it: fnn.losses.Lambda(fn)",
    ),
    "a partial": (
        lambda: expect_loss(functools.partial(fourth_power, y=1)),
        "wrap it: fnn.losses.Lambda(fn)",
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
