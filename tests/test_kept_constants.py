"""NumPy arrays that a layer or a loss finds outside itself, in two precisions.

JAX keeps them in the first, which ends in an error of XLA's in the other.
"""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.losses import SquaredError

KEY = jax.random.key(0)
BATCH = np.ones((4, 2), np.float32), np.zeros((4, 3), np.float32)
SCALE = np.array([1.0, 2.0, 3.0])


@fnn.layer
class Scaled(fnn.Layer):
    """A layer of a user, who did not know."""

    def forward(self, params, state, x, *, key=None, train=False):
        return fnn.Forward(x * SCALE, (), state)

    def backward(self, params, saved, dy):
        return fnn.Backward(dy * SCALE, ())


def in_float64(function):
    """Call it in float32, and then in float64, as two parts of a script may."""

    def call(net, loss, variables, batch):
        function(net, loss, variables, batch)
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda a: np.asarray(a, np.float64), (variables, batch))
            function(net, loss, *wide)

    return call


PARTS = {
    "Lambda": (fnn.Lambda(lambda x: x * SCALE), SquaredError()),
    "an own layer": (Scaled(), SquaredError()),
    "an own loss": (
        fnn.Identity(),
        fnn.losses.Lambda(lambda z, y: (SCALE * (z - y) ** 2).mean()),
    ),
}
CALLS = {
    "compare_gradients": fnn.compare_gradients,
    "explain": lambda *given: (
        fnn.value_and_grad(*given[:2])(*given[2:]),
        fnn.explain(*given, "0/Dense.weight", (0, 0)),
    ),
    "per_example.check": lambda *given: (
        fnn.value_and_grad(*given[:2])(*given[2:]),
        fnn.per_example.check(*given),
    ),
    "evaluate": in_float64(fnn.evaluate),
    "predict": in_float64(lambda net, _, v, batch: fnn.predict(net, v, batch[0])),
    "fit": in_float64(
        lambda net, loss, variables, batch: fnn.fit(
            *(net, loss, fnn.optimizers.sgd(0.1)),
            **dict(train=batch, variables=variables, key=KEY, epochs=1, batch_size=4),
        )
    ),
}


NO_LOSS = ("an own loss", "predict")


def setting(layer, loss):
    net = fnn.serial(fnn.Dense(3), layer)
    return net, loss, net.init(KEY, (2,)), BATCH


@pytest.mark.parametrize(
    ("part", "call"), [row for row in product(PARTS, CALLS) if row != NO_LOSS]
)
def test_a_kept_constant_is_explained(part, call):
    with pytest.raises(TypeError, match=r"NumPy array .*jnp\.asarray\(c, x\.dtype\)"):
        CALLS[call](*setting(*PARTS[part]))


def test_it_is_said_where_it_stands():
    with pytest.raises(TypeError, match=r"\(line \d+ of .*test_kept_constants\.py\)"):
        fnn.compare_gradients(*setting(*PARTS["Lambda"]))


def test_the_advice_helps():
    layer = fnn.Lambda(lambda x: x * jnp.asarray(SCALE, x.dtype))
    assert fnn.compare_gradients(*setting(layer, SquaredError())).passed
