"""Published results: the settings, how they are measured, the bound on weights."""

import math
import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from command_lines import assert_refused
from experiment_runs import conclusion, json_lines, small_mnist

import fnn
from experiments import __main__ as listing
from experiments import reproduce
from experiments.reproduce import Config, Row, compare, conclude
from experiments.shared import published_runs
from experiments.shared.published import SETTINGS
from experiments.shared.setting import shortened

# ---- The bound on each unit's incoming weights -----------------------------------


def looped(weight: np.ndarray, c: float) -> np.ndarray:
    """Compute the projection unit by unit, in float64."""
    out = np.array(weight, np.float64)
    for j in range(weight.shape[-1]):
        norm = math.sqrt(sum(w * w for w in out[..., j].ravel()))
        if norm > c:
            out[..., j] *= c / norm
    return out


def random(*shape: int, scale: float = 1.0) -> jax.Array:
    return jnp.asarray(scale * np.random.default_rng(0).normal(size=shape), "float32")


@pytest.mark.parametrize("shape", [(7, 5), (3, 2, 4, 5), (1, 1)])
def test_the_projection_is_the_loop_over_units(shape):
    weight = random(*shape)
    norms = np.linalg.norm(np.asarray(weight).reshape(-1, shape[-1]), axis=0)
    c = float(np.median(norms))
    got = fnn.optimizers.projection_max_norm(weight, c)
    np.testing.assert_allclose(got, looped(np.asarray(weight), c), rtol=1e-6)
    inside = norms <= c
    np.testing.assert_array_equal(got[..., inside], weight[..., inside])  # untouched
    assert weight.size == 1 or 0 < inside.sum() < len(inside)


def test_the_projection_leaves_biases_zeros_and_dtypes_alone():
    dense = fnn.DenseParams(random(4, 3).astype(jnp.bfloat16), 100 * random(3))
    tree = ((), dense, {"zeros": jnp.zeros((2, 2))})
    got = fnn.optimizers.projection_max_norm(tree, 0.5)
    assert jax.tree.structure(got) == jax.tree.structure(tree)
    np.testing.assert_array_equal(got[1].bias, dense.bias)
    np.testing.assert_array_equal(got[2]["zeros"], 0)
    assert got[1].weight.dtype == jnp.bfloat16


def test_the_projection_under_jit_and_vmap():
    weights, bounds = random(3, 7, 5), jnp.array([0.5, 1.0, 2.0])
    project = fnn.optimizers.projection_max_norm
    got = jax.jit(jax.vmap(project))(weights, bounds)
    for one, weight, c in zip(got, weights, bounds, strict=True):
        np.testing.assert_allclose(one, looped(np.asarray(weight), c), rtol=1e-6)


