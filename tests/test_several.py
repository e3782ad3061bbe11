"""Several inputs, several outputs, and examples with weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from breadth import some_of

import fnn
from fnn.losses import (
    Each,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
    Weighted,
)

N = 30
draw = np.random.default_rng(0)
X = {
    "image": draw.normal(size=(N, 5, 5, 2)).astype(np.float32),
    "age": draw.normal(size=(N, 1)).astype(np.float32),
}
Y = {
    "digit": (np.arange(N) % 4).astype(np.int32),
    "weight": draw.normal(size=N).astype(np.float32),
}
W = draw.uniform(0.5, 1.5, size=N).astype(np.float32)
W[3] = 0
#: Labels that are NaN where the weight is 0.
IGNORED = {**Y, "weight": np.where(W == 0, np.nan, Y["weight"])}
SHAPE = {"image": (5, 5, 2), "age": (1,)}

NET = fnn.serial(
    fnn.each(
        image=fnn.serial(fnn.Conv(3, 3), fnn.Tanh(), fnn.Flatten()), age=fnn.Dense(5)
    ),
    fnn.Merge("concatenate"),
    fnn.fork(digit=fnn.Dense(4), weight=fnn.Dense(1)),
)
LOSS = Each(
    {"digit": SoftmaxCrossEntropy(), "weight": SquaredError()},
    factors={"digit": 1.0, "weight": 0.25},
)
KEY = jax.random.key(0)
VARIABLES = NET.init(KEY, SHAPE)
OPTIONS = dict(validation=(X, Y), key=KEY, epochs=2, batch_size=12)


def train(data=(X, Y), **options):
    return fnn.fit(
        NET, LOSS, fnn.optimizers.adam(1e-2), train=data, **OPTIONS | options
    )


@pytest.fixture(scope="module")
def result():
    return train()


@pytest.fixture(scope="module")
def weighted():
    return train((X, IGNORED, W))


def agree(a, b, rtol=1e-5, atol=0.0):
    jax.tree.map(
        lambda p, q: np.testing.assert_allclose(p, q, rtol=rtol, atol=atol), a, b
    )


def rows(tree, indices):
    return jax.tree.map(lambda a: a[indices], tree)


def equal(a, b):
    same = jax.tree.map(lambda p, q: bool((p == q).all()), a, b)
    return all(jax.tree.leaves(same))


# ---- Layers ----------------------------------------------------------------------


class Pair(NamedTuple):
    """Two vectors."""

    a: object
    b: object


def ones(*shape):
    return jnp.ones(shape)


PARTS = [jnp.asarray(draw.normal(size=(4, 3))) for _ in range(3)]


@pytest.mark.parametrize(
    ("layer", "x", "expected"),
    [
        (fnn.Merge("sum"), tuple(PARTS), lambda a, b, c: a + b + c),
        (fnn.Merge("product"), tuple(PARTS), lambda a, b, c: a * b * c),
        (fnn.Merge("product"), Pair(*PARTS[:2]), lambda a, b: a * b),
        (fnn.Merge("product"), (PARTS[0],), lambda a: a),
        (
            fnn.Merge("concatenate"),
            {"a": PARTS[0], "b": PARTS[1][:, :1]},
            lambda a, b: jnp.concatenate([a, b], -1),
        ),
        (
            fnn.Merge("concatenate", axis=1),
            (PARTS[0][:, None], PARTS[1][:, None], PARTS[2][:, None]),
            lambda *parts: jnp.concatenate(parts, 1),
        ),
        (fnn.Select("b"), Pair(*PARTS[:2]), lambda a, b: b),
        (fnn.Select(1), tuple(PARTS), lambda a, b, c: b),
        (
            fnn.Select("a"),
            {"a": PARTS[0], "b": (PARTS[1], PARTS[2])},
            lambda a, b, c: a,
        ),
        (fnn.each(fnn.Tanh(), fnn.Identity()), list(PARTS[:2]), None),
        (fnn.each(a=fnn.Tanh(), b=fnn.Identity()), Pair(*PARTS[:2]), None),
        (fnn.fork(fnn.Tanh(), fnn.Sigmoid()), PARTS[0], None),
        (fnn.fork(b=fnn.Tanh(), a=fnn.Identity()), PARTS[0], None),
    ],
    ids=lambda value: repr(value) if isinstance(value, fnn.Layer) else "",
)
def test_the_backward_is_the_transposed_derivative_of_the_forward(layer, x, expected):
    def forward(x):
        return layer.forward(*variables, x).y

    variables = layer.init(KEY, jax.tree.map(lambda a: a.shape[1:], x))
    y, vjp = jax.vjp(forward, x)
    if expected is not None:
        np.testing.assert_allclose(y, expected(*jax.tree.leaves(x)), rtol=1e-6)
    dy = jax.tree.map(lambda a: jnp.asarray(draw.normal(size=a.shape), a.dtype), y)
    out = layer.forward(*variables, x)
    dx, _ = layer.backward(variables.params, out.saved, dy)
    (expected_dx,) = vjp(dy)
    assert jax.tree.structure(dx) == jax.tree.structure(expected_dx)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), dx, expected_dx
    )
    assert layer == eval(repr(layer), {"fnn": fnn} | vars(fnn))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: fnn.each(), r"expected layers without names, or layers with names"),
        (lambda: fnn.each(fnn.Tanh(), a=fnn.Tanh()), r"got 1 without and 1 with"),
        (lambda: fnn.fork(a=3), r"fork: a is not a layer"),
        (lambda: fnn.fork(**{"a/b": fnn.Tanh()}), r"a name holds no / and no dot"),
        (lambda: fnn.Merge("mean"), r'must be "sum", "product" or "concatenate"'),
        (lambda: fnn.Merge("concatenate", axis=0), r"axis must be an integer other"),
        (lambda: NET.init(KEY, (3,)), r"expected an input with the parts image, age"),
        (lambda: NET.init(KEY, {"image": (5, 5, 2)}), r"with the parts image, age"),
        (
            lambda: fnn.serial(fnn.Dense(3)).init(KEY, SHAPE),
            r"expected (one array|examples)",
        ),
        (
            lambda: fnn.Merge("sum").forward(
                (), (), (jnp.ones((2, 3)), jnp.ones((2, 1)))
            ),
            r"adds arrays of different shapes: \(2, 3\), \(2, 1\)",
        ),
        (
            lambda: fnn.Merge("concatenate").forward(
                (), (), (ones(2, 3, 1), ones(2, 4, 1))
            ),
            r"concatenates along axis -1 arrays that differ in others",
        ),
        (
            lambda: fnn.Select("c").forward((), (), {"a": jnp.ones((2, 1))}),
            "the parts a",
        ),
        (lambda: Each({}), r"expected a dictionary or a tuple of losses"),
        (
            lambda: Each({"a": SquaredError()}, factors={"b": 1.0}),
            r"one factor for each",
        ),
        (
            lambda: LOSS.value({"digit": ones(2, 4)}, Y),
            r"expected outputs with the parts digit, weight",
        ),
        (
            lambda: fnn.evaluate(NET, SquaredError(), VARIABLES, (X, Y)),
            r"SquaredError\(\) expected one output, got .* fnn.losses.Each",
        ),
        (
            lambda: fnn.evaluate(
                NET, LOSS, VARIABLES, (X, {**Y, "digit": Y["digit"] + 1})
            ),
            r"a class 0 .. 3",
        ),
        (
            lambda: train((X, {**Y, "weight": IGNORED["weight"]})),
            r"expected finite targets, got NaN or inf at y\[3\]",
        ),
        (lambda: train(({**X, "age": X["age"][:5]}, Y)), r"one entry an example"),
        (lambda: train((X, Y, W[:5])), r"one entry an example|one number an example"),
        (lambda: train((X, Y, -W)), r"weights must be finite and not negative"),
        (lambda: train((X, Y, W[:, None])), r"one number an example"),
    ],
)
def test_what_does_not_fit_is_refused(make, text):
    with pytest.raises((TypeError, ValueError), match=text):
        make()


# ---- The gradients ---------------------------------------------------------------


@pytest.mark.parametrize("planned", some_of([False, True], [True]))
def test_the_audit_passes_and_has_rows_for_all_parts(planned):
    net = fnn.plan(NET, SHAPE) if planned else NET
    report = fnn.compare_gradients(net, LOSS, VARIABLES, (X, Y))
    assert report.passed, report
    paths = [row.path for row in report.rows]
    assert {".x.image", ".x.age", "2/Fork.delta.digit"} <= set(paths)


def test_frozen_layers_of_several_arrays_pass_their_gradients_on():
    net = fnn.serial(NET[0], fnn.frozen(NET[1:]))
    (first, *rest), state = VARIABLES
    nested = fnn.Variables((first, tuple(rest)), (state[0], tuple(state[1:])))
    frozen = jax.jit(fnn.value_and_grad(net, LOSS))(nested, (X, Y)).grads
    free = jax.jit(fnn.value_and_grad(NET, LOSS))(VARIABLES, (X, Y)).grads
    agree(frozen[0], free[0])
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(frozen[1]))


@pytest.mark.thorough
def test_a_wrong_backward_of_a_merge_is_found():
    @fnn.layer
    class Wrong(fnn.Merge):
        def backward(self, params, saved, dy):
            dx, _ = super().backward(params, saved, dy)
            return fnn.Backward({**dx, "age": 1.01 * dx["age"]}, ())

    net = fnn.serial(NET[0], Wrong("concatenate"), NET[2])
    report = fnn.compare_gradients(net, LOSS, VARIABLES, (X, Y))
    assert report.first_divergence == "1/Wrong.dx.age"


def test_an_example_of_weight_0_has_no_part_in_anything():
    loss = fnn.losses.Weighted(LOSS)
    report = fnn.compare_gradients(NET, loss, VARIABLES, (X, (IGNORED, W)))
    assert report.passed, report
    keep = np.flatnonzero(W)
    share = len(keep) / N
    for engine in ("manual", "autodiff"):
        grad_fn = jax.jit(fnn.value_and_grad(NET, loss, engine))
        got = grad_fn(VARIABLES, (X, (IGNORED, W)))
        without = grad_fn(VARIABLES, rows((X, (Y, W)), keep))
        agree(got.loss, without.loss * share)
        expected = jax.tree.map(lambda g: g * share, without.grads)
        agree(got.grads, expected, rtol=1e-4, atol=1e-6)
    z = jax.tree.map(lambda a: a.at[3].set(np.nan), got.outputs)
    delta = loss.delta(z, (IGNORED, W))
    assert not any(np.asarray(d[3]).any() for d in jax.tree.leaves(delta))


def test_weights_of_1_change_nothing():
    loss, y = fnn.losses.Weighted(LOSS), jax.tree.map(jnp.asarray, Y)
    z = fnn.predict(NET, VARIABLES, X)
    agree(loss.value(z, (y, jnp.ones(N))), LOSS.value(z, y))


# ---- Training --------------------------------------------------------------------


def test_each_output_is_named_in_the_history(result):
    last = {name: values[-1] for name, values in result.history.items()}
    parts = last["validation_loss_digit"] + 0.25 * last["validation_loss_weight"]
    np.testing.assert_allclose(last["validation_loss"], parts, rtol=1e-5)
    z = fnn.predict(NET, result.variables, X, batch_size=7)
    right = np.mean(np.asarray(z["digit"]).argmax(1) == Y["digit"])
    np.testing.assert_allclose(last["validation_accuracy_digit"], right, rtol=1e-5)


@pytest.mark.one_in(2)
def test_both_engines_train_alike(result):
    other = train(engine="autodiff")
    agree(result.variables, other.variables, rtol=1e-3, atol=1e-4)


def test_batches_that_are_read_train_as_arrays_do():
    def batches():
        for i in range(3):
            yield rows((X, IGNORED, W), slice(10 * i, 10 * i + 10))

    read = train(batches)
    assert np.isfinite(read.history["train_loss"]).all()
    with pytest.raises(ValueError, match="batches of train have none"):
        train(lambda: ((X, Y) for _ in range(1)), validation=(X, Y, W))


@pytest.mark.one_in(2)
def test_a_run_resumes_bit_for_bit(weighted, tmp_path):
    options = dict(checkpoint_dir=tmp_path / "run")
    train((X, IGNORED, W), epochs=1, **options)
    again = train((X, IGNORED, W), **options, resume=True)
    assert equal(again.variables, weighted.variables)


def test_a_sweep_trains_as_fit_does(weighted):
    swept = fnn.sweep(
        lambda rate: (NET, LOSS, fnn.optimizers.adam(rate)),
        {"rate": [1e-2]},
        train=(X, IGNORED, W),
        **{k: v for k, v in OPTIONS.items() if k != "key"},
        keys=KEY[None],
    )
    np.testing.assert_allclose(
        swept.history["validation_loss_digit"].ravel(),
        weighted.history["validation_loss_digit"],
        rtol=1e-3,
    )


def test_metrics_are_weighted(weighted):
    got = fnn.evaluate(NET, LOSS, weighted.variables, (X, IGNORED, W), batch_size=8)
    z = fnn.predict(NET, weighted.variables, X)
    right = np.asarray(z["digit"]).argmax(1) == Y["digit"]
    np.testing.assert_allclose(
        got["accuracy_digit"], np.average(right, weights=W), rtol=1e-5
    )


def test_early_stopping_follows_the_loss_of_one_output():
    for monitor in ("loss_weight", "validation_loss_weight", "accuracy_digit"):
        mode = "max" if "accuracy" in monitor else "min"
        stop = fnn.EarlyStopping(monitor=monitor, mode=mode)
        stopped = train(early_stopping=stop)
        name = f"validation_{monitor.removeprefix('validation_')}"
        values = stopped.history[name]
        best = values.argmax() if mode == "max" else values.argmin()
        assert stopped.best_epoch == 1 + best


def test_a_mesh_trains_as_one_device_does(result):
    mesh = jax.make_mesh((2,), ("batch",), devices=jax.devices()[:2])
    other = train(mesh=mesh)
    agree(result.variables, other.variables, rtol=1e-3, atol=1e-4)


def test_a_bad_number_is_found_in_its_part():
    bad = {**X, "age": np.where(np.arange(N)[:, None] == 7, np.inf, X["age"])}
    with pytest.raises(ValueError, match=r"train: x\['age'\] has inf at \[7, 0\]"):
        train((bad, Y))


def test_summaries_show_all_parts():
    table = str(fnn.summary(NET, SHAPE))
    assert "input.image" in table and "2/Fork/digit/Dense" in table


def test_two_losses_of_the_same_kind_in_a_tuple():
    net = fnn.fork(fnn.Dense(1), fnn.Dense(3))
    loss = Each((SigmoidCrossEntropy(), SquaredError()))
    x, y = jnp.ones((4, 2)), (jnp.array([0, 1, 1, 0]), jnp.ones((4, 3)))
    variables = net.init(KEY, (2,))
    assert fnn.compare_gradients(net, loss, variables, (x, y)).passed
    assert set(fnn.evaluate(net, loss, variables, (x, y))) == {
        *("loss", "loss_0", "loss_1", "accuracy_0"),
    }


def test_outputs_of_outputs_have_losses_of_losses():
    net = fnn.fork(u=fnn.Dense(3), v=fnn.fork(fnn.Dense(2), fnn.Dense(1)))
    inner = Each((SquaredError(), SigmoidCrossEntropy()), factors=(2.0, 0.5))
    loss = Each({"u": SoftmaxCrossEntropy(), "v": inner}, factors={"u": 1, "v": 3})
    x = draw.normal(size=(4, 2)).astype(np.float32)
    labels = jnp.array([0, 1, 1, 0])
    y = {"u": labels, "v": (jnp.ones((4, 2)), labels)}
    variables = net.init(KEY, (2,))
    assert fnn.compare_gradients(net, loss, variables, (x, y)).passed
    found = fnn.evaluate(net, loss, variables, (x, y), metrics={})
    assert set(found) == {"loss", "loss_u", "loss_v"}
    result = fnn.fit(
        net, loss, fnn.optimizers.sgd(0.1), train=(x, y), metrics={}, key=KEY,
        epochs=2, batch_size=2,
    )  # fmt: skip
    assert result.history["train_loss"][1] < result.history["train_loss"][0]


CLASSES, SOME = jnp.array([0, 1, 1, 0]), jnp.array([1.0, 0.0, 2.0, 0.5])
THREE, SOFTMAX = fnn.Dense(3), SoftmaxCrossEntropy()
#: Losses of losses: the loss, a network, its labels.
NESTED = {
    "weighted": (Weighted(SOFTMAX), THREE, (CLASSES, SOME)),
    "twice": (Weighted(Weighted(SOFTMAX)), THREE, ((CLASSES, SOME), SOME)),
    "weighted each": (Weighted(Each((SOFTMAX,))), fnn.fork(THREE), ((CLASSES,), SOME)),
    "each weighted": (Each((Weighted(SOFTMAX),)), fnn.fork(THREE), ((CLASSES, SOME),)),
    "each of each": (
        Each({"a": Each({"b": SOFTMAX})}),
        fnn.fork(a=fnn.fork(b=THREE)),
        {"a": {"b": CLASSES}},
    ),
}


@pytest.mark.parametrize("weights", [(), (SOME,)], ids=["as they are", "weights"])
@pytest.mark.parametrize("name", some_of(NESTED, ["each weighted"]))
def test_losses_of_losses_are_audited_evaluated_and_trained(name, weights):
    loss, net, y = NESTED[name]
    x = draw.normal(size=(4, 2)).astype(np.float32)
    variables = net.init(KEY, (2,))
    data = (x, y, *weights)
    found = fnn.evaluate(net, loss, variables, data)
    assert all(np.isfinite(value) for value in found.values())
    if not weights:
        assert fnn.compare_gradients(net, loss, variables, (x, y)).passed
    result = fnn.fit(
        net, loss, fnn.optimizers.sgd(0.1), train=data, validation=data, key=KEY,
        epochs=1, batch_size=2,
    )  # fmt: skip
    assert np.isfinite(result.history["validation_loss"]).all()


def test_an_output_with_weights_of_its_own_has_a_weighted_accuracy():
    loss, net, y = NESTED["each weighted"]
    x = draw.normal(size=(4, 2)).astype(np.float32)
    variables = net.init(KEY, (2,))
    right = net.forward(*variables, x).y[0].argmax(1) == CLASSES
    found = fnn.evaluate(net, loss, variables, (x, y))
    expected = SOME[right].sum() / SOME.sum()
    assert float(found["accuracy_0"]) == pytest.approx(float(expected))
