"""The experiments about the lecture: blame, constant starts, momentum."""

import re
from itertools import product
from pathlib import Path

import jax
import numpy as np
import pytest
from command_lines import assert_refused, printed_help
from experiment_runs import conclusion, json_lines
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import fnn
from experiments import __main__ as listing
from experiments import blame, constant_start, momentum_curves
from experiments.shared import figures


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def run(experiment, options: str, out: Path) -> tuple[int, list[dict], str]:
    """Run an experiment: the exit status, the numbers and the conclusion."""
    status = experiment.main([*options.split(), "--out", str(out)])
    return status, json_lines(out / "numbers.jsonl"), conclusion(out)


# ---- Blame -----------------------------------------------------------------------

SMALL = "--hidden 5 4 --epochs 2 --learning-rate 0.05"


def test_blame_flows_back_as_the_lecture_says(tmp_path):
    status, numbers, text = run(blame, SMALL, tmp_path / "run")
    assert status == 0 and len(numbers) == 3
    for line in numbers:
        *deltas, output = map(np.array, line["delta"])
        assert [len(delta) for delta in (*deltas, output)] == [5, 4, 10]
        assert line["blame"] == pytest.approx([np.abs(d).sum() for d in line["delta"]])
        digit = int(line["example"][0])
        assert (output < 0).nonzero()[0].tolist() == [digit]  # a − y
        for delta, flow in zip(deltas, line["flow"][1:], strict=True):
            # What flows to a unit is scaled by g', which is at most 1/4.
            share = delta / np.sum(flow, axis=0)
            assert np.all((share > 0) & (share < 1 / 4 + 1e-6))
    assert numbers[0]["image"] == numbers[1]["image"] != numbers[2]["image"]
    most = np.argmax(numbers[1]["blame"])
    unit = np.abs(numbers[1]["delta"][most]).argmax()
    assert f"most is in layer {most + 2} (" in text and f"with unit {unit});" in text
    assert "has the same δ as the recursion" in text
    assert (tmp_path / "run/figures/blame.png").stat().st_size > 10_000


def test_blame_is_the_derivative_by_z():
    net = fnn.serial(fnn.Flatten(), fnn.Dense(4), fnn.Sigmoid(), fnn.Dense(10))
    x, y = (part[:1] for part in fnn.data.digits().test)
    variables = net.init(jax.random.key(0), x.shape[1:])
    _, first, _, second = variables.params

    def cost(z):
        outputs = jax.nn.sigmoid(z) @ second.weight + second.bias
        return blame.LOSS.value(outputs, y)

    delta = jax.grad(cost)(x.reshape(1, -1) @ first.weight + first.bias)[0]
    found = blame.measure_blame("before", net, variables, (x, y))
    np.testing.assert_allclose(found["delta"][0], delta, rtol=1e-5)
    flow = second.weight.T * np.array(found["delta"][1])[:, None]
    np.testing.assert_allclose(found["flow"][1], flow, rtol=1e-6)
    a = np.asarray(fnn.predict(net, variables, x)).argmax()
    text = "that is right" if a == y[0] else f"taken for {a}"
    assert found["example"] == f"{y[0]} {text}, before training"


def test_the_digits_cost_most_and_least():
    net = fnn.serial(fnn.Flatten(), fnn.Dense(3), fnn.Sigmoid(), fnn.Dense(10))
    x, y = (part[:40] for part in fnn.data.digits().test)
    variables = net.init(jax.random.key(0), x.shape[1:])
    examples = [(x[[i]], y[[i]]) for i in range(len(y))]
    most, least = blame.extreme_examples(net, variables, (x, y))

    def cost(example):
        return fnn.evaluate(net, blame.LOSS, variables, example)["loss"]

    assert cost(most) == pytest.approx(max(map(cost, examples)), rel=1e-5)
    same = [cost(example) for example in examples if example[1] == most[1]]
    assert len(same) > 1 and most[1] == least[1]
    assert cost(least) == pytest.approx(min(same), rel=1e-5)


def test_a_backward_that_passes_on_other_blame_is_found(tmp_path, monkeypatch):
    @fnn.layer
    class Lenient(fnn.Sigmoid):
        def backward(self, params, saved, dy):
            right = super().backward(params, saved, dy)
            return right._replace(dx=right.dx / 2)

    monkeypatch.setattr(blame.fnn, "Sigmoid", Lenient)
    status, numbers, text = run(blame, SMALL, tmp_path / "run")
    assert status == 1
    for line in numbers:
        assert line["error"] == pytest.approx([3 / 4, 1 / 2, 0], abs=1e-5)
    # 3/4 is between 7e-01 and 8e-01.
    assert re.search(r"another δ than the recursion \(off by at most [78]e-01 of", text)


