"""Printing on terminals that lack fnn's letters."""

import ast
import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import __main__ as listing
from experiments import train_digits
from experiments.shared.terminal import console, epoch_bar, print_step, table
from fnn.letters import make_stdout_printable, printable

ROOT = Path(__file__).parent.parent
ENCODINGS = ["cp1252", "latin-1", "ascii"]
EVERY_ENCODING = pytest.mark.parametrize("encoding", ENCODINGS)


def run_in_c_locale(*command, code=0):
    """Return what a Python process prints that takes its terminal for one of ASCII."""
    unset = ("LANG", "LC_ALL", "LC_CTYPE", "PYTHONIOENCODING")
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, env=environment
    )
    error = done.stderr.decode("ascii")
    assert done.returncode == code, error
    assert "UnicodeEncodeError" not in error
    return done.stdout, error


#: Prints what fnn's objects print as, for each encoding, and ends with an error.
PRINT_ALL = """
import sys, warnings
import jax, jax.numpy as jnp, fnn
from fnn.planning.costs import built_in

net = fnn.serial(fnn.Dense(3), fnn.Tanh(), fnn.Dense(2))
images = fnn.serial(fnn.Conv(4, 5), fnn.Relu(), fnn.MaxPool(2))
loss, key = fnn.losses.SoftmaxCrossEntropy(), jax.random.key(0)
variables = net.init(key, (4,))
batch = jnp.ones((2, 4)), jnp.array([0, 1])

def build(rate):
    return net, loss, fnn.optimizers.sgd(rate)

shown = [
    fnn.summary(images, (28, 28, 1)),
    fnn.compare_gradients(net, loss, variables, batch, numerical=False),
    fnn.explain(net, loss, variables, batch, "2/Dense.bias", 1),
    fnn.plan(images, (28, 28, 1), platform="cpu", costs=built_in()),
    fnn.sweep(build, {"rate": [0.1]}, train=batch, keys=key, epochs=1, batch_size=2),
]
print(sys.stdout.encoding)
for encoding in (sys.stdout.encoding, "cp1252", "latin-1"):
    sys.stdout.reconfigure(encoding=encoding, errors="strict")
    print(*shown, sep="\\n", end="\\f")
warnings.warn("θ̂ = θ + βv")
raise ValueError("‖θ‖² must be ≥ 0, got −1")
"""


def test_all_objects_can_be_printed_and_read(tmp_path):
    (tmp_path / "print_all.py").write_text(PRINT_ALL, "utf-8")
    out, error = run_in_c_locale(tmp_path / "print_all.py", code=1)
    first, out = out.split(b"\n", 1)
    assert first.lower() in (b"ascii", b"ansi_x3.4-1968")
    for printed, encoding in zip(
        out.split(b"\f"), ("ascii", "cp1252", "latin-1", "ascii"), strict=True
    ):
        if not (text := printed.decode(encoding)):  # after the last
            continue
        by = "x" if encoding == "ascii" else "×"
        for part in (
            f"28{by}28{by}1",  # the summary
            "PASSED: no layer's backward diverges.",
            "\ndL/db",  # the explanation
            "0/Conv+Relu+MaxPool  grouped im2col",  # the plan
            "1 members, stopped by epochs (1)",  # the sweep
            "\n-----------",
        ):
            assert part in text
        assert "?" not in text
    assert "must be" in error and "UserWarning" in error


@pytest.fixture
def terminal(encoding, monkeypatch):
    """A terminal of an encoding; its `buffer` holds what was printed."""
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", written)
        yield written


@EVERY_ENCODING
def test_the_list_of_experiments(encoding, terminal, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal)
    assert listing.main() == 0
    text = terminal.buffer.getvalue().decode(encoding)
    assert "python -m experiments.train_digits" in text
    questions = "".join(listing.experiments().values()).count("?")
    assert text.count("?") == questions > 0


@EVERY_ENCODING
def test_progress_tables_and_reports_of_an_experiment(encoding, terminal, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal)
    make_stdout_printable()
    out = console()
    with epoch_bar(out, 2) as show_epoch:
        show_epoch({"epoch": 1, "train_loss": 0.5, "validation_loss": 0.25})
    out.print(table(("θ → δ", "‖∂J/∂Θ‖²"), [("λ", "1 ± 2")]))
    print_step(out, 1, "h⁻² ≤ ⅔ …")
    text = terminal.buffer.getvalue().decode(encoding)
    for part in ("epoch   1/2", "theta -> delta", "||dJ/dTheta||", "lambda", "<= 2/3"):
        assert part in text
    assert "?" not in text


@pytest.mark.thorough
@EVERY_ENCODING
def test_an_experiment_with_progress(encoding, terminal, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdout", terminal)
    arguments = f"--epochs 2 --layers 4 --no-check --out {tmp_path / 'run'}"
    assert train_digits.main(arguments.split()) == 0
    text = terminal.buffer.getvalue().decode(encoding)
    assert "epoch" in text and "?" not in text
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "command",
    [
        *(["-m", "experiments"], ["-m", "experiments.step_sizes", "--help"]),
        *(
            [ROOT / f"scripts/soak/{name}.py", "--help"]
            for name in ("gradients", "inputs", "kills", "plans", "readers")
        ),
        *([ROOT / f"scripts/bench/{name}.py", "--help"] for name in ("main", "costs")),
    ],
    ids=lambda command: " ".join(map(str, command)).rpartition("/")[2],
)
def test_programs_explain_themselves(command):
    out, _ = run_in_c_locale(*command)
    assert len(out.decode("ascii")) > 100


# ---- The stand-ins ---------------------------------------------------------------


def shown_in(encoding, text):
    """What `printable` makes of a text for a standard output of this encoding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", SimpleNamespace(encoding=encoding))
        return printable(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("∂L/∂b₁₂ = ∂L/∂z₃ · ∂z₃/∂a₃", "dL/db12 = dL/dz3 * dz3/da3"),
        ("λ/(2n) Σ Θ²", "lambda/(2n) sum Theta^2"),
        ("θ̂ = θ + βv", "theta_hat = theta + beta v"),
        ("2×3 → δ − α, 10⁻⁴ ± ½", "2x3 -> delta - alpha, 10^-4 +- 1/2"),
        ("x⁽²⁾ᵀ ‖Δ‖ ≤ √ε …", "x^(2)T ||Delta|| <= sqrt epsilon ..."),
        ("╭──╮ Müller", "+--+ Muller"),
        ("漢", "?"),
    ],
)
def test_stand_ins(text, shown):
    assert shown_in("ascii", text) == shown
    for encoding in ("utf-8", None, "unknown"):  # None: a stream that does not encode
        assert shown_in(encoding, text) == text


def test_what_an_encoding_has_stays():
    assert shown_in("cp1252", "x² ± 2×θ, x⁽²⁾") == "x² ± 2×theta, x^(2)"


def test_every_letter_that_is_written_has_a_stand_in():
    letters = set()
    for path in [*ROOT.glob("fnn/**/*.py"), *ROOT.glob("experiments/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                letters |= set(node.value)
    assert len(letters) > 150
    assert [a for a in letters if "?" in shown_in("ascii", a) and a != "?"] == []
