"""Published results of other backward passes and of private training."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from experiment_runs import conclusion, json_lines, small_mnist

import fnn
from experiments import reproduce
from experiments.reproduce import Config, Row, conclude
from experiments.shared import published_runs
from experiments.shared.published import SETTINGS
from experiments.shared.published_passes import BIOTORCH_RULES
from experiments.shared.setting import shortened

# ---- The settings ----------------------------------------------------------------

RULES = [
    name
    for name, setting in SETTINGS.items()
    if setting.rule is not None and not name.endswith("-fashion")
]


@pytest.mark.parametrize("name", RULES)
def test_a_rule_keeps_the_network_and_only_its_key_is_new_for_a_seed(name):
    setting = SETTINGS[name]
    one, same, other = (
        setting.rule(setting.net, jax.random.key(seed)) for seed in (0, 0, 1)
    )
    assert one == same and hash(one) == hash(same)
    # Equal but for numbers that are arguments of a compiled program: no new one.
    assert jax.tree.structure(one) == jax.tree.structure(other)
    draws = any(part in name for part in ("-fa", "frsf", "usf", "dfa"))
    assert (one != other) == (draws or "brsf" in name)
    assert name.startswith(("local", "forward")) == (setting.engine != "manual")


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["fa", "usf", "frsf", "brsf"])
def test_the_rule_with_kernels_is_the_rule(kind):
    setting, plain = SETTINGS[f"biotorch-{kind}"], BIOTORCH_RULES[kind][0]
    key = jax.random.key(3)
    variables = setting.net.init(jax.random.key(0), (32, 32, 1))
    x = jax.random.normal(jax.random.key(1), (64, 32, 32, 1))
    batch = x, jnp.arange(64) % 10

    def gradient(net):
        compiled = jax.jit(fnn.value_and_grad(net, setting.loss))
        grads = compiled(variables, batch, key=key).grads
        return fnn.named_params(setting.net, grads)

    one, other = plain(setting.net, key), setting.rule(setting.net, key)
    assert one != other
    expected, got = gradient(one), gradient(other)
    for path, leaf in expected.items():
        size = float(jnp.abs(leaf).max())
        np.testing.assert_allclose(got[path], leaf, rtol=0, atol=1e-4 * size)


def test_both_sets_of_images_have_the_same_training_but_for_the_pixels():
    names = [name for name in SETTINGS if name.endswith("-fashion")]
    assert len(names) == 6
    for name in names:
        fashion, mnist = SETTINGS[name], SETTINGS[name.removesuffix("-fashion")]
        assert fashion.dataset == "fashion_mnist" and mnist.dataset == "mnist"
        assert fashion.published[0] < mnist.published[0]  # the harder one
        same = dict(published=(), pixels=(), dataset="mnist")
        assert replace(fashion, **same) == replace(mnist, **same)


def test_images_are_enlarged_and_standardised():
    x = np.random.default_rng(0).random((3, 28, 28, 1), np.float32)
    setting = SETTINGS["biotorch-bp"]
    got = published_runs.prepared(setting, x)
    expected = jax.image.resize(x, (3, 32, 32, 1), "linear")
    mean, deviation = setting.pixels
    np.testing.assert_allclose(got, (expected - mean) / deviation, rtol=0, atol=2e-5)
    assert got.dtype == np.float32
    assert published_runs.prepared(SETTINGS["meprop-80"], x) is x


def test_random_shifts_bring_in_black_pixels():
    setting = SETTINGS["local-pred"]
    black = published_runs.prepared(setting, np.zeros((5, 28, 28, 1), np.float32))
    moved = published_runs.shifts(setting)(jax.random.key(0), jnp.asarray(black))
    np.testing.assert_allclose(moved, black, rtol=1e-6)
    x = jnp.asarray(black).at[:, 14, 14].set(3.0)
    moved = published_runs.shifts(setting)(jax.random.key(0), x)
    places = {tuple(np.argwhere(np.asarray(m[..., 0]) > 2)[0]) for m in moved}
    assert len(places) > 1 and all(abs(p - 14) <= 2 for pair in places for p in pair)


LENGTHS = [(100, (50, 75)), (20, (10, 15)), (8, (4, 6)), (1, (1, 1))]


def test_a_shorter_training_moves_its_milestones_in_proportion():
    setting = SETTINGS["biotorch-bp"]
    for epochs, milestones in [
        (100, (50, 75)),
        (20, (10, 15)),
        (8, (4, 6)),
        (1, (1, 1)),
    ]:
        assert shortened(setting, epochs).milestones == milestones
        assert shortened(setting, epochs).epochs == epochs
    assert shortened(SETTINGS["dpsgd-1.16"], 3).milestones == ()


def test_decay_momentum_and_milestones_are_those_of_pytorch():
    setting = replace(SETTINGS["biotorch-bp"], epochs=3, milestones=(1, 2))
    optimizer = published_runs.make_optimizer(setting, 2 * setting.batch_size)
    draws = np.random.default_rng(0)
    shapes = {"weight": (3, 2), "bias": (2,)}
    theta = params = {
        name: jnp.asarray(draws.normal(size=shape), "float32")
        for name, shape in shapes.items()
    }
    velocity = jax.tree.map(jnp.zeros_like, theta)
    with jax.numpy_dtype_promotion("standard"):
        state = optimizer.init(params)
        for step, rate in enumerate((1.0, 1.0, 0.1, 0.1, 0.01)):
            grads = jax.tree.map(lambda p, step=step: jnp.cos(p + step), params)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            eta = rate * setting.learning_rate
            grads = jax.tree.map(lambda t, step=step: jnp.cos(t + step), theta)
            # torch.optim.SGD: g ← g + λ θ, v ← β v + g, θ ← θ − η v
            velocity = jax.tree.map(
                lambda v, g, t: 0.9 * v + g + 1e-3 * t, velocity, grads, theta
            )
            theta = jax.tree.map(lambda t, v, e=eta: t - e * v, theta, velocity)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), params, theta
    )
    both = replace(setting, weight_decay=0.0, milestones=(1, 1))
    rate = published_runs.make_optimizer(both, 2 * setting.batch_size).learning_rate
    assert float(rate(2)) == pytest.approx(setting.learning_rate / 100)


def test_the_budget_is_that_of_the_source():
    # Conversions are tighter now than when the source was written.
    x, setting = np.zeros((60_000, 1), np.float32), SETTINGS["dpsgd-1.16"]
    images = published_runs.Images((x, x), None, (x, x))
    found = published_runs.epsilons(setting, images)
    assert 0.7 * 1.16 < found["epsilon_pld"] < found["epsilon_rdp"] < 1.16
    for name in ("dpsgd-6.86", "dpsgd-2.91", "dpsgd-1.16"):
        assert name == f"dpsgd-{SETTINGS[name].published_epsilon}"


# ---- A run -----------------------------------------------------------------------


@pytest.mark.thorough
def test_a_rule_and_a_private_training_are_run_and_said_to_be_short(
    monkeypatch, tmp_path, capsys
):
    small_mnist(monkeypatch)
    pytest.importorskip("dp_accounting")
    out, names = tmp_path / "run", ["biotorch-brsf", "dpsgd-1.16", "local-pred"]
    options = ["--seeds", "1", "--epochs", "2", "--out", str(out)]
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules mix dtypes
        assert reproduce.main([*names, *options]) == 0
    numbers = json_lines(out / "numbers.jsonl")
    assert [n["name"] for n in numbers] == names
    assert all(0 <= n["test_accuracy"] <= 1 for n in numbers)
    assert 0 < numbers[1]["epsilon_pld"] <= numbers[1]["epsilon_rdp"]
    assert "epsilon_rdp" not in numbers[0]
    printed = " ".join(capsys.readouterr().out.split())
    assert "biotorch-brsf (2/100)" in printed and "dpsgd-1.16 (2/15)" in printed
    assert "of the source's deviations" in conclusion(out)
    assert "2 of 100 epochs, the learning rate lowered after 1 and 2" in printed
    assert "not as published: 2 of 100 epochs" in conclusion(out)
    assert f"ε = {numbers[1]['epsilon_rdp']:.2f} by Rényi divergences" in printed


# ---- What is concluded -----------------------------------------------------------


def test_a_short_or_private_training_is_compared_as_what_it_is():
    config = Config(("biotorch-fa",), seeds=1, epochs=20)
    setting = replace(shortened(SETTINGS["biotorch-fa"], 20), learning_rate=0.5)
    row = Row("biotorch-fa", setting, 0.98, math.nan, math.nan)
    rate = f"{SETTINGS['biotorch-fa'].learning_rate:g}"
    assert conclude([row], config) == (
        "biotorch-fa (20/100) is 0.30 points worse than published (not as published: "
        "20 of 100 epochs, the learning rate lowered after 10 and 15; learning rate "
        f"0.5, not {rate})."
    )
    assert reproduce.table_row(row) == (
        "biotorch-fa (20/100)", "error 2.00%", "1.70%", "–"
    )  # fmt: skip
    private = SETTINGS["dpsgd-1.16"]
    row = Row("dpsgd-1.16", private, 0.9429, math.nan, math.nan)
    assert conclude([row], config) == (
        "dpsgd-1.16 is 0.34 points worse than published, 1.0 of the source's "
        "deviations."
    )
    assert reproduce.published_text(private) == "94.63% ± 0.34%"
