"""Wrong hyperparameters, by introspection: every argument of every factory.

Each gets a plain error of fnn's own, at once, which names the argument.
"""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import optimizers

#: Functions of the package that build no optimizer.
OTHERS = {"eval_params", "last_learning_rate", "loss_scale", "projection_max_norm"}
FACTORIES = [
    name for name in optimizers.__all__ if name.islower() and name not in OTHERS
]

#: What an argument may be, if not a number.
FLAGS = {
    *("eps_in_sqrt", "centered", "bias_correction", "learning_rate_in_trace"),
    *("bias_correction_mu", "bias_correction_nu"),
}
KIND = {
    **dict.fromkeys(FLAGS, "flag"),
    **dict.fromkeys(["mask", "weight_decay_mask"], "mask"),
    **dict.fromkeys(["mu_dtype", "accumulator_dtype"], "dtype"),
    **dict.fromkeys(["learning_rate", "weight_decay"], "schedule"),
    "optimizer": "optimizer",
    **dict.fromkeys(["period", "start", "every"], "count"),
}


def kind(factory, name):
    if name == "nesterov":
        adam = factory.startswith(("adam", "nadam"))
        return "flag" if adam else "form of momentum"
    return KIND.get(name, "number")


WRONG = {
    "None": None,
    "a string": "fast",
    "a list": [0.1],
    "a dictionary": {"x": 0.1},
    "an array": np.array([0.1, 0.2]),
    "JAX's array": jnp.array([[0.1, 0.2]]),
    "an array of one bool": jnp.array(True),
    "a bool": True,
    "NaN": float("nan"),
    "NaN of JAX": jnp.array(jnp.nan),
    "infinity": float("inf"),
    "a negative number": -0.5,
    "complex": 0.1 + 0.1j,
    "complex of NumPy": np.complex64(0.1 + 0.1j),
    "complex of JAX": jnp.array(0.1 + 0.1j),
    "a function": lambda count: 0.1,
    "a class": float,
    "a key": jax.random.key(0),
    "an object": object(),
}
#: What of it is right for which kind.
RIGHT = {
    "flag": {"a bool"},
    "mask": {"a bool", "an array of one bool", "a function", "None"},
    "dtype": {"a class", "None"},
    "schedule": {"a function"},
    "form of momentum": {"a bool"},
}


def arguments():
    for factory in FACTORIES:
        for name, parameter in inspect.signature(
            getattr(optimizers, factory)
        ).parameters.items():
            for case in WRONG:
                by_default = case == "None" and parameter.default is None
                if not by_default and case not in RIGHT.get(kind(factory, name), ()):
                    yield factory, name, case


def build(factory, **given):
    """Call a factory with this argument, and with the least of all others."""
    parameters = inspect.signature(getattr(optimizers, factory)).parameters
    least = {"learning_rate": 0.1, "optimizer": optimizers.sgd(0.1), "c": 1.0}
    least["start"] = 1
    needed = {
        name: least[name]
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
    }
    return getattr(optimizers, factory)(**needed | given)


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_wrong_argument_is_refused_with_its_name(factory):
    cases = [(name, case) for f, name, case in arguments() if f == factory]
    assert len(cases) >= len(WRONG) - 1
    for name, case in cases:
        with pytest.raises((TypeError, ValueError)) as raised:
            build(factory, **{name: WRONG[case]})
        error = str(raised.value)
        # Its own text, from its own code: not one of JAX's or NumPy's.
        assert re.match(rf"\w+(\.|: ){name}\b.* must ", error), (name, case, error)
        assert re.search("got|needs", error), (name, case, error)
        assert "/fnn/" in str(raised.traceback[-1].path), (name, case)


@pytest.mark.parametrize("factory", FACTORIES)
def test_an_argument_of_the_right_kind_is_taken(factory):
    for name in inspect.signature(getattr(optimizers, factory)).parameters:
        for case in RIGHT.get(kind(factory, name), ()):
            more = {}
            if case == "a bool" and name == "nesterov":
                more = {"momentum": 0.9} if factory in ("sgd", "rmsprop") else {}
            build(factory, **{name: WRONG[case]}, **more)
        if kind(factory, name) in ("number", "schedule"):
            for number in (0.5, np.float32(0.5), jnp.array(0.5), jnp.array(0.5 + 0j)):
                if name != "factor":  # which is > 1
                    optimizer = build(factory, **{name: number})
                    assert "0.5" in repr(optimizer)
    jax.eval_shape(lambda rate: build(factory), 0.1)


