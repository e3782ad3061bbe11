"""A sweep trains each member as `fit` would, and stops each in its own time."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn.training.sweep.members import train_members

RATES = [0.02, 0.1, 0.5]
LOSS = fnn.losses.SoftmaxCrossEntropy()
KEYS = jax.random.split(jax.random.key(3), 2)


def problem(n=70, dtype=jnp.float32):
    x = jax.random.normal(jax.random.key(0), (n, 3), dtype)
    y = (x[:, 0] * x[:, 1] > 0).astype(jnp.int32) + (x[:, 2] > 1).astype(jnp.int32)
    return x, y


def build(learning_rate, rate):
    net = fnn.serial(
        fnn.Dense(6), fnn.Tanh(), fnn.Dropout(rate), fnn.BatchNorm(), fnn.Dense(3)
    )
    return net, LOSS, fnn.optimizers.sgd(learning_rate, momentum=0.9), 0.01


GRID = {"learning_rate": RATES, "rate": [0.0, 0.3]}
OPTIONS = dict(epochs=12, batch_size=16, early_stopping=fnn.EarlyStopping(patience=2))


def data(dtype=jnp.float32):
    return dict(train=problem(70, dtype), validation=problem(31, dtype))


def fitted(i, j, s, options, dtype=jnp.float32, build=build):
    net, loss, optimizer, l2 = build(RATES[i], GRID["rate"][j])
    return fnn.fit(
        net, loss, optimizer, l2=l2, key=KEYS[s], **data(dtype), **options
    )  # fmt: skip


def assert_same(swept, index, fit, tolerance):
    """Compare the member at an index of the grid with a result of `fit`."""
    assert swept.epochs[index] == fit.epochs
    assert swept.best_epoch[index] == fit.best_epoch
    assert swept.stopped[index] == fit.stopped
    for name in ("train_loss", "validation_loss", "validation_accuracy"):
        want, got = fit.history[name], swept.history[name][index]
        np.testing.assert_allclose(got[: len(want)], want, rtol=0, atol=tolerance)
        assert np.isnan(got[len(want) :]).all()
    for name in ("variables", "last_variables"):
        jax.tree.map(
            lambda all, one: np.testing.assert_allclose(
                all[index], one, rtol=0, atol=10 * tolerance
            ),
            getattr(swept, name),
            jax.tree.map(np.asarray, getattr(fit, name)),
        )


def test_every_member_is_what_fit_trains():
    with jax.enable_x64():
        chunks = []
        swept = fnn.sweep(
            build, GRID, keys=KEYS, **data(jnp.float64), **OPTIONS, at_once=5,
            on_chunk=lambda done, all: chunks.append((done, all)),
        )  # fmt: skip
        assert swept.epochs.shape == (3, 2, 2)
        assert list(swept.axes) == ["learning_rate", "rate", "key"]
        assert chunks == [(5, 12), (10, 12), (12, 12)]
        for index in np.ndindex(3, 2, 2):
            assert_same(swept, index, fitted(*index, OPTIONS, jnp.float64), 1e-10)
    assert len(set(swept.epochs.ravel().tolist())) >= 3  # stopped in their own time
    assert set(swept.stopped.ravel()) == {"epochs", "patience"}


@pytest.mark.thorough
def test_in_float32_losses_agree_to_1e_5():
    swept = fnn.sweep(build, GRID, keys=KEYS, **data(), **OPTIONS)
    for index in np.ndindex(3, 2, 2):
        fit = fitted(*index, OPTIONS)
        same = min(swept.epochs[index], fit.epochs)
        # The largest rate drives losses up to 3, and rounding errors with them.
        is_large = RATES[index[0]] == max(RATES)
        bound = dict(rtol=1e-5, atol=0) if is_large else dict(rtol=0, atol=1e-6)
        for name in ("train_loss", "validation_loss"):
            got, want = swept.history[name][index], fit.history[name]
            np.testing.assert_allclose(got[:same], want[:same], **bound)


def test_other_numbers_and_keys_do_not_compile_again():
    options = dict(epochs=2, batch_size=35, **data())
    fnn.sweep(build, GRID, keys=KEYS, **options)
    before = train_members._cache_size()
    other = {"learning_rate": [1e-3, 2e-3], "rate": [0.1, 0.7, 0.2]}
    fnn.sweep(build, other, keys=jax.random.split(jax.random.key(9), 2), **options)
    assert train_members._cache_size() == before


def look_ahead(learning_rate, rate):
    net = fnn.serial(fnn.Dense(6), fnn.Tanh(), fnn.Dense(3))
    optimizer = fnn.optimizers.rmsprop(
        learning_rate / 10, momentum=0.9, nesterov="lookahead"
    )
    return net, LOSS, optimizer, rate / 10


def by_optax(learning_rate, rate):
    net, loss, _, l2 = look_ahead(learning_rate, rate)
    chain = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(learning_rate))
    return net, loss, chain, l2


@pytest.mark.parametrize(
    "build", [look_ahead, pytest.param(by_optax, marks=pytest.mark.thorough)]
)
def test_look_ahead_optax_and_every(build):
    early_stopping = fnn.EarlyStopping(patience=2, every=3, subset=0.7)
    options = OPTIONS | dict(early_stopping=early_stopping, epochs=11)
    with jax.enable_x64():
        swept = fnn.sweep(build, GRID, keys=KEYS, **data(jnp.float64), **options)
        for index in ((0, 0, 0), (2, 1, 1)):
            fit = fitted(*index, options, jnp.float64, build)
            assert_same(swept, index, fit, 1e-10)
    np.testing.assert_array_equal(swept.history["validation_epoch"], [3, 6, 9])


def test_a_member_that_diverges_stops_and_harms_no_other():
    def build(learning_rate):
        net = fnn.serial(fnn.Dense(4), fnn.Relu(), fnn.Dense(3))
        return net, LOSS, fnn.optimizers.sgd(learning_rate)

    options = dict(keys=KEYS[0], epochs=5, batch_size=35, **data())
    swept = fnn.sweep(build, {"learning_rate": [0.1, 1e30]}, **options)
    alone = fnn.sweep(build, {"learning_rate": [0.1]}, **options)
    assert swept.stopped.tolist() == [["epochs"], ["diverged"]]
    assert swept.epochs[1, 0] < 5
    np.testing.assert_allclose(
        swept.history["validation_loss"][0], alone.history["validation_loss"][0],
        rtol=1e-5,
    )  # fmt: skip
    assert swept.best() == {"learning_rate": 0.1}


@pytest.mark.thorough
def test_convolutions_are_trained_one_after_the_other_on_the_cpu():
    def build(rate):
        body = fnn.serial(
            fnn.Conv(2, 3), fnn.Relu(), fnn.MaxPool(2), fnn.Dropout(rate),
            fnn.Flatten(), fnn.Dense(3),
        )  # fmt: skip
        return body, LOSS, fnn.optimizers.adam(1e-2)

    x = jax.random.normal(jax.random.key(1), (24, 6, 6, 1))
    train = x, jnp.arange(24) % 3
    chunks = []
    options = dict(train=train, validation=train, epochs=2, batch_size=8)
    swept = fnn.sweep(
        build, {"rate": [0.0, 0.5]}, keys=KEYS[:1], **options,
        on_chunk=lambda *counts: chunks.append(counts),
    )  # fmt: skip
    mapped = fnn.sweep(build, {"rate": [0.0, 0.5]}, keys=KEYS[:1], at_once=2, **options)
    if jax.default_backend() == "cpu":
        assert chunks == [(1, 2), (2, 2)]
    np.testing.assert_allclose(
        swept.history["validation_loss"], mapped.history["validation_loss"], atol=1e-5
    )


def test_the_best_hyperparameters_have_the_best_mean():
    swept = fnn.sweep(build, GRID, keys=KEYS, **data(), **OPTIONS)
    means = swept.at_best("accuracy").mean(-1)
    i, j = np.unravel_index(means.argmax(), means.shape)
    best = swept.best("accuracy", mode="max")
    assert best == {"learning_rate": RATES[i], "rate": GRID["rate"][j]}


SMALL = dict(keys=KEYS[:1], epochs=2, train=problem(), batch_size=35)


def test_a_metric_may_be_an_integer():
    metrics = {"largest": lambda z, y: y.max(), "any": lambda z, y: (y > 1).any()}
    swept = fnn.sweep(
        refuse, {"rate": [0.1]}, **SMALL, validation=problem(31), metrics=metrics
    )
    assert swept.history["validation_largest"].ravel().tolist() == [2, 2]
    assert swept.history["validation_any"].ravel().tolist() == [1, 1]


def assert_fits_a_screen(text):
    lines = text.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80


def test_a_sweep_prints_its_grid_and_the_best():
    swept = fnn.sweep(build, GRID, keys=KEYS, **data(), **OPTIONS)
    assert repr(swept) == "Sweep(3 learning_rate, 2 rate, 2 key)"
    assert_fits_a_screen(str(swept))
    best, losses = swept.best(), swept.at_best("loss").mean(-1)
    head, rule, *axes, _, loss, stopped = str(swept).splitlines()
    assert head.split() == ["axis", "size", "lowest", "highest", "best"]
    assert rule == "─" * len(head)
    assert [row.split() for row in axes] == [
        ["learning_rate", "3", "0.02", "0.5", f"{best['learning_rate']:.4g}"],
        ["rate", "2", "0", "0.3", f"{best['rate']:.4g}"],
        ["key", "2", "0", "1"],
    ]
    text, value, rest = re.fullmatch(r"(.*): (\S+) (.*)", loss).groups()
    assert text == "best validation loss at the best epoch"
    assert float(value) == pytest.approx(losses.min(), rel=1e-3)
    assert rest == "(the mean of 2 keys)"
    counts = dict(re.findall(r"(\w+) \((\d+)\)", stopped))
    assert stopped.startswith("12 members, stopped by ")
    assert sum(map(int, counts.values())) == 12
    assert int(counts["patience"]) == (swept.stopped == "patience").sum()


def test_a_sweep_without_validation_prints_its_training_loss():
    swept = fnn.sweep(refuse, {"rate": [0.1, 0.5]}, **SMALL)
    losses = swept.history["train_loss"][:, 0, -1]
    value = f"{losses.min():.4g}"
    assert f"best training loss of the last epoch: {value} (the mean" in str(swept)


def test_a_large_grid_fits_a_screen():
    swept = fnn.sweep(refuse, {"rate": [0.1]}, **SMALL)
    names = ["a" * 100, *(f"hyperparameter_{i}" for i in range(29))]
    axes = {name: np.array([0.123456789e-5]) for name in names} | swept.axes
    shape = (1,) * 31
    swept = swept._replace(
        axes={name: axes[name] for name in axes if name != "rate"},
        history={"train_loss": np.full((*shape, 2), np.nan)},
        epochs=np.ones(shape, int),
        stopped=np.full(shape, "diverged"),
    )
    assert_fits_a_screen(str(swept))
    assert_fits_a_screen(repr(swept))
    assert "... 20 more axes" in str(swept)
    assert str(swept).splitlines()[-4].startswith("key")


def refuse(rate):
    return fnn.serial(fnn.Dropout(rate), fnn.Dense(3)), LOSS, fnn.optimizers.sgd(0.1)


SIZES = "(?s)batch_size=1000 is larger.*in the members .* with batch_size=1000"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(grid=[0.1, 0.2]), "grid must map names to the values"),
        (dict(grid={"rate": 0.1}), "a sequence of numbers"),
        (dict(grid={"rate": []}), "a sequence of numbers"),
        (dict(grid={"rate": "0.1"}), "a sequence of numbers"),
        (dict(grid={"rate": optax.sgd(0.1)}), "a sequence of numbers"),
        (dict(grid={"rate": ["a"]}), r"in build\(rate='a'\), for the member at \(0,\)"),
        (dict(grid={"batch_size": [8, 1000]}, build=lambda: refuse(0.1)), SIZES),
        (dict(grid={"batch_size": [8.5]}, build=lambda: refuse(0.1)), "an integer"),
        (dict(train=lambda: iter([])), "fnn.sweep trains on arrays"),
        (dict(grid={"key": [1.0]}), "other than 'key'"),
        (dict(grid={"rate": [0.1, float("nan")]}), "must be finite"),
        (dict(build=3), "build must be a function"),
        (dict(build=lambda rate: fnn.Dense(3)), r"\(net, loss, optimizer\)"),
        (dict(grid={"rate": [0.1, 1.5]}), r"in build\(rate=1.5\)"),
        (dict(grid={"momentum": [0.1]}), r"in build\(momentum=0.1\)"),
        (dict(keys=7), r"jax.random.split\(jax.random.key\(0\), 5\)"),
        (dict(keys=jax.random.split(KEYS[0], (2, 2))), r"array \(S,\) of keys"),
        (dict(epochs=0), "epochs must be a positive integer"),
        (dict(at_once=0), "at_once must be a positive integer"),
        (dict(plan="memory"), "'fast', 'exact' or None"),
        (dict(early_stopping=fnn.EarlyStopping()), "needs validation data"),
        (dict(batch_size=1000), "larger than the training set"),
    ],
)
def test_wrong_arguments(options, message):
    given = dict(build=refuse, grid={"rate": [0.1]}, keys=KEYS, epochs=2, batch_size=8)
    given |= dict(train=problem()) | options
    with pytest.raises((ValueError, TypeError)) as caught:
        fnn.sweep(given.pop("build"), given.pop("grid"), **given)
    text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    assert re.search(message, text)


def test_an_unknown_metric_is_named():
    swept = fnn.sweep(
        refuse, {"rate": [0.1]}, keys=KEYS, epochs=1, train=problem(),
        batch_size=35, validation=problem(),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"no metric 'f1' .*\['accuracy', 'loss'\]"):
        swept.at_best("f1")
    with pytest.raises(ValueError, match="mode must be"):
        swept.best(mode="most")
