"""Health: the statistics of every layer, against a plain computation of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn.training.run.health import STATISTICS

LOSS = fnn.losses.SoftmaxCrossEntropy()
X = jax.random.normal(jax.random.key(0), (40, 3))
Y = (X[:, 0] > 0).astype(jnp.int32)
NET = fnn.serial(fnn.Dense(5), fnn.Relu(), fnn.Dense(2))
KEY = jax.random.key(1)


def fit(net=NET, optimizer=None, **options):
    given = dict(train=(X, Y), key=KEY, epochs=2, batch_size=8, health=True)
    return fnn.fit(net, LOSS, optimizer or fnn.optimizers.adam(0.01), **given | options)


def test_the_statistics_are_those_of_the_next_step():
    optimizer = fnn.optimizers.adam(0.01)
    result = fit(optimizer=optimizer)
    x, y = X[:8], Y[:8]
    (w0, b0), _, (w2, b2) = result.carry.variables.params
    z0 = x @ w0 + b0
    a = jnp.maximum(z0, 0)
    z = a @ w2 + b2
    d2 = (jax.nn.softmax(z) - jax.nn.one_hot(y, 2)) / 8
    d1 = d2 @ w2.T
    d0 = jnp.where(z0 > 0, d1, 0)
    grads = jax.grad(
        lambda p: LOSS.value(NET.forward(p, ((), (), ()), x).y, y)
    )(result.carry.variables.params)  # fmt: skip
    updates, _ = optimizer.update(
        grads, result.carry.optimizer_state, result.carry.variables.params
    )
    expected = {
        "0/Dense": (z0, d0, (w0, b0), updates[0]),
        "1/Relu": (a, d1, (), ()),
        "2/Dense": (z, d2, (w2, b2), updates[2]),
    }
    assert list(result.health) == list(expected)

    def norm(tree):
        return np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(tree)))

    for name, (out, delta, own, change) in expected.items():
        dead = (np.ptp(np.asarray(out), axis=0) == 0).mean()
        want = [dead, jnp.sqrt((out**2).mean()), out.std()]
        want += [jnp.sqrt((delta**2).mean()), delta.std(), norm(own), norm(change)]
        got = [result.health[name][statistic][-1] for statistic in STATISTICS]
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7, err_msg=name)


def test_a_dead_relu_is_seen():
    params = NET.init(KEY, (3,)).params
    dead = params[0]._replace(bias=jnp.array([-99.0, -99.0, 0.0, 0.0, 0.0]))
    variables = fnn.Variables((dead, *params[1:]), ((), (), ()))
    result = fit(variables=variables, optimizer=fnn.optimizers.sgd(1e-3))
    assert result.health["1/Relu"]["dead"].tolist() == [np.float32(0.4)] * 2


def test_it_changes_nothing_and_is_kept_in_checkpoints(tmp_path):
    without = fit(health=False)
    assert without.health is None
    whole = fit()
    jax.tree.map(np.testing.assert_array_equal, without.carry, whole.carry)
    fit(epochs=1, checkpoint_dir=tmp_path)
    again = fit(checkpoint_dir=tmp_path, resume=True)
    jax.tree.map(np.testing.assert_array_equal, again.health, whole.health)


@pytest.mark.thorough
def test_planned_images_and_optax():
    """The health of a plan is that of the layers it was made of."""
    net = fnn.serial(
        fnn.Conv(8, 3), fnn.Relu(), fnn.MaxPool(2), fnn.BatchNorm(),
        fnn.Dropout(0.2), fnn.residual(fnn.Conv(8, 3)), fnn.Flatten(), fnn.Dense(2),
    )  # fmt: skip
    x = jax.random.normal(jax.random.key(5), (40, 8, 8, 1))
    result = fit(net, optax.adamw(1e-3), train=(x, Y))
    assert [name for name in result.health] == [
        *("0/Conv", "1/Relu", "2/MaxPool", "3/BatchNorm", "4/Dropout"),
        *("5/Residual/body/Conv", "5/Residual/projection/Identity"),
        *("6/Flatten", "7/Dense"),
    ]  # fmt: skip
    assert all(
        np.isfinite(column).all()
        for layer in result.health.values()
        for column in layer.values()
    )
    assert (result.health["0/Conv"]["updates"] > 0).all()


def test_records_hold_python_numbers():
    records = []
    fit(on_epoch=records.append)
    assert all(type(v) is float for v in records[-1]["health"]["0/Dense"].values())


def test_a_wrong_flag():
    with pytest.raises(TypeError, match="health must be True or False, got 'yes'"):
        fit(health="yes")
