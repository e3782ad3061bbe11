"""Optimizers whose parameters in training are not those to evaluate, or need more."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import optimizers
from fnn.optimizers import eval_params
from fnn.training.compiled.descent import OptaxOptimizer, as_optimizer

contrib = optax.contrib
averages = contrib.schedule_free_eval_params

X = jax.random.normal(jax.random.key(0), (12, 3))
Y = (X[:, 0] > 0).astype(jnp.int32)
NET = fnn.serial(fnn.Dense(3), fnn.Relu(), fnn.Dense(2))
LOSS = fnn.losses.SoftmaxCrossEntropy()
DATA = dict(train=(X, Y), validation=(X[:5], Y[:5]), key=jax.random.key(1))


def fit(optimizer, **options):
    with jax.numpy_dtype_promotion("standard"):
        return fnn.fit(
            *(NET, LOSS, optimizer), **DATA | dict(epochs=2, batch_size=4) | options
        )


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-5, 1e-6), a, b)


# ---- Schedule-free -------------------------------------------------------------------

WEIGHTS = {"w": True, "b": False}


def free(rate=0.5):
    return contrib.schedule_free_sgd(rate)


def masked_average(state, params):
    masked = jax.tree.map(
        lambda p, chosen: p if chosen else optax.MaskedNode(), params, WEIGHTS
    )
    return params | {"w": averages(state.inner_state, masked)["w"]}


def both_averages(state, params):
    first, second = (state.inner_states[name].inner_state for name in "wb")
    return {
        "w": averages(first, {"w": params["w"], "b": optax.MaskedNode()})["w"],
        "b": averages(second, {"w": optax.MaskedNode(), "b": params["b"]})["b"],
    }


#: An optimizer, and the average of all points by optax's own function.
FREE = {
    "sgd": (free(), averages),
    "adamw": (contrib.schedule_free_adamw(0.5), averages),
    "ours inside": (contrib.schedule_free(optimizers.adam(0.5, b1=0.0), 0.5), averages),
    "another b1": (contrib.schedule_free_sgd(0.5, b1=0.7), averages),
    "z in bfloat16": (contrib.schedule_free_sgd(0.5, state_dtype="bfloat16"), averages),
    "in a chain": (
        optax.chain(optax.clip(0.5), free()),
        lambda state, p: averages(state[1], p),
    ),
    "first of a chain": (
        optax.chain(free(), optax.scale(0.5)),
        lambda state, p: averages(state[0], p),
    ),
    "in a chain of a chain": (
        optax.chain(optax.chain(optax.clip(0.5), free()), optax.scale(0.5)),
        lambda state, p: averages(state[0][1], p),
    ),
    "by name": (
        optax.named_chain(("clip", optax.clip(0.5)), ("free", free())),
        lambda state, p: averages(state["free"], p),
    ),
    "injected": (
        optax.inject_hyperparams(contrib.schedule_free_sgd)(0.5),
        lambda state, p: averages(state.inner_state, p),
    ),
    "accumulated": (
        optax.MultiSteps(free(), 2),
        lambda state, p: averages(state.inner_opt_state, p),
    ),
    "finite": (
        optax.apply_if_finite(free(), 3),
        lambda state, p: averages(state.inner_state, p),
    ),
    "scaled loss": (
        optimizers.loss_scaled(optax.chain(optax.clip(0.5), free())),
        lambda state, p: averages(state.inner[1], p),
    ),
    "of some weights": (optax.masked(free(), WEIGHTS), masked_average),
    "two, of different weights": (
        optax.multi_transform({"w": free(), "b": free(0.1)}, {"w": "w", "b": "b"}),
        both_averages,
    ),
}


@pytest.mark.parametrize(("optimizer", "expected"), FREE.values(), ids=FREE)
def test_the_average_is_found_wherever_it_is(optimizer, expected):
    with jax.numpy_dtype_promotion("standard"), jax.disable_jit():
        params = {"w": jnp.array([1.0, -2.0]), "b": jnp.array([3.0, 1.0])}
        state = optimizer.init(params)
        for t in range(4):
            grads = jax.tree.map(lambda p: p - 0.3 * t, params)  # noqa: B023
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        wanted = expected(state, params)
        got = eval_params(state, params)
        found = getattr(optimizer, "eval_params", eval_params)(state, params)
    tolerance = 1e-2 if "bfloat16" in str(jax.tree.leaves(state)) else 1e-5
    for a, b in ((got, wanted), (found, wanted)):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, tolerance), a, b)
    assert got["w"].dtype == params["w"].dtype
    assert np.abs(got["w"] - params["w"]).max() > 1e-2


REFUSED = {
    "a look-ahead inside": contrib.schedule_free(optimizers.nesterov(0.1), 0.1),
    "a look-ahead after it": optax.chain(free(), optimizers.nesterov(0.1)),
    "one inside another": contrib.schedule_free(free(), 0.1),
    "one after another": optax.chain(free(), free()),
}


@pytest.mark.parametrize("optimizer", REFUSED.values(), ids=REFUSED)
def test_two_averages_of_the_same_parameters_are_refused(optimizer):
    with pytest.raises(ValueError, match="schedule-free optimizer"):
        fit(optimizer, epochs=0)


@pytest.mark.parametrize(
    "name",
    [
        "in a chain",
        pytest.param("sgd", marks=pytest.mark.thorough),
        pytest.param("accumulated", marks=pytest.mark.thorough),
    ],
)
def test_fit_validates_and_returns_the_average(name):
    optimizer, expected = FREE[name]
    result = fit(optimizer, early_stopping=fnn.EarlyStopping(5))
    params = result.carry.variables.params
    wanted = expected(result.optimizer_state, params)
    close(result.last_variables.params, wanted)
    assert np.abs(wanted[0].weight - params[0].weight).max() > 1e-3
    loss = fnn.evaluate(NET, LOSS, result.last_variables, (X[:5], Y[:5]))["loss"]
    stored = fnn.evaluate(NET, LOSS, result.carry.variables, (X[:5], Y[:5]))["loss"]
    last = result.history["validation_loss"][-1]
    assert last == pytest.approx(loss, rel=1e-5) and abs(last - stored) > 5e-5
    best = fnn.evaluate(NET, LOSS, result.variables, (X[:5], Y[:5]))["loss"]
    assert min(result.history["validation_loss"]) == pytest.approx(best, rel=1e-5)


@pytest.mark.thorough
def test_a_sweep_returns_the_average_too():
    given = dict(train=(X, Y), validation=(X[:5], Y[:5]), epochs=2, batch_size=4)
    with jax.numpy_dtype_promotion("standard"):
        swept = fnn.sweep(
            lambda rate: (NET, LOSS, contrib.schedule_free_sgd(rate)),
            {"rate": [0.5]},
            keys=DATA["key"][None],
            **given,
        )
    found = jax.tree.map(lambda leaf: leaf[0, 0], swept.variables)
    close(found, fit(free()).variables)


# ---- Others ----------------------------------------------------------------------


class Doubles:
    """An optimizer of one's own, evaluated at twice its parameters."""

    def init(self, params):
        return ()

    def update(self, grads, state, params=None, *, value, **extra):
        return jax.tree.map(lambda g: -0.1 * g * value, grads), state

    def eval_params(self, state, params):
        return jax.tree.map(lambda p: 2 * p, params)


