"""Checkpoints: an interrupted run goes on as if it had not been interrupted."""

import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import killed_runs
import optax
import pytest

import fnn
from fnn.training.store import fingerprint

# A read that fails leaves threads of Orbax behind that complain when they end.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

ROOT = Path(__file__).parent.parent
X = jax.random.normal(jax.random.key(0), (90, 4))
Y = (X[:, 0] * X[:, 1] > 0).astype(jnp.int32)
LOSS = fnn.losses.SoftmaxCrossEntropy()
PATIENT = fnn.EarlyStopping(patience=20)


def network(width=8):
    return fnn.serial(
        fnn.Dense(width), fnn.BatchNorm(), fnn.Tanh(), fnn.Dropout(0.3), fnn.Dense(2)
    )


def fit(epochs=6, net=None, optimizer=None, **options):
    given = dict(
        train=(X[:60], Y[:60]), validation=(X[60:], Y[60:]), key=jax.random.key(1),
        batch_size=20, early_stopping=PATIENT,
    )  # fmt: skip
    optimizer = fnn.optimizers.adam(0.02) if optimizer is None else optimizer
    return fnn.fit(net or network(), LOSS, optimizer, epochs=epochs, **given | options)


def steps(folder):
    return sorted(int(path.name) for path in Path(folder).iterdir())


@pytest.mark.one_in(3)
@pytest.mark.parametrize("optimizer", [None, optax.adamw(0.01)], ids=["fnn", "optax"])
@pytest.mark.parametrize("early_stopping", [PATIENT, None], ids=["stopping", "plain"])
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(
    tmp_path, optimizer, early_stopping
):
    given = dict(optimizer=optimizer, early_stopping=early_stopping)
    whole = fit(**given)
    options = given | dict(checkpoint_dir=tmp_path)
    fit(4, **options, resume=True)  # there is no checkpoint yet: a fresh start
    records = []
    again = fit(**options, resume=True, on_epoch=records.append)
    assert killed_runs.digest_of(again) == killed_runs.digest_of(whole)
    assert again.best_epoch == whole.best_epoch
    assert [record["epoch"] for record in records] == [5, 6]  # 1 to 4 came before
    assert again.epochs == 6


def test_going_on_after_the_end_gives_the_same_result(tmp_path):
    impatient = fnn.EarlyStopping(patience=1)
    options = dict(checkpoint_dir=tmp_path, early_stopping=impatient, epochs=30)
    first = fit(**options)
    again = fit(**options, resume=True)
    assert first.stopped == again.stopped == "patience"
    assert killed_runs.digest_of(first) == killed_runs.digest_of(again)
    patient = fit(
        **options | dict(early_stopping=fnn.EarlyStopping(patience=3)), resume=True
    )
    assert patient.epochs > first.epochs


def test_the_last_ones_and_the_best_one_are_kept(tmp_path):
    checkpoints = fnn.Checkpoints(tmp_path, every=2, keep=2)
    result = fit(15, checkpoint_dir=checkpoints, early_stopping=None, resume=False)
    losses = result.history["validation_loss"]
    kept = steps(tmp_path)
    assert kept[-2:] == [14, 15]  # 15 because it is the end
    evens = [2, 4, 6, 8, 10, 12, 14]
    best = min(evens, key=lambda epoch: losses[epoch - 1])
    assert best in kept
    assert len(kept) <= 3


def damage(folder, epoch):
    """Change one byte in the middle of the file that holds the numbers."""
    path = max((folder / str(epoch) / "arrays").rglob("d/*"), key=os.path.getsize)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def remove(folder, epoch):
    """Remove the numbers, as a machine does that fails while it writes or removes."""
    for path in (folder / str(epoch) / "arrays").rglob("d/*"):
        path.unlink()


