"""The history of a run: learning rates, training metrics, and both parts of a run."""

import jax
import numpy as np
import optax
import pytest

import fnn
from fnn import metrics, optimizers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
NET, LOSS = fnn.serial(fnn.Dense(2)), fnn.losses.SoftmaxCrossEntropy()


def fit(optimizer=None, **options):
    given = dict(train=(X, Y), validation=(X[:8], Y[:8]), key=jax.random.key(0))
    given |= dict(epochs=3, batch_size=8)  # three steps an epoch, the last of 4
    optimizer = optimizers.sgd(0.1) if optimizer is None else optimizer
    return fnn.fit(NET, LOSS, optimizer, **given | options)


SCHEDULE = optax.linear_schedule(0.9, 0.0, 9)  # 0.9 in step 0, 0.1 in step 8
FALLING = [0.7, 0.4, 0.1]  # in the last step of each epoch

RATES = {
    "a number": (lambda: optimizers.sgd(0.25), [0.25] * 3),
    "a schedule": (lambda: optimizers.adam(SCHEDULE), FALLING),
    "averaged": (lambda: optimizers.ema(optimizers.adam(SCHEDULE)), FALLING),
    "scaled": (lambda: optimizers.loss_scaled(optimizers.adam(SCHEDULE)), FALLING),
    "optax, injected": (lambda: optax.inject_hyperparams(optax.sgd)(SCHEDULE), FALLING),
    "in a chain": (
        lambda: optax.chain(
            optax.clip(1.0), optax.inject_hyperparams(optax.sgd)(SCHEDULE)
        ),
        FALLING,
    ),
    "a closure": (lambda: optax.sgd(SCHEDULE), None),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", RATES)
def test_the_learning_rate_of_each_epoch_is_that_of_its_last_step(name):
    make, expected = RATES[name]
    records = []
    precision = "float16" if name == "scaled" else None
    history = fit(make(), on_epoch=records.append, precision=precision).history
    if expected is None:
        assert "learning_rate" not in history
        return
    np.testing.assert_allclose(history["learning_rate"], expected, rtol=1e-5)
    assert records[-1]["learning_rate"] == history["learning_rate"][-1]


@pytest.mark.parametrize("mesh", [None, 2])
def test_training_metrics_are_those_of_all_training_examples(mesh):
    seen = []
    given = {"accuracy": metrics.accuracy, "f1": metrics.f1}
    mesh = None if mesh is None else jax.make_mesh((mesh,), ("batch",))
    history = fit(
        metrics=given, train_metrics=True, mesh=mesh,
        on_epoch=lambda record, variables: seen.append(variables),
    ).history  # fmt: skip
    for variables, *found in zip(
        seen, history["train_accuracy"], history["train_f1"], strict=True
    ):
        out = fnn.evaluate(NET, LOSS, variables, (X, Y), metrics=given)
        np.testing.assert_allclose(found, [out["accuracy"], out["f1"]], rtol=1e-6)
    assert "train_accuracy" not in fit(mesh=mesh).history


def test_without_validation_and_with_weights_and_parts():
    weights = np.linspace(0, 1, 20, dtype=np.float32)
    history = fit(train=(X, Y, weights), validation=None, train_metrics=True).history
    last = fit(train=(X, Y, weights), validation=None).variables
    expected = fnn.evaluate(NET, LOSS, last, (X, Y, weights))["accuracy"]
    np.testing.assert_allclose(history["train_accuracy"][-1], expected, rtol=1e-6)


def test_a_resumed_run_has_the_history_of_both_parts():
    """What only one part recorded is not known of the other."""
    first = fit(validation=None, epochs=2)
    both = fit(resume=first, epochs=4, train_metrics=True, on_nonfinite="skip").history
    assert both["epoch"].tolist() == [1, 2, 3, 4]
    assert np.isnan(both["train_accuracy"]).tolist() == [True, True, False, False]
    assert both["validation_epoch"].tolist() == [3, 4]
    assert both["skipped"].tolist() == [0, 0, 0, 0]
    back = fit(resume=fit(epochs=2), epochs=4, validation=None).history
    assert back["validation_epoch"].tolist() == [1, 2]
    assert len(back["validation_loss"]) == 2


WRONG = {
    "a number": (dict(train_metrics=1), "train_metrics"),
    "no metrics": (dict(train_metrics=True, metrics={}), "but there are none"),
    "a stream": (
        dict(train_metrics=True, train=lambda: iter([(X[:8], Y[:8])])),
        "train_metrics=True needs all training examples in arrays",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_say_what_was_expected(name):
    options, text = WRONG[name]
    with pytest.raises((TypeError, ValueError)) as error:
        fit(**options)
    assert text in str(error.value)
