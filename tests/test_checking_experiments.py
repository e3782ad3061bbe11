"""The experiments about gradient checking: step, cost, and the lecture's mistakes."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_lines import assert_refused, printed_help
from experiment_runs import conclusion, json_lines

import fnn
from experiments import __main__ as listing
from experiments import contradictions, cost_of_checking, step_sizes
from experiments.contradictions import Case, Verdict
from experiments.cost_of_checking import BACK, CALLS, CHEAP, FULL, LOOP, Network
from experiments.step_sizes import BEST, REFINED, SIMPLE, Sweep


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def fits(printed: str) -> bool:
    """Return whether all tables, printed on a wide page, would fit in 80 columns."""
    rules = [line for line in printed.splitlines() if set(line.strip()) == {"─"}]
    return bool(rules) and max(map(len, rules)) <= 80


def run(main, options, tmp_path_factory) -> tuple[Path, str]:
    """Make a run that succeeds; return its folder and its output on a wide page."""
    folder = tmp_path_factory.mktemp("run") / "here"
    text = (folder.parent / "printed.txt").open("w+")
    with pytest.MonkeyPatch.context() as patch, text:
        patch.setenv("COLUMNS", "200")
        patch.setattr("sys.stdout", text)
        assert main([*options, "--out", str(folder)]) == 0
        text.seek(0)
        return folder, text.read()


# ---- Step sizes ------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, list[Sweep], str]:
    """Make one small run; return its folder, its sweeps and its output."""
    options = "--hidden 2 --examples 6 --seeds 1".split()
    folder, printed = run(step_sizes.main, options, tmp_path_factory)
    numbers = json_lines(folder / "numbers.jsonl")
    for n in numbers:  # JSON has no inf
        assert n.pop("seed") == 0
        n["error"] = [np.inf if e is None else e for e in n["error"]]
    return folder, [Sweep(**n) for n in numbers], printed


def test_the_error_over_h_is_a_v_where_theory_has_its_tip(swept):
    _, sweeps, _ = swept
    for sweep, least in zip(sweeps, (1e-3, 1e-8), strict=True):
        h, error = np.array(sweep.h), np.array(sweep.error)
        np.testing.assert_allclose([h[0], h[-1]], [1e-12, 1e-1])
        steps = sweep.steps()
        assert steps[BEST] == pytest.approx((h[error.argmin()], error.min()))
        assert error.min() < least
        assert min(error[0], error[-1]) > 3 * error.min()
        assert 1 / 4 < steps[BEST][0] / steps[REFINED][0] < 4
        eps = np.finfo(sweep.precision).eps
        assert steps[SIMPLE][0] == pytest.approx(eps ** (1 / 3))
        right = (h > 10 * sweep.refined) & (h < 0.05)  # truncation, and nothing else
        ratio = error[right] / np.array(sweep.expected)[right]
        np.testing.assert_allclose(ratio, 1, rtol=0.05)
    double = sweeps[1]
    left = np.array(double.h) < 1e-7  # rounding: at most what is expected, about
    ratio = np.array(double.error)[left] / np.array(double.expected)[left]
    assert (ratio < 3).all() and np.median(ratio) > 0.05


def test_third_derivatives_are_those_of_calculus():
    with jax.enable_x64(True):
        w = {"a": jnp.array([0.3, -0.2]), "b": jnp.array(0.5)}
        found = step_sizes.third_derivatives(
            lambda w: jnp.sin(2 * w["a"]).sum() + w["b"] ** 4, w
        )
        expected = [*(-8 * np.cos(2 * np.array([0.3, -0.2]))), 24 * 0.5]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_step_sizes_end_to_end(swept):
    folder, sweeps, printed = swept
    assert [s.precision for s in sweeps] == ["float32", "float64"]
    assert sweeps[0].error[0] == np.inf > sweeps[1].error[0]  # in float32 θ + h is θ
    text = conclusion(folder)
    for sweep in sweeps:
        assert f"{sweep.steps()[BEST][0]:.1e} in {sweep.precision}" in text
    assert text in " ".join(printed.split()) and fits(printed)
    assert (folder / "figures" / "errors.png").stat().st_size > 10_000


def test_what_step_sizes_conclude_depends_on_the_numbers():
    h = [1e-3, 5e-3, 1e-2, 2e-2, 1e-1]
    single = Sweep("float32", h, [9e-4, 3e-4, 1e-4, 2e-4, 8e-4], [], 5e-3, 2e-2)
    h = [1e-6, 1e-5, 4e-5, 1e-4]
    double = Sweep("float64", h, [1e-8, 1e-10, 1e-9, 1e-8], [], 1e-5, 4e-5)
    text = step_sizes.conclude([single, double], 3)
    assert text == (
        "The error over h is a V; it is least at h = 1.0e-02 in float32 and 1.0e-05 in "
        "float64, ε^(1/3) is 0.50 and 1.00 times that and errs 3.0 and 1.0 times as "
        "much, and (3ε|f/f‴|)^(1/3) is 2.00 and 4.00 times that and errs 2.0 and 10.0 "
        "times as much (medians of 3 seeds)."
    )
    for flat in ([2e-10, 1e-10, 1e-9, 1e-8], [1e-8, 1e-9, 1e-9, 1e-10]):
        text = step_sizes.conclude([single, double._replace(error=flat)], 3)
        assert text.startswith("The error over h is not a V in both; it is least")


def test_seeds_are_summed_by_their_median():
    h, v = [1e-3, 1e-2, 1e-1], [4.0, 1.0, 5.0]
    sweeps = [
        Sweep("float32", h, [k * e for e in v], v, 1e-2, k * 1e-2)
        for k in (1.0, 9.0, 2.0)
    ]
    found = step_sizes.median(sweeps)
    assert found == ("float32", h, [8.0, 2.0, 10.0], v, 1e-2, 2e-2)
    steps = found.steps()
    assert steps[BEST] == steps[SIMPLE] == pytest.approx((1e-2, 2.0))
    # On logarithmic axes 0.02 is 0.301 of the way from 2 to 10.
    assert steps[REFINED] == pytest.approx((2e-2, 2 * 5 ** np.log10(2)))


# ---- Cost of checking ------------------------------------------------------------


@pytest.mark.thorough
def test_cost_of_checking_end_to_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cost_of_checking, "CALLS", dict.fromkeys(CALLS, 1))
    out = tmp_path / "run"
    assert cost_of_checking.main(["--networks=2", "--rounds=2", f"--out={out}"]) == 0
    numbers = json_lines(out / "numbers.jsonl")
    assert [n["weights"] for n in numbers] == [235, 685]  # 75 a hidden unit, 10 more
    for n in numbers:
        assert set(n["runs"]) == {BACK, CHEAP, FULL, LOOP}
        assert all(len(s) == 2 and min(s) > 0 for s in n["runs"].values())
        assert n["contrast"] > 1e5
    text, printed = conclusion(out), capsys.readouterr().out
    assert "notice one wrong sign in 2 of 2 networks" in text
    assert text in " ".join(printed.split()) and fits(printed)
    assert (out / "figures" / "times.png").stat().st_size > 10_000


def test_what_is_timed_is_a_gradient_and_its_checks():
    with jax.enable_x64(True):
        found = cost_of_checking.build_network(1, cost_of_checking.Config(directions=3))
        grads, full, loop, slopes = (
            jax.flatten_util.ravel_pytree(found.runs[name]())[0]
            for name in (BACK, FULL, LOOP, CHEAP)
        )
    assert grads.size == found.weights == 85 and np.abs(grads).max() > 0.01
    np.testing.assert_allclose(full, grads, atol=1e-8)
    np.testing.assert_allclose(loop, grads[:64], atol=1e-8)
    numerical, claimed = slopes.reshape(2, 3)
    np.testing.assert_allclose(numerical, claimed, atol=1e-8)


def costs(times: dict[str, tuple], contrasts: tuple = (1e6, 1e6)):
    """Return networks of 100 and 10,000 weights, and seconds of three equal rounds."""
    networks = [Network(100, contrasts[0], {}), Network(10_000, contrasts[1], {})]
    return networks, {name: np.array([pair] * 3) for name, pair in times.items()}


def test_what_the_cost_concludes_depends_on_the_numbers():
    times = {FULL: (50, 1e4), LOOP: (100, 2e4), CHEAP: (8, 16), BACK: (1.0, 2.0)}
    assert cost_of_checking.conclude(*costs(times), 8) == (
        "From P = 100 to 10,000 weights a full check takes 50 to 5,000 "
        "backpropagations (as P^1.00, quartiles 1.00 and 1.00); 8 random directions "
        "take 8 to 8 backpropagations (as P^0.00, quartiles 0.00 and 0.00) and notice "
        "one wrong sign in 2 of 2 networks; one by one instead of under vmap the full "
        "check takes 2.0 times as long."
    )
    times |= {FULL: (50, 1e6), LOOP: (100, 5e5), CHEAP: (8, 160)}
    text = cost_of_checking.conclude(*costs(times, (1e6, 2.0)), 8)
    assert "50 to 500,000 backpropagations (as P^2.00" in text
    assert "8 to 80 backpropagations (as P^0.50" in text
    assert "in 1 of 2 networks" in text and text.endswith("1.2 times as long.")


def test_powers_are_fitted_within_a_round():
    networks = [Network(10, 1e6, {}), Network(100, 1e6, {})]
    ratio = np.array([[1, 10], [5, 50], [1, 100.0]])  # P^1, P^1, P^2
    low, middle, high = cost_of_checking.fit_power(networks, ratio)
    assert (low, middle, high) == pytest.approx((1, 1, 1.5))


def test_programs_of_all_networks_take_turns_and_the_first_round_is_left_out(
    monkeypatch,
):
    monkeypatch.setattr(cost_of_checking, "CALLS", {"a": 2, LOOP: 4})
    ran = []

    def timed(program, number):
        ran.append(program)
        return number * len(ran)  # the k-th timing takes k seconds a call

    monkeypatch.setattr(cost_of_checking, "timeit", timed)
    networks = [
        Network(64, 1e6, {"a": "a", LOOP: "b"}),
        Network(128, 1e6, {"a": "c", LOOP: "d"}),
    ]
    seconds = cost_of_checking.time_programs(networks, range(3))
    assert "".join(ran) == "abcd" * 3
    assert seconds["a"].tolist() == [[5, 7], [9, 11]]
    assert seconds[LOOP].tolist() == [[6, 16], [10, 24]]  # 128 weights are 2 samples


# ---- Contradictions --------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> tuple[Path, list[dict], str]:
    """Make one run of all cases; return its folder, the verdicts and its output."""
    folder, printed = run(contradictions.main, ["--examples", "5"], tmp_path_factory)
    return folder, json_lines(folder / "numbers.jsonl"), printed


def test_what_is_written_is_refuted_and_what_is_mended_holds(judged):
    folder, numbers, printed = judged
    assert {n["statement"][:4] for n in numbers} == {f"10.{i}" for i in range(1, 7)}
    for n in numbers:
        assert n["holds"] == n["mended"], n
    for section in range(1, 7):
        mine = [n for n in numbers if n["statement"].startswith(f"10.{section}")]
        assert {n["mended"] for n in mine} == {True, False}
    text = conclusion(folder)
    assert text == (
        "Of the readings as written 9 of 9 are refuted, and of the mended ones 6 of 6 "
        "hold."
    )
    assert text in " ".join(printed.split()) and fits(printed)


def test_each_is_refuted_for_its_own_reason(judged):
    _, numbers, _ = judged
    found = [n["found"] for n in numbers if not n["mended"]]
    black = int((fnn.data.digits().train[0][:5] == 0).all(0).sum())
    outside, zeros = "index out of bounds", f"{10 * black} weights: 0/0"
    assert [f for f in found if not f.startswith("off by")] == [
        *(outside, outside, zeros, "1 of 4 apart"),
    ]
    off = [float(f.split()[-1]) for f in found if f.startswith("off by")]
    assert len(off) == 5 and min(off) > 0.01


PROBLEM = (
    fnn.textbook.initialise((2, 3, 5), seed=0),
    np.array([[0.1, 0.2], [0.3, 0.5], [0.7, 0.4], [0.6, 0.9]]),
    np.eye(5)[:4],
)


def weight_penalty(grads, minus) -> list[np.ndarray]:
    """Return the difference to the gradient without a penalty, in units of λ Θ / n."""
    right = fnn.textbook.gradients(*PROBLEM)
    for D, bare in zip(grads, right, strict=True):
        np.testing.assert_array_equal(D[:, 0], bare[:, 0])  # no bias is penalised
    triples = zip(grads, right, PROBLEM[0], strict=True)
    return [((D - bare) / (minus / 4 * theta))[:, 1:] for D, bare, theta in triples]


def test_the_penalty_as_written_misses_the_weights_above_its_limits():
    first, second = weight_penalty(
        contradictions.penalty_a_layer_too_low(*PROBLEM, lam=2), 2
    )
    # s = (2, 3, 5): i ≤ 2 and j ≤ 1 of Θ^(1), i ≤ 3 and j ≤ 2 of Θ^(2).
    np.testing.assert_allclose(first, [[1, 0], [1, 0], [0, 0]], atol=1e-9)
    expected = [[1, 1, 0]] * 3 + [[0, 0, 0]] * 2
    np.testing.assert_allclose(second, expected, atol=1e-9)


def test_the_decay_as_written_is_that_of_a_single_example():
    for part in weight_penalty(contradictions.lambda_theta(*PROBLEM, lam=2), 2):
        np.testing.assert_allclose(part, 4)  # n times as much


def test_one_index_for_both_gives_every_weight_of_a_unit_the_same():
    thetas = fnn.textbook.initialise((2, 2), seed=0)
    x, y = np.array([0.3, 0.8]), np.array([1.0, 0.0])
    (D,) = contradictions.same_index(thetas, [x, x], [y, y], 0)
    (delta,) = fnn.textbook.deltas(thetas, fnn.textbook.forward(thetas, x), y)
    np.testing.assert_allclose(
        D, [[d, d * a, d * a] for d, a in zip(delta, x, strict=True)]
    )


def test_what_is_concluded_of_contradictions_depends_on_the_verdicts():
    wrong, right = (
        Verdict("10.1  w", False, False, ""),
        Verdict("10.2  m", True, True, ""),
    )
    text = contradictions.conclude([wrong, wrong._replace(holds=True), right])
    assert text == (
        "Of the readings as written 1 of 2 are refuted, and of the mended ones 1 of 1 "
        "hold; 10.1  w holds."
    )
    text = contradictions.conclude([wrong, right._replace(holds=False)])
    assert text.endswith("mended ones 0 of 1 hold; 10.2  m fails.")


def test_a_mended_statement_that_fails_is_the_exit_status(tmp_path, monkeypatch):
    wrong = Case("10.1  so", True, contradictions.y_minus_a)
    monkeypatch.setattr(contradictions, "CASES", (wrong,))
    assert contradictions.main(["--examples", "5", "--out", str(tmp_path / "run")]) == 1
    assert "10.1  so fails" in conclusion(tmp_path / "run")


# ---- The command line ------------------------------------------------------------

MAINS = {
    "step_sizes": step_sizes.main,
    "cost_of_checking": cost_of_checking.main,
    "contradictions": contradictions.main,
}
WRONG = [
    ("step_sizes", "--seeds 0", "seeds must be at least 1, got 0"),
    ("step_sizes", "--hidden 0", "hidden must be at least 1, got 0"),
    ("cost_of_checking", "--rounds 1", "rounds must be at least 2, got 1"),
    ("cost_of_checking", "--networks 1", "networks must be at least 2, got 1"),
    ("cost_of_checking", "--directions 0", "directions must be at least 1, got 0"),
    ("contradictions", "--examples 1", "examples must be at least 2, got 1"),
    ("contradictions", "--seed -1", "seed must be at least 0, got -1"),
]


@pytest.mark.parametrize(("name", "argv", "message"), WRONG)
def test_wrong_options_are_named_before_any_work(name, argv, message, tmp_path, capfd):
    assert_refused(MAINS[name], argv, message, tmp_path, capfd)


@pytest.mark.parametrize("name", MAINS)
def test_experiments_are_listed_and_explain_themselves(name, capsys):
    assert listing.experiments()[name].endswith((".", "?"))
    assert listing.experiments()[name] in printed_help(MAINS[name], capsys)
