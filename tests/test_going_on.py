"""Going on differently: what may be another, from a result and from a folder."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import optimizers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
NET = fnn.serial(fnn.Dense(3, bias=False), fnn.BatchNorm(), fnn.Tanh(), fnn.Dense(2))
LOSS = fnn.losses.SoftmaxCrossEntropy()


def fit(optimizer=None, net=NET, **options):
    given = dict(train=(X, Y), validation=(X[:8], Y[:8]), key=jax.random.key(0))
    given |= dict(epochs=2, batch_size=10)
    optimizer = optimizers.adam(0.1) if optimizer is None else optimizer
    return fnn.fit(net, LOSS, optimizer, **given | options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run") / "checkpoints"


@pytest.fixture(scope="module")
def first(folder):
    return fit(checkpoint_dir=folder, health=True)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_run_is_read_without_the_network_or_the_data(folder, first):
    read = fnn.restore(folder)
    same(read.variables, first.variables)
    same(read.last_variables, first.last_variables)
    assert read.history.keys() == first.history.keys()
    jax.tree.map(np.testing.assert_array_equal, read.history, first.history)
    jax.tree.map(np.testing.assert_array_equal, read.health, first.health)
    assert (read.epochs, read.best_epoch, read.stopped) == (2, 2, "restored")
    assert fnn.restore(folder, epoch=1).history["epoch"].tolist() == [1]
    assert "FitResult" in repr(read)


CHANGES = {
    "nothing": dict(),
    "the learning rate": dict(optimizer=optimizers.adam(0.01)),
    "a schedule": dict(optimizer=optimizers.adam(optax.constant_schedule(0.01))),
    "the data": dict(train=(X[:15], Y[:15])),
    "the batch size and lambda": dict(batch_size=5, l2=0.1),
    "early stopping": dict(early_stopping=fnn.EarlyStopping(patience=1)),
    "no validation": dict(validation=None),
    "the engine and the plan": dict(engine="autodiff", plan=None),
    "the key": dict(key=jax.random.key(9)),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", CHANGES)
def test_what_may_be_another_from_a_result_and_from_a_folder(name, folder, first):
    from_result = fit(epochs=4, resume=first, **CHANGES[name])
    from_folder = fit(epochs=4, resume=fnn.restore(folder), **CHANGES[name])
    same(from_result.variables, from_folder.variables)
    same(from_result.optimizer_state, from_folder.optimizer_state)
    for result in (from_result, from_folder):
        assert result.history["epoch"].tolist()[:2] == [1, 2]
        np.testing.assert_array_equal(
            result.history["train_loss"][:2], first.history["train_loss"]
        )
    if name == "nothing":
        same(from_result.variables, fit(epochs=4).variables)


def test_another_optimizer_goes_on_in_a_new_state(folder, first):
    momentum = optimizers.momentum(0.01)
    for earlier in (first, fnn.restore(folder)):
        with pytest.raises(ValueError, match=r"another optimizer.*(?s:.)*missing"):
            fit(momentum, epochs=4, resume=earlier)
        result = fit(momentum, epochs=4, resume=earlier.with_fresh_optimizer())
        alone = fit(
            momentum, epochs=2, variables=first.variables, key=jax.random.key(0)
        )
        assert result.epochs == 4
        assert int(result.optimizer_state.count) == int(alone.optimizer_state.count)


def test_the_network_must_have_the_same_parameters(folder, first):
    other = fnn.serial(fnn.Dense(4), fnn.Dense(2))
    for earlier in (first, fnn.restore(folder)):
        with pytest.raises(ValueError, match="belongs to another network"):
            fit(net=other, epochs=4, resume=earlier)


@pytest.mark.parametrize(
    "make",
    [lambda: optimizers.nesterov(0.1), lambda: optimizers.ema(optimizers.adam(0.1))],
    ids=["look-ahead", "averaged"],
)
@pytest.mark.parametrize("early_stopping", [None, fnn.EarlyStopping(patience=9)])
def test_the_variables_are_those_to_evaluate(make, early_stopping, tmp_path):
    result = fit(make(), checkpoint_dir=tmp_path, early_stopping=early_stopping)
    read = fnn.restore(tmp_path)
    same(read.variables, result.variables)
    same(read.last_variables, result.last_variables)
    same(read.carry.variables, result.carry.variables)
    assert read.best_epoch == result.best_epoch
    longer = fit(make(), epochs=3, resume=read, early_stopping=early_stopping)
    same(longer.last_variables, fit(make(), epochs=3).last_variables)


class ScaleParams(NamedTuple):
    scale: jax.Array


@fnn.layer
class Scale(fnn.Layer):
    """y = s x, with a named tuple, a dictionary and a key among its variables."""

    def init(self, key, in_shape):
        return fnn.Variables(ScaleParams({"s": jnp.ones(())}), [None, key])

    def forward(self, params, state, x, *, key=None, train=False):
        return fnn.Forward(params.scale["s"] * x, saved=x, state=state)

    def backward(self, params, saved, dy):
        ds = (saved * dy).sum()
        return fnn.Backward(params.scale["s"] * dy, ScaleParams({"s": ds}))


def test_variables_of_any_structure(tmp_path, monkeypatch):
    net = fnn.serial(Scale(), fnn.Dense(2))
    result = fit(net=net, checkpoint_dir=tmp_path)
    read = fnn.restore(tmp_path).variables
    same(jax.tree.map(_bits, read), jax.tree.map(_bits, result.variables))
    # In a process where the class is not known, it is another of the same fields.
    monkeypatch.delitem(globals(), "ScaleParams")
    read = fnn.restore(tmp_path).variables
    assert type(read.params[0]).__name__ == "ScaleParams"
    out = net.forward(*read, jnp.asarray(X)).y
    np.testing.assert_array_equal(out, net.forward(*result.variables, jnp.asarray(X)).y)


def _bits(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def test_wrong_folders(folder, first, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of checkpoints"):
        fnn.restore(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no checkpoints in"):
        fnn.restore(tmp_path)
    with pytest.raises(ValueError, match=r"no checkpoint after epoch 7; it has.* 1, 2"):
        fnn.restore(folder, epoch=7)
    with pytest.raises(TypeError, match="directory"):
        fnn.restore(first)


def test_a_run_that_goes_on_can_be_read(folder, first):
    """Nothing in the folder is changed, and no lock is taken."""
    before = sorted(p.name for p in folder.rglob("*"))
    fnn.restore(folder)
    assert sorted(p.name for p in folder.rglob("*")) == before