def leave_nothing(folder, epoch):
    for path in sorted((folder / str(epoch)).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.one_in(3)
@pytest.mark.parametrize("harm", [damage, remove, leave_nothing])
def test_a_damaged_checkpoint_is_skipped_and_written_again(tmp_path, harm):
    whole = fit()
    fit(5, checkpoint_dir=tmp_path)
    harm(tmp_path, 5)
    with pytest.warns(UserWarning, match="after epoch 5 .* is damaged"):
        again = fit(5, checkpoint_dir=tmp_path, resume=True)
    assert again.epochs == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = fit(checkpoint_dir=tmp_path, resume=True)
    assert killed_runs.digest_of(again) == killed_runs.digest_of(whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(net=network(9)), r"network: expected .*features=9.*got .*features=8"),
        (dict(optimizer=fnn.optimizers.sgd(0.1)), r"optimizer: expected SGD.*got Adam"),
        (dict(optimizer=fnn.optimizers.adam(0.03)), "expected .*0.03.* got .*0.02"),
        (dict(optimizer=optax.adam(0.1)), "missing: carry/optimizer_state"),
        (dict(batch_size=30), "batch_size: expected 30, got 20"),
        (dict(key=jax.random.key(2)), "key: expected"),
        (dict(l2=0.5), "l2: expected 0.5, got None"),
        (dict(plan=None), "plan: expected None, got fast"),
        (dict(train=(X[:60] + 1, Y[:60])), "training data: expected .*checksum"),
        (dict(early_stopping=None), "early stopping: expected None, got"),
    ],
)
def test_another_run_is_refused_with_the_differences(run, options, message):
    with pytest.raises(ValueError, match="are of another run") as caught:
        fit(checkpoint_dir=run, resume=True, **options)
    assert re.search(message, str(caught.value))


def scaled_by(number):
    return fnn.serial(fnn.Lambda(lambda x: number * x), fnn.Dense(2))


COSINE = optax.cosine_decay_schedule


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (dict(optimizer=optax.adam(1e-3)), dict(optimizer=optax.adam(1e-2))),
        (dict(optimizer=optax.adam(1e-3)), dict(optimizer=optax.nadam(1.0))),
        (
            dict(optimizer=optax.adam(COSINE(1e-3, 10))),
            dict(optimizer=optax.adam(COSINE(1e-3, 20))),
        ),
        (
            dict(optimizer=optax.chain(optax.clip(1.0), optax.sgd(0.1))),
            dict(optimizer=optax.chain(optax.clip(2.0), optax.sgd(0.1))),
        ),
        (dict(net=scaled_by(2.0)), dict(net=scaled_by(3.0))),
        (dict(augment=lambda key, x: x), dict(augment=lambda key, x: -x)),
    ],
    ids=[
        "rate",
        "algorithm",
        "schedule",
        "chain",
        "Lambda",
        "augment",
    ],
)
def test_other_functions_of_the_same_names_are_refused(tmp_path, first, second):
    fit(1, checkpoint_dir=tmp_path, **first)
    assert fit(2, checkpoint_dir=tmp_path, resume=True, **first).epochs == 2
    with pytest.raises(ValueError, match="code of functions, and its numbers, in the"):
        fit(3, checkpoint_dir=tmp_path, resume=True, **second)


def test_the_checksum_of_functions_is_the_same_in_every_process():
    code = (
        "import optax, jax.numpy as jnp;"
        "from fnn.training.functions import code_checksum;"
        "names = {'a', 'b', 'c'};"
        "f = lambda x: x if x in {'p', 'q', 'r'} else names;"
        "print(code_checksum([optax.adamw(optax.cosine_decay_schedule(1e-3, 9)), f]))"
    )
    sums = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(sums) == 1


def test_another_python_cannot_compare_functions(tmp_path, monkeypatch):
    options = dict(checkpoint_dir=tmp_path)
    fit(1, optimizer=optax.adam(1e-3), **options)
    version = fingerprint.platform.python_version_tuple
    monkeypatch.setattr(fingerprint.platform, "python_version_tuple", lambda: "395")
    with pytest.warns(UserWarning, match=r"another environment.*python"):
        fit(2, optimizer=optax.adam(1e-2), resume=True, **options)
    assert version is not fingerprint.platform.python_version_tuple


