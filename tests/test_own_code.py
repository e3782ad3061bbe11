"""Code and arguments of a user's own that do not fit: short errors, and where."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn.optimizers import adam

X = np.random.default_rng(0).normal(size=(64, 40)).astype(np.float32)
Y = np.arange(64) % 3
NET, LOSS = fnn.serial(fnn.Dense(3)), fnn.losses.SoftmaxCrossEntropy()
KEY = jax.random.key(0)
VARIABLES = NET.init(KEY, (40,))


def fit(net=NET, loss=LOSS, optimizer=None, **options):
    options = dict(train=(X, Y), key=KEY, epochs=1, batch_size=32) | options
    return fnn.fit(net, loss, optimizer or adam(1e-3), **options)


# ---- Code that looks at numbers while it is traced -------------------------------


def falling(step):
    return 1e-3 if step < 10 else 1e-4


def turned(key, x):
    return x if x.sum() > 0 else -x


def squared(z, y):
    return float((z**2).sum())


def summed(z, y):
    return jnp.asarray(np.asarray(z).sum())


def of_signs(net, loss, variables, batch, **options):
    out = fnn.manual(net, loss, variables, batch, **options)
    return out if out.loss > 0 else out._replace(loss=-out.loss)


class Halving:
    def init(self, params):
        return ()

    def update(self, grads, state, params=None):
        norm = float(jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads))))
        return jax.tree.map(lambda grad: -grad / norm, grads), state


TRACED = {
    "a schedule": lambda: fit(optimizer=adam(falling)),
    "a schedule of optax": lambda: fit(optimizer=optax.adam(falling)),
    "an augmentation": lambda: fit(augment=turned),
    "a loss": lambda: fit(loss=fnn.losses.Lambda(squared)),
    "a loss, audited": lambda: fnn.compare_gradients(
        NET, fnn.losses.Lambda(squared), VARIABLES, (X, Y)
    ),
    "a layer": lambda: fit(net=fnn.serial(NET, fnn.Lambda(lambda x: np.tanh(x)))),
    "an engine": lambda: fit(engine=of_signs),
    "an optimizer": lambda: fit(optimizer=Halving()),
    "a metric, in a sweep": lambda: fnn.sweep(
        lambda: (NET, LOSS, adam(1e-3)),
        {}, train=(X, Y), validation=(X, Y), keys=KEY, epochs=1, batch_size=32,
        metrics={"sum": summed},
    ),
    "a loss, evaluated": lambda: fnn.evaluate(
        NET, fnn.losses.Lambda(squared), VARIABLES, (X, Y)
    ),
    "a loss, in a sweep": lambda: fnn.sweep(
        lambda: (NET, fnn.losses.Lambda(squared), adam(1e-3)),
        {}, train=(X, Y), keys=KEY, epochs=1, batch_size=32,
    ),
}  # fmt: skip


@pytest.mark.parametrize("code", TRACED)
def test_code_that_needs_numbers_is_named_by_its_line(code):
    with pytest.raises(TypeError, match="NumPy, or Python's `if`") as caught:
        TRACED[code]()
    names = "test_own_code.py", "function falling", "Lambda(fn=", "metric 'sum'"
    assert any(name in str(caught.value) for name in names)


# ---- Arguments that hold many numbers ---------------------------------------------

LARGE = {
    "parameters for a learning rate": lambda: adam(VARIABLES),
    "labels for a batch size": lambda: fnn.evaluate(NET, LOSS, VARIABLES, X, Y),
    "a result for variables": lambda: fnn.evaluate(NET, LOSS, fit(), (X, Y)),
    "variables for a batch": lambda: fnn.value_and_grad(NET, LOSS)((X, Y), VARIABLES),
    "arrays for epochs": lambda: fit(epochs=X),
    "arrays for a plan": lambda: fit(plan=X),
    "arrays for metrics": lambda: fit(metrics=X),
    "variables for an optimizer": lambda: fit(optimizer=VARIABLES),
    "arrays for a callback": lambda: fit(on_epoch=X),
    "arrays for a callback's list": lambda: fit(on_epoch=[X]),
    "variables for a loss": lambda: fit(loss=VARIABLES),
    "arrays for a layer": lambda: fnn.serial(X),
    "arrays for a rate": lambda: fnn.Dropout(VARIABLES),
    "arrays for a window": lambda: fnn.MaxPool(X),
    "arrays for a number of features": lambda: fnn.Dense(X),
    "arrays for patience": lambda: fnn.EarlyStopping(patience=X),
    "arrays for a shape": lambda: NET.init(KEY, X),
    "arrays for a key": lambda: NET.init(X, (40,)),
    "arrays for a precision": lambda: fit(precision=X),
    "arrays for a policy": lambda: fit(on_nonfinite=X),
    "arrays for a grid": lambda: fnn.sweep(
        lambda: (NET, LOSS, adam(1e-3)), X, train=(X, Y), keys=KEY, epochs=1
    ),
}


@pytest.mark.parametrize("argument", LARGE)
def test_an_error_shows_shapes_and_no_numbers(argument):
    with pytest.raises((TypeError, ValueError)) as caught:
        LARGE[argument]()
    text = str(caught.value)
    assert len(text) < 600, text
    assert f"{X[0, 0]:.4f}" not in text and "[[" not in text, text


# ---- Methods that fnn could not call -----------------------------------------------


def forward(self, params, state, x, *, key=None, train=False):
    return fnn.Forward(x, (), state)


def backward(self, params, saved, dy):
    return fnn.Backward(dy, ())


METHODS = {
    "forward of x alone": (dict(forward=lambda self, x: x), "forward must take"),
    "forward without train": (
        dict(forward=lambda self, params, state, x, *, key=None: x),
        "'train'",
    ),
    "backward of dy alone": (dict(backward=lambda self, dy: dy), "backward must take"),
    "init without a key": (dict(init=lambda self, in_shape: ()), "init must take"),
    "an __init__": (
        dict(__init__=lambda self, width: None),
        "declare the fields in the class",
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_cannot_be_called_is_refused_with_its_class(method):
    methods, text = METHODS[method]
    own = type("Own", (fnn.Layer,), dict(forward=forward, backward=backward) | methods)
    with pytest.raises(TypeError, match=text):
        fnn.layer(own)


def test_methods_may_take_more():
    def longer(self, params, state, x, key=None, train=False, extra=1, **others):
        return fnn.Forward(extra * x, (), state)

    own = fnn.layer(
        type("Own", (fnn.Layer,), dict(forward=longer, backward=backward))
    )()
    assert (own.forward((), (), jnp.ones((2, 3))).y == 1).all()


def test_the_audit_names_the_gradient_of_another_shape():
    class Squared(fnn.Dense):
        def backward(self, params, saved, dy):
            dx, dparams = super().backward(params, saved, dy)
            return fnn.Backward(dx, dparams._replace(bias=jnp.ones((3, 3))))

    report = fnn.compare_gradients(
        fnn.serial(fnn.layer(Squared)(3)), LOSS, VARIABLES, (X, Y)
    )
    assert "returned bias of shape (3, 3), expected (3,)" in str(report)
