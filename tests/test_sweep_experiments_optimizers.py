"""The experiment that compares optimizers, each with its own best learning rate."""

import jax
import jax.numpy as jnp
import lecture_optimizers
import numpy as np
import pytest
from command_lines import assert_refused, printed_help
from experiment_runs import conclusion, json_lines

import fnn
from experiments import __main__ as listing
from experiments import optimizers_compared
from experiments.optimizers_compared import conclude
from experiments.shared import tuning
from experiments.shared.tuning import (
    OPTIMIZERS,
    SOLVED,
    Tuning,
    among_the_best,
    descend,
    rank,
    tune_on_digits,
)

STEPS = 30


@pytest.fixture
def few(monkeypatch):
    """Leave three optimizers only, because compiling a sweep takes seconds."""
    names = ("sgd", "rmsprop+nesterov", "adam")
    monkeypatch.setattr(
        optimizers_compared, "OPTIMIZERS", {name: OPTIMIZERS[name] for name in names}
    )
    monkeypatch.setenv("COLUMNS", "80")


# ---- Tuning ----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"nadam", "amsgrad"}))
def test_optimizers_have_the_lectures_numbers(name):
    """Compare with the lecture's loop, from the same start, with the same rotation."""
    oracle = getattr(lecture_optimizers, name.replace("+", "_"))
    with jax.enable_x64():
        key, bowl = jax.random.key(5), fnn.data.ill_conditioned_bowl(3)
        rotation_key, start_key = jax.random.split(key)
        rotation = np.asarray(jax.random.orthogonal(rotation_key, 2))
        moved = bowl.start + 0.3 * np.asarray(jax.random.normal(start_key, (2,)))
        hessian = rotation.T @ np.diag([1.0, 3.0]) @ rotation
        path = oracle(
            rotation.T @ moved, lambda t, x: hessian @ x, lambda t: 0.02, STEPS
        )
        losses = np.einsum("ti,ij,tj->t", path, hessian, path)
        got = descend(bowl, OPTIMIZERS[name](0.02), key, STEPS)
    # The start is rounded to float32, as fnn.data has it.
    assert float(got) == pytest.approx(losses[-1] / losses[0], rel=1e-5)


def test_gradient_descent_does_not_depend_on_the_rotation_of_the_coordinates():
    bowl = fnn.data.ill_conditioned_bowl(3)
    for key in jax.random.split(jax.random.key(0), 6):
        moved = bowl.start + 0.3 * jax.random.normal(jax.random.split(key)[1], (2,))
        end = moved * (1 - 0.1 * jnp.array([1.0, 3.0])) ** 10
        got = descend(bowl, fnn.optimizers.sgd(0.1), key, 10)
        assert float(got) == pytest.approx(float(bowl.f(end) / bowl.f(moved)), rel=1e-4)


@pytest.mark.parametrize(
    ("rate", "expected"), [(1.34, 1), (1e3, 1), (1e30, 1), (0.5, SOLVED)]
)
def test_a_loss_is_at_most_that_of_the_start_and_at_least_solved(rate, expected):
    bowl = fnn.data.ill_conditioned_bowl(1.5)
    got = descend(bowl, fnn.optimizers.sgd(rate), jax.random.key(0), 60)
    assert float(got) == pytest.approx(expected)


def test_on_a_surface_the_rate_is_chosen_on_other_starts():
    bowl, rates = fnn.data.ill_conditioned_bowl(3), [0.01, 0.1, 0.3, 10.0]
    tuned = tuning.tune_on_surface(bowl, fnn.optimizers.sgd, rates, steps=5, starts=4)
    keys = jax.random.split(jax.random.key(0), 8)
    expected = [
        [np.log10(descend(bowl, fnn.optimizers.sgd(rate), k, 5)) for k in keys]
        for rate in rates
    ]
    np.testing.assert_allclose(tuned.losses, np.array(expected)[:, :4], atol=1e-4)
    assert tuned.best == 2
    np.testing.assert_allclose(tuned.scores, expected[2][4:], atol=1e-4)


@pytest.mark.thorough
def test_on_digits_the_rate_is_chosen_on_validation_and_measured_on_test_images():
    rates = [1e-3, 1.0, 1e30]  # with 1 the second epoch is worse than the first
    tuned = tune_on_digits(OPTIMIZERS["sgd"], rates, epochs=2, seeds=2)
    assert tuned.losses.shape == (3, 2) and tuned.best == 1
    (x, y), test = fnn.data.digits()
    data = fnn.data.split(x, y, 0.2, jax.random.key(0), stratify=True)
    net = fnn.serial(fnn.Flatten(), fnn.Dense(32), fnn.Relu(), fnn.Dense(10))
    key = jax.random.split(jax.random.key(1), 2)[1]
    fit = fnn.fit(
        *(net, tuning.LOSS, fnn.optimizers.sgd(1.0)),
        train=data.train,
        validation=data.validation,
        key=key,
        epochs=2,
        batch_size=32,
        early_stopping=fnn.EarlyStopping(patience=10),
    )
    assert fit.best_epoch == 1
    loss = fit.history["validation_loss"][0]
    assert tuned.losses[1, 1] == pytest.approx(np.log10(loss), abs=1e-4)
    error = 1 - fnn.evaluate(net, tuning.LOSS, fit.variables, test)["accuracy"]
    assert tuned.scores[1] == pytest.approx(100 * error, abs=100 / len(test[1]))


