"""Numbers that are not finite: each policy, and the layer where they begin."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn.gradients.engines import manual
from fnn.training.compiled.order import epoch_order

LOSS = fnn.losses.SoftmaxCrossEntropy()
X = jax.random.normal(jax.random.key(0), (50, 3)) / 4
Y = (X[:, 0] > 0).astype(jnp.int32)
BATCH, EPOCHS = 12, 4


@jax.jit
def log_above(x):
    """The logarithm of x + 3: NaN below −3."""
    return jnp.log(x + 3)


NET = fnn.serial(fnn.Lambda(log_above), fnn.Dense(4), fnn.Tanh(), fnn.Dense(2))


def one_bad(example):
    """The training data, with one example whose logarithm is NaN."""
    x = X.at[example].set(-4.0)
    return x, Y


def fit(policy, data, net=NET, optimizer=None, **options):
    given = dict(key=jax.random.key(1), epochs=EPOCHS, batch_size=BATCH)
    optimizer = optimizer or fnn.optimizers.adam(0.05)
    return fnn.fit(
        net, LOSS, optimizer, train=data, on_nonfinite=policy, **given | options
    )


def by_hand(data, epochs, skips):
    """The same steps in a plain loop, which skips or stops at a bad one."""
    optimizer, n = fnn.optimizers.adam(0.05), len(data[0])
    init_key, train_key = jax.random.split(jax.random.key(1))
    variables = NET.init(init_key, (3,))
    state, first, counts = optimizer.init(variables.params), None, []
    grad = jax.jit(fnn.value_and_grad(NET, LOSS, manual))
    for epoch in range(1, epochs + 1):
        counts.append(0)
        full, rest, step_key = epoch_order(train_key, epoch, n, BATCH)
        for t, indices in enumerate([*full, rest]):
            batch = tuple(part[indices] for part in data)
            out = grad(variables, batch, key=jax.random.fold_in(step_key, t))
            leaves = [out.loss, *jax.tree.leaves(out.grads)]
            if not all(bool(jnp.isfinite(leaf).all()) for leaf in leaves):
                first = first or (epoch, t)
                counts[-1] += 1
                if skips:
                    continue
                return variables, first, counts
            updates, state = optimizer.update(out.grads, state, variables.params)
            params = optax.apply_updates(variables.params, updates)
            variables = fnn.Variables(params, out.state)
    return variables, first, counts


def assert_close(a, b):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, atol=1e-5), a, b)


def test_skip_leaves_out_the_bad_steps_and_counts_them():
    data = one_bad(7)
    result = fit("skip", data)
    variables, first, counts = by_hand(data, EPOCHS, skips=True)
    assert result.stopped == "epochs"
    assert_close(result.variables, variables)
    assert result.history["skipped"].tolist() == counts == [1] * EPOCHS
    assert result.nonfinite[:2] == first
    assert np.isfinite(result.history["train_loss"]).all()


def test_stop_keeps_the_variables_before_the_bad_step():
    data = one_bad(7)
    result = fit("stop", data)
    variables, first, _ = by_hand(data, EPOCHS, skips=False)
    assert (result.stopped, result.epochs) == ("diverged", 1)
    assert result.nonfinite[:2] == first
    assert result.nonfinite.where == "the output of 0/Lambda"
    assert_close(result.last_variables, variables)


def test_raise_names_epoch_step_and_layer():
    _, (epoch, step), _ = by_hand(one_bad(7), EPOCHS, skips=False)
    message = rf"epoch {epoch}, step {step}: the output of 0/Lambda is not finite"
    with pytest.raises(FloatingPointError, match=message):
        fit("raise", one_bad(7))


def test_the_last_smaller_step_counts_too():
    """The last example of the first epoch is in its step of 50 mod 12 = 2 examples."""
    train_key = jax.random.split(jax.random.key(1))[1]
    _, rest, _ = epoch_order(train_key, 1, 50, BATCH)
    result = fit("stop", one_bad(int(rest[0])))
    assert result.nonfinite[:2] == (1, 4)
    assert result.nonfinite.where == "the output of 0/Lambda"


@pytest.mark.parametrize("policy", ["raise", "stop", "skip"])
def test_where_all_is_finite_no_bit_changes(policy):
    plain, guarded = fit(None, (X, Y)), fit(policy, (X, Y))
    jax.tree.map(np.testing.assert_array_equal, plain.carry, guarded.carry)
    assert guarded.nonfinite is None
    assert guarded.stopped == "epochs"


def test_without_a_policy_a_run_ends_after_the_epoch():
    result = fit(None, one_bad(7))
    assert (result.stopped, result.nonfinite) == ("diverged", None)
    assert not np.isfinite(result.variables.params[1].weight).all()


def test_the_best_variables_survive_a_stop():
    good = dict(validation=(X, Y), early_stopping=fnn.EarlyStopping(patience=9))
    begun = fit(None, (X, Y), epochs=2, **good)
    result = fit("stop", one_bad(3), resume=begun, **good)
    assert result.stopped == "diverged"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.variables))


@pytest.mark.thorough
def test_on_eight_devices_and_from_a_checkpoint(tmp_path):
    if len(jax.devices()) < 8:
        pytest.skip("needs eight devices")
    options = dict(batch_size=16, mesh=jax.make_mesh((8,), ("batch",)))
    whole = fit("skip", one_bad(7), **options)
    fit("skip", one_bad(7), epochs=2, checkpoint_dir=tmp_path, **options)
    again = fit("skip", one_bad(7), checkpoint_dir=tmp_path, resume=True, **options)
    jax.tree.map(
        np.testing.assert_array_equal,
        *(jax.tree.map(np.asarray, r.carry) for r in (whole, again)),
    )
    assert again.history["skipped"].tolist() == whole.history["skipped"].tolist()


@pytest.mark.parametrize("policy", ["stop", None])
def test_a_stopped_run_does_not_go_on_under_the_same_policy(tmp_path, policy):
    data = one_bad(7)
    ended = fit(policy, data, checkpoint_dir=tmp_path)
    again = fit(policy, data, checkpoint_dir=tmp_path, resume=True)
    assert (again.stopped, again.epochs) == (ended.stopped, ended.epochs)
    assert (again.stopped, again.epochs) == ("diverged", 1)
    jax.tree.map(np.testing.assert_array_equal, again.carry, ended.carry)


def test_a_stopped_run_goes_on_as_one_that_skips_and_measures_health(tmp_path):
    fit("stop", one_bad(40), checkpoint_dir=tmp_path)
    options = dict(checkpoint_dir=tmp_path, resume=True)
    again = fit("skip", one_bad(40), epochs=3, health=True, **options)
    assert again.history["skipped"].tolist() == [0, 1, 1]
    deltas = again.health["1/Dense"]["delta"]
    assert np.isnan(deltas).tolist() == [True, False, False]


# ---- The first layer whose numbers are not finite --------------------------------


def overflow(x):
    return x * 1e38 * 10


@fnn.layer
class BadBackward(fnn.Layer):
    """The identity, whose δ is NaN."""

    def forward(self, params, state, x, *, key=None, train=False):
        return fnn.Forward(x, (), ())

    def backward(self, params, saved, dy):
        return fnn.Backward(dy * jnp.nan, ())


FIRST_NONFINITE = {
    "the output of 1/Lambda": fnn.serial(fnn.Dense(3), fnn.Lambda(overflow)),
    "the output of 1/1/Lambda": fnn.serial(
        fnn.Tanh(), fnn.serial(fnn.Dense(2), fnn.Lambda(overflow))
    ),
    "δ at the output of 0/Dense": fnn.serial(fnn.Dense(3), BadBackward(), fnn.Dense(2)),
    "δ at the output of 0/Residual/body/0/Dense": fnn.serial(
        fnn.residual(fnn.serial(fnn.Dense(3), BadBackward())), fnn.Dense(2)
    ),
}


@pytest.mark.parametrize("where", FIRST_NONFINITE)
def test_the_first_nonfinite_array_is_named(where):
    net = FIRST_NONFINITE[where]
    variables = net.init(jax.random.key(0), (3,))
    batch = jnp.ones((4, 3)), jnp.zeros(4, jnp.int32)
    assert fnn.first_nonfinite(net, LOSS, variables, batch) == where


def test_a_number_that_float16_alone_cannot_hold_is_found():
    x = X.at[7].set(300.0)
    net = fnn.serial(fnn.Lambda(jnp.square), fnn.Dense(4), fnn.Tanh(), fnn.Dense(2))
    wide = fit("stop", (x, Y), net, epochs=1)
    assert wide.nonfinite is None
    half = fit("stop", (x, Y), net, epochs=1, precision="float16")
    assert half.nonfinite.where == "the output of 0/Lambda"


def test_inputs_parameters_and_nothing():
    net = fnn.serial(fnn.Dense(2))
    variables = net.init(jax.random.key(0), (3,))
    batch = jnp.ones((4, 3)), jnp.zeros(4, jnp.int32)
    assert fnn.first_nonfinite(net, LOSS, variables, batch) is None
    bad = batch[0].at[0, 0].set(jnp.inf), batch[1]
    assert fnn.first_nonfinite(net, LOSS, variables, bad) == "the minibatch's x"
    broken = jax.tree.map(lambda a: a * jnp.nan, variables)
    assert fnn.first_nonfinite(net, LOSS, broken, batch) == "the parameters"


def test_an_unknown_policy():
    with pytest.raises(ValueError, match="'raise', 'stop', 'skip' or None"):
        fit("ignore", (X, Y))
