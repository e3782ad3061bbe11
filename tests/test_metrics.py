"""fnn's metrics against scikit-learn's, with ties, absent classes, NaN, one example.

Examples are sorted by class and evaluated in batches of 7, so that a mean over batches
would be another number. Networks are the identity: the outputs are the inputs.
"""

import functools

import jax
import numpy as np
import pytest
import sklearn.metrics as sk

import fnn
from fnn import metrics
from fnn.losses import SigmoidCrossEntropy, SoftmaxCrossEntropy, SquaredError

IDENTITY = fnn.serial(fnn.Identity())
NONE = fnn.Variables(((),), ((),))
SOFTMAX, SIGMOID, SQUARED = SoftmaxCrossEntropy(), SigmoidCrossEntropy(), SquaredError()


def evaluate(loss, z, y, batch_size=7, **given):
    z = np.asarray(z, np.float32)
    values = fnn.evaluate(IDENTITY, loss, NONE, (z, y), batch_size, given)
    assert list(values) == ["loss", *given]
    return values


def draw(seed, n, *shape):
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32)


def integers(seed, high, *shape):
    return np.random.default_rng(seed).integers(0, high, shape).astype(np.int32)


# ---- Against scikit-learn --------------------------------------------------------


def scored(seed, n, classes, of=None):
    """Scores that are right more often than not, and classes in their order."""
    y = np.sort(integers(seed, of or classes, n))
    return draw(seed + 1, n, classes) + 1.2 * np.eye(classes, dtype=np.float32)[y], y


def rounded(seed, n):
    z, y = scored(seed, n, 3)
    return z.round(), y


def nowhere(seed, n):
    z, y = scored(seed, n, 3, of=2)
    return z - np.array([0, 0, 9], np.float32), y


#: Outputs (N, 3) and classes (N,).
CLASSES = {
    "in order": scored(0, 45, 3),
    "a class without examples": scored(4, 45, 3, of=2),
    "a class that is nowhere": nowhere(5, 45),
    "ties": rounded(6, 45),
    "one example": scored(8, 1, 3),
}
# Once, so that cases of one shape are one program.
OF_CLASSES = {name: getattr(metrics, name) for name in ("precision", "recall", "f1")}
OF_CLASSES |= {
    "accuracy": fnn.accuracy,
    "top_2": metrics.top_k(2),
    "top_1": metrics.top_k(1),
    "iou": metrics.iou,
    "f1_of_1": functools.partial(metrics.f1, positive=1),
    "recall_of_0": functools.partial(metrics.recall, positive=0),
}
confusion_matrix = jax.jit(metrics.confusion_matrix)


@pytest.mark.parametrize("case", CLASSES)
def test_metrics_of_classes(case):
    z, y = CLASSES[case]
    got = evaluate(SOFTMAX, z, y, **OF_CLASSES)
    predicted, classes = z.argmax(1), [0, 1, 2]
    macro = dict(average="macro", zero_division=0)
    one = dict(average=None, labels=classes, zero_division=0)
    # scikit-learn takes the later one of equal scores, fnn the first.
    top_2 = sk.top_k_accuracy_score(2 - y, z[:, ::-1], k=2, labels=classes)
    assert got == pytest.approx(
        {
            "loss": got["loss"],
            "accuracy": sk.accuracy_score(y, predicted),
            "top_2": top_2,
            "top_1": sk.accuracy_score(y, predicted),
            "precision": sk.precision_score(y, predicted, **macro),
            "recall": sk.recall_score(y, predicted, **macro),
            "f1": sk.f1_score(y, predicted, **macro),
            "iou": sk.jaccard_score(y, predicted, **macro),
            "f1_of_1": sk.f1_score(y, predicted, **one)[1],
            "recall_of_0": sk.recall_score(y, predicted, **one)[0],
        },
        rel=1e-6,
    )
    matrix = sk.confusion_matrix(y, predicted, labels=classes)
    assert (confusion_matrix(z, y) == matrix).all()
    assert (confusion_matrix(z, np.eye(3, dtype=np.float32)[y]) == matrix).all()


def logits(seed, n, decimals=3):
    y = np.sort(integers(seed, 2, n))
    return (draw(seed + 1, n, 1) + y[:, None] - 0.5).round(decimals), y