def test_what_is_concluded_about_blame_depends_on_the_numbers():
    def concluded(before, after, error):
        delta = [[1, -2, 5], [1, 1, -2], [1, 0, 0]]
        blames = [{"blame": b, "delta": delta} for b in (before, after, (0, 0, 0))]
        return blame.conclude(blames, error)

    text = concluded((1, 2, 4), (3, 2, 1), 4e-8)
    assert "shrinks from 4 to 1 before training and grows from 1 to 3 after" in text
    assert "when most is in layer 2 (62% of that with unit 2)" in text
    assert "the same δ as the recursion (off by at most 4e-08" in text
    text = concluded((1, 2, 4), (0.5, 2, 1), np.nan)
    assert "shrinks from 1 to 0.5 after" in text
    assert "most is in layer 3 (50% of that with unit 2)" in text
    assert "another δ than the recursion" in text


# ---- A constant start ------------------------------------------------------------


def test_only_a_random_start_makes_units_different(tmp_path):
    options = "--hidden 5 --epochs 4 --seeds 2 --learning-rate 0.5"
    status, numbers, text = run(constant_start, options, tmp_path / "run")
    assert status == 0
    starts = [(n["start"], n["seed"]) for n in numbers]
    assert starts == list(product(("random", "constant", "zeros"), (0, 1)))
    for line in numbers:
        assert np.shape(line["spread"]) == (5, 2) and len(line["test_accuracy"]) == 5
        assert np.all(np.array(line["spread"]) > 0) == (line["start"] == "random")
        assert np.any(np.array(line["spread"]) > 0) == (line["start"] == "random")
    ends = [line["test_accuracy"][-1] for line in numbers[:2]]
    assert min(ends) > 0.5
    assert f"accuracy of {np.mean(ends):.1%} ± {np.std(ends, ddof=1):.1%}; from" in text
    assert "in 4 epochs: from random they differ by up to " in text
    assert "from zeros they stay equal to the last bit, with" in text
    assert (tmp_path / "run/figures/units.png").stat().st_size > 10_000


def test_units_that_start_equal_do_move():
    config = constant_start.Config(hidden=3)
    for start, value in {"zeros": 0, "constant": 0.1}.items():
        _, before = constant_start.train_from(start, config, seed=0, epochs=0)
        assert before.shape == (64, 3) and (before == np.float32(value)).all()
        _, after = constant_start.train_from(start, config, seed=0, epochs=1)
        assert np.abs(after - before).max() > 1e-6
        assert (after == after[:, :1]).all()


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
    def lines_of(start, spread, accuracies):
        line = {"start": start, "spread": [[0, 0], [0, spread], [0, 0]]}
        return [line | {"test_accuracy": [0, 1, last]} for last in accuracies]

    random = lines_of("random", 1.5, (0.9, 0.92))
    zeros, constant = (
        lines_of("zeros", 0, (0.1, 0.1)),
        lines_of("constant", 0, (0.2, 0.3)),
    )
    text = constant_start.conclude([*random, *zeros, *constant])
    assert "in 2 epochs: from random they differ by up to 1.5, with a test" in text
    assert "accuracy of 91.0% ± 1.4%; from constant they stay equal to the last" in text
    assert "accuracy of 25.0% ± 7.1%; from zeros they stay equal to the last" in text
    assert text.endswith("10.0% ± 0.0% (mean ± standard deviation of 2 seeds).")
    text = constant_start.conclude(
        [*lines_of("random", 0, (0, 0)), *lines_of("zeros", 1e-7, (0, 0)), *constant]
    )
    assert "from random they stay equal to the last bit" in text
    assert "from zeros they differ by up to 1e-07" in text


# ---- Momentum --------------------------------------------------------------------


def test_momentum_curves_are_told_apart(tmp_path):
    options = "--steps 60 --seeds 2"
    status, numbers, text = run(momentum_curves, options, tmp_path / "run")
    assert status == 0
    names = [(n["problem"], n["curve"]) for n in numbers]
    curves = "gradient descent", "momentum 0.5", "momentum 0.9"
    assert names == list(product(("valley", "digits"), curves))
    assert [np.shape(n["loss"]) for n in numbers] == 3 * [(1, 60)] + 3 * [(2, 60)]
    (plain,), (half,), (most,) = (n["rises"] for n in numbers[:3])
    assert most > 10 > half >= plain == 0
    assert [n["rises"] for n in numbers[3:]] == 3 * [[0, 0]]
    plain, half, most = (np.array(n["gain"]) for n in numbers[3:])
    assert plain.tolist() == [1, 1]
    assert np.all((half > 1.7) & (half < 2.3))  # 1/(1 − β) = 2
    assert np.all((most > 3) & (most < 10))
    assert "by oscillation (momentum 0.9 rises most" in text
    assert "on the digits by speed (gradient descent ×1.0" in text
    assert text.endswith("and no loss ever rises (means of 2 seeds).")
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


