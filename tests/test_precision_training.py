"""Training in half precision: parameters in float32, results close to float32's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from breadth import some_of

import fnn

LOSS = fnn.losses.SoftmaxCrossEntropy()
NET = fnn.serial(
    fnn.Flatten(), fnn.Dense(32), fnn.BatchNorm(), fnn.Relu(), fnn.Dense(10)
)
DIGITS = fnn.data.digits()


def fit(optimizer=None, **options):
    train, validation = fnn.data.split(*DIGITS.train, 0.3)
    given = dict(
        train=train, validation=validation, key=jax.random.key(0), epochs=6,
        batch_size=64,
    )  # fmt: skip
    optimizer = optimizer or fnn.optimizers.adam(3e-3)
    return fnn.fit(NET, LOSS, optimizer, **given | options)


@pytest.mark.parametrize("engine", some_of(["manual", "autodiff"], ["manual"]))
def test_bfloat16_learns_what_float32_learns(engine):
    wide, narrow = fit(engine=engine), fit(engine=engine, precision="bfloat16")
    leaves = jax.tree.leaves(narrow.carry.variables)
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    np.testing.assert_allclose(
        narrow.history["train_loss"], wide.history["train_loss"], rtol=0.05
    )
    last = (r.history["validation_accuracy"][-1] for r in (wide, narrow))
    assert abs(np.subtract(*last)) < 0.02
    assert not np.array_equal(narrow.history["train_loss"], wide.history["train_loss"])


def test_float16_with_a_loss_scale_that_adapts():
    scaled = fnn.optimizers.loss_scaled(fnn.optimizers.adam(3e-3), initial=2.0**30)
    result = fit(scaled, precision="float16", on_nonfinite="skip")
    assert result.history["skipped"].sum() == 0  # the optimizer has seen to them
    s = float(fnn.optimizers.loss_scale(result.optimizer_state))
    assert 1 < s < 2.0**30  # the first steps overflowed, and were left out
    assert result.history["validation_accuracy"][-1] > 0.9


def test_float64_end_to_end():
    with jax.enable_x64():
        train = tuple(map(np.asarray, DIGITS.train))
        train = train[0].astype(np.float64), train[1]
        result = fit(train=train, validation=None, epochs=1)
        leaves = [a for a in jax.tree.leaves(result.carry) if a.dtype.kind == "f"]
        assert {leaf.dtype for leaf in leaves} == {np.dtype("float64")}


def test_an_unknown_precision():
    with pytest.raises(ValueError, match="'bfloat16' or 'float16', or None"):
        fit(precision="int8")
