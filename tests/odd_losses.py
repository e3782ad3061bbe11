"""Losses with odd arguments, on outputs of any size and labels of any kind.

Value and delta are compared with the formulas of `fnn.losses`, in NumPy and float64.
"""

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from odd_inputs import REALS, Family, judge, lines, some, value
from odd_layers import softmax

import fnn

LOSSES = st.one_of(
    some("fnn.losses.SquaredError()", "fnn.losses.SigmoidCrossEntropy()"),
    some("fnn.losses.SoftmaxCrossEntropy()", "fnn.losses.SoftmaxCrossEntropy(0.1)"),
    lines("fnn.losses.SoftmaxCrossEntropy({s})", s=REALS),
    lines("fnn.losses.Huber({d})", d=REALS | some("1", "0.5", "2")),
    some("fnn.losses.AbsoluteError()", "fnn.losses.KullbackLeibler()"),
    some("fnn.losses.Hinge()", "fnn.losses.SoftmaxCrossEntropy(ignore=-1)"),
    some("fnn.losses.SoftmaxCrossEntropy(class_weights=(1, 2, 3))"),
)
OUTPUTS = some(
    *["(4, 3)"] * 6,
    *["(4, 1)"] * 3,
    *["(4, 2)"] * 2,
    "(4,)",
    "(4, 2, 3)",
    "(1, 3)",
    "()",
)
LABELS = some(
    *["np.arange(4) % 3"] * 3, *["np.arange(4) % 2"] * 2,
    "np.arange(4.0)", "np.arange(4)", "np.arange(5) % 2", "jnp.arange(4) % 3",
    "np.array([0, 1, 2, 255], 'uint8')", "np.array([0, 1, 2, -1])",
    "np.array([0, 1, 2, 2**32])", "np.array([True, False] * 2)",
    "np.eye(4, 3)", "np.eye(4, 3) * 2", "-np.eye(4, 3)",
    "np.eye(3)[:, [0, 1, 2, 0]].T", "np.full((4, 3), 1 / 3)", "np.ones((4, 2)) / 2",
    "np.full((4, 3), np.nan)", "np.full((4, 1), 0.5)", "np.full((4, 1), np.inf)",
    "np.ones((4, 1))", "np.ones((3, 4))", "np.ones((4, 3)) * 1e38",
    "np.ones((4, 2, 3))",
    "np.zeros((4, 3), bool)", "np.ones((4, 3), 'complex64')", "np.array(['a'] * 4)",
    "[0, 1, 2, 0]", "None", "np.array(1)", "np.ones((4, 0))", "np.ones(0)",
    "np.ma.array(np.arange(4) % 3, mask=[0, 0, 0, 1])",
)  # fmt: skip
SIZES = some(*["1.0"] * 3, "0.0", "1e-30", "1e4", "1e30", "3e38", "-1e30")


def run_loss(line: str) -> str:
    """Check the labels as `fit` does, then value and delta."""
    loss_line, shape, size, labels = line.split(" | ")

    def call() -> tuple:
        loss = value(loss_line)
        z = np.random.default_rng(0).uniform(-1, 1, eval(shape)).astype(np.float32)
        z = jnp.asarray(z * np.float32(eval(size)))
        given = value(labels)
        y = fnn.checks.as_array("y", given)
        loss.check(z.shape[1:], y)
        return loss, z, given, loss.value(z, y), loss.delta(z, y)

    return judge(line, call, check_loss)


def check_loss(done: tuple) -> None:
    """Compare value and delta with the formulas of `fnn.losses`, in float64."""
    loss, z, given, j, delta = done
    z, n = np.asarray(z, np.float64), len(z)
    if loss.classifies:  # the mean is over positions
        n = z.size // z.shape[-1]
    y = np.asarray(given)
    assert not np.isnan(j) and np.isfinite(delta).all(), f"J = {j}, δ = {delta}"
    assert delta.shape == z.shape and j.shape == ()
    classes = y.ndim == z.ndim - 1 and z.shape[-1] > 1
    t = (
        np.eye(z.shape[-1])[y.astype(int) % z.shape[-1]]
        if classes
        else y.reshape(z.shape).astype(float)
    )
    counts = (y if classes else t[..., 0]) != getattr(loss, "ignore", None)
    with np.errstate(all="ignore"):
        match type(loss).__name__:
            case "SquaredError":
                expected, slope = np.square(z - t).sum() / 2, z - t
            case "Huber":
                e, c = z - t, np.clip(z - t, -loss.threshold, loss.threshold)
                expected, slope = (c * (e - c / 2)).sum(), c
            case "AbsoluteError":
                expected, slope = np.abs(z - t).sum(), np.sign(z - t)
            case "Hinge" if z.shape[-1] == 1:
                sign = np.where(t > 0, 1, -1)
                expected = np.maximum(1 - sign * z, 0).sum()
                slope = np.where(sign * z < 1, -sign, 0)
            case "Hinge":
                rival = np.where(t == 1, -np.inf, z)
                gap = 1 + rival.max(-1) - (t * z).sum(-1)
                expected = np.maximum(gap, 0).sum()
                rivals = np.eye(z.shape[-1])[rival.argmax(-1)]
                slope = (gap > 0)[..., None] * (rivals - t)
            case "SoftmaxCrossEntropy" | "KullbackLeibler":
                s = getattr(loss, "label_smoothing", 0)
                w = getattr(loss, "class_weights", None)
                w = np.ones(z.shape[-1]) if w is None else np.array(w)
                v = np.where(counts, (w * t).sum(-1), 0)[..., None]
                w = np.where(counts[..., None], w * n / max(v.sum(), 1e-300), 0)
                t = (1 - s) * t + s / z.shape[-1]
                log = z - z.max(-1, keepdims=True)
                log = log - np.log(np.exp(log).sum(-1, keepdims=True))
                expected = -(w * t * log).sum()
                slope = (w * t).sum(-1, keepdims=True) * softmax(z) - w * t
                if type(loss).__name__ == "KullbackLeibler":
                    expected += (t * np.log(np.where(t > 0, t, 1))).sum()
            case _:
                expected = (
                    t * np.logaddexp(0, -z) + (1 - t) * np.logaddexp(0, z)
                ).sum()
                slope = np.exp(-np.logaddexp(0, -z)) - t
    scale = max(1.0, float(np.abs(slope).max()))
    np.testing.assert_allclose(
        np.asarray(delta) * n, slope, rtol=1e-4, atol=1e-5 * scale
    )
    if expected / n < 3e38:  # a loss beyond float32's largest number is inf
        np.testing.assert_allclose(j, expected / n, rtol=1e-3, atol=1e-4)


FAMILIES = {
    "losses": Family(
        lines("{loss} | {z} | {size} | {y}", loss=LOSSES, z=OUTPUTS, size=SIZES,
            y=LABELS),
        run_loss,
    ),
}  # fmt: skip
