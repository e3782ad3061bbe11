"""The experiment on U-Nets: its data, its networks, and what it concludes."""

import jax
import numpy as np
import pytest
from command_lines import assert_refused
from experiment_runs import conclusion, json_lines

import fnn
from experiments import segmentation
from experiments.segmentation import UNCLEAR, Config, canvases, unet


def test_strokes_have_the_class_of_their_digit_and_grey_has_none():
    digits = fnn.data.digits().train
    x, y = canvases(digits, 20, Config(noise=0.0), seed=3)
    assert x.shape == (20, 16, 16, 1)
    bright = x[..., 0]
    assert ((y > 0) == (bright >= 0.5)).all()
    grey = (bright >= 0.1) & (bright < 0.5)
    assert ((y == UNCLEAR) == grey).all()
    for half in (y[:, :, :8], y[:, :, 8:]):  # one digit in each half
        classes = [set(np.unique(canvas)) - {0, UNCLEAR} for canvas in half]
        assert all(len(found) == 1 for found in classes)


def test_shortcuts_hand_the_fine_maps_on():
    with_them, without = (unet(2, shortcuts=s) for s in (True, False))
    variables = [
        net.init(jax.random.key(0), (16, 16, 1)) for net in (with_them, without)
    ]
    inputs = [
        {path: seen.x.shape[-1] for path, seen in fnn.record(net, v, x).items()}
        for x in [np.zeros((1, 16, 16, 1), np.float32)]
        for net, v in zip((with_them, without), variables, strict=True)
    ]
    assert inputs[0]["2/0/Conv"] == 2 + 4  # the fine maps, and the coarse ones
    assert inputs[1]["2/0/Conv"] == 4


@pytest.mark.thorough
def test_the_audit_passes_with_pixels_that_do_not_count():
    net = unet(2)
    x, y = canvases(fnn.data.digits().train, 4, Config(), seed=0)
    loss = fnn.losses.SoftmaxCrossEntropy(ignore=UNCLEAR)
    variables = net.init(jax.random.key(0), (16, 16, 1))
    report = fnn.compare_gradients(net, loss, variables, (x, y))
    assert report.passed, str(report)


@pytest.mark.thorough
def test_it_runs_end_to_end(tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--examples", "40", "--tests", "8", "--epochs", "1", "--seeds", "1"]
    options += ["--features", "2", "--batch-size", "20", "--out", str(out)]
    assert segmentation.main(options) == 0
    numbers = json_lines(out / "numbers.jsonl")
    assert [n["network"] for n in numbers] == ["with shortcuts", "without"]
    assert all(0 <= n["iou"] <= 1 for n in numbers)
    assert conclusion(out) in " ".join(capsys.readouterr().out.split())
    assert (out / "figures" / "segmentation.png").stat().st_size > 10_000


def test_what_it_concludes_depends_on_the_numbers():
    def numbers(with_them, without):
        return [
            {"network": name, "iou": iou}
            for name, runs in (("with shortcuts", with_them), ("without", without))
            for iou in runs
        ]

    text = segmentation.conclude(numbers([0.5, 0.6], [0.3, 0.4]))
    assert text.startswith("Shortcuts bring 20 points")
    assert "in every pair of runs: 55.0% with them, 35.0% without (2 seeds)" in text
    assert "on average" in segmentation.conclude(numbers([0.5, 0.3], [0.3, 0.4]))
    text = segmentation.conclude(numbers([0.3, 0.3], [0.4, 0.4]))
    assert text.startswith("Shortcuts cost 10 points") and "on average" in text


def test_wrong_options_are_refused(tmp_path, capfd):
    message = "side must be 16, 20, 24, ..., got 18"
    assert_refused(segmentation.main, "--side 18", message, tmp_path, capfd)