def test_a_folder_has_one_run_at_a_time(tmp_path):
    def start_another(record):
        with pytest.raises(RuntimeError, match="is in use: another run"):
            fit(1, checkpoint_dir=tmp_path)
        with pytest.raises(RuntimeError, match="is in use: another run"):
            fit(1, checkpoint_dir=tmp_path, resume=True)

    fit(2, checkpoint_dir=tmp_path, on_epoch=start_another)
    assert steps(tmp_path) == [1, 2]
    assert fit(3, checkpoint_dir=tmp_path, resume=True).epochs == 3


@pytest.mark.thorough
def test_processes_that_start_in_one_folder_leave_it_to_one(tmp_path):
    code = (
        "import sys, time, warnings; warnings.simplefilter('ignore')\n"
        "from test_checkpoints import fit\n"
        "slow = lambda record: time.sleep(0.5)\n"
        "try: print(fit(4, checkpoint_dir=sys.argv[1], on_epoch=slow).epochs)\n"
        "except (RuntimeError, ValueError) as error: print(error)"
    )
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "shared")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": paths},
        )
        for _ in range(4)
    ]  # fmt: skip
    ends = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * 4, ends
    said = [out.strip() for out, _ in ends]
    others = ("is in use: another run", "holds checkpoints of a run")
    refused = [text for text in said if any(words in text for words in others)]
    assert said.count("4") == 1 and len(refused) == 3, said
    assert steps(tmp_path / "shared")[-1] == 4  # and nothing but numbers


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fit(2, checkpoint_dir=folder)
    return folder


def test_another_format_is_refused(run, monkeypatch):
    monkeypatch.setattr(fingerprint, "FORMAT", 99)
    with pytest.raises(ValueError, match=r"format: expected 99, got \d+\n"):
        fit(checkpoint_dir=run, resume=True)


def test_another_machine_is_a_warning(run, monkeypatch):
    monkeypatch.setattr(fingerprint.os, "cpu_count", lambda: 1024)
    with pytest.warns(UserWarning, match=r"not be bit-identical .* cores \d+ → 1024"):
        fit(2, checkpoint_dir=run, resume=True)


def test_a_run_in_the_place_of_another_is_refused(run):
    with pytest.raises(ValueError, match="resume=True to go on"):
        fit(checkpoint_dir=run)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(resume=True), ValueError, "pass checkpoint_dir"),
        (dict(resume="runs/1"), TypeError, "True, False or a FitResult"),
        (dict(checkpoint_dir=3), TypeError, "directory must be a path"),
    ],
)
def test_wrong_arguments(options, error, message):
    with pytest.raises(error, match=message):
        fit(**options)


@pytest.mark.parametrize("name", ["every", "keep"])
def test_checkpoints_count_from_one(name):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer"):
        fnn.Checkpoints("somewhere", **{name: 0})


def test_a_run_that_goes_on_from_a_result_has_a_folder_of_its_own(tmp_path):
    result = fit(1, checkpoint_dir=tmp_path / "first")
    with pytest.raises(ValueError, match="holds checkpoints of a run of 1 epochs"):
        fit(checkpoint_dir=tmp_path / "first", resume=result)
    second = fit(2, checkpoint_dir=tmp_path / "second", resume=result)
    third = fit(3, checkpoint_dir=tmp_path / "second", resume=True)
    assert third.history["epoch"].tolist() == [1, 2, 3]
    assert third.history["train_loss"][1] == second.history["train_loss"][1]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_epoch_and_saves(tmp_path, number):
    def send(record):
        if record["epoch"] == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    checkpoints = fnn.Checkpoints(tmp_path, every=100)
    result = fit(checkpoint_dir=checkpoints, on_epoch=send)
    assert (result.stopped, result.epochs) == ("interrupted", 3)
    assert steps(tmp_path) == [3]
    assert signal.getsignal(number) == before
    again = fit(checkpoint_dir=checkpoints, resume=True)
    assert killed_runs.digest_of(again) == killed_runs.digest_of(fit())


@pytest.mark.thorough
def test_killed_three_times_it_ends_with_the_same_bits(tmp_path):
    digest, lines = killed_runs.kill_and_go_on(tmp_path / "run", kills=3, seed=0)
    assert all(line.startswith("epoch") for line in lines)
    assert digest == killed_runs.uninterrupted()
