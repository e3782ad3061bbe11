"""The optimizers in the hands of optax's users: what optax's own tests ask of optax's.

What is different on purpose stands in fnn/optimizers/README.md.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from fnn import optimizers
from fnn.optimizers import OptimizerState, eval_params, loss_scaled, max_norm

tree = optax.tree_utils


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Let dtypes mix, as in a user's program: optax mixes them freely.

    One operation at a time, since each is compiled once for all of these tests.
    """
    with jax.numpy_dtype_promotion("standard"), jax.disable_jit():
        yield


SHARED = "sgd adam adamw nadam nadamw adagrad adadelta rmsprop amsgrad".split()

#: Every factory and wrapper, with each field of a state that there is.
OURS = {
    **{name: partial(getattr(optimizers, name), 0.1) for name in SHARED},
    "sgd, momentum": lambda: optimizers.sgd(0.1, momentum=0.9),
    "sgd, Nesterov": lambda: optimizers.sgd(0.1, momentum=0.9, nesterov=True),
    "momentum": lambda: optimizers.momentum(0.1),
    "nesterov": lambda: optimizers.nesterov(0.1),
    "adadelta, decay": lambda: optimizers.adadelta(0.1, weight_decay=0.1),
    "rmsprop, centered": lambda: optimizers.rmsprop(
        0.1, centered=True, initial_scale=0.5, bias_correction=True
    ),
    "rmsprop, momentum": lambda: optimizers.rmsprop(0.1, momentum=0.9),
    "rmsprop, look-ahead": lambda: optimizers.rmsprop(
        0.1, momentum=0.9, nesterov="lookahead"
    ),
    "loss_scaled": lambda: loss_scaled(optimizers.adam(0.1)),
    "max_norm": lambda: optax.chain(optimizers.adam(0.1), max_norm(1.0)),
}
ours = pytest.mark.parametrize("build", OURS.values(), ids=OURS)


def ours_but(*names):
    """Return a mark for all of them without these."""
    rows = {name: build for name, build in OURS.items() if name not in names}
    return pytest.mark.parametrize("build", rows.values(), ids=rows)


# All tests have these two shapes, so that operations are compiled once for all.
W = jnp.array([[1.0, -2.0], [0.5, 3.0], [-0.25, 2.0], [1.5, 0.75]])
B = jnp.array([0.1, -0.2])
PARAMS, GRADS = {"w": W, "b": B}, {"w": W[::-1] * 0.3, "b": B + 0.1}


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.structure(a) == jax.tree.structure(b)


def close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), a, b)


def steps(optimizer, params=PARAMS, grads=GRADS, count=3, **extra):
    """Return the parameters and the state after a few steps of changing gradients."""
    state = optimizer.init(params)
    for t in range(count):
        g = jax.tree.map(lambda g: g * (1 - 0.4 * t), grads)  # noqa: B023
        updates, state = optimizer.update(g, state, params, **extra)
        params = optax.apply_updates(params, updates)
    return params, state


# ---- init: on arrays, and on their shapes ----------------------------------------


def shapes(split):
    """Return the shapes of the parameters, perhaps split over two devices."""
    devices = np.array(jax.devices()[:2])
    on = NamedSharding(jax.sharding.Mesh(devices, "x"), PartitionSpec("x"))
    like = partial(jax.ShapeDtypeStruct, sharding=on if split else None)
    return jax.tree.map(lambda p: like(p.shape, p.dtype), PARAMS)


@pytest.mark.parametrize("split", [False, True])
@ours
def test_init_takes_the_shapes_of_arrays(build, split):
    abstract = shapes(split)
    state, expected = build().init(abstract), build().init(PARAMS)
    equal(state, expected)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    for leaf in jax.tree.leaves(state):
        if split and leaf.ndim:
            assert leaf.sharding.spec == PartitionSpec("x")
    traced = jax.eval_shape(build().init, abstract)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), traced) == jax.tree.map(
        lambda a: (a.shape, a.dtype), expected
    )


@ours_but("max_norm")  # a norm over an axis that is split is another matter
def test_a_state_stays_split_as_it_is(build):
    devices = np.array(jax.devices()[:2])
    explicit = (jax.sharding.AxisType.Explicit,)
    mesh = jax.sharding.Mesh(devices, "x", axis_types=explicit)
    with jax.set_mesh(mesh):
        on = NamedSharding(mesh, PartitionSpec(None, "x"))
        params = {"w": jnp.zeros((3, 4), jnp.float16, out_sharding=on)}
        state = build().init(params)
        after = jax.eval_shape(build().update, params, state, params)[1]
        for old, new in zip(*map(jax.tree.leaves, (state, after)), strict=True):
            old = jax.typeof(old)
            assert (old.shape, old.dtype) == (new.shape, new.dtype)
            assert not old.shape or old.sharding == new.sharding


