"""The ground: a jax that computes rightly, and an fnn that need not be installed.

A wrong compiler may end the process, or never come back: such programs run in a process
of their own, with a time limit.
"""

import importlib
import os
import re
import subprocess
import sys
import tomllib
from inspect import ismodule
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
from packaging.requirements import Requirement

import fnn
from fnn.versions import warn_about_jaxlib

ROOT = Path(__file__).parent.parent


def run_python(code: str, *, at: Path = ROOT, **environment: str):
    """Run Python code in a process of its own, with this checkout on its path."""
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    # As a user runs it: without what the tests set for themselves.
    variables = {k: v for k, v in variables.items() if k != "XLA_FLAGS"} | environment
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=at,
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


# ---- Programs that a jaxlib has got wrong ----------------------------------------


@pytest.mark.parametrize("rows", [16_384, 16_385, 32_769, 40_001])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=["f32", "f64"])
def test_a_mapped_product_followed_by_a_sum(dtype, rows):
    """Jax issue 39103: jaxlib 0.10.2 returns 267911424 for 268435456."""
    with jax.enable_x64(dtype == jnp.float64):
        i = np.arange(rows, dtype=dtype)
        x = np.stack([i, 0 * i, 0 * i], axis=1)

        def f(x):
            matrix = jnp.eye(3, dtype=dtype)
            return jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(x)

        np.testing.assert_allclose(jax.jit(f)(x), i**2, rtol=1e-6)


CRASHES = {
    "39257": """
        a = jnp.ones((10, 4, 6, 9, 9, 9, 9, 9), jnp.float32)
        b = jnp.ones((10, 4, 6), jnp.float32)
        def f(b, a):
            return jnp.log(jnp.sum(b[..., None, None, None, None, None] * a, axis=2))
        out = jax.jit(f)(b, a)
        expected = np.log(6.0)
    """,
    "40412": """
        a = jnp.ones((3, 1, 2, 2, 8, 8, 8), jnp.float32)
        out = jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(a, 2 * a)
        expected = 4.0
    """,
    "40412, the axis of size 1 elsewhere": """
        a = jnp.ones((1, 3, 2, 2, 8, 8, 8), jnp.float32)
        out = jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(a, 2 * a)
        expected = 4.0
    """,
}


@pytest.mark.skipif(
    jaxlib.__version__ == "0.11.0", reason="crashes there: jax issue 39257"
)
@pytest.mark.parametrize("code", CRASHES.values(), ids=CRASHES)
def test_a_product_of_many_axes_followed_by_a_sum(code):
    lines = [line[8:] for line in code.splitlines()]
    program = "\n".join(
        [
            "import jax, numpy as np",
            "import jax.numpy as jnp",
            *lines,
            "np.testing.assert_allclose(out, expected, rtol=1e-6)",
            "print('right')",
        ]
    )
    run = run_python(program)
    assert (run.returncode, run.stdout) == (0, "right\n"), run.stderr[-2000:]


# ---- Which jaxlib ----------------------------------------------------------------


def test_the_wrong_jaxlib_is_warned_about_once():
    code = """
import warnings, jaxlib
jaxlib.__version__ = "0.10.2"
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fnn, fnn.layers
    import fnn
print([str(w.message) for w in caught if "jaxlib" in str(w.message)])
"""
    run = run_python(code)
    assert run.stdout.count("computes wrong results on the CPU") == 1, run.stderr
    assert "https://github.com/jax-ml/jax/issues/39103" in run.stdout


def test_this_jaxlib_is_not_warned_about(recwarn):
    warn_about_jaxlib()
    assert not recwarn.list


@pytest.mark.parametrize("package", ["jax", "jaxlib"])
def test_the_wrong_jaxlib_is_not_installed(package):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = map(Requirement, project["dependencies"])
    (specifier,) = [r.specifier for r in requirements if r.name == package]
    assert {v for v in ("0.10.0", "0.10.1", "0.10.2", "0.11.2", "0.12.0.1", "0.13.0")
            if v in specifier} == {"0.10.1", "0.11.2", "0.12.0.1"}  # fmt: skip


# ---- fnn from a checkout, not installed ------------------------------------------


def test_fnn_has_a_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", fnn.__version__)


MODULES = [n for n in dir(fnn) if ismodule(vars(fnn)[n]) and not n.startswith("_")]


@pytest.mark.parametrize("name", MODULES)
def test_every_public_module_can_be_imported_from(name):
    assert importlib.import_module(f"fnn.{name}") is getattr(fnn, name)


def test_a_checkout_that_is_not_installed_works_entirely(tmp_path):
    """Neither import nor checkpoints ask for the metadata of an installed package."""
    code = """
import importlib.metadata
real = importlib.metadata.version
def version(name):
    if name == "fnn":
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.version = version
import jax, jax.numpy as jnp, fnn
options = dict(train=(jnp.ones((8, 3)), jnp.zeros(8, int)), key=jax.random.key(0),
               batch_size=4, checkpoint_dir="checkpoints")
net, loss = fnn.serial(fnn.Dense(2)), fnn.losses.SoftmaxCrossEntropy()
first = fnn.fit(net, loss, fnn.optimizers.sgd(0.1), epochs=1, **options)
second = fnn.fit(net, loss, fnn.optimizers.sgd(0.1), epochs=2, resume=True, **options)
print(fnn.__version__, second.epochs)
"""
    run = run_python(code, at=tmp_path)
    assert run.stdout == f"{fnn.__version__} 2\n", run.stderr[-2000:]


# ---- What is imported, and when --------------------------------------------------


def test_nothing_of_jax_is_imported_while_a_program_is_traced():
    """A module of JAX may add settings: what was traced before compiles once more."""
    code = """
import sys
sys.path.insert(0, "tests")
import jax, jax.numpy as jnp
import fnn
from cases import LAYERS, LOSSES
jax.eval_shape(jax.random.normal, jax.random.key(0))  # JAX's own first steps
before = set(sys.modules)
def gradient(layer, shape, batch):
    variables = layer.init(jax.random.key(0), shape)
    out = layer.forward(*variables, jnp.zeros((batch, *shape)), key=jax.random.key(1),
                        train=True)
    return layer.backward(variables.params, out.saved, out.y)
for case in LAYERS:
    jax.eval_shape(lambda: gradient(case.layer, case.in_shape, case.batch))
print(len(LAYERS), sorted(m for m in set(sys.modules) - before if "jax" in m))
"""
    run = run_python(code)
    count, imported = run.stdout.strip().split(" ", 1)
    assert int(count) > 50 and imported == "[]", run.stdout + run.stderr[-2000:]


def test_a_program_that_draws_is_compiled_once():
    code = """
import jax, jax.numpy as jnp, fnn
net, loss = fnn.serial(fnn.Dropout(0.5), fnn.Dense(3)), fnn.losses.SoftmaxCrossEntropy()
variables = net.init(jax.random.key(0), (4,))
grad_fn, batch = fnn.value_and_grad(net, loss), (jnp.ones((5, 4)), jnp.zeros(5, int))
traces = []
@jax.jit
def step(variables):
    traces.append(1)
    return grad_fn(variables, batch, key=jax.random.key(1)).grads
step(variables), step(variables)
print(len(traces))
"""
    run = run_python(code)
    assert run.stdout == "1\n", run.stdout + run.stderr[-2000:]
