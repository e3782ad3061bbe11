"""Training on digits: the run folder, the output, wrong options, the shared parts."""

import contextlib
import dataclasses
import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from command_lines import assert_refused
from experiment_runs import json_lines

import fnn
from experiments import __main__ as listing
from experiments import train_digits
from experiments.shared import command_line, figures, problem, run_folder, seeds
from experiments.shared.terminal import coloured_report, console, epoch_bar
from experiments.train_digits import PRESETS, Config

ROOT = Path(__file__).parent.parent
SMALL = ["--layers", "12", "--epochs", "4", "--batch-size", "64", "--learning-rate"]
SMALL += ["0.01", "--dropout", "0.1", "--l2", "0.5"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, str]:
    """Make one small run with all steps; return its folder and output (80 columns)."""
    folder = tmp_path_factory.mktemp("run") / "here"
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("COLUMNS", "80")
        text = (folder.parent / "printed.txt").open("w+")
        stack.enter_context(text)
        stack.enter_context(contextlib.redirect_stdout(text))
        assert train_digits.main([*SMALL, "--out", str(folder)]) == 0
        text.seek(0)
        return folder, text.read()


# ---- A run -----------------------------------------------------------------------


def test_all_results_are_in_one_folder(run):
    folder, _ = run
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    checkpoints = {name for name in found if name.startswith("checkpoints/")}
    assert checkpoints
    assert found - checkpoints == {
        *("config.json", "metrics.jsonl", "result.json", "gradient_check.txt"),
        *("best.npz", "figures/learning_curves.png", "figures/misclassified.png"),
    }
    for figure in folder.glob("figures/*.png"):
        assert figure.read_bytes().startswith(b"\x89PNG")


def test_the_steps_are_shown_in_the_recipes_order(run):
    _, printed = run
    titles = (
        *("Initialise", "Forward", "Cost", "Handwritten backpropagation"),
        *("Gradient check", "Check switched off", "Training", "Test"),
    )
    places = [printed.index(f"\n{i}  {title}") for i, title in enumerate(titles, 1)]
    assert places == sorted(places)
    for part in ("2/Dense.weight", "3/Relu.delta", "PASSED", "ln K", "2.3026"):
        assert part in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_the_check_is_gone_from_the_compiled_gradient(run):
    _, printed = run
    assert "float64 (the check's) in it   none" in printed
    ratio = float(printed.partition("the gradient's program")[2].split()[0])
    assert 2 < ratio < 5  # one forward, two products a layer for the backward


