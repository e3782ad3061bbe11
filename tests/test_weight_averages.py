"""Averages of the weights: seen by validation, and training goes on as without them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import optimizers
from fnn.optimizers import ema, eval_params, swa

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
NET = fnn.serial(fnn.Dense(3, bias=False), fnn.BatchNorm(), fnn.Tanh(), fnn.Dense(2))
LOSS = fnn.losses.SoftmaxCrossEntropy()
DATA = dict(train=(X, Y), validation=(X[:5], Y[:5]), key=jax.random.key(1))


def fit(optimizer, **options):
    return fnn.fit(
        *(NET, LOSS, optimizer), **DATA | dict(epochs=3, batch_size=4) | options
    )


def exponential(points, decay=0.8):
    weights = decay ** np.arange(len(points))[::-1]
    return np.average(points, axis=0, weights=weights)


def from_the_third(points):
    return points[-1] if len(points) < 3 else np.mean(points[2::2], axis=0)


AVERAGES = {
    "ema": (functools.partial(ema, decay=0.8), exponential),
    "swa": (functools.partial(swa, start=3, every=2), from_the_third),
}
INSIDE = {
    "adam": lambda: optimizers.adam(0.1),
    "look-ahead": lambda: optimizers.nesterov(0.1),
    "optax": lambda: optax.adam(0.1),
    "a chain": lambda: optax.chain(optax.clip(0.5), optimizers.sgd(0.1)),
    "schedule-free": lambda: optax.contrib.schedule_free_sgd(0.1),
}


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("average", AVERAGES)
def test_the_average_is_that_of_all_points(average, inside):
    wrap, expected = AVERAGES[average]
    alone, averaged = INSIDE[inside](), wrap(INSIDE[inside]())
    params = theirs = {"w": jnp.asarray([1.0, -2.0])}
    state, other = averaged.init(params), alone.init(params)
    np.testing.assert_array_equal(eval_params(state, params)["w"], params["w"])
    points = []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(8):
            grads = {"w": jnp.sin(params["w"])}
            updates, state = averaged.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            updates, other = alone.update({"w": jnp.sin(theirs["w"])}, other, theirs)
            theirs = optax.apply_updates(theirs, updates)
            # It trains as it would alone.
            np.testing.assert_array_equal(params["w"], theirs["w"])
            points.append(np.asarray(eval_params(other, theirs)["w"]))
            found = averaged.eval_params(state, params)["w"]
            np.testing.assert_allclose(found, expected(points), rtol=1e-5)
            np.testing.assert_allclose(eval_params(state, params)["w"], found)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("average", AVERAGES)
def test_fit_validates_and_returns_the_average(average):
    wrap, expected = AVERAGES[average]
    points, seen = [], []

    def on_epoch(record, variables):
        seen.append((record, variables))

    def collect(record, variables, state):
        points.append(jax.device_get(variables.params))

    plain = fit(optimizers.adam(0.1), batch_size=12, on_epoch=collect)
    result = fit(wrap(optimizers.adam(0.1)), batch_size=12, on_epoch=on_epoch)
    for mine, theirs in zip(
        *map(jax.tree.leaves, (result.carry.variables, plain.carry.variables)),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, theirs)
    for record, variables in seen:
        epoch = record["epoch"]
        mean = jax.tree.map(lambda *a, n=epoch: expected(np.array(a[:n])), *points)
        close(variables.params, mean)
        loss = fnn.evaluate(NET, LOSS, variables, DATA["validation"])["loss"]
        np.testing.assert_allclose(record["validation_loss"], loss, rtol=1e-5)
    close(result.variables.params, seen[-1][1].params)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-5, 1e-6), a, b)


def test_it_resumes_is_swept_and_lies_on_a_mesh(tmp_path):
    given = dict(epochs=4)
    whole = fit(ema(optimizers.adam(0.1), 0.9), **given)
    fit(ema(optimizers.adam(0.1), 0.9), epochs=2, checkpoint_dir=tmp_path)
    resumed = fit(
        ema(optimizers.adam(0.1), 0.9), **given, checkpoint_dir=tmp_path, resume=True
    )
    mesh = fit(
        ema(optimizers.adam(0.1), 0.9), **given, mesh=jax.make_mesh((2,), ("batch",))
    )
    jax.tree.map(
        np.testing.assert_array_equal, whole.variables.params, resumed.variables.params
    )
    close(whole.variables.params, mesh.variables.params)

    def build(decay):
        return (NET, LOSS, ema(optimizers.adam(0.1), decay))

    data = {name: DATA[name] for name in ("train", "validation")}
    grid = {"decay": [0.0, 0.9]}
    swept = fnn.sweep(
        build, grid, **data, keys=DATA["key"][None], epochs=4, batch_size=4
    )
    of_second = swept.history["validation_loss"][1, 0]
    np.testing.assert_allclose(of_second, whole.history["validation_loss"], rtol=1e-3)
    assert abs(swept.history["validation_loss"][0, 0, -1] / of_second[-1] - 1) > 0.01


def test_parts_of_the_parameters_have_averages_of_their_own():
    labels = {"w": "first", "b": "second"}
    both = optax.multi_transform(
        {"first": ema(optimizers.sgd(0.1), 0.5), "second": optimizers.sgd(0.2)}, labels
    )
    params = {"w": jnp.ones(2), "b": jnp.ones(1)}
    state = both.init(params)
    for _ in range(2):
        updates, state = both.update(params, state, params)
        params = optax.apply_updates(params, updates)
    found = eval_params(state, params)
    np.testing.assert_allclose(found["b"], params["b"])
    np.testing.assert_allclose(found["w"], exponential([0.9, 0.81], 0.5), rtol=1e-6)


def test_a_frozen_layer_stays_where_it_is_in_the_average():
    """The optimizer inside would decay it."""
    net = fnn.serial(fnn.frozen(fnn.Dense(3)), fnn.Dense(2))
    optimizer = ema(optimizers.adamw(0.1, weight_decay=0.5), 0.5)
    start = net.init(jax.random.key(0), (3,))
    result = fnn.fit(
        net, LOSS, optimizer, **DATA, epochs=2, batch_size=4, variables=start
    )
    close(result.variables.params[0], start.params[0])


WRONG = {
    "no optimizer": (lambda: ema(0.9), "ema: optimizer must be an optimizer"),
    "a class": (lambda: swa(optimizers.Adam, 1), "swa: optimizer must be an optimizer"),
    "decay of 1": (lambda: ema(optimizers.sgd(1.0), 1.0), "ema.decay must be in"),
    "no decay": (lambda: ema(optimizers.sgd(1.0), None), "ema: decay must be a number"),
    "a schedule": (
        lambda: ema(optimizers.sgd(1.0), optax.constant_schedule(0.9)),
        "ema.decay must be a constant number",
    ),
    "an epoch's share": (
        lambda: swa(optimizers.sgd(1.0), 0.75),
        "swa: start counts steps (minibatches) and must be ≥ 1, got 0.75",
    ),
    "every 0": (
        lambda: swa(optimizers.sgd(1.0), 1, every=0), "swa: every counts steps",
    ),
    "beside look-ahead": (
        lambda: fit(optax.chain(optimizers.nesterov(0.1), ema(optimizers.sgd(0.1)))),
        "must be around the optimizer that is evaluated elsewhere",
    ),
    "no parameters": (
        lambda: ema(optimizers.sgd(0.1)).update(
            jnp.ones(1), ema(optimizers.sgd(0.1)).init(jnp.ones(1))
        ),
        "an average of weights needs them",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_say_what_was_expected(name):
    call, text = WRONG[name]
    with pytest.raises((TypeError, ValueError)) as error:
        call()
    assert text in str(error.value)
