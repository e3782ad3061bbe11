"""Training on images: the networks, and the recipe with its options for images."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_lines import assert_refused
from experiment_runs import json_lines

import fnn
from experiments import train_images
from experiments.shared import networks, problem
from experiments.train_images import PRESETS

DIGITS = PRESETS["digits"]
SMALL = ["--epochs", "3", "--batch-size", "64", "--learning-rate", "0.01"]
SMALL += ["--dropout", "0.1", "--augment"]


LENET = networks.lenet


def small_lenet(classes: int, **options) -> fnn.Layer:
    return LENET(classes, **options | {"features": (6, 8), "hidden": 32})


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(networks, "lenet", small_lenet)


@pytest.fixture(autouse=True, scope="module")
def _standard():
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules mix dtypes
        yield


# ---- Networks --------------------------------------------------------------------


def kinds(net: fnn.Layer) -> set[str]:
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), (32, 32, 3)))
    return {type(node.layer).__name__ for node in fnn.walk(net, variables)}


def test_lenet_has_the_parameters_of_the_well_known_one():
    net = networks.lenet(features=(20, 50), hidden=500)
    assert fnn.summary(net, (28, 28, 1)).params == 431_080  # that of Caffe
    assert "Dropout" in kinds(net) and "Dropout" not in kinds(networks.lenet(dropout=0))


def test_all_convolutional_is_what_it_is_called():
    found = kinds(networks.all_convolutional())
    assert found == {"Serial", "Conv", "Relu", "Dropout", "GlobalAvgPool"}


@pytest.mark.parametrize("blocks", [1, 3])
def test_resnet_has_its_layers_and_its_shapes(blocks):
    rows = fnn.summary(networks.resnet(blocks=blocks), (32, 32, 3)).rows
    weights = [r for r in rows if r.path.endswith(("Conv", "Dense"))]
    shortcuts = [r for r in weights if "projection" in r.path]
    assert len(weights) - len(shortcuts) == 6 * blocks + 2 and len(shortcuts) == 2
    shapes = dict.fromkeys(r.out_shape for r in rows)
    assert list(shapes) == [(32, 32, 16), (16, 16, 32), (8, 8, 64), (64,), (10,)]
    if blocks == 3:  # ResNet-20 has 0.27 million
        assert sum(r.params for r in rows) == pytest.approx(0.27e6, rel=0.02)


def test_resnet_wants_a_block():
    with pytest.raises(ValueError, match="blocks must be at least 1, got 0"):
        networks.resnet(blocks=0)


# ---- Training --------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Make one small run with gradient check and augmentation; return its folder."""
    out = tmp_path_factory.mktemp("images") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "lenet", small_lenet)
        assert train_images.main([*SMALL, "--out", str(out)]) == 0
    return out


def test_a_run_leaves_everything_in_its_folder(run):
    found = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert {name for name in found if not name.startswith("checkpoints/")} == {
        *("config.json", "metrics.jsonl", "result.json", "gradient_check.txt"),
        *("best.npz", "figures/learning_curves.png", "figures/misclassified.png"),
    }
    check = (run / "gradient_check.txt").read_text()
    assert "no layer's backward diverges" in check and "2/MaxPool.delta" in check
    bias = next(line for line in check.splitlines() if line.startswith("0/Conv.bias"))
    assert bias.endswith("pass")  # on black pixels it would sit on the ReLU's kink
    result = json.loads((run / "result.json").read_text())
    epochs = json_lines(run / "metrics.jsonl")
    assert result["epochs"] == len(epochs) == 3
    assert epochs[2]["train_loss"] < epochs[0]["train_loss"]
    assert result["test_accuracy"] > 0.3  # chance: 0.1


