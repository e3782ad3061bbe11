"""The experiments about other backward passes: wrong labels, angles, noise."""

import jax
import numpy as np
import pytest
from command_lines import assert_refused
from experiment_runs import conclusion, json_lines

import fnn
from experiments import laplace, mislabelled, noise_scale, rule_angles


def run(experiment, options, out):
    """Run an experiment: the numbers and the conclusion."""
    assert experiment.main([*options.split(), "--out", str(out)]) == 0
    (picture,) = (out / "figures").iterdir()
    assert picture.stat().st_size > 10_000
    return json_lines(out / "numbers.jsonl"), conclusion(out)


def test_norms_find_wrong_labels(tmp_path):
    numbers, text = run(mislabelled, "--seeds 1 --epochs 8", tmp_path / "run")
    (line,) = numbers
    assert line["replaced"] == 29 and line["area"] > 0.97
    assert 0.7 < line["found"] <= line["found_in_twice"]
    assert text.startswith("The norms find them: ")


def test_wrong_labels_are_wrong_and_as_many_as_asked():
    y = np.arange(200, dtype=np.int32) % 10
    given, wrong = mislabelled.with_wrong_labels(y, 0.05, 0)
    assert wrong.sum() == 10 and ((given != y) == wrong).all()
    assert given.min() >= 0 and given.max() <= 9 and given.dtype == np.int32


def test_the_area_is_the_probability_of_a_larger_score():
    scores, positive = np.array([3.0, 1.0, 2.0, 0.0]), np.array([1, 0, 0, 1], bool)
    assert mislabelled.roc_area(scores, positive) == 0.5
    assert mislabelled.roc_area(scores, np.array([1, 0, 1, 0], bool)) == 1


@pytest.mark.thorough
def test_angles_of_six_rules(tmp_path):
    numbers, text = run(rule_angles, "--hidden 8 --epochs 2", tmp_path / "run")
    assert [n["rule"] for n in numbers] == list(rule_angles.RULES)
    for line in numbers:
        assert list(line["angles"]) == ["1/Dense", "3/Dense"]
        assert all(len(a) == 2 for a in line["angles"].values())
    assert max(numbers[0]["angles"]["3/Dense"]) < 0.1  # the last layer has true δ
    assert "of 6 rules are within 90°" in text


def test_what_the_angles_conclude_depends_on_the_numbers():
    def line(rule, *angles):
        return {"rule": rule, "angles": {"1/Dense": angles}, "test_accuracy": 0.9}

    lines = [line("feedback alignment", 85.0, 50.0), line("uSF", 40.0, 95.0)]
    text = rule_angles.conclude(lines)
    assert "At the end 1 of 2 rules" in text and "falls from 85°" in text
    lines[0] = line("feedback alignment", 60.0, 70.0)
    assert "rises from 60°" in rule_angles.conclude(lines)


NOISE = "--hidden 4 --batch-sizes 32 128 --target 1.5 --steps 300 --seeds 1"


@pytest.mark.thorough
def test_the_noise_scale_predicts_steps(tmp_path):
    numbers, text = run(noise_scale, NOISE, tmp_path / "run")
    assert [n.get("batch_size") for n in numbers] == [None, 32, 128]
    assert numbers[1]["steps"] > numbers[2]["steps"]
    assert "the counted steps give S_min" in text


def test_a_target_that_is_not_reached_is_said(tmp_path):
    options = "--hidden 4 --batch-sizes 32 128 --target 0.001 --steps 10 --seeds 1"
    out = tmp_path / "run"
    assert noise_scale.main([*options.split(), "--out", str(out)]) == 0
    text = conclusion(out)
    assert "Fewer than two batch sizes reach a loss of 0.001 within 10 steps" in text


def test_the_fit_finds_the_curve_that_made_the_steps():
    sizes = (4, 16, 64)
    numbers = [{"batch_size": b, "steps": [30 * (1 + 20 / b)]} for b in sizes]
    np.testing.assert_allclose(noise_scale.fitted(numbers), (30, 20), rtol=1e-6)
    missing = [{"batch_size": b, "steps": [float("nan")]} for b in sizes]
    assert np.isnan(noise_scale.fitted(missing)).all()


@pytest.mark.thorough
def test_a_posterior_of_the_last_layer(tmp_path):
    options = "--hidden 8 --epochs 3 --samples 20 --priors 10 100"
    numbers, text = run(laplace, options, tmp_path / "run")
    assert [n["answer"] for n in numbers] == ["trained weights", "Laplace"]
    assert all(0 < n["log_loss"] < 2.3 and 0 <= n["area"] <= 1 for n in numbers)
    assert "(τ = 10" in text


def test_weights_are_drawn_with_the_precision_of_the_factors():
    draw = np.random.default_rng(0)
    roots = draw.normal(size=(3, 3)), draw.normal(size=(2, 2))
    factors = fnn.curvature.KroneckerFactors(*(r @ r.T for r in roots))
    params = fnn.DenseParams(np.ones((2, 2), np.float32), np.zeros(2, np.float32))
    weights = laplace.sample_weights(
        params, factors, n=5, prior=2.0, samples=20_000, key=jax.random.key(0)
    )
    rows = np.asarray(weights).reshape(20_000, 6)
    precision = 5 * np.kron(*factors) + 2 * np.eye(6)
    covariance = np.linalg.inv(precision)
    np.testing.assert_allclose(rows.mean(0), [1, 1, 1, 1, 0, 0], atol=0.02)
    np.testing.assert_allclose(np.cov(rows.T), covariance, atol=0.02)


@pytest.mark.parametrize(
    ("experiment", "options", "text"),
    [
        (mislabelled, "--share 0", "share must be between 0 and 1, got 0.0"),
        (mislabelled, "--seeds 0", "seeds must be at least 1, got 0"),
        (rule_angles, "--hidden", "angles need a hidden layer"),
        (noise_scale, "--batch-sizes 4", "batch_sizes must be two or more"),
        (laplace, "--priors 0", "priors must be positive"),
        (noise_scale, "--steps 2", "steps must be at least 10, got 2"),
    ],
)
def test_wrong_options_are_refused(experiment, options, text, tmp_path, capfd):
    assert_refused(experiment.main, options, text, tmp_path, capfd)


def test_rules_of_the_experiment_are_networks_with_the_same_variables():
    net = fnn.serial(fnn.Dense(3), fnn.Dense(2))
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), (4,)))
    for make in rule_angles.RULES.values():
        rule = make(net, jax.random.key(0))
        assert shapes == jax.eval_shape(lambda r=rule: r.init(jax.random.key(0), (4,)))
