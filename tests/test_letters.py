"""What fnn prints, on terminals that lack its letters."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fnn.letters import printable

ROOT = Path(__file__).parent.parent
TERMINALS = {
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
EVERY_TERMINAL = pytest.mark.parametrize("terminal", TERMINALS)
ONE_TERMINAL = pytest.mark.parametrize(
    "terminal",
    [
        "C locale",
        *(
            pytest.param(name, marks=pytest.mark.thorough)
            for name in ("cp1252", "latin-1", "ascii")
        ),
    ],
)

#: Prints what fnn's objects print as, and ends with an error.
PRINT_ALL = """
import warnings
import jax, jax.numpy as jnp, fnn

net = fnn.serial(
    fnn.Conv(4, 5), fnn.Relu(), fnn.MaxPool(2), fnn.Flatten(), fnn.Dense(2)
)
loss, key = fnn.losses.SoftmaxCrossEntropy(), jax.random.key(0)
variables = net.init(key, (28, 28, 1))
batch = jnp.ones((2, 28, 28, 1)), jnp.array([0, 1])
print(fnn.summary(net, (28, 28, 1)))
print(fnn.compare_gradients(net, loss, variables, batch, numerical=False))
print(fnn.explain(net, loss, variables, batch, "4/Dense.bias", 1))
print(fnn.plan(net, (28, 28, 1), batch_size=64, platform="cpu"))

def build(rate):
    return fnn.serial(fnn.Flatten(), fnn.Dense(2)), loss, fnn.optimizers.sgd(rate)

print(fnn.sweep(build, {"rate": [0.1]}, train=batch, keys=key, epochs=1, batch_size=2))
warnings.warn("θ̂ = θ + βv")
raise ValueError("‖θ‖² must be ≥ 0, got −1")
"""


def run(terminal, *command, code=0):
    """Return what a Python process prints, both decoded as the terminal would."""
    unset = ("LANG", "LC_ALL", "PYTHONIOENCODING", "PYTHONUTF8")
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    environment |= TERMINALS[terminal] | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, env=environment, cwd=ROOT
    )
    encoding = TERMINALS[terminal].get("PYTHONIOENCODING", "ascii")
    out, error = (text.decode(encoding) for text in (done.stdout, done.stderr))
    assert done.returncode == code, out + error
    assert "UnicodeEncodeError" not in error
    return out, error


@EVERY_TERMINAL
def test_all_objects_can_be_printed_and_read(terminal):
    out, error = run(terminal, "-c", PRINT_ALL, code=1)
    by = "x" if terminal in ("ascii", "C locale") else "×"
    for text in (
        f"28{by}28{by}1",  # summary
        "PASSED: no layer's backward diverges.",
        "dL/db52 = dL/dz5",  # explanation
        "0/Conv+Relu+MaxPool  grouped im2col",  # plan
        "1 members, stopped by epochs (1)",  # sweep
        "\n-----------",  # rules
    ):
        assert text in out
    assert "?" not in out
    assert "must be" in error and "UserWarning" in error


@EVERY_TERMINAL
def test_the_list_of_experiments(terminal):
    out, _ = run(terminal, "-m", "experiments")
    assert "python -m experiments.train_digits" in out
    assert "?" not in out.replace("?\n", "\n")  # a question mark may end a question


@ONE_TERMINAL
def test_an_experiment_with_progress(terminal, tmp_path):
    arguments = f"--epochs 2 --layers 4 --out {tmp_path / 'run'} --no-check"
    out, _ = run(terminal, "-m", "experiments.train_digits", *arguments.split())
    assert "epoch" in out and "?" not in out
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("program", ["gradients", "inputs", "kills", "plans"])
def test_the_scripts_explain_themselves(program):
    out, _ = run("C locale", f"scripts/soak/{program}.py", "--help")
    assert "usage" in out


# ---- The stand-ins ---------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch):
    class Terminal:
        encoding = "ascii"

    monkeypatch.setattr(sys, "stdout", Terminal())
    return Terminal


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
def test_stand_ins(text, shown, terminal):
    assert printable(text) == shown
    terminal.encoding = "utf-8"
    assert printable(text) == text
    terminal.encoding = None  # a stream that does not encode
    assert printable(text) == text


def test_every_letter_that_is_written_has_a_stand_in(terminal):
    letters = set()
    for path in [*ROOT.glob("fnn/**/*.py"), *ROOT.glob("experiments/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                letters |= set(node.value)
    assert len(letters) > 150
    assert [a for a in letters if "?" in printable(a) and a != "?"] == []
