"""Metrics are averaged, computed of all examples at once, or on the host.

Examples are sorted by class and evaluated in small batches, so that a mean over batches
would be another number.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as sk
from jax.sharding import Mesh
from test_metrics import (
    SIGMOID,
    SOFTMAX,
    SQUARED,
    draw,
    evaluate,
    scored,
)

import fnn
from fnn import metrics
from fnn.losses import Huber
from fnn.training.evaluation import evaluate_batches, metrics_of


@pytest.fixture(autouse=True)
def as_a_user_has_it():
    """Metrics are written without a thought of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


# ---- How each is computed --------------------------------------------------------


def own_f1(z, y):
    predicted, true = z.argmax(1) == 1, y == 1
    return 2 * (predicted & true).sum() / (predicted.sum() + true.sum())


def right(z, y):
    return z.argmax(1) == y


def sklearn_f1(z, y):
    return sk.f1_score(y, z.argmax(1))


def branching_f1(z, y):
    return own_f1(z, y) if y.sum() > 0 else 0.0


def f1_of_selected(z, y):
    true, predicted = y == 1, z.argmax(1) == 1
    return 2 * len(y[true & predicted]) / (len(y[true]) + len(y[predicted]))


def counted_f1(z, y):
    """Keys of a set must be hashable, which no traced array is."""
    pairs = list(zip(y, z.argmax(1), strict=True))
    wrong = sum(pair in {(0, 1), (1, 0)} for pair in pairs)
    rights = sum(pair in {(1, 1)} for pair in pairs)
    return 2 * rights / (2 * rights + wrong)


def in_place_f1(z, y):
    z[:, 0] -= 0.0  # a copy of its own
    y[:] = y
    return own_f1(z, y)


TRACED = {"own": own_f1, "fnn": functools.partial(metrics.f1, positive=1)}
ON_HOST = {
    "sklearn": sklearn_f1,
    "an if": branching_f1,
    "a float": lambda z, y: float(own_f1(z, y)),
    "selected": f1_of_selected,
    "counted": counted_f1,
    "in place": in_place_f1,
    "asarray": lambda z, y: own_f1(np.asarray(z), np.asarray(y)),
}
EXAMPLES = scored(40, 45, 2)
F1 = sk.f1_score(EXAMPLES[1], EXAMPLES[0].argmax(1))


@pytest.mark.parametrize("size", [7, 1000])
def test_a_number_of_all_examples_is_computed_once(size):
    z, y = EXAMPLES
    got = evaluate(SOFTMAX, z, y, size, **TRACED, **ON_HOST, right=right)
    assert got.pop("right") == pytest.approx(sk.accuracy_score(y, z.argmax(1)))
    assert got == pytest.approx(dict.fromkeys(got, F1) | {"loss": got["loss"]})
    batches = [own_f1(z[i : i + 7], y[i : i + 7]) for i in range(0, 42, 7)]
    assert abs(np.nan_to_num(batches).mean() - F1) > 0.05  # the test can fail


def kept_sizes(given):
    """The sizes of what the loop over batches keeps."""
    data = tuple(map(jnp.asarray, EXAMPLES))
    net, variables = fnn.serial(fnn.Dense(2)), NET.init(KEY, (2,))
    known = metrics_of(net, SOFTMAX, variables, data, tuple(given.items()))
    run = functools.partial(evaluate_batches, metrics=known, batch_size=9)
    jaxpr = jax.make_jaxpr(run)(net, SOFTMAX, variables, data)
    (loop,) = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
    return [variable.aval.size for variable in loop.outvars]


def test_outputs_are_kept_only_for_metrics_of_them_all():
    means = {"accuracy": fnn.accuracy, "top": metrics.top_k(2), "right": right}
    assert kept_sizes(means) == [5] * 4
    assert sorted(kept_sizes(means | {"f1": own_f1})) == [5] * 4 + [90]


def train_and_validation():
    x = draw(50, 60, 2)
    y = ((x[:, 0] + 0.4 * draw(51, 60, 2)[:, 0]) > 0.8).astype(np.int32)
    order = np.argsort(y[30:], kind="stable") + 30
    return (x[:30], y[:30]), (x[order], y[order])


TRAIN, VALIDATION = train_and_validation()
NET = fnn.serial(fnn.Dense(2))
KEY = jax.random.key(0)