def test_a_number_of_many_is_refused_in_a_trace_too():
    with pytest.raises(TypeError, match=r"must be one number, got an array of shape"):
        jax.eval_shape(lambda rates: optimizers.adam(rates), jnp.ones(3))
    rates = jnp.array([0.1, 0.2])
    many = jax.vmap(lambda rate: optimizers.adam(rate))(rates)
    assert many.learning_rate.shape == (2,)


SCHEDULES = {
    "None": lambda count: None,
    "text": lambda count: "0.1",
    "several": lambda count: jnp.ones(2),
    "complex": lambda count: jnp.array(1j),
    "an optimizer": optax.scale,
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("argument", ["learning_rate", "weight_decay"])
def test_a_schedule_returns_one_number(argument, schedule):
    optimizer = optimizers.adamw(**{"learning_rate": 0.1, argument: schedule})
    x = jnp.ones(2)
    with pytest.raises(TypeError, match="a schedule must return one number"):
        optimizer.update(x, optimizer.init(x), x)


MASKS = {
    "a number": (lambda: {"w": 1.0, "b": True}, "AdamW.mask must be True or False"),
    "text": (lambda: "w", "AdamW.mask must be True or False .* got 'w'"),
    "several": (lambda: jnp.array([True, False]), "AdamW.mask must be True or False"),
    "of a function": (lambda: lambda p: {"w": 1, "b": True}, "a leaf of the mask must"),
    "another tree": (lambda: {"w": True}, "the mask must be a tree of bools like"),
    "too deep": (lambda: {"w": [True], "b": True}, "the mask must be a tree of bools"),
}


@pytest.mark.parametrize(("make", "text"), MASKS.values(), ids=MASKS)
def test_a_mask_says_of_every_weight_whether_it_decays(make, text):
    params = {"w": jnp.ones(2), "b": jnp.ones(1)}
    with pytest.raises((TypeError, ValueError), match=text):
        optimizer = optimizers.adamw(0.1, mask=make())
        optimizer.update(params, optimizer.init(params), params)


def test_a_mask_is_a_prefix_and_may_hold_numpys_bools():
    params = {"layer": {"w": jnp.ones(2), "b": jnp.ones(1)}, "head": jnp.ones(1)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    moved = []
    for decays in (np.bool_(True), np.bool_(False), jnp.array(True)):
        mask = {"layer": decays, "head": True}
        optimizer = optimizers.adamw(0.1, weight_decay=0.5, mask=mask)
        assert optimizer == optimizers.adamw(0.1, weight_decay=0.5, mask=mask)
        updates, _ = optimizer.update(zeros, optimizer.init(params), params)
        moved.append([bool((u != 0).all()) for u in jax.tree.leaves(updates)])
    assert moved == [[True] * 3, [True, False, False], [True] * 3]


@pytest.mark.parametrize(
    "schedule",
    [
        optax.cosine_decay_schedule(0.1, 10),
        optax.exponential_decay(0.1, 10, 0.5),
        optax.polynomial_schedule(0.1, 0.01, 2, 10),
        optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 10),
        optax.piecewise_constant_schedule(0.1, {5: 0.5}),
    ],
)
def test_schedules_of_optax_work_under_strict_dtypes(schedule):
    """They divide the step, an integer, by floating-point numbers."""
    optimizer, params = optimizers.sgd(schedule), jnp.ones(2)
    state = optimizer.init(params)
    for step in range(2):
        updates, state = optimizer.update(params, state, params)
        with jax.numpy_dtype_promotion("standard"):
            expected = schedule(jnp.int32(step))
        np.testing.assert_allclose(-updates, expected * np.ones(2), rtol=1e-6)
        rate = optimizers.last_learning_rate(optimizer, state)
        np.testing.assert_allclose(rate, expected, rtol=1e-6)