def test_the_digits_are_descended_as_fit_does():
    config = momentum_curves.Config(steps=4, seeds=2)
    losses = momentum_curves.descend_on_digits(config)
    train, _ = fnn.data.digits()
    expected = fnn.fit(
        fnn.serial(fnn.Flatten(), fnn.Dense(32), fnn.Tanh(), fnn.Dense(10)),
        fnn.losses.SoftmaxCrossEntropy(),
        fnn.optimizers.sgd(0.1, 0.9),
        train=train,
        key=jax.random.split(jax.random.key(0), 2)[1],
        epochs=4,
        batch_size=len(train[1]),
    ).history["train_loss"]
    assert losses.shape == (3, 2, 4)
    np.testing.assert_allclose(losses[2, 1], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("loss", "gain"),
    [
        ([4, 3, 2, 1], 3 / 2),
        ([1, 3, 1, 2], 3 / 2),
        ([4, 4, 4, 4], 0),
        ([1, 1, 1, 1], 3),
    ],
)
def test_when_a_loss_arrives_for_good(loss, gain):
    plain = np.array([[4, 3, 2.5, 2]])
    numbers = momentum_curves.measure("valley", [plain, np.array([loss]), plain])
    assert [n["gain"] for n in numbers] == [[1], [gain], [1]]


def test_rises_are_counted_but_not_rounding():
    plain, rising = np.array([[4, 3, 2.0]]), np.array([[1, 2, 2 + 1e-8]])
    numbers = momentum_curves.measure("valley", [plain, rising, rising])
    assert [n["rises"] for n in numbers] == [[0], [1], [1]]


def test_what_is_concluded_about_momentum_depends_on_the_numbers():
    def lines_of(problem, gains, rises):
        names = "gradient descent", "momentum 0.5", "momentum 0.9"
        return [
            {
                "problem": problem,
                "curve": name,
                "gain": [g - 0.1, g + 0.1],
                "rises": [r],
            }
            for name, g, r in zip(names, gains, rises, strict=True)
        ]

    numbers = lines_of("valley", (1, 2, 5), (0, 1, 9))
    numbers += lines_of("digits", (1, 0.5, 1.1), (0, 0, 0))
    text = momentum_curves.conclude(numbers)
    assert "momentum 0.5 ×2.0, momentum 0.9 ×5.0) and by oscillation (mom" in text
    assert "(momentum 0.9 rises most: at 9 steps); on the digits not by speed " in text
    assert "(momentum 0.5 ×0.5, gradient descent ×1.0, momentum 0.9 ×1.1) and" in text
    assert text.endswith("no loss ever rises (means of 2 seeds).")


def test_a_line_with_a_band_is_the_mean_and_the_range():
    axes = Figure().subplots()
    figures.draw_mean_and_range(
        axes, [0, 2], np.array([[1, 5], [2, 5], [6, 8]]), color="C1"
    )
    (line,), (band,) = axes.lines, axes.collections
    assert line.get_xydata().tolist() == [[0, 3], [2, 6]]
    corners = set(map(tuple, band.get_paths()[0].vertices.tolist()))
    assert corners == {(0, 1), (0, 6), (2, 5), (2, 8)}
    assert to_rgb(line.get_color()) == tuple(band.get_facecolor()[0][:3])


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
    ("constant_start", "--learning-rate -1", "learning_rate"),
    ("momentum_curves", "--steps 1", "steps must be at least 2, got 1"),
    ("momentum_curves", "--seeds 1", "seeds must be at least 2, got 1"),
    ("momentum_curves", "--condition-number 0", "condition_number must be finite"),
    ("momentum_curves", "--learning-rate -1", "learning_rate"),
]


@pytest.mark.parametrize(("name", "argv", "message"), WRONG)
def test_wrong_options_are_named_before_any_work(name, argv, message, tmp_path, capfd):
    assert_refused(EXPERIMENTS[name].main, argv, message, tmp_path, capfd)


DIVERGING = [
    ("blame", "--learning-rate 1e38 --epochs 1 --hidden 3"),
    ("constant_start", "--learning-rate 1e38 --epochs 2 --hidden 3"),
    ("momentum_curves", "--learning-rate 1e38 --steps 20"),
    ("momentum_curves", "--learning-rate 100 --steps 20"),
]


@pytest.mark.one_in(4)
@pytest.mark.parametrize(("name", "options"), DIVERGING)
def test_where_training_diverges_nothing_is_concluded(name, options, tmp_path):
    with pytest.raises(
        SystemExit, match=r"(diverged|no descent): give a smaller --learning"
    ):
        run(EXPERIMENTS[name], options, tmp_path / "run")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_are_listed_and_explain_themselves(name, capsys):
    assert listing.experiments()[name].endswith((".", "?"))
    printed = " ".join(printed_help(EXPERIMENTS[name].main, capsys).split())
    assert listing.experiments()[name] in printed
