"""Export: programs that run without fnn, for any number of examples."""

import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from breadth import some_of
from cases import LAYERS, LOSSES
from test_contract import KEY, by_hand, problem
from test_transforms import ROWS

import fnn

(N,) = jax.export.symbolic_shape("n")
KEYS = jax.ShapeDtypeStruct((), KEY.dtype)
NET = fnn.serial(
    fnn.Conv(3, 3), fnn.BatchNorm(), fnn.Relu(), fnn.MaxPool(2),
    fnn.residual(fnn.Conv(3, 3)), fnn.Flatten(), fnn.Dropout(0.2), fnn.Dense(2),
)  # fmt: skip
LOSS = fnn.losses.SoftmaxCrossEntropy()
VARIABLES = NET.init(KEY, (4, 4, 1))
X = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype(np.float32)
Y = np.array([0, 1, 1, 0, 1], np.int32)
OPEN_X = jax.ShapeDtypeStruct((N, 4, 4, 1), jnp.float32)
OPEN_Y = jax.ShapeDtypeStruct((N,), jnp.int32)


def close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        found,
        expected,
    )


def shapes(tree):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


# ---- A program without fnn -------------------------------------------------------

#: Loads a program and calls it with two numbers of examples, where there is no fnn.
USE = """
import sys
sys.modules["fnn"] = None  # importing it is an error
import jax, numpy as np
from jax import export
program = export.deserialize(open("net.bin", "rb").read())
x = np.load("x.npy")
np.savez("z.npz", all=program.call(x), two=program.call(x[:2]))
"""


def test_a_network_runs_where_fnn_cannot_be_imported(tmp_path):
    blob = fnn.export(NET, VARIABLES, (4, 4, 1)).serialize()
    (tmp_path / "net.bin").write_bytes(blob)
    np.save(tmp_path / "x.npy", X)
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    z = np.load(tmp_path / "z.npz")
    close(z["all"], fnn.predict(NET, VARIABLES, X))
    close(z["two"], fnn.predict(NET, VARIABLES, X[:2]))


@pytest.mark.parametrize(
    "net",
    [NET, fnn.plan(NET, (4, 4, 1), batch_size=5, platform="cpu")],
    ids=["plain", "plan"],
)
def test_the_size_of_the_batch_may_be_fixed(net):
    program = fnn.export(net, VARIABLES, (4, 4, 1), batch_size=5, platforms=["cpu"])
    close(program.call(X), fnn.predict(NET, VARIABLES, X))
    with pytest.raises(ValueError, match="hape"):
        program.call(X[:2])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("net", VARIABLES, (4, 4, 1)), {}, TypeError, "net is not a layer"),
        ((NET, VARIABLES, (N, 4, 4, 1)), {}, TypeError, "the shape of ONE example"),
        ((NET, VARIABLES, (8, 8, 1)), {}, ValueError, "in in_shape, x of shape"),
        ((NET, VARIABLES.params, (4, 4, 1)), {}, TypeError, "variables must be"),
        ((NET, VARIABLES, (4, 4, 1)), dict(batch_size=0), ValueError, "batch_size"),
    ],
)
def test_what_cannot_be_exported(arguments, options, error, message):
    with pytest.raises(error) as caught:
        fnn.export(*arguments, **options)
    notes = getattr(caught.value, "__notes__", ())
    assert message in "\n".join([str(caught.value), *notes])


# ---- Programs of your own --------------------------------------------------------


def round_trip(f, *args):
    """Export a function of these shapes, serialise it and read it again."""
    program = jax.export.export(jax.jit(f))(*args)
    return jax.export.deserialize(program.serialize()).call


@pytest.mark.parametrize("engine", some_of(["manual", "autodiff"], ["manual"]))
def test_gradients_with_the_variables_as_arguments(engine):
    grad_fn = fnn.value_and_grad(NET, LOSS, engine, l2=0.1)

    def gradient(variables, batch, seed):
        return grad_fn(variables, batch, key=jax.random.key(seed))

    seed = jax.ShapeDtypeStruct((), jnp.int32)
    call = round_trip(gradient, shapes(VARIABLES), (OPEN_X, OPEN_Y), seed)
    expected = jax.jit(gradient)(VARIABLES, (X, Y), np.int32(3))
    found = call(VARIABLES, (X, Y), np.int32(3))
    assert isinstance(found, fnn.Gradients)
    close(found, expected)


def test_predictions_with_the_variables_as_arguments():
    call = round_trip(
        lambda variables, x: fnn.predict(NET, variables, x), shapes(VARIABLES), OPEN_X
    )
    close(call(VARIABLES, X), fnn.predict(NET, VARIABLES, X))


@pytest.mark.parametrize("case", some_of(LAYERS, ROWS, lambda case: case.name))
def test_every_layer_takes_a_batch_of_symbolic_size(case):
    if "Probed" in repr(case.layer):
        pytest.skip("its probe has the size of a batch")
    variables, x, dy = shapes(problem(case, jnp.float32))
    x, dy = (jax.ShapeDtypeStruct((N, *a.shape[1:]), a.dtype) for a in (x, dy))

    def both(variables, x, dy):
        backward = by_hand(case.layer, *variables, x, dy, True)
        return case.layer.forward(*variables, x).y, backward

    y, backward = jax.eval_shape(both, variables, x, dy)
    assert (y.shape, backward.dx.shape) == (dy.shape, x.shape)
    assert shapes(backward.dparams) == variables.params


@pytest.mark.parametrize("case", LOSSES, ids=[case.name for case in LOSSES])
def test_every_loss_takes_a_batch_of_symbolic_size(case):
    z = jax.ShapeDtypeStruct((N, *case.positions, case.outputs), jnp.float32)
    labels = jnp.asarray(case.labels)
    y = jax.ShapeDtypeStruct((N, *labels.shape[1:]), labels.dtype)
    assert jax.eval_shape(case.loss.value, z, y).shape == ()
    assert jax.eval_shape(case.loss.delta, z, y).shape == z.shape


@pytest.mark.parametrize("case", some_of(LAYERS, ROWS, lambda case: case.name))
def test_variables_of_every_layer_can_be_serialised(case):
    """Their types are known to `jax.export`; the program itself does nothing."""
    if not case.repr_is_code:
        pytest.skip("its parameters are not fnn's")
    variables = shapes(problem(case, jnp.float32).variables)
    program = jax.export.export(jax.jit(lambda variables: 0.0))(variables)
    again = jax.export.deserialize(program.serialize())
    assert again.in_tree == jax.tree.structure(((variables,), {}))