def test_a_chain_makes_the_step_and_then_projects():
    params, grads = {"w": random(7, 5), "b": random(5)}, {"w": random(7, 5, scale=9.0)}
    grads["b"] = random(5, scale=9.0)
    inner = fnn.optimizers.momentum(0.1, 0.9)
    chain = optax.chain(inner, fnn.optimizers.max_norm(1.5))
    state, own = chain.init(params), inner.init(params)
    plain = params
    for _ in range(3):  # the velocity is not projected
        updates, state = jax.jit(chain.update)(grads, state, params)
        params = optax.apply_updates(params, updates)
        updates, own = inner.update(grads, own, plain)
        plain = optax.apply_updates(plain, updates)
        plain["w"] = jnp.asarray(looped(np.asarray(plain["w"]), 1.5), "float32")
    np.testing.assert_allclose(params["w"], plain["w"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(params["b"], plain["b"], rtol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(params["w"], axis=0), 1.5, rtol=1e-6)


def test_the_bound_is_an_argument_of_jit_and_may_be_traced():
    weight, traced = random(7, 5), []

    @jax.jit
    def step(bound, weight):
        traced.append(bound)
        return bound.update(weight, bound.init(weight), weight)[0]

    for c in (1.0, 2.0):
        moved = weight + step(fnn.optimizers.max_norm(c), weight)
        expected = looped(np.asarray(2 * weight), c)
        np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-6)
    assert len(traced) == 1
    assert eval(repr(fnn.optimizers.max_norm(2)), vars(fnn.optimizers)).c == 2.0


def cnn() -> fnn.Layer:
    conv = fnn.Conv(3, 3)
    return fnn.serial(conv, fnn.Relu(), fnn.Flatten(), fnn.Dense(6), fnn.Dense(10))


def fitted(optimizer, epochs: int = 1) -> fnn.FitResult:
    x, y = fnn.data.digits().train
    return fnn.fit(
        *(cnn(), fnn.losses.SoftmaxCrossEntropy(), optimizer),
        train=(x[:200], y[:200]),
        key=jax.random.key(0),
        epochs=epochs,
        batch_size=20,
    )


def test_fit_keeps_every_unit_within_the_bound():
    chain = optax.chain(fnn.optimizers.sgd(0.5), fnn.optimizers.max_norm(0.7))
    params = fitted(chain).variables.params
    weights = {
        path: np.asarray(leaf).reshape(-1, leaf.shape[-1])
        for path, leaf in fnn.named_params(cnn(), params).items()
        if path.endswith("weight")
    }
    assert len(weights) == 3
    for path, columns in weights.items():
        longest = np.linalg.norm(columns, axis=0).max()
        assert longest == pytest.approx(0.7, rel=1e-6), path  # it holds, and it binds


def test_a_look_ahead_before_the_bound_is_refused():
    look_ahead = fnn.optimizers.nesterov(0.1)
    with pytest.raises(ValueError, match="must be the last of a chain"):
        fitted(optax.chain(look_ahead, fnn.optimizers.max_norm(2.0)), epochs=0)


WRONG_BOUNDS = [
    (lambda: fnn.optimizers.max_norm(0), ValueError, "must be a finite number > 0"),
    (lambda: fnn.optimizers.max_norm(-1.0), ValueError, "got -1.0"),
    (lambda: fnn.optimizers.max_norm(math.nan), ValueError, "got nan"),
    (lambda: fnn.optimizers.max_norm("2"), TypeError, "MaxNorm.c must be a number"),
    (
        lambda: fnn.optimizers.max_norm(2.0).update(jnp.ones((2, 2)), ()),
        ValueError,
        "expected update(updates, state, params), got no params",
    ),
]


@pytest.mark.parametrize(("wrong", "kind", "text"), WRONG_BOUNDS)
def test_a_wrong_bound_is_refused(wrong, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        wrong()


# ---- The settings ----------------------------------------------------------------


@pytest.fixture
def images(monkeypatch) -> fnn.data.Dataset:
    return small_mnist(monkeypatch)


def test_every_setting_is_the_network_of_its_source():
    def count(setting):
        shape = setting.side, setting.side, 1
        init = partial(setting.net.init, jax.random.key(0), shape)
        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(init).params))

    shapes = {
        name: count(setting)
        for name, setting in SETTINGS.items()
        if not name.endswith("-fashion")  # the networks of the others
    }
    small = 784 * 30 + 30 + 30 * 10 + 10
    assert {shapes[n] for n in shapes if n.startswith("nielsen-3")} == {small}
    assert shapes["nielsen-1"] == small
    assert shapes["nielsen-1-wide"] == 784 * 100 + 100 + 100 * 10 + 10
    assert shapes["nielsen-6"] == 20 * 26 + (20 * 144 + 1) * 100 + 1010
    two = 20 * 26 + 40 * 501 + (40 * 16 + 1) * 100 + 1010
    assert shapes["nielsen-6-two"] == shapes["nielsen-6-relu"] == two
    wide = 785 * 1024 + 2 * 1025 * 1024 + 1025 * 10
    assert {shapes[n] for n in shapes if n.startswith("dropout")} == {wide}
    assert SETTINGS["nielsen-6-relu"].l2 == pytest.approx(1.0)  # 0.1 / (n/10) · n
    lenet = 6 * 26 + 16 * 151 + 120 * 401 + 84 * 121 + 10 * 85
    assert {shapes[n] for n in shapes if n.startswith("biotorch")} == {lenet}
    assert {shapes[n] for n in shapes if n.startswith("dpsgd")} == {26_010}  # Opacus'
    meprop = 785 * 500 + 501 * 500 + 501 * 10
    assert {shapes[n] for n in shapes if n.startswith("meprop")} == {meprop}
    local = wide + 3 * 2 * 1024  # and a scale and a shift of each unit
    assert {shapes[n] for n in shapes if n.startswith("local")} == {local}
    forward = 785 * 2000 + 3 * 2001 * 2000
    assert shapes["forward-forward"] == forward


