"""The experiments with sweeps: early stopping and weight decay, dropout rates."""

import jax
import numpy as np
import pytest
from command_lines import assert_refused, printed_help
from experiment_runs import conclusion, json_lines
from matplotlib.figure import Figure

import fnn
from experiments import __main__ as listing
from experiments import dropout_rates, early_stopping
from experiments.shared import digits_subset, figures, seeds, sweep_figures


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


# ---- Early stopping --------------------------------------------------------------

SMALL = early_stopping.Config(
    examples=30, validation=20, hidden=4, penalties=(0, 1, 50), steps=12, seeds=2
)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Make a small run, and return its folder."""
    out = tmp_path_factory.mktemp("early_stopping")
    options = "--examples 30 --validation 20 --hidden 4 --steps 12 --seeds 2"
    argv = [*options.split(), "--penalties", "0", "1", "50", "--out", str(out)]
    assert early_stopping.main(argv) == 0
    return out


@pytest.mark.one_in(2)
def test_early_stopping_measures_what_fit_trains(stopped):
    numbers = json_lines(stopped / "numbers.jsonl")
    assert [(n["seed"], n["penalty"]) for n in numbers] == [
        (seed, penalty) for seed in range(2) for penalty in SMALL.penalties
    ]
    line = numbers[4]
    train, validation = digits_subset.sample_digits(30, 20, seed=1, noise=SMALL.noise)
    net = fnn.serial(fnn.Flatten(), fnn.Dense(4), fnn.Relu(), fnn.Dense(10))
    loss, optimizer = fnn.losses.SoftmaxCrossEntropy(), fnn.optimizers.adam(1e-2)
    result = fnn.fit(
        *(net, loss, optimizer),
        train=train,
        validation=validation,
        key=jax.random.key(1),
        epochs=12,
        batch_size=30,
        l2=line["penalty"],
    )
    test = fnn.evaluate(net, loss, result.variables, fnn.data.digits().test)
    assert line["penalty"] == 1
    assert line["test_error"] == pytest.approx(1 - test["accuracy"])
    last = result.history["validation_loss"][-1]
    assert line["validation_loss"] == pytest.approx(last, rel=1e-5)
    squares = [(p**2).sum() for p in jax.tree.leaves(result.variables) if p.ndim == 2]
    assert line["weight_norm"] == pytest.approx(np.sqrt(sum(squares)), rel=1e-5)


def test_retraining_makes_as_many_updates_on_all_data(stopped):
    plain = json_lines(stopped / "numbers.jsonl")[3]
    data = digits_subset.sample_digits(30, 20, seed=1, noise=SMALL.noise)
    x, y = (np.concatenate(parts) for parts in zip(*data, strict=True))
    assert plain["best_step"] == np.argmin(plain["validation_curve"]) + 1
    net = fnn.serial(fnn.Flatten(), fnn.Dense(4), fnn.Relu(), fnn.Dense(10))
    loss, optimizer = fnn.losses.SoftmaxCrossEntropy(), fnn.optimizers.adam(1e-2)
    variables = net.init(jax.random.split(jax.random.key(1))[0], (8, 8, 1))
    state, grad_fn = optimizer.init(variables.params), fnn.value_and_grad(net, loss)
    for _ in range(plain["best_step"]):
        grads = grad_fn(variables, (x, y)).grads
        updates, state = optimizer.update(grads, state, variables.params)
        params = jax.tree.map(np.add, variables.params, updates)
        variables = variables._replace(params=params)
    test = fnn.evaluate(net, loss, variables, fnn.data.digits().test)
    assert plain["retrained_test_error"] == pytest.approx(1 - test["accuracy"])


def test_early_stopping_draws_and_concludes(stopped):
    numbers = json_lines(stopped / "numbers.jsonl")
    text = early_stopping.conclude(early_stopping.choose_penalties(numbers))
    assert conclusion(stopped) == text
    assert (stopped / "figures/early_stopping.png").stat().st_size > 10_000


@pytest.mark.parametrize(("noise", "wrong"), [(0, 0), (0.3, 0.3), (1, 1)])
def test_labels_are_wrong_as_often_as_asked_for(noise, wrong):
    noisy = digits_subset.sample_digits(900, 300, seed=3, noise=noise)
    clean = digits_subset.sample_digits(900, 300, seed=3)
    assert [len(part[1]) for part in noisy] == [900, 300]
    for part, right in zip(noisy, clean, strict=True):
        np.testing.assert_array_equal(part[0], right[0])
        assert np.mean(part[1] != right[1]) == pytest.approx(wrong, abs=0.06)
        assert part[1].min() == 0 and part[1].max() == 9


def two_seeds(curve, stop, again, decayed, norm=1e-6) -> early_stopping.Choice:
    """Return two seeds with these test errors in percent; some of the second are +1."""
    plain, chosen, most = [], [], []
    for seed in range(2):
        plain.append({"validation_curve": np.add(curve, 0.01 * seed).tolist()})
        plain[-1] |= {"best_step": int(np.argmin(curve)) + 1, "weight_norm": 20.0}
        plain[-1] |= {"penalty": 0, "test_error": 0.2 + seed / 100}
        plain[-1]["stopped_test_error"] = stop / 100
        plain[-1]["retrained_test_error"] = again / 100
        chosen.append({"penalty": 3, "test_error": (decayed + seed) / 100})
        most.append({"penalty": 90, "test_error": 0.9, "weight_norm": norm})
    return early_stopping.Choice(plain, chosen, most)


def test_what_early_stopping_concludes_depends_on_the_numbers():
    text = early_stopping.conclude(
        two_seeds([2, 1, 1.5], stop=12, again=10, decayed=11)
    )
    assert (
        "is U-shaped: at the end it is 0.5 ± 0 above its least, at step 2 ± 0" in text
    )
    assert "stopping there errs 8.5 ± 0.7 points less than going on" in text
    assert "retraining 2.0 ± 0.0 points less than stopping" in text
    assert "retraining errs least, 10.0% ± 0.0%, 1.5 ± 0.7 points less than" in text
    assert "weights of norm 1e-06 (pathologically small: it is 20 without" in text
    assert "λ = 90" in text and text.endswith("errs 90.0% ± 0.0%.")

    other = two_seeds([2, 1.5, 1], stop=25, again=26, decayed=10.5, norm=15.0)
    text = early_stopping.conclude(other)
    assert "is not surely U-shaped" in text and "at step 3" in text
    assert "errs 4.5 ± 0.7 points more than going on" in text
    assert "retraining 1.0 ± 0.0 points more than stopping" in text
    assert "weight decay errs least, 11.0% ± 0.7%" in text
    assert "norm 15 (it is 20 without" in text

    near = early_stopping.conclude(two_seeds([2, 1, 3], stop=20, again=11, decayed=11))
    assert "stopping there errs 0.5 ± 0.7 points less (within the spread)" in near


def test_weight_decay_is_chosen_by_validation_and_never_0():
    numbers = [
        {"seed": seed, "penalty": penalty, "validation_loss": loss}
        for seed, losses in enumerate([(0.1, 0.3, 0.2), (0.1, 0.2, 0.3)])
        for penalty, loss in zip((0, 1, 5), losses, strict=True)
    ]
    found = early_stopping.choose_penalties(numbers)
    assert [n["penalty"] for n in found.plain] == [0, 0]
    assert [n["penalty"] for n in found.chosen] == [5, 1]
    assert [n["penalty"] for n in found.largest] == [5, 5]


# ---- Dropout ---------------------------------------------------------------------


def test_dropout_rates_chooses_by_validation_and_tests_two(tmp_path, capsys):
    out = tmp_path / "run"
    options = "--examples 40 --validation 60 --width 8 --epochs 9 --seeds 2"
    grid = "--learning-rate 0.05 --visible 0 0.2 --hidden 0 0.4".split()
    assert dropout_rates.main([*options.split(), *grid, "--out", str(out)]) == 0
    numbers = json_lines(out / "numbers.jsonl")
    assert len(numbers) == 8
    errors = dropout_rates.by_pair(numbers, "validation_error")
    best = min(errors, key=lambda pair: errors[pair].mean())
    tested = dropout_rates.by_pair(numbers, "test_error")
    assert {*tested} == {(0, 0), best}
    assert errors[best].mean() <= errors[0, 0].mean()
    assert conclusion(out) == dropout_rates.conclude(numbers)
    assert conclusion(out) in " ".join(capsys.readouterr().out.split())
    assert (out / "figures/dropout_rates.png").stat().st_size > 10_000

    # The last pair, its second seed: hidden and visible are not exchanged.
    train, validation = digits_subset.sample_digits(40, 60, seed=0)
    net, loss = dropout_rates.network(8, 0.2, 0.4), dropout_rates.LOSS
    assert [node.rate for node in net.layers if isinstance(node, fnn.Dropout)] == [
        *(0.2, 0.4, 0.4)
    ]
    result = fnn.fit(
        *(net, loss, fnn.optimizers.adam(0.05)),
        train=train,
        key=jax.random.split(jax.random.key(0), 2)[1],
        epochs=9,
        batch_size=32,
    )
    accuracy = fnn.evaluate(net, loss, result.variables, validation)["accuracy"]
    assert errors[0.2, 0.4][1] == pytest.approx(1 - accuracy, abs=1e-6)


def dropped(validation, test, pair=(0.2, 0.5)) -> list[dict]:
    """Return two seeds without dropout, then with it; errors in percent."""
    return [
        {"p_visible": rates[0], "p_hidden": rates[1], "seed": seed}
        | {"validation_error": (v + seed) / 100, "test_error": (t + slope * seed) / 100}
        for rates, v, t, slope in zip(
            ((0, 0), pair), validation, test, (1, 2), strict=True
        )
        for seed in range(2)
    ]


def test_what_dropout_rates_concludes_depends_on_the_numbers():
    text = dropout_rates.conclude(dropped((6, 4), (7, 4)))
    assert text.startswith("p_visible = 0.2 and p_hidden = 0.5 have the least")
    assert "of 2 pairs, 4.5% ± 0.7% (no dropout: 6.5% ± 0.7%)" in text
    assert "they err 5.0% ± 1.4%, no dropout 7.5% ± 0.7%: dropout helps by more" in text
    assert text.endswith("(2.5 ± 0.7 points less, seed by seed).")
    text = dropout_rates.conclude(dropped((6, 4), (6, 6)))
    assert "makes no difference beyond the spread over the seeds (0.5 ± 0.7" in text
    text = dropout_rates.conclude(dropped((6, 4), (4, 6)))
    assert "harms by more than the spread" in text and "2.5 ± 0.7 points more" in text
    text = dropout_rates.conclude(dropped((4, 6), (4, 6))[:2])
    assert text.startswith("No dropout has the least validation error")
    assert text.endswith("4.5% ± 0.7% on the test images: here dropout does not help.")


# ---- The shared figures and texts ------------------------------------------------


def test_bars_are_means_and_sample_standard_deviations():
    assert seeds.plus_minus(np.array([0.1, 0.2])) == "15.0% ± 7.1%"
    assert seeds.plus_minus([1, 5], ".1f") == "3.0 ± 2.8"
    axes = Figure().subplots()
    sweep_figures.draw_means_with_bars(axes, [0, 2], [[1, 3], [5, 5]])
    (line, _, (bars,)) = axes.containers[0]
    assert line.get_xydata().tolist() == [[0, 2], [2, 5]]
    low, high = bars.get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((2 - 2**0.5, 2 + 2**0.5))
    sweep_figures.draw_mean_across(axes, [1, 3], color="C1")
    assert [*axes.lines[-1].get_ydata()] == [2, 2]
    band = axes.patches[-1].get_extents().transformed(axes.transData.inverted())
    assert (band.y0, band.y1) == pytest.approx((low, high))


def test_the_ring_is_at_the_pair_chosen():
    axes = Figure().subplots()
    values = {(v, h): np.array([v, v + 2 * h]) for v in (0, 0.1) for h in (0, 0.4)}
    sweep_figures.draw_over_two_hyperparameters(
        axes, values, chosen=(0.1, 0.4), title="v"
    )
    (ring,) = (line for line in axes.lines if line.get_label() == "chosen")
    (at,) = ring.get_xydata()
    assert at == pytest.approx((0.4 + 0.4 / 16 / 2, 0.5))


def test_losses_of_seeds_have_a_ring_at_each_best_step():
    axes = Figure().subplots()
    losses = np.array([[3.0, 1, 2], [4, 3, 2]])
    both = {"train": losses / 2, "validation": losses}
    figures.draw_losses(axes, both, best=np.array([2, 3]))
    assert axes.lines[-1].get_xydata().tolist() == [[2, 1], [3, 2]]
    means = {line.get_label(): [*line.get_ydata()] for line in axes.lines}
    assert means["train"] == [1.75, 1, 1] and means["validation"] == [3.5, 2, 2]


# ---- The command line ------------------------------------------------------------

MAINS = {"early_stopping": early_stopping.main, "dropout_rates": dropout_rates.main}
WRONG = [
    ("early_stopping", "--penalties 0 1", "0 and two or more others, ascending"),
    ("early_stopping", "--penalties 1 2 3", "0 and two or more others, ascending"),
    ("early_stopping", "--penalties 0 3 3", "0 and two or more others, ascending"),
    ("early_stopping", "--penalties 0 3 1", "0 and two or more others, ascending"),
    ("early_stopping", "--noise 2", "noise is a probability, from 0 to 1, got 2.0"),
    ("early_stopping", "--examples 1400", "at most 1438 examples and validation"),
    ("early_stopping", "--hidden 0", "features must be a positive integer"),
    ("early_stopping", "--seeds 1", "seeds must be at least 2, got 1"),
    ("dropout_rates", "--hidden 0.5", "hidden must ascend from 0 to below 1"),
    ("dropout_rates", "--visible 0 1", "visible must ascend from 0 to below 1"),
    ("dropout_rates", "--visible 0 .1 .2 .3 .4 .5", "visible must be at most 5"),
    ("dropout_rates", "--validation 1400", "at most 1438 examples and validation"),
    ("dropout_rates", "--width 0", "features must be a positive integer"),
    ("dropout_rates", "--batch-size 0", "batch_size must be at least 1, got 0"),
]


@pytest.mark.parametrize(("name", "argv", "message"), WRONG)
def test_wrong_options_are_named_before_any_work(name, argv, message, tmp_path, capfd):
    assert_refused(MAINS[name], argv, message, tmp_path, capfd)


@pytest.mark.parametrize("name", MAINS)
def test_experiments_are_listed_and_explain_themselves(name, capsys):
    assert listing.experiments()[name].endswith("?")
    assert listing.experiments()[name] in " ".join(
        printed_help(MAINS[name], capsys).split()
    )