def test_an_optimizer_of_ones_own_says_where_it_is_evaluated():
    result = fit(Doubles())
    twice = jax.tree.map(lambda p: 2 * p, result.carry.variables.params)
    close(result.variables.params, twice)


def plateau():
    return optax.chain(optax.sgd(0.1), contrib.reduce_on_plateau(patience=1))


thorough = pytest.mark.thorough
HALF = dict(precision="float16", on_nonfinite="skip")
SEARCH = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(3))
WANT_LOSS = [
    pytest.param(optimizers.loss_scaled(plateau()), HALF, id="scaled loss"),
    pytest.param(optax.MultiSteps(plateau(), 2), {}, id="accumulated", marks=thorough),
    pytest.param(SEARCH, {}, id="line search", marks=thorough),
    pytest.param(
        optax.masked(contrib.momo(0.1), True), {}, id="masked", marks=thorough
    ),
]


@pytest.mark.parametrize(("optimizer", "options"), WANT_LOSS)
def test_the_loss_reaches_those_that_want_it(optimizer, options):
    result = fit(optimizer, epochs=1, health=True, **options)
    assert (result.health["0/Dense"]["updates"] > 0).all()
    assert np.isfinite(result.history["train_loss"]).all()


def test_a_lookahead_inside_a_scaled_chain_is_evaluated():
    chain = optax.chain(optax.clip(1.0), optimizers.nesterov(0.1))
    scaled = as_optimizer(optimizers.loss_scaled(chain))
    assert isinstance(scaled, OptaxOptimizer)
    params = {"w": X}
    updates, state = scaled.update(params, scaled.init(params), params)
    moved = optax.apply_updates(params, updates)
    close(scaled.eval_params(state, moved), {"w": X - 0.1 * jnp.clip(X, -1, 1)})


UNSUPPORTED = {
    "sam": contrib.sam(optax.sgd(0.1), optax.sgd(0.1)),
    "lookahead": optax.lookahead(optax.sgd(0.1), 5, 0.5),
    "sophia": contrib.sophia(0.1),
    "differentially_private": optax.chain(
        contrib.differentially_private_aggregate(1.0, 1.0, key=0), optax.sgd(0.1)
    ),
}


@pytest.mark.parametrize("wrap", [lambda o: o, lambda o: optax.chain(o)])
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_those_that_need_another_loop_are_refused_by_name(name, wrap):
    with pytest.raises(ValueError, match=rf"optax\.(contrib\.|){name}|or {name}"):
        fit(wrap(UNSUPPORTED[name]), epochs=0)