def test_every_weight_and_bias_of_the_book_starts_from_a_standard_normal():
    net = SETTINGS["nielsen-1-wide"].net
    params = net.init(jax.random.key(0), (28, 28, 1)).params
    for path, leaf in fnn.named_params(net, params).items():
        expected = pytest.approx(1, abs=4 / math.sqrt(2 * leaf.size))
        assert float(leaf.std()) == expected, path


def test_the_penalty_is_that_of_the_books_program():
    # network3.py adds λ/2 Σ w² / (n/m) to the mean cost of a minibatch of m.
    setting, n, lam = SETTINGS["nielsen-6-relu"], 50_000, 0.1
    assert setting.l2 / (2 * n) == pytest.approx(
        0.5 * lam / (n / setting.batch_size), rel=1e-12
    )


def test_images_are_divided_as_the_sources_do(images):
    (x, y), test = images
    best = published_runs.split_images(SETTINGS["nielsen-3"], images, False)
    np.testing.assert_array_equal(best.train[0], x[:200])
    np.testing.assert_array_equal(best.test[1], test[1])
    assert best.validation is best.test
    validated = published_runs.split_images(SETTINGS["nielsen-6"], images, False)
    np.testing.assert_array_equal(validated.validation[1], y[200:])
    np.testing.assert_array_equal(validated.train[1], y[:200])
    last = published_runs.split_images(SETTINGS["dropout-relu"], images, False)
    assert len(last.train[0]) == 240 and last.validation is None
    first = published_runs.split_images(SETTINGS["nielsen-3-thousand"], images, False)
    assert len(first.train[0]) == 4  # 1,000 of 60,000
    squared = published_runs.split_images(SETTINGS["nielsen-1"], images, False)
    np.testing.assert_array_equal(squared.train[1].argmax(1), y[:200])
    assert squared.train[1].shape == (200, 10) and squared.train[1].sum() == 200


@pytest.mark.parametrize("name", ["nielsen-1", "nielsen-6", "dropout-relu"])
def test_tuning_never_sees_the_test_images(name, images):
    (x, _), _ = images
    data = published_runs.split_images(SETTINGS[name], images, True)
    np.testing.assert_array_equal(data.train[0], x[:200])
    np.testing.assert_array_equal(data.test[0], x[200:])


