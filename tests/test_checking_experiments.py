"""The experiments about gradient checking: its step, its cost, and what it refutes."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from experiments import __main__ as listing
from experiments import contradictions, cost_of_checking, step_sizes
from experiments.contradictions import Verdict
from experiments.cost_of_checking import (
    BACK,
    CHEAP,
    FULL,
    LOOP,
    Errors,
    Measured,
    Problem,
)
from experiments.step_sizes import Found, Step, Sweep


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def conclusion(out: Path) -> str:
    return json.loads((out / "result.json").read_text())["conclusion"]


def fits(printed: str) -> bool:
    """Whether all tables, printed on a wide page, would have had room in 80 columns."""
    rules = [line for line in printed.splitlines() if set(line.strip()) == {"─"}]
    return bool(rules) and max(map(len, rules)) <= 80


def run(main, options, tmp_path_factory) -> tuple[Path, str]:
    """The folder of a run that succeeds, and what it printed on a wide page."""
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
    """One small run: its folder, what it measured, what it printed."""
    options = "--hidden 2 --examples 6 --per-decade 2 --seeds 1".split()
    folder, printed = run(step_sizes.main, options, tmp_path_factory)
    numbers = lines(folder / "numbers.jsonl")
    for n in numbers:  # JSON has no inf
        n["error"] = [np.inf if e is None else e for e in n["error"]]
    return folder, [Sweep(**n) for n in numbers], printed


def test_the_error_over_h_is_a_v_where_theory_has_its_tip(swept):
    _, sweeps, _ = swept
    for sweep, least in zip(sweeps, (1e-3, 1e-8), strict=True):
        h, error = np.array(sweep.h), np.array(sweep.error)
        np.testing.assert_allclose([h[0], h[-1]], [1e-12, 1e-1])
        assert error.min() < least and sweep.best == h[error.argmin()]
        assert min(error[0], error[-1]) > 3 * error.min()
        assert 1 / 4 < sweep.best / sweep.refined < 4
        eps = np.finfo(sweep.precision).eps
        assert sweep.simple == pytest.approx(eps ** (1 / 3))
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
    said = conclusion(folder)
    for sweep in sweeps:
        assert f"{sweep.best:.1e} in {sweep.precision}" in said
    assert said in " ".join(printed.split()) and fits(printed)
    assert (folder / "figures" / "errors.png").stat().st_size > 10_000


def test_what_step_sizes_conclude_depends_on_the_numbers():
    single = Found(
        "float32", Step(0.01, 1e-4), Step(0.005, 3e-4), Step(0.02, 2e-4), True
    )
    double = Found(
        "float64", Step(1e-5, 1e-10), Step(1e-5, 1e-10), Step(4e-5, 1e-9), True
    )
    said = step_sizes.conclude([single, double], 3)
    assert said == (
        "The error over h is a V; it is least at h = 1.0e-02 in float32 and 1.0e-05 in "
        "float64, ε^(1/3) is 0.50 and 1.00 times that and errs 3.0 and 1.0 times as "
        "much, and (3ε|f|/|f‴|)^(1/3) is 2.00 and 4.00 times that and errs 2.0 and "
        "10.0 times as much (medians of 3 seeds)."
    )
    said = step_sizes.conclude([single, double._replace(rises=False)], 3)
    assert said.startswith("The error over h is not a V in float64; it is least")


def test_seeds_are_summed_by_their_median():
    h, v = [1e-3, 1e-2, 1e-1], [4.0, 1.0, 5.0]
    sweeps = [
        Sweep("float32", seed, h, [k * e for e in v], v, 1e-2, 1e-2, k * 1e-2)
        for seed, k in enumerate((1.0, 2.0, 9.0))
    ]
    found = step_sizes.summed(sweeps, "float32")
    assert found.best == found.simple == pytest.approx((1e-2, 2.0))
    # On logarithmic axes 0.02 is 0.301 of the way from 2 to 10.
    assert found.refined == pytest.approx((2e-2, 2 * 5 ** np.log10(2)))
    assert found.rises
    flat = [s._replace(error=[2.0, 1.0, 5.0]) for s in sweeps]
    assert not step_sizes.summed(flat, "float32").rises


# ---- Cost of checking ------------------------------------------------------------


def test_cost_of_checking_end_to_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cost_of_checking, "LEAST", 0.001)
    out = tmp_path / "run"
    options = "--hidden 1 4 --examples 4 --rounds 2 --out".split()
    assert cost_of_checking.main([*options, str(out)]) == 0
    numbers = lines(out / "numbers.jsonl")
    assert [n["weights"] for n in numbers] == [85, 310]  # 75 hidden units, 10 more
    for n in numbers:
        assert set(n["seconds"]) == {BACK, CHEAP, FULL, LOOP}
        assert all(len(s) == 2 and min(s) > 0 for s in n["seconds"].values())
        errors = n["errors"]
        assert max(errors["full"], errors["cheap"]) < 1e-6 < 1e-2 < errors["planted"]
    said, printed = conclusion(out), capsys.readouterr().out
    assert "notice one wrong sign in 2 of 2 networks" in said
    assert said in " ".join(printed.split()) and fits(printed)
    assert (out / "figures" / "times.png").stat().st_size > 10_000


def costs(
    weights: int, back: float, cheap: float, full: float, loop: float
) -> Measured:
    seconds = {BACK: [back] * 3, CHEAP: [cheap] * 3, FULL: [full] * 3, LOOP: [loop] * 3}
    return Measured(weights, seconds, Errors(1e-9, 1e-9, 0.1))


def test_what_the_cost_concludes_depends_on_the_numbers():
    found = [costs(100, 1.0, 8.0, 50.0, 100.0), costs(10_000, 2.0, 16.0, 1e4, 2e4)]
    assert cost_of_checking.conclude(found, 8) == (
        "From P = 100 to 10,000 weights a full check takes 50 to 5,000 "
        "backpropagations (as P^1.00, quartiles 1.00 and 1.00); 8 random directions "
        "take 8 to 8 backpropagations (as P^0.00, quartiles 0.00 and 0.00) and notice "
        "one wrong sign in 2 of 2 networks; one by one instead of under vmap the full "
        "check takes 2.0 times as long."
    )
    found[1] = costs(10_000, 2.0, 160.0, 1e6, 5e5)._replace(
        errors=Errors(1e-9, 1e-9, 2e-9)
    )
    said = cost_of_checking.conclude(found, 8)
    assert "50 to 500,000 backpropagations (as P^2.00" in said
    assert "8 to 80 backpropagations (as P^0.50" in said
    assert "in 1 of 2 networks" in said and said.endswith("1.2 times as long.")


def test_programs_of_all_networks_take_turns_after_they_are_compiled(monkeypatch):
    monkeypatch.setattr(cost_of_checking, "LEAST", 0)
    monkeypatch.setattr(cost_of_checking, "clocked", lambda run, calls: run() or 2.0)
    ran = []
    problems = [
        Problem(p, {n: lambda n=n: ran.append(n) for n in names}, {"b": 3.0}, ())
        for p, names in ((1, "ab"), (2, "cd"))
    ]
    found = cost_of_checking.in_turns(problems, range(3))
    assert "".join(ran) == "aabbccdd" + "abcd" * 3
    assert [m.weights for m in found] == [1, 2]
    assert found[0].seconds == {"a": [2.0] * 3, "b": [6.0] * 3}


# ---- Contradictions --------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> tuple[Path, list[dict], str]:
    """One run of all cases: its folder, the verdicts, what it printed."""
    folder, printed = run(contradictions.main, ["--examples", "5"], tmp_path_factory)
    return folder, lines(folder / "numbers.jsonl"), printed


def test_what_is_written_is_refuted_and_what_is_mended_holds(judged):
    folder, numbers, printed = judged
    assert {n["section"] for n in numbers} == {f"10.{i}" for i in range(1, 7)}
    for n in numbers:
        assert n["holds"] == n["mended"], n
    for section in {n["section"] for n in numbers}:
        assert {n["mended"] for n in numbers if n["section"] == section} == {
            True,
            False,
        }
    said = conclusion(folder)
    assert said == (
        "Of 6 contradictions, 9 of 9 readings as written are refuted and 6 of 6 "
        "mended ones hold."
    )
    assert said in " ".join(printed.split()) and fits(printed)


def test_each_is_refuted_for_its_own_reason(judged):
    _, numbers, _ = judged
    found = {n["statement"]: n["found"] for n in numbers if not n["mended"]}
    digits = fnn.data.digits().train[0][:5]
    black = int((digits == 0).all(0).sum())
    assert list(found.values()) == [
        "fails at loss.delta",
        "fails at loss.delta",
        "fails at 2/Dense.weight",
        "fails at 2/SameIndex.backward",
        "fails at 2/SameIndex.weight",
        "fails at 2/Dense.weight",
        "asks for row 5 of 3",
        f"0/0 in {12 * black} of 910 weights",
        "4 meanings",
    ]


def test_the_penalty_as_written_misses_the_weights_above_its_limits():
    net = fnn.serial(fnn.Dense(3), fnn.Dense(5))
    variables = net.init(jax.random.key(0), (2,))
    batch, how = (jnp.ones((4, 2)), jnp.ones((4, 5))), dict(key=None, train=True, n=4)
    loss = fnn.losses.SquaredError()
    grads = contradictions.short_sum(net, loss, variables, batch, l2=2.0, **how).grads
    bare = fnn.manual(net, loss, variables, batch, l2=0.0, **how).grads
    first, second = (
        np.asarray(a.weight - b.weight) / (0.5 * np.asarray(p.weight))
        for a, b, p in zip(grads, bare, variables.params, strict=True)
    )
    # s = (2, 3, 5): i ≤ 2 and j ≤ 1 of Θ^(1), i ≤ 3 and j ≤ 2 of Θ^(2); Θᵀ is shown.
    np.testing.assert_allclose(first, [[1, 1, 0], [0, 0, 0]], atol=1e-5)
    expected = [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0] * 5]
    np.testing.assert_allclose(second, expected, atol=1e-5)


def test_what_is_concluded_of_contradictions_depends_on_the_verdicts():
    wrong, right = (
        Verdict("10.1", "w", False, False, ""),
        Verdict("10.2", "m", True, True, ""),
    )
    said = contradictions.conclude([wrong, wrong._replace(holds=True), right])
    assert "1 of 2 readings as written are refuted and 1 of 1" in said
    assert said.endswith("hold; 10.1 (w) holds as written.")
    said = contradictions.conclude([wrong, right._replace(holds=False)])
    assert said.endswith("0 of 1 mended ones hold; 10.2 (m) fails although mended.")


def test_a_mended_statement_that_fails_is_the_exit_status(tmp_path, monkeypatch):
    wrong = contradictions.Case(
        "10.1", "so", mended=True, loss=contradictions.YMinusA()
    )
    monkeypatch.setattr(contradictions, "CASES", (wrong,))
    assert contradictions.main(["--examples", "5", "--out", str(tmp_path / "run")]) == 1
    assert "10.1 (so) fails although mended" in conclusion(tmp_path / "run")


# ---- The command line ------------------------------------------------------------

MAINS = {
    "step_sizes": step_sizes.main,
    "cost_of_checking": cost_of_checking.main,
    "contradictions": contradictions.main,
}
WRONG = [
    ("step_sizes", "--seeds 0", "seeds must be at least 1, got 0"),
    ("step_sizes", "--per-decade 0", "per_decade must be at least 1, got 0"),
    ("cost_of_checking", "--rounds 1", "rounds must be at least 2, got 1"),
    ("cost_of_checking", "--hidden 5 5", "two or more different numbers"),
    ("cost_of_checking", "--hidden 0 5", "each at least 1, to fit a line, got 0 5"),
    ("contradictions", "--examples 1", "examples must be at least 2, got 1"),
    ("contradictions", "--l2 0", "l2 must be positive and finite, got 0.0"),
]


@pytest.mark.parametrize(("name", "argv", "message"), WRONG)
def test_wrong_options_are_named_before_any_work(name, argv, message, tmp_path, capfd):
    out = tmp_path / "never"
    with pytest.raises(SystemExit) as stopped:
        MAINS[name]([*argv.split(), "--out", str(out)])
    assert stopped.value.code == 2 and not out.exists()
    printed = " ".join("".join(capfd.readouterr()).replace("│", " ").split())
    assert message in printed and "Traceback" not in printed


@pytest.mark.parametrize("name", MAINS)
def test_experiments_are_listed_and_explain_themselves(name, capsys):
    assert listing.experiments()[name].endswith((".", "?"))
    with pytest.raises(SystemExit) as stopped:
        MAINS[name](["--help"])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0 and listing.experiments()[name] in printed
    assert "(default:" in printed and "--out" in printed