# ---- The comparison --------------------------------------------------------------


def scored(scores: list[float], best: int = 1) -> Tuning:
    return Tuning(np.zeros((3, len(scores))), best, scores)


def test_level_is_less_than_two_standard_errors_behind_seed_by_seed():
    tuned = {
        "behind": scored([2.0, 3.0, 4.1]),  # by 1, 1, 1.1: always
        "first": scored([1.0, 2.0, 3.0]),
        "level": scored([1.0, 2.0, 3.1]),  # by 0.033 ± 0.033
        "same": scored([1.0, 2.0, 3.0]),
    }
    assert rank(tuned) == ["first", "same", "level", "behind"]
    assert among_the_best(tuned) == ["first", "same", "level"]


def test_what_is_concluded_depends_on_the_numbers():
    good, bad = scored([1.0, 2.0]), scored([3.0, 4.5])
    split = {"bowl": {"sgd": good, "adam": bad}, "digits": {"sgd": bad, "adam": good}}
    assert conclude(split) == (
        "No consensus: 2 of 2 optimizers are among the best on some problem, none on "
        "all (bowl: sgd; digits: adam), each with its own best learning rate; on the "
        "digits sgd, the worst, errs 3.8±1.1%, and adam 1.5±0.7% (mean ± standard "
        "deviation of 2 seeds)."
    )
    level = split | {"digits": {"sgd": good, "adam": good._replace(best=2)}}
    text = conclude(level)
    assert text.startswith(
        "A consensus, sgd, among the best on all problems (bowl: sgd;"
    )
    assert "digits: sgd and 1 more)" in text
    assert text.endswith(
        "at the edge of the grid, perhaps not at its best: adam on digits."
    )


def test_the_table_fits_80_columns():
    widest = dict.fromkeys(OPTIMIZERS, Tuning(np.zeros((1, 2)), 0, [-9.9, -10.0]))
    results = {"bowl": widest, "valley": widest, "Rosenbrock": widest}
    rows = optimizers_compared.table_rows(results, [0.0046])
    digits = dict.fromkeys(OPTIMIZERS, Tuning(np.zeros((1, 2)), 0, [3.1, 3.3]))
    last = optimizers_compared.table_rows({"digits": digits}, [0.00046])
    columns = [*zip(*rows, strict=True), [row[1] for row in last]]
    widths = [max(map(len, column)) for column in columns]
    assert sum(widths) + 2 * (len(widths) - 1) <= 80


@pytest.mark.thorough
def test_optimizers_are_compared(few, tmp_path, capsys):
    out = tmp_path / "run"
    small = "--per-decade 1 --lowest 1e-3 --highest 1 --starts 3 --epochs 2 --seeds 2"
    assert optimizers_compared.main([*small.split(), "--out", str(out)]) == 0
    numbers = json_lines(out / "numbers.jsonl")
    assert len(numbers) == 4 * 3
    results = {n["problem"]: {} for n in numbers}
    for n in numbers:
        losses = np.array(n["losses"])
        assert losses.shape == (4, 2 if n["problem"] == "digits" else 3)
        best = [1e-3, 1e-2, 0.1, 1].index(pytest.approx(n["rate"]))
        assert best == losses.mean(1).argmin()
        results[n["problem"]][n["optimizer"]] = Tuning(losses, best, n["scores"])
    text = conclusion(out)
    assert text == conclude(results)
    printed = capsys.readouterr().out
    assert text in " ".join(printed.split())
    assert "rmsprop+nesterov" in printed and "…" not in printed
    assert (out / "figures" / "optimizers.png").stat().st_size > 10_000


# ---- The command line ------------------------------------------------------------

WRONG = [
    ("--seeds 1", "seeds must be at least 2, got 1"),
    ("--starts 1", "starts must be at least 2, got 1"),
    ("--epochs 0", "epochs must be at least 1, got 0"),
    ("--steps 0", "steps must be at least 1, got 0"),
    ("--per-decade 0", "per_decade must be at least 1, got 0"),
    ("--lowest 1 --highest 10", "span two decades or more: expected 0 < 100 lowest"),
    ("--lowest 0", "got lowest=0 and highest=100"),
    ("--highest inf", "got lowest=0.0001 and highest=inf"),
    ("--epochs many", "invalid"),
]


@pytest.mark.parametrize(("argv", "message"), WRONG)
def test_wrong_options_are_named_before_any_work(argv, message, tmp_path, capfd):
    assert_refused(optimizers_compared.main, argv, message, tmp_path, capfd)


def test_it_is_listed_and_explains_itself(capsys):
    line = listing.experiments()["optimizers_compared"]
    assert line.endswith("?") and "tuning" not in listing.experiments()
    assert line in " ".join(printed_help(optimizers_compared.main, capsys).split())