def test_what_is_reported_is_what_the_source_reports(images):
    setting = replace(SETTINGS["nielsen-3"], epochs=10)
    data = published_runs.split_images(setting, images, False)
    seen, optimizer = [], fnn.optimizers.sgd(4.0)  # too fast: all epochs differ
    got = published_runs.train_and_measure(setting, optimizer, data, 0, seen.append)
    accuracies = [record["validation_accuracy"] for record in seen]
    assert got["test_accuracy"] == pytest.approx(max(accuracies))
    assert got["best_epoch"] == 1 + int(np.argmax(accuracies))
    assert got["last_test_accuracy"] == pytest.approx(accuracies[-1])
    assert got["test_accuracy"] > accuracies[-1]
    assert got["best_epoch"] != 1 + np.argmin([r["validation_loss"] for r in seen])

    validated = replace(setting, measured="validated")
    data = published_runs.split_images(validated, images, False)
    own = published_runs.train_and_measure(validated, optimizer, data, 0, seen.append)
    held_out = [record["validation_accuracy"] for record in seen[10:]]
    assert own["best_epoch"] == 1 + int(np.argmax(held_out))
    # The same key, the same training: that epoch's accuracy on the test images.
    assert own["test_accuracy"] == pytest.approx(accuracies[own["best_epoch"] - 1])

    last = replace(setting, measured="last", examples=50_000)
    data = published_runs.split_images(last, images, False)
    own = published_runs.train_and_measure(last, optimizer, data, 0, seen.append)
    assert own["test_accuracy"] == pytest.approx(accuracies[-1])
    assert "validation_accuracy" not in seen[-1]