@pytest.mark.parametrize("x64", [False, True])
@ours
def test_dtypes_and_shapes_stay(build, x64):
    dtypes = "float16 bfloat16 float32 complex64" + " float64 complex128" * x64
    with jax.enable_x64(x64):
        params = {d: jax.ShapeDtypeStruct((3, 2), d) for d in dtypes.split()}
        state = jax.eval_shape(build().init, params)
        updates, after = jax.eval_shape(build().update, params, state, params)
    assert after == state
    assert updates == params


@ours_but("max_norm")  # which wants arrays
def test_a_python_number_is_a_float_however_it_is_written(build):
    ints, floats = {"a": 1, "b": 2}, {"a": 1.0, "b": 2.0}
    got, expected = (
        build().update(numbers, build().init(numbers), numbers)
        for numbers in (ints, floats)
    )
    equal(got, expected)


# ---- update: more arguments, and a pair of functions -----------------------------


@ours
def test_update_takes_arguments_that_it_does_not_know(build):
    optimizer = build()
    extra = {"value": 1.0, "grad": GRADS, "value_fn": jnp.sum, "your_own": 1}
    got = optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS, **extra)
    equal(got, optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS))


def needs_loss():
    def update(updates, state, params=None, *, loss, **extra):
        return jax.tree.map(lambda u: u * loss, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda link: optax.chain(optimizers.adam(0.1), link),
        lambda link: loss_scaled(optax.chain(optimizers.adam(0.1), link)),
        lambda link: loss_scaled(loss_scaled(optax.chain(optimizers.adam(0.1), link))),
    ],
)
def test_links_that_want_more_arguments_get_them(wrap):
    params, _ = steps(wrap(needs_loss()), loss=0.5)
    close(params, steps(optimizers.adam(0.05))[0])


@ours
def test_it_unpacks_into_two_functions(build):
    init, update = build()
    pair = optax.GradientTransformationExtraArgs(*build())
    expected = build().update(GRADS, build().init(PARAMS), PARAMS)
    equal(update(GRADS, init(PARAMS), PARAMS), expected)
    equal(pair.update(GRADS, pair.init(PARAMS), PARAMS, value=1.0), expected)


# ---- The state, where optax has it ------------------------------------------------

#: Optax's optimizers, the place of the rule's state in theirs, and its fields.
PLACES = {
    "sgd": (dict(momentum=0.9), 0, ["trace"]),
    "adam": ({}, 0, ["count", "mu", "nu"]),
    "adamw": ({}, 0, ["count", "mu", "nu"]),
    "nadamw": ({}, 0, ["count", "mu", "nu"]),
    "amsgrad": ({}, 0, ["count", "mu", "nu", "nu_max"]),
    "adagrad": ({}, 0, ["sum_of_squares"]),
    "rmsprop": (dict(centered=True, momentum=0.9), 0, ["mu", "nu"]),
    "adadelta": ({}, 1, ["e_g", "e_x"]),
}


@pytest.mark.parametrize("name", PLACES)
def test_fields_have_optaxs_names_and_places(name):
    options, place, fields = PLACES[name]
    _, state = steps(getattr(optimizers, name)(0.1, **options))
    _, theirs = steps(getattr(optax, name)(0.1, **options))
    assert isinstance(state, OptimizerState) and len(state) == 2
    for field in fields:
        expected = getattr(theirs[place], field)
        for found in (
            tree.tree_get(state, field),
            getattr(state[0], field),
            getattr(state, field),
        ):
            close(found, expected)
        with_nothing = tree.tree_set(state, **{field: None})
        assert tree.tree_get(with_nothing, field) is None
        assert with_nothing._replace(inner_state=0) == state._replace(inner_state=0)
    assert tree.tree_get(state, "count") == 3 == state.count
    assert tree.tree_get(state, "apple") is None and not hasattr(state, "apple")


def test_a_trace_is_also_a_velocity():
    for build in (OURS["momentum"], OURS["rmsprop, look-ahead"]):
        _, state = steps(build())
        assert tree.tree_get(state, "trace") is state.velocity is state[0].velocity


def test_adams_state_is_that_of_optax_in_all_but_the_class():
    _, state = steps(optimizers.adam(0.1))
    _, theirs = steps(optax.adam(0.1))
    paths = [
        [path for path, _ in jax.tree_util.tree_flatten_with_path(s)[0]]
        for s in (state[0], theirs[0])
    ]
    assert paths[0] == paths[1] and state[1] == theirs[1]
    rule, _ = state
    close(tuple(rule), tuple(theirs[0]))