def test_the_result_fits_the_metrics_and_the_config(run):
    folder, printed = run
    result = json.loads((folder / "result.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    epochs = json_lines(folder / "metrics.jsonl")
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4] and result["epochs"] == 4
    losses = [line["validation_loss"] for line in epochs]
    assert result["best_epoch"] == 1 + int(np.argmin(losses))
    best = epochs[result["best_epoch"] - 1]
    assert result["validation_accuracy"] == best["validation_accuracy"]
    assert result["test_accuracy"] > 0.8  # chance: 0.1
    assert f"{result['test_accuracy']:.2%}" in printed
    assert result["jax"] == jax.__version__ and result["device"]
    assert set(config) == {field.name for field in dataclasses.fields(Config)}
    assert config["layers"] == [12] and config["l2"] == 0.5
    assert "PASSED" in (folder / "gradient_check.txt").read_text()


def test_the_saved_parameters_have_the_reported_accuracy(run):
    folder, _ = run
    config = Config(layers=(12,), dropout=0.1)
    net = train_digits.network(config)
    like = net.init(jax.random.key(0), (8, 8, 1))
    variables = fnn.load(folder / "best.npz", like=like)
    loss = fnn.losses.SoftmaxCrossEntropy()
    measured = fnn.evaluate(net, loss, variables, fnn.data.digits().test)
    result = json.loads((folder / "result.json").read_text())
    assert measured["accuracy"] == pytest.approx(result["test_accuracy"], abs=1e-6)
    assert measured["loss"] == pytest.approx(result["test_loss"], rel=1e-5)


@pytest.mark.thorough
def test_both_engines_reach_the_same_history(run, tmp_path):
    out = tmp_path / "autodiff"
    options = ["--engine", "autodiff", "--no-check", "--out", str(out)]
    assert train_digits.main([*SMALL, *options]) == 0
    ours, theirs = (json_lines(path / "metrics.jsonl") for path in (run[0], out))
    for name in ("train_loss", "validation_loss", "validation_accuracy"):
        a, b = ([line[name] for line in history] for history in (ours, theirs))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert not (out / "gradient_check.txt").exists()


@pytest.mark.thorough
def test_several_seeds_give_mean_and_deviation(tmp_path, capsys):
    out = tmp_path / "seeds"
    options = ["--no-check", "--seed", "3", "--seeds", "2", "--out", str(out)]
    assert train_digits.main([*SMALL, *options]) == 0
    result = json.loads((out / "result.json").read_text())
    own = [json.loads((out / f"seed-{s}/result.json").read_text()) for s in (3, 4)]
    assert result["seeds"] == own and own[0] != own[1]
    a, b = (one["test_accuracy"] for one in own)
    assert result["test_accuracy"] == pytest.approx((a + b) / 2)
    assert result["test_accuracy_sd"] == pytest.approx(abs(a - b) / math.sqrt(2))
    assert "± " in capsys.readouterr().out
    for name in ("metrics.jsonl", "best.npz", "figures/misclassified.png"):
        assert (out / "seed-3" / name).exists() and (out / "seed-4" / name).exists()


def test_a_run_that_diverges_says_so(tmp_path, capsys):
    out = tmp_path / "wild"
    options = ["--no-check", "--optimizer", "sgd", "--learning-rate", "1e30"]
    assert train_digits.main([*SMALL, *options, "--out", str(out)]) == 0
    assert "try a smaller --learning-rate" in capsys.readouterr().out
    assert json.loads((out / "result.json").read_text())["stopped"] == "diverged"


def test_wrong_gradients_stop_the_run(tmp_path, capsys, monkeypatch):
    @fnn.layer
    class Relu(fnn.Relu):
        def backward(self, params, saved, dy):
            return fnn.Backward(dx=dy, dparams=())  # the mask is missing

    monkeypatch.setattr(fnn, "Relu", Relu)
    out = tmp_path / "wrong"
    assert train_digits.main([*SMALL, "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "The gradient check failed at 3/Relu.dx" in printed
    assert "Training" not in printed and not (out / "metrics.jsonl").exists()
    assert "FAILED" in (out / "gradient_check.txt").read_text()


# ---- The command line ------------------------------------------------------------


def test_help_lists_every_field_in_one_line_with_its_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as stopped:
        train_digits.main(["--help"])
    assert stopped.value.code == 0
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    documented = problem.TrainingConfig.__doc__ + Config.__doc__
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')} " in printed.replace(",", " ")
        described = documented.partition(f"    {field.name}: ")[2]
        assert described and described.partition("\n")[0].rstrip(".") in printed
    assert printed.count("(default: ") == len(dataclasses.fields(Config))


def test_defaults_are_those_of_the_dataset(capsys):
    options = dict(prog="p", description="d")
    for argv in (["--dataset", "mnist"], ["--dataset=mnist"]):
        config = command_line.parse_with_presets(PRESETS, "dataset", argv, **options)
        assert config == PRESETS["mnist"]
    argv = ["--epochs", "3", "--dataset", "mnist"]
    config = command_line.parse_with_presets(PRESETS, "dataset", argv, **options)
    assert config == dataclasses.replace(PRESETS["mnist"], epochs=3)
    assert (
        command_line.parse_with_presets(PRESETS, "dataset", [], **options) == Config()
    )
    with pytest.raises(SystemExit):
        train_digits.main(["--dataset", "mnist", "--help"])
    assert "512 512" in capsys.readouterr().out


WRONG = [
    (["--optimizer", "adm"], "unknown optimizer 'adm': expected one of"),
    (["--optimizer", "SGD"], "adagrad, adam, adamw, amsgrad"),
    (["--optimizer", "eval_params"], "unknown optimizer 'eval_params'"),
    (["--learning-rate", "-1"], "learning_rate"),
    (["--dropout", "1.5"], "Dropout: rate is the probability of dropping a unit"),
    (["--visible-dropout", "1"], "[0, 1), got 1.0"),
    (["--layers", "64", "0"], "Dense: features must be a positive integer, got 0"),
    (["--label-smoothing", "2"], "label_smoothing is a share"),
    (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
    (["--batch-size", "5000"], "larger than the training set, which has 1222"),
    (["--l2", "-1"], "l2 must be finite and not negative"),
    (["--epochs", "0"], "epochs must be at least 1, got 0"),
    (["--seeds", "0"], "seeds must be at least 1, got 0"),
    (["--patience", "-1"], "patience must be at least 0, got -1"),
    (["--validation", "1"], "must lie strictly between 0 and 1, got 1.0"),
    (["--dataset", "mnist", "--data-dir", "nowhere"], "nowhere is not a folder"),
    (["--engine", "magic"], "invalid choice 'magic'"),
    (["--dataset", "cats"], "invalid choice 'cats'"),
    (["--epochs", "many"], "--epochs"),
]


@pytest.mark.parametrize(
    ("argv", "message"), WRONG, ids=[" ".join(w[0]) for w in WRONG]
)
def test_wrong_options_are_named_before_any_work(argv, message, tmp_path, capfd):
    assert_refused(train_digits.main, " ".join(argv), message, tmp_path, capfd)


def test_another_run_is_never_overwritten(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    names = [str(run_folder.create(None, "a-seed0")) for _ in range(3)]
    assert names == ["runs/a-seed0", "runs/a-seed0-2", "runs/a-seed0-3"]
    own = tmp_path / "own"
    assert (
        run_folder.create(own, "a") == own == run_folder.create(own, "a")
    )  # empty still
    (own / "result.json").touch()
    with pytest.raises(SystemExit):
        train_digits.main([*SMALL, "--out", str(own)])
    assert "already holds something" in capfd.readouterr().err


def test_python_m_experiments_lists_the_scripts_only(capsys):
    assert listing.main() == 0
    printed = capsys.readouterr().out
    first = train_digits.__doc__.partition("\n")[0]
    assert f"python -m experiments.train_digits\n    {first}\n" in printed
    assert "shared" not in printed and "run_folder" not in printed
    assert listing.experiments().keys() >= {"train_digits"}
    assert all(listing.experiments().values())
    for name in listing.experiments():
        assert callable(importlib.import_module(f"experiments.{name}").main)


def test_missing_extras_are_named():
    code = "import sys; sys.modules['rich'] = None; import experiments.train_digits"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "need rich, which" in run.stderr
    assert "pip install 'fnn[experiments]'" in run.stderr


# ---- The parts -------------------------------------------------------------------


def test_every_activation_and_optimizer_can_be_built():
    activations = Config.__dataclass_fields__["activation"].type.__args__
    for name in activations:
        net = train_digits.network(Config(activation=name, dropout=0.0, layers=(3,)))
        assert type(net.layers[3]).__name__.lower() == name.replace("_", "")
        assert len(net.layers) == 5  # flatten, dropout of pixels, dense, it, dense
    for name in ("sgd", "momentum", "nesterov", "rmsprop", "adadelta", "adam"):
        assert problem.make_optimizer(Config(optimizer=name)).learning_rate == 1e-3


def test_mnist_is_found_in_a_folder_and_in_its_parent(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(fnn.data, "fashion_mnist", asked.append)
    (tmp_path / "fashion-mnist").mkdir()
    for folder in (tmp_path, tmp_path / "fashion-mnist", None):
        problem.load_dataset(Config(dataset="fashion_mnist", data_dir=folder))
    assert asked == [tmp_path / "fashion-mnist", tmp_path / "fashion-mnist", None]


def test_json_has_no_nan(tmp_path):
    record = {"loss": math.nan, "inf": [math.inf, 1], "path": Path("a"), "α": (1.5,)}
    expected = {"loss": None, "inf": [None, 1], "path": "a", "α": [1.5]}
    run_folder.write_json(tmp_path / "one.json", record)
    assert json.loads((tmp_path / "one.json").read_text()) == expected
    for _ in range(2):
        run_folder.append_json_line(tmp_path / "lines.jsonl", record)
    assert json_lines(tmp_path / "lines.jsonl") == [expected] * 2


def test_mean_and_deviation():
    assert seeds.mean_and_deviation([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2)))
    mean, deviation = seeds.mean_and_deviation([5.0])
    assert mean == 5 and math.isnan(deviation)


def test_the_bar_shows_the_best_epoch(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with epoch_bar(console(), 3) as show_epoch:
        show_epoch({"epoch": 1, "train_loss": 1.0, "validation_loss": 0.5})
        show_epoch({"epoch": 2, "train_loss": 0.5, "validation_loss": math.nan})
        show_epoch({"epoch": 3, "train_loss": 0.25})
    printed = capsys.readouterr().out
    assert "3/3" in printed and "train 0.2500  best 0.5000 @ 1" in printed


def test_a_coloured_report_colours_verdicts_only():
    text = coloured_report("a   1e-9 pass\nb   FAIL\nFAILED: first divergence at b")
    assert text.splitlines() == [
        "a   1e-9 [green]pass[/]",
        "b   [bold red]FAIL[/]",
        "[bold red]FAILED: first divergence at b[/]",
    ]


@pytest.mark.parametrize("mistakes", [0, 1, 30])
def test_figures_for_any_number_of_mistakes(mistakes, tmp_path):
    n = 40
    x, y = np.zeros((n, 8, 8, 1), np.float32), np.zeros(n, np.int32)
    probabilities = np.tile([0.75, 0.25], (n, 1))
    probabilities[:mistakes] = [0.375, 0.625]
    figure = figures.misclassified(x, y, probabilities, ("no", "yes"))
    path = figures.save(figure, tmp_path / "new" / "a.png")
    assert path.stat().st_size > 1000
    drawn = [axes.get_title() for axes in figure.axes if axes.images]
    assert drawn == ["no → yes\n62.5%"] * min(mistakes, 24)
    assert f"{mistakes} of 40" in figure.get_suptitle()


def test_learning_curves_label_their_axes_and_mark_the_best(tmp_path):
    history = {
        "epoch": np.arange(1, 4),
        "validation_epoch": np.arange(1, 4),
        "train_loss": np.array([2.0, 1.0, np.nan]),
        "validation_loss": np.array([1.0, 0.5, 0.75]),
        "validation_accuracy": np.array([0.5, 0.75, 0.5]),
    }
    figure = figures.learning_curves(history, 2, "patience", 0.7, "title")
    figures.save(figure, tmp_path / "a.png")
    left, right = figure.axes
    assert left.get_ylabel() == "cost J (nats per example)"
    assert right.get_ylabel() == "accuracy (%)" and right.get_xlabel() == "epoch"
    legend = [text.get_text() for text in left.get_legend().get_texts()]
    assert legend[2:] == ["best epoch: 2", "stopped early: 3"]


# ---- Resuming --------------------------------------------------------------------


@pytest.mark.thorough
def test_an_interrupted_run_is_resumed(tmp_path, capsys, monkeypatch):
    """Interrupt the third epoch, then resume: the results of an uninterrupted run."""
    options = ["--no-check", "--layers", "8", "--epochs", "5", "--health"]
    options += ["--checkpoint-every", "2"]
    assert train_digits.main([*options, "--out", str(tmp_path / "alone")]) == 0
    folder, epochs = tmp_path / "run", []
    append = run_folder.JsonLines.append

    def interrupt(lines, record):
        append(lines, record)
        epochs.append(record["epoch"])
        if epochs == [1, 2, 3]:
            raise KeyboardInterrupt

    monkeypatch.setattr(run_folder.JsonLines, "append", interrupt)
    assert train_digits.main([*options, "--out", str(folder)]) == 0
    assert f"--resume {folder}" in capsys.readouterr().out.replace("\n", "")
    with (folder / "metrics.jsonl").open("a") as file:  # written after the checkpoint
        file.write('{"epoch": 4, "train_loss": 99}\n')
    assert train_digits.main(["--resume", str(folder)]) == 0
    assert epochs == [1, 2, 3, 4, 5]
    texts = [
        (where / "metrics.jsonl").read_text() for where in (tmp_path / "alone", folder)
    ]
    alone, again = (
        [json.loads(line) | {"seconds": 0} for line in text.splitlines()]
        for text in texts
    )
    assert alone == again
    assert again[0]["health"]["2/Dense"]["delta"] > 0
    assert (folder / "figures" / "health.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no run"),
        ('{"dataset": "digits", "x": 1}', "another experiment"),
    ],
)
def test_no_run_to_resume(tmp_path, capsys, content, message):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(SystemExit) as caught:
        train_digits.main(["--resume", str(tmp_path)])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
