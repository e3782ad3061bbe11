"""A label that does not fit is refused wherever it stands, before it is trained on."""

import jax
import numpy as np
import pytest

import fnn
from fnn import optimizers
from fnn.losses import (
    Hinge,
    Huber,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
)

N, B = 64, 16
X = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
CLASSES = np.arange(N) % 3
ROWS = np.eye(3, dtype=np.float32)[CLASSES]
NET = fnn.serial(fnn.Dense(3))
TWO_TOKENS = fnn.serial(fnn.Reshape((2, 2)), fnn.Dense(3))
HOLES = np.where(np.arange(N) % 5 == 1, -1, CLASSES)

#: A loss, right labels, and a label that does not fit.
BAD = {
    "a class below 0": (SoftmaxCrossEntropy(), CLASSES, -1),
    "a class too many": (SoftmaxCrossEntropy(), CLASSES, 99),
    "a row of sum 9": (SoftmaxCrossEntropy(), ROWS, np.float32([3, 3, 3])),
    "a row of sum 2": (SoftmaxCrossEntropy(), ROWS, np.float32([1, 1, 0])),
    "a row with NaN": (SoftmaxCrossEntropy(), ROWS, np.float32([np.nan, 0, 1])),
    "a target of 5": (SigmoidCrossEntropy(), ROWS, np.float32([5, 0, 0])),
    "a target below 0": (SigmoidCrossEntropy(), ROWS, np.float32([0, -0.1, 0])),
    "NaN in regression": (SquaredError(), ROWS, np.float32([0, np.nan, 0])),
    "inf in regression": (Huber(), ROWS, np.float32([np.inf, 0, 0])),
    "neither a class nor ignored": (SoftmaxCrossEntropy(ignore=-1), HOLES, -2),
    "a class too many, of a token": (
        SoftmaxCrossEntropy(ignore=-1),
        np.stack([HOLES, CLASSES], 1),
        np.array([2, 3]),
    ),
    "a row of sum 2, of a token": (
        SoftmaxCrossEntropy(),
        np.stack([ROWS, ROWS], 1),
        np.float32([[0, 1, 0], [1, 1, 0]]),
    ),
}


def net_for(y):
    """Return a network with as many positions as the labels have."""
    return TWO_TOKENS if y.shape[1:2] == (2,) else NET


def fit(loss, x, y, **options):
    options = dict(key=jax.random.key(0), epochs=1, batch_size=B) | options
    options = dict(train=(x, y)) | options
    return fnn.fit(net_for(y), loss, optimizers.sgd(0.1), **options)


def batches(x, y):
    return fnn.Batches([(x[i : i + B], y[i : i + B]) for i in range(0, N, B)])


def epochs_that_differ(x, good, bad):
    """A source whose second epoch, and only that, has the bad label."""
    epochs = iter([good, good, bad])  # the sample, then two epochs

    def source():
        y = next(epochs)
        return iter([(x[i : i + B], y[i : i + B]) for i in range(0, N, B)])

    return fnn.Batches(source)


def resumed(loss, x, good, bad, folder):
    fit(loss, x, good, train=batches(x, good), checkpoint_dir=folder)
    options = dict(train=batches(x, bad), checkpoint_dir=folder, resume=True)
    fit(loss, x, good, epochs=2, **options)


WHERE = {
    "arrays": lambda loss, x, good, bad, _: fit(loss, x, bad),
    "a stream": lambda loss, x, good, bad, _: fit(loss, x, bad, train=batches(x, bad)),
    "its second epoch": lambda loss, x, good, bad, _: fit(
        loss, x, bad, train=epochs_that_differ(x, good, bad), epochs=2
    ),
    "validation": lambda loss, x, good, bad, _: fit(loss, x, good, validation=(x, bad)),
    "evaluate": lambda loss, x, good, bad, _: fnn.evaluate(
        net_for(bad), loss, net_for(bad).init(jax.random.key(0), (4,)), (x, bad),
        batch_size=B,
    ),
    "a sweep": lambda loss, x, good, bad, _: fnn.sweep(
        lambda r: (net_for(bad), loss, optimizers.sgd(r)),
        {"r": [0.1, 0.2]},
        train=(x, bad), keys=jax.random.split(jax.random.key(0), 1), epochs=1,
        batch_size=B,
    ),
    "a resumed run": resumed,
}  # fmt: skip


@pytest.mark.one_in(3)
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("what", BAD)
def test_a_bad_label_is_refused(what, where, tmp_path):
    loss, good, wrong = BAD[what]
    bad = good.copy()
    bad[40] = wrong
    with pytest.raises(ValueError, match="expected") as error:
        WHERE[where](loss, X, good, bad, tmp_path / "checkpoints")
    text = "\n".join([str(error.value), *getattr(error.value, "__notes__", [])])
    assert any(place in text for place in ("y[40", "row 40", "step 2")), text


@pytest.mark.parametrize("what", ["a class too many", "a row of sum 2"])
def test_the_same_labels_without_the_bad_one_train(what):
    loss, good, _ = BAD[what]
    assert fit(loss, X, good).epochs == 1
    assert fit(loss, X, good, train=batches(X, good)).epochs == 1


# ---- In a loop of one's own, compiled, no label can be looked at --------------------

#: A loss, integer labels, and integers that are none.
COMPILED = {
    "softmax": (SoftmaxCrossEntropy(), CLASSES, (-1, 3, -100)),
    "softmax, ignored": (SoftmaxCrossEntropy(ignore=-1), HOLES, (-2, 3)),
    "softmax, weights": (
        SoftmaxCrossEntropy(class_weights=(1.0, 2.0, 3.0)),
        CLASSES,
        (-1, 3),
    ),
    "softmax, smoothed": (SoftmaxCrossEntropy(0.1), CLASSES, (3,)),
    "softmax, tokens": (
        SoftmaxCrossEntropy(ignore=-1),
        np.stack([HOLES, CLASSES], 1),
        (5,),
    ),
    "softmax, uint8": (SoftmaxCrossEntropy(), CLASSES.astype(np.uint8), (255,)),
    "sigmoid, one answer": (SigmoidCrossEntropy(), CLASSES % 2, (2, -1)),
    "sigmoid, rows": (SigmoidCrossEntropy(), ROWS.astype(int), (2,)),
    "hinge": (Hinge(), CLASSES, (-1, 3)),
    "hinge, ignored": (Hinge(ignore=-1), HOLES, (-2, 3)),
    "hinge, one answer": (Hinge(), 2 * (CLASSES % 2) - 1, (2, -2)),
}


@pytest.mark.parametrize("name", COMPILED)
def test_an_integer_that_is_no_label_is_nan_where_the_loss_is_compiled(name):
    loss, y, wrong = COMPILED[name]
    outputs = 1 if "one answer" in name else 3
    positions = y.shape[1:] if "tokens" in name else ()
    z = np.random.default_rng(1).normal(size=(N, *positions, outputs))
    value, delta = jax.jit(loss.value), jax.jit(loss.delta)
    assert np.isfinite(value(z, y)) and np.isfinite(delta(z, y)).all()
    for label in wrong:
        bad = y.copy()
        bad[3] = label
        assert np.isnan(value(z, bad)), label
        rows = np.isnan(np.asarray(delta(z, bad))).reshape(N, -1)
        assert rows[3].any(), label
        if loss == type(loss)():  # else the mean over weights is NaN, too
            assert not np.delete(rows, 3, 0).any(), label