#: Logits (N, 1) and answers (N,).
ANSWERS = {
    "logits": logits(10, 45),
    "logits with ties": logits(12, 45, 0),
    "all scores equal": (np.ones((45, 1), np.float32), np.arange(45) // 30),
    "one positive": (draw(14, 45, 1), np.eye(45, dtype=np.int32)[44]),
}


OF_ANSWERS = {name: getattr(metrics, name) for name in ("precision", "recall", "f1")}
OF_ANSWERS |= {name: getattr(metrics, name) for name in ("iou", "exact_match", "auc")}
OF_ANSWERS |= {"accuracy": fnn.accuracy, "binary": metrics.binary_accuracy}
OF_ANSWERS |= {"f1_of_0": functools.partial(metrics.f1, positive=0)}
auc = jax.jit(metrics.auc)


@pytest.mark.parametrize("case", ANSWERS)
def test_metrics_of_one_logit(case):
    z, y = ANSWERS[case]
    got = evaluate(SIGMOID, z, y, **OF_ANSWERS)
    predicted = (z[:, 0] > 0).astype(int)
    assert got == pytest.approx(
        {
            "loss": got["loss"],
            "accuracy": sk.accuracy_score(y, predicted),
            "binary": sk.accuracy_score(y, predicted),
            "exact_match": sk.accuracy_score(y, predicted),
            "auc": sk.roc_auc_score(y, z[:, 0]),
            "precision": sk.precision_score(y, predicted, zero_division=0),
            "recall": sk.recall_score(y, predicted),
            "f1": sk.f1_score(y, predicted),
            "iou": sk.jaccard_score(y, predicted),
            "f1_of_0": sk.f1_score(y, predicted, pos_label=0, zero_division=0),
        },
        rel=1e-6,
    )
    two = np.concatenate([np.zeros_like(z), z], 1)
    assert float(auc(two, y)) == pytest.approx(got["auc"], rel=1e-6)
    matrix = sk.confusion_matrix(y, predicted, labels=[0, 1])
    assert (confusion_matrix(z, y) == matrix).all()


def test_the_auc_of_many_examples_is_exact():
    """n₁ n₀ is far above what 32 bits hold, and so is a sum of ranks."""
    n = 300_000
    z, y = (draw(16, n, 1) + np.arange(n)[:, None] % 2).round(2), np.arange(n) % 2
    assert float(auc(z, y)) == pytest.approx(sk.roc_auc_score(y, z[:, 0]), 1e-5)


@pytest.mark.parametrize("y", [[1, 1, 1], [0, 0, 0], [0, 1, 0]])
def test_an_auc_that_is_not_defined_is_nan(y):
    z = np.array([[0.0], [1.0], [2.0]])
    if min(y) != max(y):
        z[1] = np.nan
    assert np.isnan(auc(z, np.array(y)))


def test_metrics_of_several_answers_an_example():
    z = draw(18, 45, 4)
    y = (draw(19, 45, 4) + z > 0.5).astype(np.float32)
    y[:7] = np.eye(4)[[0, 1, 2, 3, 0, 1, 2]]  # the first batch looks like classes
    names = ("binary_accuracy", "exact_match", "precision", "recall", "f1", "iou")
    given = {name: getattr(metrics, name) for name in names}
    one = functools.partial(metrics.f1, positive=2)
    got = evaluate(SIGMOID, z, y, accuracy=fnn.accuracy, f1_of_2=one, **given)
    answers, macro = z > 0, dict(average="macro", zero_division=0)
    assert got == pytest.approx(
        {
            "loss": got["loss"],
            "accuracy": 1 - sk.hamming_loss(y, answers),
            "binary_accuracy": 1 - sk.hamming_loss(y, answers),
            "exact_match": sk.accuracy_score(y, answers),
            "precision": sk.precision_score(y, answers, **macro),
            "recall": sk.recall_score(y, answers, **macro),
            "f1": sk.f1_score(y, answers, **macro),
            "iou": sk.jaccard_score(y, answers, **macro),
            "f1_of_2": sk.f1_score(y[:, 2], answers[:, 2]),
        },
        rel=1e-6,
    )
    assert float(fnn.accuracy(z, y)) == pytest.approx(got["accuracy"], rel=1e-6)
    right = np.where(y > 0, 9.0, -9.0)
    assert evaluate(SIGMOID, right, y, a=fnn.accuracy)["a"] == 1
    with pytest.raises(ValueError, match="one class an example"):
        metrics.confusion_matrix(z, y)


#: Predictions and targets.
TARGETS = {
    "a column": (draw(20, 45, 1), np.sort(draw(21, 45))),
    "three outputs": (draw(22, 45, 3), draw(23, 45, 3)),
    "far from 0": (draw(24, 45, 1) + 1e4, np.sort(draw(25, 45)) + 1e4),
    "equal targets": (draw(26, 45, 1), np.full(45, 0.3)),
    "equal targets, right": (np.full((45, 1), 0.3), np.full(45, 0.3)),
    "one example": (draw(27, 1, 1), draw(28, 1)),
}


@pytest.mark.parametrize("case", TARGETS)
def test_metrics_of_targets(case):
    z, y = (a.astype(np.float32) for a in TARGETS[case])
    y = y.reshape(-1, *z.shape[1:]) if case == "three outputs" else y
    got = evaluate(
        *(SQUARED, z, y), mae=metrics.mean_absolute_error, r2=metrics.r2,
        rmse=metrics.root_mean_squared_error,
    )  # fmt: skip
    t = y.reshape(z.shape).astype(np.float64)
    r2 = sk.r2_score(t, z.astype(np.float64)) if len(z) > 1 else np.nan
    expected = {
        "loss": got["loss"],
        "mae": sk.mean_absolute_error(t, z),
        "r2": r2,
        "rmse": np.sqrt(sk.mean_squared_error(t, z)),
    }
    assert got == pytest.approx(expected, rel=2e-4, nan_ok=True)


POSITIONS = draw(30, 9, 4, 5, 3), integers(31, 3, 9, 4, 5)


@pytest.mark.parametrize(
    "metric",
    [
        fnn.accuracy,
        metrics.f1,
        pytest.param(metrics.top_k(2), marks=pytest.mark.thorough),
        pytest.param(metrics.iou, marks=pytest.mark.thorough),
    ],
)
def test_positions_count_as_examples_do(metric):
    """Images of 4 × 5 pixels, of three classes each, or of one logit."""
    z, y = POSITIONS
    as_examples = z.reshape(-1, 3), y.ravel()
    as_rows = z, np.eye(3, dtype=np.float32)[y]
    whole, flat, rows = (
        float(jax.jit(metric)(*given)) for given in ((z, y), as_examples, as_rows)
    )
    assert whole == pytest.approx(flat, rel=1e-6)
    assert whole == pytest.approx(rows, rel=1e-6)


def test_positions_of_one_logit():
    z, y = POSITIONS[0][..., :1], POSITIONS[1] > 1
    scores, answers = z.ravel(), y.ravel()
    area, share = float(auc(z, y)), float(jax.jit(fnn.accuracy)(z, y))
    assert area == pytest.approx(sk.roc_auc_score(answers, scores), rel=1e-6)
    assert share == pytest.approx(sk.accuracy_score(answers, scores > 0), rel=1e-6)


def test_an_output_with_nan_is_wrong():
    z, y = CLASSES["in order"]
    z = z.copy()
    z[::9, 1] = np.nan
    bad = np.isnan(z).any(1)
    predicted = np.where(bad, -1, np.where(np.isnan(z), 0, z).argmax(1))
    known = dict(average="macro", labels=range(3), zero_division=0)
    given = OF_CLASSES | {"top_3": metrics.top_k(3)}
    got = jax.jit(lambda z, y: {name: f(z, y) for name, f in given.items()})(z, y)
    assert float(got["accuracy"]) == pytest.approx((predicted == y).mean())
    assert float(got["top_3"]) == pytest.approx(1 - bad.mean())
    for name in ("precision", "recall", "f1"):
        expected = getattr(sk, f"{name}_score")(y, predicted, **known)
        assert float(got[name]) == pytest.approx(expected)
    assert confusion_matrix(z, y).sum() == (~bad).sum()


def test_a_nan_among_logits_and_predictions():
    z, y = np.array([[np.nan], [1.0]]), np.array([0, 1])
    for metric in (fnn.accuracy, metrics.binary_accuracy, metrics.exact_match):
        assert float(jax.jit(metric)(z, y)) == 0.5
    assert np.isnan(jax.jit(metrics.r2)(z, y))


WRONG_CALLS = [
    (lambda z, y: fnn.accuracy(z, y[:-1]), r"labels of shape \(N, \.\.\.\)"),
    (lambda z, y: fnn.accuracy(z[:, 0], y), r"outputs of shape \(N, \.\.\., K\)"),
    (lambda z, y: fnn.accuracy("abc", y), "outputs must be an array of numbers"),
    (lambda z, y: metrics.binary_accuracy(z, y), "these are classes"),
    (lambda z, y: metrics.top_k(0), "top_k: k must be a positive integer, got 0"),
    (lambda z, y: metrics.top_k(4)(z, y), "k must be at most the number of outputs, 3"),
    (lambda z, y: metrics.f1(z, y, positive=3), "one of the classes 0 .. 2, got 3"),
    (lambda z, y: metrics.f1(z, y, positive="a"), "must be the number of a class"),
    (lambda z, y: metrics.auc(z, y), "ranks by one score"),
    (lambda z, y: metrics.r2(z, y), r"of the outputs' shape \(45, 3\), got \(45,\)"),
    (lambda z, y: metrics.plot_confusion_matrix(z), r"of shape \(K, K\)"),
    (lambda z, y: metrics.plot_confusion_matrix(z[:3], "ab"), "each of 3 classes, got"),
]


@pytest.mark.parametrize(("call", "text"), WRONG_CALLS)
def test_wrong_arguments_of_metrics(call, text):
    with pytest.raises((TypeError, ValueError), match=text):
        call(*CLASSES["in order"])


def test_a_confusion_matrix_is_drawn():
    counts = confusion_matrix(*CLASSES["in order"])
    figure = metrics.plot_confusion_matrix(counts, ["a", "b", "c"])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == [str(n) for n in counts.ravel()]
    assert axes.get_ylabel() == "true class"
    many = metrics.plot_confusion_matrix(np.eye(30, dtype=int))
    assert not many.axes[0].texts  # too small to read
