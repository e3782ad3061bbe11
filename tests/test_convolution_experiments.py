"""The experiments about convolution: templates, receptive fields, a dense layer."""

from pathlib import Path

import numpy as np
import pytest
from command_lines import assert_refused, printed_help
from experiment_runs import conclusion, json_lines, small_mnist

import fnn
from experiments import __main__ as listing
from experiments import (
    dense_or_convolution,
    mnist_seconds,
    receptive_fields,
    templates,
)
from experiments.shared import networks


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


# ---- Templates -------------------------------------------------------------------


def test_a_response_is_the_sum_that_the_page_says():
    x = np.random.default_rng(0).random((2, 6, 7, 1), np.float32)
    kernels = templates.edges_and_blob(3)
    padded = np.pad(x[..., 0], ((0, 0), (1, 1), (1, 1)))
    parts = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    expected = np.einsum("nijkl,tkl->nijt", parts, np.stack([*kernels.values()]))
    np.testing.assert_allclose(templates.responses(kernels, x), expected, atol=1e-5)
    for template in kernels.values():
        assert template.mean() == pytest.approx(0, abs=1e-6)
        assert np.linalg.norm(template) == pytest.approx(1, rel=1e-5)
    assert kernels["edge →"][1, 2] > 0 > kernels["edge →"][1, 0]
    assert kernels["edge ↙"][2, 0] > 0 > kernels["edge ↙"][0, 2]


@pytest.mark.thorough
def test_templates_find_the_stroke_where_it_was_cut(tmp_path, capsys):
    out = tmp_path / "run"
    assert templates.main(["--digit", "7", "--out", str(out)]) == 0
    *_, stroke, home = json_lines(out / "numbers.jsonl")
    assert home["found_at"] == home["cut_from"]
    text = conclusion(out)
    assert text.startswith(
        "In its own image the stroke of a 7 responds most at its own"
    )
    assert f"with probability {stroke['7']:.2f} (chance: 0.50)" in text
    assert text in " ".join(capsys.readouterr().out.split())
    assert (out / "figures" / "responses.png").stat().st_size > 10_000


def test_what_templates_conclude_depends_on_the_numbers():
    stroke = {"template": "stroke", "3": 0.8, "5": 0.7}
    home = {"cut_from": (1, 2), "found_at": (1, 2), "response": 2.0, "turned": -1.0}
    text = templates.conclude([{}, stroke, home], 3)
    assert "at its own place (2.00; turned by 180°: -1.00)" in text
    assert text.endswith("with probability 0.80 (chance: 0.50).")
    numbers = [{}, stroke | {"3": 0.6}, home | {"found_at": (2, 1)}]
    text = templates.conclude(numbers, 3)
    assert "at another place" in text
    assert text.endswith("0.60 (chance: 0.50), and to a 5 with 0.70.")


@pytest.mark.parametrize(
    ("most", "expected"), [([3, 4, 1, 2], 1), ([1, 2, 3, 4], 0), ([1, 1, 1, 1], 0.5)]
)
def test_how_likely_one_responds_more_than_another(most, expected):
    assert templates.roc_area(np.array(most), np.array([1, 1, 0, 0], bool)) == expected


# ---- Receptive fields ------------------------------------------------------------


def fields(monkeypatch, out: Path, net: fnn.Layer) -> tuple[int, list[dict]]:
    """Run the experiment with this network only: the exit status and the numbers."""
    monkeypatch.setattr(networks, "lenet", lambda: net)
    options = ["--networks", "lenet", "--images", "6", "--draws", "1"]
    status = receptive_fields.main([*options, "--out", str(out)])
    return status, json_lines(out / "numbers.jsonl")


def branched(conv: fnn.Layer) -> fnn.Layer:
    """Build a network of all kinds of layers that change a receptive field."""
    body = fnn.serial(fnn.Relu(), conv, fnn.BatchNorm())
    return fnn.serial(
        *(fnn.Conv(2, 5, padding="VALID"), fnn.MaxPool(2)),
        fnn.residual(body, fnn.Conv(3, 1, stride=2)),
        *(fnn.Flatten(), fnn.Dense(4)),
    )


def test_computed_fields_are_the_gradients(tmp_path, monkeypatch):
    net = branched(fnn.Conv(3, 3, stride=2))
    status, numbers = fields(monkeypatch, tmp_path / "run", net)
    assert status == 0
    side = 10 + receptive_fields.MARGIN
    expected = [5, 6, 6, 10, 10, 6, 10, side]
    assert [n["measured"] for n in numbers] == [[size, size] for size in expected]
    text = conclusion(tmp_path / "run")
    assert text.startswith("The computed receptive fields of all 8 layers are the supp")
    assert f"uses {numbers[5]['effective']:.1f} of 6 pixels (lenet)" in text
    assert (tmp_path / "run/figures/lenet.png").stat().st_size > 10_000


def test_a_field_that_is_computed_wrongly_is_found(tmp_path, monkeypatch):
    @fnn.layer
    class Modest(fnn.Conv):
        def reach(self, in_shape):
            return tuple(r._replace(extent=1) for r in super().reach(in_shape))

    net = branched(Modest(3, 3, stride=2))
    status, numbers = fields(monkeypatch, tmp_path / "run", net)
    wrong = [n["layer"] for n in numbers if n["computed"] != n["measured"]]
    assert status == 1 and wrong[0] == "2/Residual/body/1/Modest"
    text = conclusion(tmp_path / "run")
    assert f"Of 8 computed receptive fields {len(wrong)} are not ({wrong[0]}" in text


