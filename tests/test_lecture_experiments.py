"""The experiments about the lecture: blame, constant starts, momentum."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import fnn
from experiments import __main__ as listing
from experiments import blame, constant_start, momentum_curves


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def conclusion(out: Path) -> str:
    return json.loads((out / "result.json").read_text())["conclusion"]


def run(experiment, options: str, out: Path) -> tuple[int, list[dict], str]:
    """The exit status, the numbers and the conclusion."""
    status = experiment.main([*options.split(), "--out", str(out)])
    return status, lines(out / "numbers.jsonl"), conclusion(out)


# ---- Blame -----------------------------------------------------------------------

SMALL = "--hidden 5 4 --epochs 2 --learning-rate 0.05"


def test_blame_is_the_textbooks_delta(tmp_path):
    status, numbers, said = run(blame, SMALL, tmp_path / "run")
    assert status == 0 and len(numbers) == 9
    config = blame.Config(hidden=(5, 4), epochs=2, learning_rate=0.05)
    net, data = blame.network(config), fnn.data.digits()
    params = blame.trained(net, data.train, config, 2).params
    thetas = [np.column_stack([p.bias, p.weight.T]) for p in params if p]
    x, y = data.test
    i = blame.extremes(net, fnn.Variables(params, ((),) * 6), (x, y))["most"]
    activations = fnn.textbook.forward(thetas, x[i].ravel())
    expected = fnn.textbook.deltas(thetas, activations, np.eye(10)[y[i]])
    found = [n for n in numbers if (n["cost"], n["training"]) == ("most", "after")]
    for line, delta in zip(found, expected, strict=True):
        np.testing.assert_allclose(line["delta"], delta, atol=1e-6)
        assert line["blame"] == pytest.approx(np.abs(delta).sum(), rel=1e-5)
        assert line["unit"] == np.abs(delta).argmax()
    assert f"of the {found[0]['example']} most is then" in said
    assert "has the same δ as the recursion" in said
    assert (tmp_path / "run/figures/blame.png").stat().st_size > 10_000


def test_the_digits_cost_most_and_least():
    net = blame.network(blame.Config(hidden=(3,)))
    x, y = (part[:40] for part in fnn.data.digits().test)
    variables = net.init(jax.random.key(0), x.shape[1:])
    chosen = blame.extremes(net, variables, (x, y))
    cost = [
        fnn.evaluate(net, blame.LOSS, variables, (x[i : i + 1], y[i : i + 1]))["loss"]
        for i in range(len(y))
    ]
    same = np.flatnonzero(y == y[chosen["most"]])
    assert cost[chosen["most"]] == pytest.approx(max(cost), rel=1e-5)
    assert cost[chosen["least"]] == pytest.approx(min(cost[i] for i in same), rel=1e-5)


def test_a_backward_that_passes_on_other_blame_is_found(tmp_path, monkeypatch):
    @fnn.layer
    class Lenient(fnn.Sigmoid):
        def backward(self, params, saved, dy):
            right = super().backward(params, saved, dy)
            return right._replace(dx=right.dx / 2)

    monkeypatch.setattr(blame.fnn, "Sigmoid", Lenient)
    status, numbers, said = run(blame, SMALL, tmp_path / "run")
    assert status == 1
    errors = {n["layer"]: n["error"] for n in numbers}
    assert errors[4] < 1e-5
    assert errors[3] == pytest.approx(1 / 2, abs=1e-5)
    assert errors[2] == pytest.approx(3 / 4, abs=1e-5)
    assert "has another δ than the recursion (off by at most 8e-01" in said
    assert said.endswith("in layer 2).")


def test_what_is_concluded_about_blame_depends_on_the_numbers():
    line = {"example": "8 taken for 5", "cost": "most", "unit": 7, "share": 0.25}
    blames = {"before": (1, 2, 4), "after": (3, 2, 1)}
    numbers = [
        line | {"training": when, "layer": layer, "blame": value, "error": layer / 1e8}
        for when, values in blames.items()
        for layer, value in enumerate(values, start=2)
    ]
    said = blame.conclude(numbers)
    assert "shrinks from 4 to 1 before training and grows from 1 to 3 after" in said
    assert (
        "of the 8 taken for 5 most is then in layer 2, 25% of that with unit 7" in said
    )
    assert "the same δ as the recursion (off by at most 4e-08" in said
    numbers[3]["blame"], numbers[-1]["error"] = 0.5, np.nan
    said = blame.conclude(numbers)
    assert "shrinks from 1 to 0.5 after" in said and "most is then in layer 3" in said
    assert "another δ than the recursion" in said


# ---- A constant start ------------------------------------------------------------


def test_only_a_random_start_makes_units_different(tmp_path):
    options = "--hidden 5 --epochs 4 --seeds 2 --learning-rate 0.5"
    status, numbers, said = run(constant_start, options, tmp_path / "run")
    assert status == 0 and len(numbers) == 3 * 2 * 5
    assert {n["step"] for n in numbers} == {0, 45, 90, 135, 180}
    for start in constant_start.LOOKS:
        spreads = [n["spread"] for n in numbers if n["start"] == start]
        assert np.shape(spreads) == (10, 2)
        assert np.all(np.array(spreads) > 0) == (start == "random")
        assert np.any(np.array(spreads) > 0) == (start == "random")
    ends = constant_start.last(numbers, "random")
    assert [n["step"] for n in ends] == [180, 180]
    assert min(n["test_accuracy"] for n in ends) > 0.5
    assert "In 180 steps from constant and zeros the units of each hidden" in said
    assert f"accuracy of {constant_start.percent(ends)} (mean" in said
    assert (tmp_path / "run/figures/units.png").stat().st_size > 10_000


def test_units_that_start_equal_do_move():
    config = constant_start.Config(hidden=3, epochs=1)
    data = fnn.data.digits()
    for start in ("zeros", "constant"):
        (_, before, _), (_, after, _) = constant_start.trained(start, config, 0, data)
        for layers in zip(before, after, strict=True):
            old, new = (layer.weight for layer in layers)
            assert np.abs(new - old).max() > 1e-6
            assert (new == new[:, :1]).all()


def test_spread_is_the_distance_that_the_page_says():
    weight, bias = np.random.default_rng(0).random((2, 3)), np.array([1.0, 2, 4])
    theta = [np.append(weight[:, i], bias[i]) for i in range(3)]
    squares = [np.sum((t - np.mean(theta, axis=0)) ** 2) for t in theta]
    layer = fnn.DenseParams(weight, bias)
    expected = np.sqrt(np.mean(squares) / 3)
    assert constant_start.spread(layer) == pytest.approx(expected)
    # The mean of 49 equal numbers can differ from them in the last digit.
    equal = fnn.DenseParams(np.full((2, 49), 0.1), np.full(49, 1 / 3))
    assert constant_start.spread(equal) == 0


def test_what_is_concluded_about_starts_depends_on_the_numbers():
    def ended(start, spread, accuracies):
        line = {"start": start, "step": 9, "spread": [0, spread]}
        return [
            line | {"seed": s, "test_accuracy": a} for s, a in enumerate(accuracies)
        ]

    random = ended("random", 1.5, (0.9, 0.92))
    zeros, constant = ended("zeros", 0, (0.1, 0.1)), ended("constant", 0, (0.2, 0.3))
    said = constant_start.conclude([*random, *zeros, *constant])
    assert "from constant and zeros the units of each hidden layer stay equal" in said
    assert "accuracy of 25.0% ± 7.1% and 10.0% ± 0.0%; from random" in said
    assert "differ (spread up to 1.5), with a test accuracy of 91.0% ± 1.4%" in said
    broken = ended("zeros", 1e-7, (0.1, 0.1))
    said = constant_start.conclude([*random, *broken, *constant])
    assert "from constant the units of each hidden layer stay equal" in said
    assert "from zeros they differ (spread up to 1e-07)" in said


# ---- Momentum --------------------------------------------------------------------


def test_momentum_curves_are_told_apart(tmp_path):
    options = "--steps 60 --seeds 2 --hidden 8"
    status, numbers, said = run(momentum_curves, options, tmp_path / "run")
    assert status == 0 and len(numbers) == 3 * (1 + 2)
    valley = {n["momentum"]: n for n in numbers if n["problem"] == "valley"}
    assert valley[0.9]["rises"] > 10 > valley[0.5]["rises"] >= valley[0]["rises"] == 0
    digits = momentum_curves.means(numbers, "digits")
    assert [rises for _, rises in digits.values()] == [0, 0, 0]
    assert digits[0][0] == 1
    assert 1.7 < digits[0.5][0] < 2.3  # 1/(1 − β) = 2
    assert 3 < digits[0.9][0] < 10
    assert "by oscillation (momentum 0.9 rises most" in said
    assert "on the digits (means of 2 seeds) by speed (gradient descent ×1.0" in said
    assert said.endswith("and no loss ever rises.")
    assert (tmp_path / "run/figures/curves.png").stat().st_size > 10_000


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_the_valley_is_descended_as_the_recurrence_says(beta):
    config = momentum_curves.Config(steps=20)
    path = momentum_curves.descend(fnn.data.ill_conditioned_bowl(100), beta, config)
    for c, theta in zip((1, 100), path.T, strict=True):
        expected = [1, 1 - 0.005 * c]
        for _ in range(18):
            before, last = expected[-2:]
            expected.append((1 + beta - 0.005 * c) * last - beta * before)
        np.testing.assert_allclose(theta, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [([4, 3, 2, 1], 2), ([1, 3, 1, 2], 2), ([4, 4, 4, 4], np.inf), ([1, 1, 1, 1], 1)],
)
def test_when_a_loss_arrives_for_good(loss, expected):
    assert momentum_curves.arrival(np.array(loss), 2) == expected


def test_rises_are_counted_but_not_rounding():
    plain, rising = np.array([4, 3, 2.0]), np.array([1, 2, 2 + 1e-8])
    losses = {0.0: plain[None], 0.5: rising[None]}
    numbers = momentum_curves.measured("valley", losses)
    assert [n["rises"] for n in numbers] == [0, 1]
    assert [n["gain"] for n in numbers] == [1, 0]  # 2 + 1e-8 is not yet there


def test_what_is_concluded_about_momentum_depends_on_the_numbers():
    def lines_of(problem, gains, rises):
        line = {"problem": problem, "seed": 0}
        both = zip((0.0, 0.5, 0.9), gains, rises, strict=True)
        return [line | {"momentum": b, "gain": g, "rises": r} for b, g, r in both]

    numbers = lines_of("valley", (1, 2, 5), (0, 1, 9))
    numbers += lines_of("digits", (1, 0.5, 1.1), (0, 0, 0))
    said = momentum_curves.conclude(numbers)
    assert "momentum 0.5 ×2.0, momentum 0.9 ×5.0) and by oscillation (mom" in said
    assert "(momentum 0.9 rises most: at 9 steps); on the digits" in said
    assert "not by speed (momentum 0.5 ×0.5, gradient descent ×1.0, mom" in said
    assert said.endswith("and no loss ever rises.")


# ---- The command line ------------------------------------------------------------

EXPERIMENTS = {
    "blame": blame,
    "constant_start": constant_start,
    "momentum_curves": momentum_curves,
}
WRONG = [
    ("blame", "--hidden", "a hidden layer"),
    ("blame", "--hidden 0", "features must be a positive integer"),
    ("blame", "--epochs 0", "epochs must be at least 1, got 0"),
    ("constant_start", "--hidden 1", "hidden must be at least 2, got 1"),
    ("constant_start", "--seeds 1", "seeds must be at least 2, got 1"),
    ("constant_start", "--batch-size 0", "batch_size must be at least 1, got 0"),
    ("constant_start", "--momentum 1", "momentum"),
    ("momentum_curves", "--steps 1", "steps must be at least 2, got 1"),
    ("momentum_curves", "--valley-rate 0.02", "from 0 to 2/κ = 0.02, got 0.02"),
    ("momentum_curves", "--condition-number 0", "condition_number must be finite"),
    ("momentum_curves", "--digits-rate -1", "learning_rate"),
]


@pytest.mark.parametrize(("name", "argv", "message"), WRONG)
def test_wrong_options_are_named_before_any_work(name, argv, message, tmp_path, capfd):
    out = tmp_path / "never"
    with pytest.raises(SystemExit) as stopped:
        EXPERIMENTS[name].main([*argv.split(), "--out", str(out)])
    assert stopped.value.code == 2 and not out.exists()
    printed = " ".join("".join(capfd.readouterr()).replace("│", " ").split())
    assert message in printed and "Traceback" not in printed


DIVERGING = [
    ("blame", "--learning-rate 1e38 --epochs 1 --hidden 3"),
    ("constant_start", "--learning-rate 1e38 --epochs 2 --hidden 3"),
    ("momentum_curves", "--digits-rate 1e38 --steps 20"),
]


@pytest.mark.parametrize(("name", "options"), DIVERGING)
def test_where_training_diverges_nothing_is_concluded(name, options, tmp_path):
    with pytest.raises(SystemExit, match=r"diverged .*: give a smaller --"):
        run(EXPERIMENTS[name], options, tmp_path / "run")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_are_listed_and_explain_themselves(name, capsys):
    assert listing.experiments()[name].endswith((".", "?"))
    with pytest.raises(SystemExit) as stopped:
        EXPERIMENTS[name].main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0 and listing.experiments()[name] in printed
    assert "(default:" in printed and "--out" in printed
