"""Validation on another device while training goes on: the same result, sooner."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.training.run import loop

pytestmark = pytest.mark.skipif(
    len(jax.devices()) < 2, reason="needs two devices of one kind"
)

NET = fnn.serial(fnn.Dense(16), fnn.Relu(), fnn.Dropout(0.2), fnn.Dense(2))
LOSS = fnn.losses.SoftmaxCrossEntropy()


def problem(seed, n):
    x = jax.random.normal(jax.random.key(seed), (n, 4))
    noise = jax.random.normal(jax.random.key(seed + 1), (n,))
    return x, (x[:, 0] * x[:, 1] + noise > 0).astype(jnp.int32)


def fit(**options):
    records = []
    given = dict(
        train=problem(0, 60), validation=problem(5, 40), key=jax.random.key(2),
        epochs=40, batch_size=20, early_stopping=fnn.EarlyStopping(patience=3),
        on_epoch=records.append,
    )  # fmt: skip
    result = fnn.fit(NET, LOSS, fnn.optimizers.adam(0.05), **given | options)
    return result, records


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def slow_validation(monkeypatch):
    """No evaluation is finished before training has to wait for it."""
    monkeypatch.setattr(loop, "_is_finished", lambda evaluation: False)


def test_the_same_bits_and_only_epochs_trained_meanwhile_are_extra(slow_validation):
    waiting, records = fit()
    parallel, late_records = fit(validation_device="another")
    assert waiting.stopped == parallel.stopped == "patience"
    assert_same_bits(waiting.variables, parallel.variables)
    assert waiting.best_epoch == parallel.best_epoch
    assert_same_bits(tuple(waiting.stopping), tuple(parallel.stopping))
    assert parallel.epochs == waiting.epochs + loop.MAX_PENDING
    n = waiting.epochs
    for name in ("train_loss", "validation_loss", "validation_accuracy"):
        assert_same_bits(parallel.history[name][:n], waiting.history[name])
    assert len(parallel.history["validation_loss"]) == n
    assert len(parallel.history["train_loss"]) == parallel.epochs
    assert [record["epoch"] for record in late_records] == list(
        range(1, parallel.epochs + 1)
    )
    assert late_records[n - 1]["validation_loss"] == records[n - 1]["validation_loss"]


def test_an_end_by_epochs_has_every_evaluation(slow_validation):
    patient = fnn.EarlyStopping(patience=50, every=2)
    options = dict(early_stopping=patient, epochs=9)
    waiting, _ = fit(**options)
    parallel, records = fit(**options, validation_device="another")
    assert parallel.stopped == "epochs"
    for name in waiting.history.keys() - {"seconds"}:
        assert_same_bits(parallel.history[name], waiting.history[name])
    assert_same_bits(waiting.variables, parallel.variables)
    assert_same_bits(waiting.last_variables, parallel.last_variables)
    assert [r["epoch"] for r in records if "validation_loss" in r] == [2, 4, 6, 8]


def test_patience_that_runs_out_in_the_last_epoch_is_reported(slow_validation):
    waiting, _ = fit()
    parallel, _ = fit(epochs=waiting.epochs, validation_device="another")
    assert (parallel.stopped, parallel.epochs) == ("patience", waiting.epochs)


def test_training_does_not_wait_for_a_large_validation_set(monkeypatch):
    pending, finish = [], loop._finish_evaluations

    def count_and_finish(spec, progress, at_most):
        pending.append(len(progress.pending))
        return finish(spec, progress, at_most)

    monkeypatch.setattr(loop, "_finish_evaluations", count_and_finish)
    data = problem(7, 200_000)
    parallel, _ = fit(validation=data, validation_device=jax.devices()[1], epochs=9)
    assert max(pending) > 1  # an epoch ended before the evaluation of the one before
    waiting, _ = fit(validation=data, epochs=9)
    assert_same_bits(waiting.variables, parallel.variables)


def test_without_early_stopping_it_only_measures(slow_validation):
    waiting, _ = fit(early_stopping=None, epochs=3)
    parallel, _ = fit(early_stopping=None, epochs=3, validation_device="another")
    assert_same_bits(
        waiting.history["validation_loss"], parallel.history["validation_loss"]
    )


def test_on_one_device_it_validates_in_turn_and_warns(monkeypatch):
    with pytest.warns(UserWarning, match="in turn with training"):
        result, _ = fit(validation_device=jax.devices()[0], epochs=2)
    assert len(result.history["validation_loss"]) == 2
    monkeypatch.setattr(jax, "devices", lambda: [jax.local_devices()[0]])
    with pytest.warns(UserWarning, match="there is no device but"):
        fit(validation_device="another", epochs=1)


def test_wrong_devices():
    with pytest.raises(TypeError, match=r"one of jax.devices\(\)"):
        fit(validation_device="gpu")
    with pytest.raises(ValueError, match="needs validation data"):
        fit(validation_device="another", validation=None, early_stopping=None)
