"""Bad numbers in any position of the data: in any row of any array, of any dtype.

A bad label may stand in the last minibatch, in a later batch of a stream, among the
validation data, or in the data of a run that goes on. It must be refused wherever it
is. Good data of any dtype must train as the same numbers in float32 do, in both
engines. (Images of uint8 are refused: they are meant to be scaled.)
"""

import functools

import jax
import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from odd_files import Wrong
from odd_inputs import Family, judge, lines, some

import fnn

N, BATCH, EPOCHS = 16, 4, 2
KEY = jax.random.key(0)
X = np.random.default_rng(0).integers(0, 2, (N, 3))
CLASSES = np.arange(N) % 3

#: Each loss: the number of outputs, good labels, and labels that are bad.
LOSSES = {
    "classes": (fnn.losses.SoftmaxCrossEntropy(), 3, CLASSES, (-1, 3, 99, 2**31 - 1)),
    "rows": (fnn.losses.SoftmaxCrossEntropy(), 3, np.eye(3)[CLASSES], (9, -1, "nan")),
    "ignore": (
        *(fnn.losses.SoftmaxCrossEntropy(ignore=255), 3),
        *(np.where(CLASSES == 2, 255, CLASSES), (3, 254, 99)),
    ),
    "sigmoid": (fnn.losses.SigmoidCrossEntropy(), 1, CLASSES[:, None] % 2, (5, "nan")),
    "regression": (fnn.losses.SquaredError(), 1, CLASSES[:, None], ("nan", "inf")),
}
PLACES = ["train", "stream", "validation", "evaluate", "resumed", "sweep", "sweep too"]
FLOATS = ["float16", "bfloat16", "float32", "float64"]
WHOLE = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
VALUES = some(
    *["good"] * 3, "-1", "3", "5", "9", "99", "254", "2147483647", "nan", "inf"
)


def as_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return an array in a dtype of NumPy, or in bfloat16."""
    return values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def run(place: str, name: str, engine: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the losses of a run that has the data in this place."""
    loss, outputs, good, _ = LOSSES[name]
    net, right = network(outputs), (X.astype("float32"), good)
    fit = functools.partial(
        *(fnn.fit, net, loss, SGD),
        key=KEY, epochs=EPOCHS, batch_size=BATCH, engine=engine,
    )  # fmt: skip
    match place:
        case "train":
            return fit(train=(x, y)).history["train_loss"]
        case "stream":
            return in_batches(net, loss, engine, x, y).history["train_loss"]
        case "validation":
            return fit(train=right, validation=(x, y)).history["validation_loss"]
        case "evaluate":
            variables = net.init(KEY, (3,))
            return np.array([fnn.evaluate(net, loss, variables, (x, y))["loss"]])
        case "resumed":
            first = fit(train=right, epochs=1)
            return fit(train=(x, y), resume=first).history["train_loss"]
    there = {"train": right, "validation": right}
    there["train" if place == "sweep" else "validation"] = (x, y)
    swept = fnn.sweep(
        lambda rate: (net, loss, fnn.optimizers.sgd(rate)), {"rate": [0.1]},
        keys=KEY[None], epochs=EPOCHS, batch_size=BATCH, engine=engine, **there,
    )  # fmt: skip
    return swept.history["train_loss" if place == "sweep" else "validation_loss"]


SGD = fnn.optimizers.sgd(0.1)


@functools.cache
def network(outputs: int) -> fnn.Layer:
    return fnn.serial(fnn.Dense(outputs))


def in_batches(net, loss, engine, x, y) -> fnn.FitResult:
    """Train on the batches in their order."""
    starts = range(0, N, BATCH)

    def source():
        return iter([(x[i : i + BATCH], y[i : i + BATCH]) for i in starts])

    return fnn.fit(
        net, loss, SGD, train=fnn.Batches(source), key=KEY, epochs=EPOCHS,
        engine=engine,
    )  # fmt: skip


@functools.cache
def expected(place: str, name: str) -> np.ndarray:
    """Return the losses on the same numbers in float32, by autodiff."""
    x = X.astype("float32")
    return np.asarray(run(place, name, "autodiff", x, LOSSES[name][2]), float)


def run_position(line: str) -> str:
    """Train on the data with one label that may be bad, and judge what came of it."""
    place, name, engine, x_dtype, y_dtype, index, value = line.split(" | ")
    _, _, good, bad = LOSSES[name]
    is_bad = value in map(str, bad)
    wanted = changed(good, int(index), value) if is_bad else good
    if not is_held(wanted, y_dtype):
        return "not a label of this dtype"
    x, y = as_dtype(X, x_dtype), as_dtype(wanted, y_dtype)

    def check(losses: np.ndarray) -> None:
        assert not is_bad, f"a bad label was taken: losses {losses}"
        half = {x_dtype, y_dtype} & {"float16", "bfloat16"}
        tolerance = 0.05 if half else 1e-4
        np.testing.assert_allclose(
            np.asarray(losses, float), expected(place, name), rtol=tolerance
        )

    verdict = judge(line, lambda: run(place, name, engine, x, y), check)
    wants_another_dtype = x_dtype == "uint8" or has_fractions(name, y_dtype)
    if verdict == "refused" and not is_bad and not wants_another_dtype:
        raise Wrong(f"{line}\n    good data were refused")
    return verdict


def changed(good: np.ndarray, index: int, value: str) -> np.ndarray:
    """Return the labels with one number replaced."""
    labels = np.array(good, float)
    labels[index % N, ...] = float(value)
    return labels


def is_held(labels: np.ndarray, dtype: str) -> bool:
    """Return whether a dtype can hold these labels exactly."""
    with np.errstate(all="ignore"):
        held = as_dtype(np.asarray(labels, float), dtype).astype(float)
    return np.array_equal(held, labels, equal_nan=True)


def has_fractions(name: str, dtype: str) -> bool:
    """Return whether a loss wants classes, and the dtype is one of fractions."""
    return name in ("classes", "ignore") and dtype in FLOATS


FAMILIES = {
    "positions": Family(
        lines(
            "{place} | {loss} | {engine} | {x} | {y} | {index} | {value}",
            place=st.sampled_from(PLACES), loss=st.sampled_from([*LOSSES]),
            engine=some("manual", "autodiff"), x=st.sampled_from([*FLOATS, *WHOLE]),
            y=st.sampled_from([*FLOATS, *WHOLE]), index=st.integers(0, N - 1).map(repr),
            value=VALUES,
        ),
        run_position,
    ),
}  # fmt: skip