# ---- Dense or convolution --------------------------------------------------------


@pytest.mark.thorough
def test_dense_or_convolution_compares_networks_of_one_size(tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--features", "2", "5", "--seeds", "2", "--epochs", "2"]
    assert dense_or_convolution.main([*options, "--out", str(out)]) == 0
    numbers = json_lines(out / "numbers.jsonl")
    assert len(numbers) == 8
    for features in (2, 5):
        ours, theirs = (
            [n for n in numbers if n["features"] == features and n["layer"] == kind]
            for kind in ("convolution", "dense")
        )
        params = ours[0]["parameters"], theirs[0]["parameters"]
        assert params[0] == 170 * features + 10
        assert params[1] == pytest.approx(params[0], abs=38)  # half a hidden unit
        pair = dense_or_convolution.compare(numbers, features)
        errors = [[n["test_error"] for n in side] for side in (ours, theirs)]
        assert pair.mean == pytest.approx(np.mean(errors, 1))
        assert pair.sd == pytest.approx(np.std(errors, 1, ddof=1))
        gain = np.subtract(errors[1], errors[0])
        assert pair.reduction == pytest.approx(gain.mean())
        assert pair.standard_error == pytest.approx(abs(gain[0] - gain[1]) / 2)
    assert conclusion(out) in " ".join(capsys.readouterr().out.split())
    assert (out / "figures" / "test_error.png").stat().st_size > 10_000


def test_what_is_concluded_depends_on_the_numbers():
    clear = dense_or_convolution.Pair(
        2, (350, 385), (0.02, 0.05), (0.01, 0.01), 0.03, 0.01
    )
    unclear = clear._replace(reduction=0.005, mean=(0.045, 0.05))
    worse = clear._replace(reduction=-0.03, mean=(0.04, 0.01), params=(1370, 1360))
    text = dense_or_convolution.conclude([clear, unclear, worse], 5)
    assert "lower test error at 2 of 3 sizes" in text
    assert "more than two standard errors at 1;" in text
    assert "4.0% ± 1.0% with 1,370 parameters, against 1.0% ± 1.0% with 1,360" in text


# ---- The command line ------------------------------------------------------------

MAINS = {
    "templates": templates.main,
    "receptive_fields": receptive_fields.main,
    "dense_or_convolution": dense_or_convolution.main,
}
WRONG = [
    ("templates", "--size 4", "size must be odd, from 3 to 8, got 4"),
    ("templates", "--size 9", "size must be odd, from 3 to 8, got 9"),
    ("templates", "--digit 10", "invalid choice '10'"),
    ("receptive_fields", "--images 0", "images must be at least 1, got 0"),
    ("receptive_fields", "--networks", "at least one network"),
    ("receptive_fields", "--networks resnet --blocks 0", "blocks must be at least 1"),
    ("dense_or_convolution", "--seeds 1", "seeds must be at least 2, got 1"),
    ("dense_or_convolution", "--features", "at least one network"),
    ("dense_or_convolution", "--features 0", "features must be a positive integer"),
    ("dense_or_convolution", "--epochs 0", "epochs must be at least 1, got 0"),
    ("dense_or_convolution", "--batch-size 0", "batch_size must be at least 1, got 0"),
]


@pytest.mark.parametrize(("name", "argv", "message"), WRONG)
def test_wrong_options_are_named_before_any_work(name, argv, message, tmp_path, capfd):
    assert_refused(MAINS[name], argv, message, tmp_path, capfd)


@pytest.mark.parametrize("name", MAINS)
def test_experiments_are_listed_and_explain_themselves(name, capsys):
    assert listing.experiments()[name].endswith((".", "?"))
    assert listing.experiments()[name] in printed_help(MAINS[name], capsys)


# ---- MNIST in seconds ---------------------------------------------------------------


def test_lenet5_is_trained_twice_and_the_least_by_one_sweep(monkeypatch, tmp_path):
    small_mnist(monkeypatch)
    config = mnist_seconds.Config(epochs=2, batch_size=40)
    first, second = mnist_seconds.in_this_process(config)
    assert second["seconds"] < first["seconds"]  # it compiles nothing
    assert first["end"] < second["end"]
    assert first["accuracy"] != second["accuracy"]  # other seeds
    options = "--training least --seeds 3 --epochs 2 --batch-size 40 --out"
    assert mnist_seconds.main([*options.split(), str(tmp_path / "run")]) == 0
    numbers = json_lines(tmp_path / "run" / "numbers.jsonl")
    assert [n["run"] for n in numbers] == ["seed 0", "seed 1", "seed 2"]
    mean = sum(n["accuracy"] for n in numbers) / 3
    assert f"2 epochs reach {mean:.2%} ± " in conclusion(tmp_path / "run")


def test_wrong_options_of_mnist_in_seconds(tmp_path, capfd):
    options = "--learning-rate 0"
    text = "learning_rate must be positive, got 0.0"
    assert_refused(mnist_seconds.main, options, text, tmp_path, capfd)