@pytest.mark.usefixtures("_small")
@pytest.mark.thorough
def test_autodiff_trains_the_same_network(run, tmp_path):
    options = ["--engine", "autodiff", "--no-check", "--out", str(tmp_path / "run")]
    assert train_images.main([*SMALL, *options]) == 0
    ours, theirs = (
        [line["validation_loss"] for line in json_lines(out / "metrics.jsonl")]
        for out in (run, tmp_path / "run")
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)


@pytest.mark.thorough
@pytest.mark.usefixtures("_small")
def test_wrong_gradients_stop_the_run(tmp_path, capsys, monkeypatch):
    @fnn.layer
    class MaxPool(fnn.MaxPool):
        def backward(self, params, saved, dy):
            right = super().backward(params, saved, dy)
            return right._replace(dx=right.dx[:, ::-1])

    monkeypatch.setattr(fnn, "MaxPool", MaxPool)
    out = tmp_path / "wrong"
    assert train_images.main([*SMALL, "--out", str(out)]) == 1
    assert "The gradient check failed at 5/MaxPool.dx" in capsys.readouterr().out
    assert not (out / "metrics.jsonl").exists()


def test_the_learning_rate_falls_to_zero_at_the_last_step():
    config = replace(DIGITS, epochs=2, batch_size=100, learning_rate=0.5)
    falling = train_images.build(config).optimizer.learning_rate
    steps = 2 * 13  # 1,222 images in batches of 100
    rates = [float(falling(t)) for t in range(steps + 1)]
    assert rates[0] == 0.5 and rates[steps // 2] == pytest.approx(0.25)
    assert rates[-1] == pytest.approx(0, abs=1e-6) and rates[-2] > 1e-4
    constant = train_images.build(replace(config, schedule="constant"))
    assert constant.optimizer.learning_rate == 0.5


@pytest.mark.thorough
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_network_and_an_augmentation_for_its_images(name):
    config = PRESETS[name]
    sides = {"digits": (8, 8, 1), "cifar10": (32, 32, 3)}
    x = jnp.ones((2, *sides.get(name, (28, 28, 1))))
    augmented = train_images.augmentation(config)(jax.random.key(0), x)
    assert augmented.shape == x.shape
    for network in ("lenet", "all_convolutional", "resnet"):
        net = train_images.network(replace(config, network=network))
        assert fnn.summary(net, x.shape[1:]).rows[-1].out_shape == (10,)
    assert len(problem.CLASSES[name]) == 10


def test_images_are_augmented_where_asked():
    assert train_images.build(DIGITS).augment is None
    shifted = train_images.build(replace(DIGITS, augment=True)).augment
    assert shifted == fnn.augmentations.Shift(1)


def test_cifar10_is_found_in_a_folder_and_in_its_parent(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(fnn.data, "cifar10", asked.append)
    inside = tmp_path / "cifar-10-batches-bin"
    inside.mkdir()
    for folder in (tmp_path, inside, None):
        problem.load_dataset(replace(PRESETS["cifar10"], data_dir=folder))
    assert asked == [inside, inside, None]


# ---- The command line ------------------------------------------------------------

WRONG = [
    ("--network cats", "invalid choice 'cats'"),
    ("--network resnet --blocks 0", "blocks must be at least 1, got 0"),
    ("--epochs 0", "epochs must be at least 1, got 0"),
    ("--learning-rate -1", "learning_rate"),
    ("--batch-size 5000", "which has 1222"),
    ("--dropout 2", "Dropout: rate"),
    ("--dataset cifar10 --data-dir no", "no is not a folder"),
]


@pytest.mark.parametrize(("argv", "message"), WRONG)
def test_wrong_options_are_named_before_any_work(argv, message, tmp_path, capfd):
    assert_refused(train_images.main, argv, message, tmp_path, capfd)


def test_help_has_the_options_that_images_add(capsys):
    with pytest.raises(SystemExit):
        train_images.main(["--dataset", "cifar10", "--help"])
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for part in ("--network {lenet,", "(default: resnet)", "--augment", "(default: 3)"):
        assert part in printed
