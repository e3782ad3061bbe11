"""The embedding: ids as inputs, in every engine, precision, and training."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import losses, optimizers

KEY, V, F = jax.random.key(0), 300, 4
LOSS = losses.SoftmaxCrossEntropy()
NET = fnn.serial(fnn.Embedding(V, F), fnn.Flatten(), fnn.Dense(3))
#: Ids above 256, which bfloat16 would round to other ids, and one that occurs often.
IDS = np.array([[257, 299, 3], [0, 3, 298], [3, 3, 255], [1, 257, 3], [3, 299, 2]])
Y = np.array([0, 1, 2, 0, 1])
DTYPES = [np.int8, np.uint8, np.int32, np.uint32, np.int64, np.float32, np.float16]


def one_hot_twin(params):
    """Return the same network with a dense layer on one-hot rows."""
    net = fnn.serial(fnn.Dense(F, bias=False), fnn.Flatten(), fnn.Dense(3))
    first = fnn.DenseParams(params[0].weight, ())
    return net, fnn.Variables((first, *params[1:]), ((),) * 3)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("engine", ["manual", "autodiff"])
def test_it_is_dense_on_one_hot_rows(engine):
    variables = NET.init(KEY, (3,))
    net, twin = one_hot_twin(variables.params)
    ours = fnn.value_and_grad(NET, LOSS, engine, l2=0.1)(variables, (IDS, Y))
    rows = np.eye(V, dtype=np.float32)[IDS]
    theirs = fnn.value_and_grad(net, LOSS, engine, l2=0.1)(twin, (rows, Y))
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-6)
    np.testing.assert_allclose(
        ours.grads[0].weight, theirs.grads[0].weight, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_ids_may_be_of_any_dtype(dtype):
    net = fnn.Embedding(100, F)
    variables = net.init(KEY, (3,))
    ids = np.array([[0, 99, 5], [5, 5, 1]])
    expected = np.asarray(variables.params.weight)[ids]
    given = jnp.asarray(ids.astype(dtype))
    for forward in (net.forward, jax.jit(net.forward)):
        np.testing.assert_array_equal(forward(*variables, given).y, expected)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("engine", ["manual", "autodiff"])
def test_half_precision_does_not_round_ids(precision, engine):
    variables = NET.init(KEY, (3,))
    grad_fn = fnn.value_and_grad(NET, LOSS, engine, precision=precision)
    grads = grad_fn(variables, (IDS, Y)).grads[0].weight
    np.testing.assert_array_equal(
        np.flatnonzero(np.asarray(grads).any(1)), np.unique(IDS)
    )
    assert fnn.serial(fnn.residual(NET, NET)).takes_ids
    assert not fnn.serial(fnn.Dense(3), fnn.Lambda(jnp.sin)).takes_ids


@pytest.mark.parametrize("precision", [None, "bfloat16"])
def test_the_audit_passes(precision):
    variables = NET.init(KEY, (3,))
    batch = IDS.astype(np.int32), Y
    report = fnn.compare_gradients(NET, LOSS, variables, batch, precision=precision)
    assert report.passed, str(report)
    as_floats = IDS.astype(np.float32), Y
    report = fnn.compare_gradients(NET, LOSS, variables, as_floats, numerical=True)
    assert report.passed, str(report)


def test_it_trains_on_integers_alike_in_both_engines():
    x, y = np.tile(IDS, (8, 1)), np.tile(Y, 8)
    histories = [
        fnn.fit(
            NET, LOSS, optimizers.adam(0.05), train=(x, y), key=KEY, epochs=4,
            batch_size=8, engine=engine,
        ).history["train_loss"]
        for engine in ("manual", "autodiff")
    ]  # fmt: skip
    np.testing.assert_allclose(*histories, rtol=1e-4)
    assert histories[0][-1] < 0.5 * histories[0][0]


def test_the_backward_adds_in_the_same_order_every_time():
    """Equal ids in the thousands: another order of the sums would show in the bits."""
    layer = fnn.Embedding(3, 8)
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 3, 5000))
    dy = jnp.asarray(np.random.default_rng(1).normal(size=(5000, 8)), jnp.float32)
    params, _ = layer.init(KEY, ())
    backward = jax.jit(lambda dy: layer.backward(params, ids, dy).dparams.weight)
    first = np.asarray(backward(dy))
    for _ in range(3):
        np.testing.assert_array_equal(backward(dy), first)


WRONG_IDS = {
    "too high": ([[0, 5]], "integers from 0 to 4, got 5 at x[0, 1]"),
    "negative": ([[0, 1], [-1, 2]], "integers from 0 to 4, got -1 at x[1, 0]"),
    "between two": ([[0.5, 1]], "integers from 0 to 4, got 0.5 at x[0, 0]"),
    "NaN": ([[1, np.nan]], "integers from 0 to 4, got nan at x[0, 1]"),
}


@pytest.mark.parametrize("name", WRONG_IDS)
def test_an_id_that_is_not_in_the_table_is_refused_or_becomes_nan(name):
    ids, text = WRONG_IDS[name]
    layer = fnn.Embedding(5, F)
    variables, ids = layer.init(KEY, (2,)), jnp.asarray(ids, jnp.float32)
    with pytest.raises(ValueError, match=re.escape(text)):
        layer.forward(*variables, ids)
    if name == "between two":  # it is rounded
        return
    out = jax.jit(layer.forward)(*variables, ids)
    bad = ~((ids >= 0) & (ids < 5))
    np.testing.assert_array_equal(jnp.isnan(out.y).all(-1), bad)
    # And adds nothing to any row, in either engine.
    dy = jnp.ones_like(out.y)
    by_hand = layer.backward(variables.params, out.saved, dy).dparams.weight

    def total(params, ids):
        y = layer.forward(params, (), ids).y
        return jnp.where(bad[..., None], 0, y).sum()

    by_jax = jax.jit(jax.grad(total))(variables.params, ids).weight
    np.testing.assert_array_equal(by_hand, by_jax)
    assert by_hand.sum() == F * int((~bad).sum())


def test_fit_names_the_layer_of_an_id_that_is_not_in_the_table():
    x = np.tile(IDS, (4, 1))
    x[7, 1] = V
    with pytest.raises(FloatingPointError, match="0/Embedding"):
        fnn.fit(
            NET, LOSS, optimizers.sgd(0.1), train=(x, np.tile(Y, 4)), key=KEY,
            epochs=1, batch_size=10, on_nonfinite="raise",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: fnn.Embedding(0, 3), "Embedding: num_embeddings must be a positive"),
        (lambda: fnn.Embedding(3, 2.5), "Embedding: features must be a positive"),
        (lambda: fnn.Embedding(2**24 + 1, 1), "at most 16,777,216, got 16,777,217"),
    ],
)
def test_wrong_sizes_are_refused(make, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        make()


def test_images_of_bytes_and_ids_of_bytes_are_told_apart():
    with pytest.raises(TypeError, match=r"or x\.astype"):
        fnn.predict(NET, NET.init(KEY, (3,)), IDS.astype(np.uint8))


def test_plan_summary_and_explain_know_it():
    rows = fnn.summary(NET, (3,)).rows
    assert (rows[0].path, rows[0].params) == ("0/Embedding", V * F)
    variables = NET.init(KEY, (3,))
    why = fnn.explain(NET, LOSS, variables, (IDS, Y), "0/Embedding.weight", (3, 1))
    assert why.agrees
    plan = fnn.plan(NET, (3,), batch_size=5)
    x = jnp.asarray(IDS)
    np.testing.assert_array_equal(
        plan.forward(*variables, x).y, NET.forward(*variables, x).y
    )