def test_the_optimizers_are_those_of_the_settings():
    book = published_runs.make_optimizer(SETTINGS["nielsen-1"], 50_000)
    assert book == fnn.optimizers.sgd(3.0)
    setting = SETTINGS["dropout-relu"]
    optimizer = published_runs.make_optimizer(setting, 60_000)
    assert optimizer.momentum == 0.95
    steps = setting.epochs * math.ceil(60_000 / setting.batch_size)
    with jax.numpy_dtype_promotion("standard"):
        points = (0, steps // 20, steps)
        rates = [float(optimizer.learning_rate(step)) for step in points]
        chain = published_runs.make_optimizer(SETTINGS["dropout-max-norm"], 60_000)
        weight = 5 * jnp.ones((9, 2))
        updates, _ = chain.update(jnp.zeros((9, 2)), chain.init(weight), weight)
    assert rates == pytest.approx([0, setting.learning_rate, 0], abs=1e-9)
    np.testing.assert_allclose(jnp.linalg.norm(weight + updates, axis=0), 2.0, 1e-6)


# ---- A run -----------------------------------------------------------------------


@pytest.mark.thorough
def test_a_run_leaves_a_line_for_every_seed_and_a_sentence(images, tmp_path, capsys):
    out, names = tmp_path / "run", ["nielsen-1", "nielsen-3-l2"]
    options = ["--seeds", "2", "--epochs", "3", "--out", str(out)]
    assert reproduce.main([*names, *options]) == 0
    numbers = json_lines(out / "numbers.jsonl")
    assert [(n["name"], n["seed"]) for n in numbers] == [
        (name, seed) for name in names for seed in (0, 1)
    ]
    rows = [
        compare(n, SETTINGS[n], [m["test_accuracy"] for m in numbers if m["name"] == n])
        for n in names
    ]
    text = conclusion(out)
    assert text == conclude(rows, Config(tuple(names), epochs=3))
    printed = capsys.readouterr().out
    assert text in " ".join(printed.split())
    assert f"{rows[0].mean:.2%} ± {rows[0].deviation:.2%}" in printed
    assert "95.42%" in printed and "96.49%" in printed
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.thorough
def test_deep_networks_are_trained_and_measured(images, tmp_path, monkeypatch):
    # A narrow one in place of 3×1024: the layers count here, not their width.
    layers = tuple(
        fnn.Dense(16) if getattr(part, "features", 0) == 1024 else part
        for part in SETTINGS["dropout-max-norm"].net.layers
    )
    assert layers.count(fnn.Dense(16)) == 3
    narrow = replace(SETTINGS["dropout-max-norm"], net=fnn.serial(*layers))
    monkeypatch.setitem(SETTINGS, "dropout-max-norm", replace(narrow, batch_size=40))
    names = ["nielsen-6", "dropout-max-norm"]
    options = ["--seeds", "1", "--epochs", "1", "--out", str(tmp_path / "run")]
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules mix dtypes
        assert reproduce.main([*names, *options]) == 0
    numbers = json_lines(tmp_path / "run" / "numbers.jsonl")
    assert [n["name"] for n in numbers] == names
    assert all(0 <= n["test_accuracy"] <= 1 for n in numbers)


# ---- What is concluded -----------------------------------------------------------


def test_the_interval_is_where_another_run_is_expected():
    row = compare("nielsen-1", SETTINGS["nielsen-1"], [0.95, 0.954, 0.952])
    assert row.mean == pytest.approx(0.952) and row.deviation == pytest.approx(0.002)
    # Student's t with two degrees: 4.3027.
    assert row.half_width == pytest.approx(4.3027 * 0.002 * math.sqrt(4 / 3), rel=1e-4)
    assert row.gap == pytest.approx(0.952 - 0.9542)


def test_the_interval_holds_19_of_20_further_runs():
    draws = np.random.default_rng(0).normal(0.95, 0.002, (4000, 4))
    rows = [compare("", SETTINGS["nielsen-1"], d[:3].tolist()) for d in draws]
    held = [
        abs(d[3] - row.mean) <= row.half_width
        for d, row in zip(draws, rows, strict=True)
    ]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_what_is_concluded_depends_on_the_numbers():
    config = Config(("nielsen-1",))
    row = Row("nielsen-1", SETTINGS["nielsen-1"], 0.952, 0.002, 0.01)
    assert conclude([row], config) == (
        "1 of 1 published figures lie where 95% of our runs are expected (at most "
        "±1.00 points from our means: nielsen-1)."
    )
    worse = row._replace(half_width=0.001)
    assert conclude([row, worse], config) == (
        "1 of 2 published figures lie where 95% of our runs are expected (at most "
        "±1.00 points from our means: nielsen-1); nielsen-1 is 0.22 points worse than "
        "published."
    )
    alone = row._replace(mean=0.96, half_width=math.nan)
    assert conclude([alone], config) == (
        "nielsen-1 is 0.58 points better than published."
    )
    none = SETTINGS["dropout-none"]
    short = shortened(none, 2)
    other = Row("dropout-none", short, 0.985, 0.0005, 0.002)
    assert conclude([other], replace(config, epochs=2, validate=True)) == (
        "dropout-none (2/250) has no published figure (error 1.50% ± 0.05% here; "
        "logistic 2×800: 1.60%) (not as published: 2 of 250 epochs; on validation "
        "images)."
    )


def test_of_two_published_figures_the_nearer_one_counts():
    row = compare("nielsen-3", SETTINGS["nielsen-3"], [0.9550, 0.9552])
    assert row.gap == pytest.approx(0.9551 - 0.9549)


# ---- The command line ------------------------------------------------------------

WRONG = [
    ("", "name at least one of nielsen-1"),
    ("nielsen-9", "invalid choice 'nielsen-9'"),
    ("nielsen-1 --seeds 0", "seeds must be at least 1, got 0"),
    ("nielsen-1 --epochs 0", "must be positive, got {'epochs': 0}"),
    ("nielsen-1 --learning-rate 0", "must be positive, got {'learning_rate': 0.0}"),
    ("nielsen-1 --data-dir nowhere", "data_dir=nowhere is not a folder"),
]


@pytest.mark.parametrize(("argv", "message"), WRONG)
def test_wrong_options_are_named_before_any_work(argv, message, tmp_path, capfd):
    assert_refused(reproduce.main, argv, message, tmp_path, capfd)


def test_the_experiment_is_listed_and_explains_itself(capsys):
    assert listing.experiments()["reproduce"].endswith("?")
    with pytest.raises(SystemExit) as stopped:
        reproduce.main(["--help"])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0 and "dropout-max-norm" in printed
    assert "--validate" in printed and "--dataset" not in printed
