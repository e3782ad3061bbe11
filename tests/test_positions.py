"""Outputs and labels at several positions, tokens or pixels, through the whole of fnn.

A row has a network, a loss, the shape of one example, and labels, of which some may be
ignored or weigh more than others.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import losses, optimizers

KEY, N = jax.random.key(0), 24
RNG = np.random.default_rng(0)
TOKENS, IMAGE = (5, 3), (4, 6, 2)


class Case(NamedTuple):
    """A network with labels at several positions."""

    name: str
    net: fnn.Layer
    loss: Any
    in_shape: tuple[int, ...]
    y: np.ndarray


def classes(*positions, count=4, hole=None):
    y = RNG.integers(0, count, size=(N, *positions)).astype(np.int32)
    return y if hole is None else np.where(RNG.random(y.shape) < 0.3, hole, y)


WORDS = fnn.serial(fnn.Dense(7), fnn.Tanh(), fnn.LayerNorm(), fnn.Dense(4))
PIXELS = fnn.serial(fnn.Conv(4, 3), fnn.BatchNorm(), fnn.Relu(), fnn.Conv(4, 1))
MASK = fnn.serial(fnn.Conv(3, 3), fnn.Relu(), fnn.Dense(1))
CASES = [
    Case("tokens", WORDS, losses.SoftmaxCrossEntropy(), TOKENS, classes(5)),
    Case(
        "tokens, holes, weights",
        WORDS,
        losses.SoftmaxCrossEntropy(0.1, ignore=-1, class_weights=(1, 2, 0.5, 3)),
        TOKENS,
        classes(5, hole=-1),
    ),
    Case("pixels", PIXELS, losses.SoftmaxCrossEntropy(ignore=255), IMAGE,
         classes(4, 6, hole=255)),
    Case("mask", MASK, losses.SigmoidCrossEntropy(ignore=-1, class_weights=(1, 4)),
         IMAGE, classes(4, 6, count=2, hole=-1)),
    Case("rows", WORDS, losses.KullbackLeibler(), TOKENS,
         RNG.dirichlet(np.ones(4), (N, 5)).astype(np.float32)),
    Case("margins", WORDS, losses.Hinge(ignore=-1), TOKENS, classes(5, hole=-1)),
    Case("distances", WORDS, losses.AbsoluteError(), TOKENS,
         RNG.normal(size=(N, 5, 4)).astype(np.float32)),
]  # fmt: skip
QUICK = "tokens, holes, weights", "pixels"
EVERY_CASE = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case.name in QUICK else pytest.mark.thorough)
        for case in CASES
    ],
    ids=lambda case: case.name,
)


def inputs(case):
    draw = np.random.default_rng(1)
    return draw.normal(size=(N, *case.in_shape)).astype(np.float32)


def fit(case, **options):
    given = dict(train=(inputs(case), case.y), key=KEY, epochs=2, batch_size=8)
    return fnn.fit(case.net, case.loss, optimizers.adam(1e-2), **given | options)


@pytest.mark.one_in(2)
@EVERY_CASE
def test_the_audit_passes(case):
    variables = case.net.init(KEY, case.in_shape)
    batch = inputs(case)[:6], case.y[:6]
    report = fnn.compare_gradients(case.net, case.loss, variables, batch)
    assert report.passed, str(report)


@pytest.mark.one_in(2)
@EVERY_CASE
def test_both_engines_train_to_the_same(case):
    by_hand, by_jax = (fit(case, engine=engine) for engine in ("manual", "autodiff"))
    losses = [result.history["train_loss"] for result in (by_hand, by_jax)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("case", CASES[:4], ids=lambda case: case.name)
def test_evaluate_counts_the_labels_that_are_not_ignored(case):
    variables = case.net.init(KEY, case.in_shape)
    x, y = inputs(case), case.y
    z = np.asarray(fnn.predict(case.net, variables, x))
    guess = z.argmax(-1) if z.shape[-1] > 1 else z[..., 0] > 0
    counts = y != (999 if case.loss.ignore is None else case.loss.ignore)
    found = fnn.evaluate(case.net, case.loss, variables, (x, y))
    assert found["accuracy"] == pytest.approx((guess == y)[counts].mean(), abs=1e-6)
    # In batches, each counts by its examples, as the docstring says.
    found = fnn.evaluate(case.net, case.loss, variables, (x, y), batch_size=8)
    parts = [
        float(case.loss.value(jnp.asarray(z[i : i + 8]), jnp.asarray(y[i : i + 8])))
        for i in range(0, N, 8)
    ]
    assert found["loss"] == pytest.approx(np.mean(parts), rel=1e-5)


def test_an_accuracy_without_labels_is_zero():
    z, y = jnp.zeros((2, 3)), jnp.full(2, 9)
    assert float(fnn.accuracy(z, y, ignore=9)) == 0.0
    assert float(fnn.accuracy(z, y)) == 0.0
    rows = jnp.array([[1, 0, 0], [9, 9, 9]])
    assert float(fnn.accuracy(z, rows, ignore=9)) == 1.0


def test_fit_compiles_a_default_accuracy_once():
    first, second = (
        fnn.training.metrics.default_metrics(losses.Hinge(ignore=ignore))
        for ignore in (3, 3)
    )
    assert first["accuracy"] == second["accuracy"]
    assert hash(first["accuracy"]) == hash(second["accuracy"])


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices of one kind")
def test_the_divisor_is_that_of_the_whole_batch_on_many_devices():
    case = CASES[1]
    one, eight = fit(case), fit(case, mesh=jax.make_mesh((8,), ("batch",)))
    np.testing.assert_allclose(
        eight.history["train_loss"], one.history["train_loss"], rtol=0, atol=1e-5
    )


# ---- Dense -----------------------------------------------------------------------


@pytest.mark.parametrize("features", [3, 40], ids=["few", "many"])
@pytest.mark.parametrize("positions", [(7,), (4, 6), (2, 3, 5)], ids=str)
def test_dense_at_positions_is_dense_on_a_longer_batch(positions, features):
    draw = np.random.default_rng(0)
    layer = fnn.Dense(features)
    params, _ = layer.init(KEY, (*positions, 9))
    x = jnp.asarray(draw.normal(size=(5, *positions, 9)), jnp.float32)
    dy = jnp.asarray(draw.normal(size=(5, *positions, features)), jnp.float32)

    def run(x, dy):
        out = layer.forward(params, (), x)
        return out.y, *layer.backward(params, out.saved, dy)

    y, dx, dparams = run(x, dy)
    flat_y, flat_dx, flat_dparams = run(x.reshape(-1, 9), dy.reshape(-1, features))
    np.testing.assert_allclose(y, flat_y.reshape(y.shape), rtol=1e-6)
    np.testing.assert_allclose(dx, flat_dx.reshape(dx.shape), rtol=1e-6, atol=1e-6)
    for have, want in zip(dparams, flat_dparams, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)


def test_dense_on_an_image_is_a_convolution_of_one_pixel():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *IMAGE)), jnp.float32)
    dense, conv = fnn.Dense(5), fnn.Conv(5, 1)
    params, _ = dense.init(KEY, IMAGE)
    same = fnn.ConvParams(params.weight[None, None], params.bias)
    np.testing.assert_allclose(
        dense.forward(params, (), x).y, conv.forward(same, (), x).y, atol=1e-5
    )
    rows = fnn.summary(fnn.serial(fnn.Conv(4, 3), dense), IMAGE).rows
    assert [row.receptive_field for row in rows] == [(3, 3), (3, 3)]


def test_explain_follows_one_token():
    case = CASES[0]
    variables = case.net.init(KEY, TOKENS)
    batch = inputs(case)[:2], case.y[:2]
    why = fnn.explain(case.net, case.loss, variables, batch, "0/Dense.bias", 2)
    assert why.agrees


@pytest.mark.one_in(2)
def test_a_plan_computes_the_same():
    case = CASES[2]
    variables = case.net.init(KEY, IMAGE)
    plan = fnn.plan(case.net, IMAGE, batch_size=N)
    batch = jnp.asarray(inputs(case)), jnp.asarray(case.y)
    grads = [
        fnn.value_and_grad(net, case.loss)(variables, batch).grads
        for net in (case.net, plan)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *grads)
