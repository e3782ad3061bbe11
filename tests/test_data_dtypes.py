"""Data of any dtype: every layer takes what a dense layer takes, in every function."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import optimizers

LOSS = fnn.losses.SoftmaxCrossEntropy()
SHAPE, KEY = (6, 6, 1), jax.random.key(0)
Y = np.arange(20) % 3

NETS = {
    "dense": fnn.serial(fnn.Flatten(), fnn.Dense(3)),
    "conv": fnn.serial(fnn.Conv(2, 3), fnn.Flatten(), fnn.Dense(3)),
    "grown": fnn.serial(fnn.ConvTranspose(2, 3), fnn.Flatten(), fnn.Dense(3)),
    "normalised": fnn.serial(
        fnn.Conv(2, 3), fnn.BatchNorm(), fnn.Relu(), fnn.MaxPool(2), fnn.Flatten(),
        fnn.Dense(3),
    ),
}  # fmt: skip


def images(dtype):
    numbers = np.random.default_rng(0).integers(0, 2, size=(20, *SHAPE))
    return numbers.astype(jnp.dtype(dtype))


def fit(net, variables, x, **options):
    given = dict(train=(x, Y), key=KEY, epochs=1, batch_size=8, variables=variables)
    given |= dict(optimizer=optimizers.adam(1e-3)) | options
    return fnn.fit(net, LOSS, **given).variables


def gradients(net, variables, x, **options):
    grad_fn = fnn.value_and_grad(net, LOSS, **options)
    return grad_fn(variables, (x, Y)).grads


def stream(x, first=None):
    first = x if first is None else first
    return fnn.Batches([(first[:8], Y[:8]), (x[8:16], Y[8:16])])


USES = {
    "fit": fit,
    "fit, autodiff": lambda *a: fit(*a, engine="autodiff"),
    "fit, optax": lambda *a: fit(*a, optimizer=optax.adam(1e-3)),
    "fit, half": lambda *a: fit(*a, precision="bfloat16"),
    "stream": lambda n, v, x: fit(n, v, x, train=stream(x)),
    "mixed stream": lambda n, v, x: fit(
        n, v, x, train=stream(x, first=x.astype(np.float32))
    ),
    "gradients": gradients,
    "predict": fnn.predict,
    "evaluate": lambda n, v, x: fnn.evaluate(n, LOSS, v, (x, Y)),
}


@pytest.fixture(autouse=True)
def as_a_user_has_it():
    """Other tests forbid JAX to promote dtypes; here it is what is tested."""
    with jax.numpy_dtype_promotion("standard"):
        yield


#: A dtype of the data, and whether float64 is enabled.
DTYPES = [
    ("float16", False), ("bfloat16", False), ("int32", False), ("bool", False),
    ("float64", True), ("float16", True), ("int64", True),
]  # fmt: skip


QUICK = [("conv", ("float16", False))]
ROWS = [
    pytest.param(
        name, dtype, id=f"{name}-{dtype[0]}{'-x64' * dtype[1]}",
        marks=() if (name, dtype) in QUICK else pytest.mark.thorough,
    )
    for name in NETS
    for dtype in DTYPES
]  # fmt: skip


@pytest.mark.parametrize(("name", "dtype"), ROWS)
def test_every_layer_takes_every_dtype_of_data(name, dtype):
    net, (dtype, x64) = NETS[name], dtype
    variables = net.init(KEY, SHAPE)  # in float32
    # Ones and zeros are the same numbers in every dtype.
    expected = {
        use: USES[use](net, variables, images("float32"))
        for use in ("gradients", "predict")
    }
    with jax.enable_x64(x64):
        found = {use: run(net, variables, images(dtype)) for use, run in USES.items()}
    for use, tree in expected.items():
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-2), found[use], tree
        )
    for use in ("fit", "fit, autodiff", "fit, optax", "stream"):
        dtypes = {a.dtype.name for a in jax.tree.leaves(found[use].params)}
        assert dtypes == {"float32"}, use


def test_digits_are_float64_where_it_is_enabled_and_train_a_convolution():
    with jax.enable_x64(True):
        x, y = fnn.data.digits().train
        net = fnn.serial(fnn.Conv(2, 3), fnn.Flatten(), fnn.Dense(10))
        variables = jax.tree.map(
            lambda a: a.astype(np.float32), net.init(KEY, x.shape[1:])
        )
        assert fit(net, variables, x[:20], train=(x[:20], y[:20])) is not None