def fit(**options):
    given = dict(
        train=TRAIN, validation=VALIDATION, key=KEY, epochs=3, batch_size=10,
        metrics={"own": own_f1, "sklearn": sklearn_f1, "right": right},
    )  # fmt: skip
    return fnn.fit(NET, SOFTMAX, fnn.optimizers.adam(0.1), **given | options)


def as_stream():
    x, y = TRAIN
    for i in range(0, 30, 10):
        yield x[i : i + 10], y[i : i + 10]


def eight_devices():
    return Mesh(np.array(jax.devices()[:8]), ("batch",))


FITS = {
    "alone": dict,
    "a mesh": lambda: dict(mesh=eight_devices(), batch_size=16),
    "another device": lambda: dict(validation_device="another"),
    "a stream": lambda: dict(train=as_stream),
    "early stopping": lambda: dict(
        early_stopping=fnn.EarlyStopping(2, mode="max", monitor="sklearn", subset=20)
    ),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("how", FITS)
def test_fit_records_the_metrics_of_all_examples(how, monkeypatch):
    monkeypatch.setattr("fnn.training.run.loop.VALIDATION_BATCH", 8)
    options = FITS[how]()
    if "mesh" in options and len(jax.devices()) < 8:
        pytest.skip("needs eight devices of one kind")
    result = fit(**options)
    history = result.history
    assert len(history["validation_own"]) == result.epochs
    np.testing.assert_allclose(history["validation_own"], history["validation_sklearn"])
    if "early_stopping" not in options:
        z = np.asarray(fnn.predict(NET, result.last_variables, VALIDATION[0]))
        last = sk.f1_score(VALIDATION[1], z.argmax(1))
        assert history["validation_sklearn"][-1] == pytest.approx(last)
        share = sk.accuracy_score(VALIDATION[1], z.argmax(1))
        assert history["validation_right"][-1] == pytest.approx(share)


def build(rate):
    return NET, SOFTMAX, fnn.optimizers.adam(rate)


def sweep(**options):
    return fnn.sweep(
        build, {"rate": [0.01, 0.1]}, train=TRAIN, validation=VALIDATION,
        keys=KEY, epochs=3, batch_size=10, **options,
    )  # fmt: skip


def test_a_sweep_records_the_metrics_of_all_examples(monkeypatch):
    monkeypatch.setattr("fnn.training.sweep.members.VALIDATION_BATCH", 8)
    stopping = fnn.EarlyStopping(3, mode="max", monitor="validation_own")
    given = {"own": own_f1, "right": right, "f1": TRACED["fnn"], "count": count_ones}
    swept = sweep(metrics=given, early_stopping=stopping)
    x, y = VALIDATION
    for i in range(2):
        last = jax.tree.map(lambda a, i=i: a[i, 0], swept.last_variables)
        predicted = np.asarray(fnn.predict(NET, last, x)).argmax(1)
        f1 = sk.f1_score(y, predicted)
        expected = {"own": f1, "f1": f1, "right": (predicted == y).mean()}
        expected |= {"count": (y == 1).sum()}
        for name, value in expected.items():
            history = swept.history[f"validation_{name}"]
            assert history[i, 0, -1] == pytest.approx(value, rel=1e-6)
    own = swept.history["validation_own"]
    np.testing.assert_array_equal(swept.best_epoch, own.argmax(-1) + 1)
    np.testing.assert_array_equal(swept.at_best("own"), own.max(-1))
    np.testing.assert_array_equal(swept.at_best("validation_own"), own.max(-1))
    with pytest.raises(ValueError, match="no metric 'train_loss' was computed"):
        swept.at_best("train_loss")


def count_ones(z, y):
    return (y == 1).sum()


@pytest.mark.parametrize("name", ON_HOST)
def test_a_sweep_refuses_what_cannot_be_compiled(name):
    with pytest.raises(TypeError, match=r"metric 'f1' uses NumPy.* or call fnn\.fit"):
        sweep(metrics={"f1": ON_HOST[name]})


# ---- What a metric may return ----------------------------------------------------

REFUSED = {
    "nothing": (lambda z, y: None, TypeError, "must return real numbers.* got None"),
    "a text": (lambda z, y: "f1", TypeError, "must return real numbers.* got str"),
    "two": (lambda z, y: (z.sum(), 1), TypeError, "must return real numbers"),
    "complex": (lambda z, y: z.sum() * 1j, TypeError, r"real numbers.* complex64\[\]"),
    "outputs": (lambda z, y: z, TypeError, r"got float32\[45, 2\] of 45 examples"),
    "a matrix": (metrics.confusion_matrix, TypeError, r"int32\[2, 2\] .*fnn\.predict"),
    "(1,)": (lambda z, y: z.sum(keepdims=True)[0], TypeError, r"float32\[1\] of 45"),
    "per class": (lambda z, y: z.mean(0), TypeError, r"float32\[2\] of 45"),
    "an error": (lambda z, y: 1 / 0, ZeroDivisionError, "in metric 'm' of outputs"),
    "one argument": (lambda z: z.sum(), TypeError, "in metric 'm' of outputs"),
    "an array by NumPy": (
        lambda z, y: np.asarray(z),
        TypeError,
        r"on the host, by NumPy, and must return a number, got float32\[45, 2\]",
    ),
    "nothing by NumPy": (
        lambda z, y: print(np.asarray(z)[:0]),
        TypeError,
        "must return a number, got None",
    ),
    "an error of NumPy": (
        lambda z, y: np.asarray(z).reshape(7, 7).sum(),
        ValueError,
        r"in metric 'm' of outputs \(45, 2\), y \(45,\)",
    ),
    "an error of scikit-learn": (
        lambda z, y: sk.f1_score(y[:3], z.argmax(1)),
        ValueError,
        "in metric 'm' of outputs",
    ),
    "a class": (dict, TypeError, "got the class dict: pass an instance"),
    "unhashable": (
        type("M", (list,), {"__call__": lambda self, z, y: 1.0})(),
        TypeError,
        "must be hashable.*got M",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_metrics_that_are_refused(what):
    metric, error, text = REFUSED[what]
    with pytest.raises(error) as caught:
        evaluate(SOFTMAX, *EXAMPLES, m=metric)
    notes = getattr(caught.value, "__notes__", [])
    assert re.search(text, "\n".join([str(caught.value), *notes]), re.DOTALL)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_number_for_every_class_is_no_value_of_every_example(n):
    """Even where there are as many classes as examples."""
    z, y = (
        np.eye(n, dtype=np.float32) if n > 1 else np.ones((1, 2), np.float32),
        [0] * n,
    )
    per_class = lambda z, y: z.mean(0)  # noqa: E731
    with pytest.raises(TypeError, match="every example"):
        evaluate(SOFTMAX, z, np.array(y), m=per_class)
    assert evaluate(SOFTMAX, z, np.array(y), m=lambda z, y: z.sum(1))["m"] == 1 + (
        n < 2
    )


def test_a_constant_is_a_number():
    got = evaluate(SOFTMAX, *EXAMPLES, one=lambda z, y: 1, half=lambda z, y: 0.5)
    assert got["one"], got["half"] == (1.0, 0.5)


# ---- One column beside another ---------------------------------------------------

X, TARGET = draw(60, 40, 1), draw(61, 40)
MAE = sk.mean_absolute_error(TARGET, X[:, 0])
ANSWER = (TARGET > 0).astype(np.int32)
SHARE = ((X[:, 0] > 0) == ANSWER).mean()

RIGHT_COLUMNS = {
    "mae": (SQUARED, lambda z, y: jnp.abs(z - y).mean(), MAE),
    "mae of each": (SQUARED, lambda z, y: jnp.abs(z - y)[:, 0], MAE),
    "mae by NumPy": (SQUARED, lambda z, y: np.abs(z - y).mean(), MAE),
    "mae by scikit-learn": (SQUARED, lambda z, y: sk.mean_absolute_error(y, z), MAE),
    "mae of a Huber loss": (Huber(), lambda z, y: jnp.abs(z - y).mean(), MAE),
    "both in a row": (SQUARED, lambda z, y: jnp.abs(z[:, 0] - y[:, 0]).mean(), MAE),
    "vmap": (SQUARED, jax.vmap(lambda z, y: jnp.abs(z - y)[0]), MAE),
    "R²": (
        SQUARED,
        lambda z, y: 1 - ((z - y) ** 2).sum() / ((y - y.mean(0)) ** 2).sum(),
        sk.r2_score(TARGET, X[:, 0]),
    ),
    "standardised": (
        SQUARED,
        lambda z, y: ((z - z.mean(0)) / z.std(0) * (y - y.mean(0)) / y.std(0)).mean(),
        np.corrcoef(X[:, 0], TARGET)[0, 1],
    ),
    "an explicit AUC": (
        SIGMOID,
        lambda z, y: (
            (z > z.T) * (y[:, None] > y[None, :])
        ).sum() / ((y == 1).sum() * (y == 0).sum()),
        sk.roc_auc_score(ANSWER, X[:, 0]),
    ),
    "an explicit AUC by NumPy": (
        SIGMOID,
        lambda z, y: np.mean(z[y == 1] > z[y == 0].T),
        sk.roc_auc_score(ANSWER, X[:, 0]),
    ),
    "thresholds": (
        SIGMOID,
        lambda z, y: (z > jnp.linspace(-1.0, 1.0, 40)).mean(),
        (X > np.linspace(-1, 1, 40)).mean(),
    ),
    "thresholds by NumPy": (
        SIGMOID,
        lambda z, y: float(np.mean(np.asarray(z) > np.linspace(-1, 1, 40))),
        (X > np.linspace(-1, 1, 40)).mean(),
    ),
    "answers": (SIGMOID, lambda z, y: ((z[:, 0] > 0) == y).mean(), SHARE),
    "answers in a column": (
        SIGMOID,
        lambda z, y: ((z > 0) == y[:, None])[:, 0],
        SHARE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT_COLUMNS)
def test_columns_are_compared_as_the_loss_compares_them(case):
    loss, metric, expected = RIGHT_COLUMNS[case]
    y = ANSWER if loss is SIGMOID else TARGET
    got = evaluate(loss, X, y, m=metric)["m"]
    assert got == pytest.approx(expected, rel=1e-5)


WRONG_COLUMNS = {
    "answers": (SIGMOID, lambda z, y: ((z > 0) == y).mean()),
    "answers of each": (SIGMOID, lambda z, y: (z > 0) == y),
    "answers by NumPy": (SIGMOID, lambda z, y: float(np.mean((z > 0) == y))),
    "a probability": (
        SIGMOID,
        lambda z, y: jnp.where(y == 1, jax.nn.sigmoid(z), jax.nn.sigmoid(-z)).mean(),
    ),
    "where": (SIGMOID, lambda z, y: jnp.where(z > 0, y, 1 - y).mean()),
    "where by NumPy": (
        SIGMOID,
        lambda z, y: float(np.mean(np.where(z > 0, y, 1 - y))),
    ),
    "jit": (SIGMOID, jax.jit(lambda z, y: ((z > 0) == y).mean())),
    "a row": (SQUARED, lambda z, y: jnp.abs(z[:, 0] - y).mean()),
    "a row by NumPy": (SQUARED, lambda z, y: np.abs(z[:, 0] - y).mean()),
    "squeezed": (SQUARED, lambda z, y: jnp.square(z.squeeze() - y).mean()),
    "after a harmless one": (
        SQUARED,
        lambda z, y: jnp.abs(z - z.mean(0) - y[:, 0]).mean(),
    ),
    "beside explicit pairs": (
        SQUARED,
        lambda z, y: (z > z.T).mean() + jnp.abs(z[:, 0] - y).mean(),
    ),
    "with numbers of its own": (
        SQUARED,
        lambda z, y: (jnp.ones(40) * z[:, 0] * y).mean(),
    ),
}


@pytest.mark.parametrize("case", WRONG_COLUMNS)
def test_a_comparison_of_all_with_all_is_refused(case):
    """Twice: what JAX has cached must not hide it the second time."""
    loss, metric = WRONG_COLUMNS[case]
    y = ANSWER if loss is SIGMOID else TARGET
    for _ in range(2):
        with pytest.raises(ValueError, match="metric 'bad' combines arrays") as caught:
            evaluate(loss, X, y, bad=metric)
    text = str(caught.value)
    assert "(40, 1)" in text and "(40,)" in text and "40 × 40" in text
    shape = (40,) if loss is SIGMOID else (40, 1)
    assert f"outputs of shape (40, 1) and y of shape {shape}" in text


@pytest.mark.parametrize("run", [fit, sweep])
def test_fit_and_sweep_refuse_it_before_they_train(run):
    _, metric = WRONG_COLUMNS["a row"]
    rows = (TRAIN[0], TRAIN[0][:, 0])
    parts = fnn.serial(fnn.Dense(1)), SQUARED, fnn.optimizers.sgd(0.1)
    options = dict(train=rows, validation=rows, epochs=1, metrics={"bad": metric})
    with pytest.raises(ValueError, match="metric 'bad' combines arrays"):
        if run is fit:
            fnn.fit(*parts, key=KEY, batch_size=10, **options)
        fnn.sweep(lambda: parts, {}, keys=KEY, batch_size=10, **options)


# ---- Early stopping, checkpoints -------------------------------------------------


@pytest.mark.parametrize(
    ("names", "mode"),
    [
        (("own", "validation_own"), "max"),
        (("loss", "validation_loss"), "min"),
        (("accuracy", "validation_accuracy"), "max"),
    ],
)
def test_early_stopping_takes_the_names_of_the_history(names, mode):
    given = {"own": own_f1, "accuracy": fnn.accuracy}

    def best(name):
        stopping = fnn.EarlyStopping(2, mode=mode, monitor=name)
        return fit(metrics=given, early_stopping=stopping)

    a, b = map(best, names)
    np.testing.assert_array_equal(a.best_epoch, b.best_epoch)
    column = a.history[f"validation_{names[0]}"]
    wanted = np.argmax(column, -1) if mode == "max" else np.argmin(column, -1)
    np.testing.assert_array_equal(a.best_epoch, wanted + 1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(monitor="f2"), "monitors 'f2', which is not computed.* 'loss', 'f1'"),
        (dict(monitor="validation_f2"), "monitors 'validation_f2', which is not"),
        (dict(monitor="train_loss"), "monitors 'train_loss', which is not computed"),
        (dict(monitor="f1"), 'would keep the worst variables; pass mode="max"'),
        (dict(monitor="validation_mae", mode="max"), 'the worst .*pass mode="min"'),
    ],
)
def test_what_cannot_be_monitored(options, text):
    given = {"f1": metrics.f1, "mae": metrics.mean_absolute_error}
    with pytest.raises(ValueError, match=text):
        fit(metrics=given, early_stopping=fnn.EarlyStopping(**options))


@pytest.mark.parametrize("name", ["accuracy", "validation_accuracy"])
def test_the_worst_accuracy_is_not_kept(name):
    with pytest.raises(ValueError, match=r'keep the worst .*pass mode="max"'):
        fnn.EarlyStopping(monitor=name)


def test_a_metric_of_the_host_is_part_of_a_run_that_goes_on(tmp_path):
    stopping = fnn.EarlyStopping(3, mode="max", monitor="validation_sklearn")
    options = dict(early_stopping=stopping, checkpoint_dir=tmp_path)
    whole = fit(early_stopping=stopping, epochs=4)
    fit(epochs=2, **options)
    again = fit(epochs=4, resume=True, **options)
    from_result = fit(
        early_stopping=stopping, epochs=4, resume=fit(early_stopping=stopping, epochs=2)
    )
    for other in (again, from_result):
        assert whole.history.keys() == other.history.keys()
        for name in whole.history.keys() - {"seconds"}:
            np.testing.assert_array_equal(whole.history[name], other.history[name])
        jax.tree.map(np.testing.assert_array_equal, whole.variables, other.variables)
    assert whole.best_epoch == again.best_epoch == from_result.best_epoch


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (metrics.top_k(1), metrics.top_k(2)),
        (
            functools.partial(metrics.f1, positive=0),
            functools.partial(metrics.f1, positive=1),
        ),
    ],
)
def test_a_run_does_not_go_on_with_another_metric(before, after, tmp_path):
    fit(epochs=1, metrics={"m": before}, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=r"another run:\n.*metrics"):
        fit(epochs=2, metrics={"m": after}, checkpoint_dir=tmp_path, resume=True)


def test_metrics_of_equal_k_are_compiled_once():
    assert metrics.top_k(3) == metrics.top_k(3) != metrics.top_k(2)
    assert repr(metrics.top_k(3)) == "TopK(k=3)"