@ours
def test_tree_map_params_reaches_the_statistics_and_no_number(build):
    optimizer = build()
    _, state = steps(optimizer)
    equal(tree.tree_map_params(optimizer, lambda s: s, state), state)
    names = tree.tree_map_params(
        optimizer,
        lambda s, name: name,
        state,
        {"w": "of w", "b": "of b"},
        transform_non_params=lambda number: None,
    )
    statistics = [s for s in jax.tree.leaves(state) if jnp.ndim(s)]
    assert len(jax.tree.leaves(names)) == len(statistics)
    assert set(jax.tree.leaves(names)) <= {"of w", "of b"}


# ---- Optax's wrappers ---------------------------------------------------------------


def labels(params):
    return {"w": "first", "b": "second"}


WRAPPERS = {
    "inject_hyperparams": lambda make: optax.inject_hyperparams(make)(0.1),
    "inject a schedule": lambda make: optax.inject_hyperparams(make)(
        optax.linear_schedule(0.1, 0.05, 2)
    ),
    "schedule": lambda make: make(optax.schedules.cosine_decay_schedule(0.1, 4)),
    "masked": lambda make: optax.masked(make(0.1), {"w": True, "b": False}),
    "multi_transform": lambda make: optax.multi_transform(
        {"first": make(0.1), "second": make(0.3)}, labels
    ),
    "chain": lambda make: optax.chain(
        optax.clip(0.2), optax.add_decayed_weights(0.1), make(0.1), optax.scale(0.5)
    ),
    "named_chain": lambda make: optax.named_chain(
        ("clip", optax.clip_by_global_norm(0.5)), ("rule", make(0.1))
    ),
    "MultiSteps": lambda make: optax.MultiSteps(make(0.1), every_k_schedule=2),
    "apply_if_finite": lambda make: optax.apply_if_finite(make(0.1), 3),
    "flatten": lambda make: optax.flatten(make(0.1)),
    "freeze": lambda make: optax.transforms.selective_transform(
        make(0.1), freeze_mask={"w": False, "b": True}
    ),
    "conditionally": lambda make: optax.conditionally_transform(
        make(0.1), lambda step, **extra: step < 2
    ),
    "schedule_free": lambda make: optax.contrib.schedule_free(make(0.1), 0.1),
    "mechanize": lambda make: optax.contrib.mechanize(make(0.1)),
    "plateau": lambda make: optax.chain(
        make(0.1), optax.contrib.reduce_on_plateau(patience=1)
    ),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "name", ["adam", pytest.param("sgd", marks=pytest.mark.thorough)]
)
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_do_to_ours_what_they_do_to_optaxs(wrap, name):
    got, state = steps(wrap(getattr(optimizers, name)), value=1.0)
    expected, _ = steps(wrap(getattr(optax, name)), value=1.0)
    close(got, expected)
    if not isinstance(state, optax.contrib.ScheduleFreeState):
        equal(eval_params(state, got), got)


def test_an_injected_number_can_be_set():
    optimizer = optax.inject_hyperparams(optimizers.adamw)(0.1, weight_decay=0.5)
    state = tree.tree_set(optimizer.init(PARAMS), learning_rate=0.0)
    updates, state = optimizer.update(GRADS, state, PARAMS)
    equal(updates, jax.tree.map(jnp.zeros_like, PARAMS))
    assert tree.tree_get(state, "mu")["w"].shape == W.shape
    assert state.inner_state[0].count == 1


# ---- AdaDelta's decay -----------------------------------------------------------


def decaying(count):
    return 0.3 / (1 + count)


@pytest.mark.parametrize(
    "options",
    [
        dict(weight_decay=0.5),
        dict(weight_decay=decaying),
        dict(weight_decay=0.5, weight_decay_mask={"w": True, "b": False}),
        dict(weight_decay=0.5, weight_decay_mask=lambda p: {"w": False, "b": True}),
        dict(weight_decay=0.0, weight_decay_mask={"w": True, "b": False}),
    ],
)
def test_adadelta_decays_as_optaxs_does(options):
    got, _ = steps(optimizers.adadelta(0.1, **options))
    close(got, steps(optax.adadelta(0.1, **options))[0])


def test_without_decay_adadelta_needs_no_parameters():
    optimizer = optimizers.adadelta(0.1)
    optimizer.update(GRADS, optimizer.init(PARAMS))
    optimizer = optimizers.adadelta(0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match="AdaDelta decays the parameters and needs"):
        optimizer.update(GRADS, optimizer.init(PARAMS))
