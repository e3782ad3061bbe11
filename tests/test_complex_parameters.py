"""Complex parameters, dtypes of statistics, and leaves that are no parameters."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_like_optax import (
    OURS,
    W,
    as_users_have_it,
    close,
    equal,
    ours,
    ours_but,
    steps,
)

from fnn import optimizers
from fnn.optimizers import loss_scaled, max_norm

__all__ = ["as_users_have_it"]  # a fixture, used by all tests here

PAIRS = np.random.default_rng(0).normal(size=(2, 2, *W.shape))
Z, G = (jnp.asarray(a + 1j * b, jnp.complex64) for a, b in PAIRS)


def most(table, *always):
    """Return the rows of a table, of which some are run always."""
    return [
        pytest.param(row, id=name, marks=() if name in always else pytest.mark.thorough)
        for name, row in table.items()
    ]


# ---- Complex numbers ---------------------------------------------------------------


@pytest.mark.one_in(2)
@ours
def test_a_rotation_of_the_plane_rotates_the_steps(build):
    """|g|² is the only square that no rotation changes."""
    turn = jnp.exp(jnp.asarray(0.7j, jnp.complex64))
    got, _ = steps(build(), turn * Z, turn * G)
    expected, _ = steps(build(), Z, G)
    close(got, turn * expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - Z).max() > 1e-4


@ours
def test_a_complex_number_without_imaginary_part_is_a_real_one(build):
    got, state = steps(build(), Z.real + 0j, G.real + 0j)
    expected, _ = steps(build(), Z.real, G.real)
    close(got, expected + 0j)
    found = {leaf.dtype.name for leaf in jax.tree.leaves(state) if leaf.ndim}
    assert found <= {"complex64", "float32"}
    for name in ("nu", "nu_max", "sum_of_squares", "e_g", "e_x"):
        statistic = optax.tree_utils.tree_get(state, name)
        assert statistic is None or statistic.dtype == jnp.float32


@ours
def test_extreme_complex_gradients_stay_finite(build):
    real = jnp.array([[0, 1e-45], [1e-30, 1.0], [1e20, 3e38], [0, 3e38]], jnp.float32)
    imag = jnp.array([[0, 0], [-1e-20, -1e-45], [-1e20, 1e20], [-1e20, -3e38]])
    grads = jax.lax.complex(real, imag)
    optimizer = build()
    state = optimizer.init(jnp.zeros_like(grads))
    for _ in range(2):
        updates, state = optimizer.update(grads, state, jnp.zeros_like(grads))
    assert np.isfinite(updates).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert updates[0, 0] == 0
    largest = updates[-1, -1]  # (1 − i) 3e38 points this way, and the step the other
    assert largest.real < 0 < largest.imag
    real, imag = np.abs(updates[2, 1].real), np.abs(updates[2, 1].imag)
    assert imag < 1e-3 * real  # not so if each part were clipped
    bad = grads.at[0, 0].set(complex(0, np.inf))
    updates, _ = optimizer.update(bad, state, jnp.zeros_like(grads))
    assert np.isnan(updates[0, 0]) or isinstance(state, optimizers.LossScaleState)


#: Rates as in optax's own test; those that Rosenbrock's valley needs.
DESCENDS = {
    "sgd": lambda: optimizers.sgd(1e-3, momentum=0.9),
    "adadelta": lambda: optimizers.adadelta(0.1),
    "adagrad": lambda: optimizers.adagrad(1.0),
    "adam": lambda: optimizers.adam(0.1),
    "adamw": lambda: optimizers.adamw(0.1),
    "amsgrad": lambda: optimizers.amsgrad(0.1),
    "nadam": lambda: optimizers.nadam(0.01),
    "nadamw": lambda: optimizers.nadamw(0.01),
    "rmsprop": lambda: optimizers.rmsprop(5e-3),
    "rmsprop, momentum": lambda: optimizers.rmsprop(5e-3, momentum=0.9),
    "nesterov": lambda: optimizers.nesterov(5e-4),
}


def objective(params):
    """Return the sum of a parabola and Rosenbrock's function, real and complex.

    The updates of one leaf do not depend on another: four problems are one program.
    """
    total = 0.0
    for name, a in (("real", 1.0), ("complex", 1.0 + 1.0j)):
        square = lambda z: (z * jnp.conj(z)).real  # noqa: E731
        parabola, (x, y) = params[f"{name} parabola"], params[f"{name} valley"]
        total += square(parabola - jnp.array([1.0, -1.0, 1.0]) * a).sum()
        total += square(a - x) + 100.0 * square(y - x**2)
    return total


@pytest.mark.parametrize("build", most(DESCENDS, "sgd", "adadelta", "adam"))
def test_it_descends_in_real_and_in_complex_numbers(build):
    optimizer, params = build(), {}
    for name, dtype in (("real", jnp.float32), ("complex", jnp.complex64)):
        params[f"{name} parabola"] = jnp.array([-1.0, 10.0, 1.0], dtype)
        params[f"{name} valley"] = jnp.zeros(2, dtype)

    def step(carry, _):
        params, state = carry
        grads = jax.tree.map(jnp.conj, jax.grad(objective)(params))
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def run(params):
        carry = params, optimizer.init(params)
        (params, state), _ = jax.lax.scan(step, carry, length=10_000)
        return optimizers.eval_params(state, params)

    with jax.disable_jit(False):
        found = run(params)
    for name, a in (("real", 1.0), ("complex", 1.0 + 1.0j)):
        close(found[f"{name} parabola"], a * np.array([1, -1, 1]), 3e-2, 3e-2)
        if (type(optimizer), name) != (optimizers.AdaDelta, "complex"):
            # Its steps grow with those before them: the valley is too narrow for it.
            close(found[f"{name} valley"], np.array([a, a**2]), 3e-2, 3e-2)


def test_injected_numbers_take_the_dtype_of_complex_parameters():
    injected = optax.inject_hyperparams(optimizers.adam)(0.1, b1=0.8)
    got, state = steps(injected, Z, G)
    assert state.hyperparams["b1"].dtype == Z.dtype
    close(got, steps(optimizers.adam(0.1, b1=0.8), Z, G)[0])


def test_max_norm_shortens_complex_weights():
    got = optimizers.projection_max_norm(jnp.array([[3j], [4.0 + 0j]]), 1.0)
    close(got, np.array([[0.6j], [0.8]]))
    got = optax.chain(optimizers.sgd(1.0), max_norm(1.0))
    params, _ = steps(got, Z, G, count=1)
    assert (jnp.linalg.norm(params, axis=0) < 1 + 1e-5).all()


# ---- Dtypes of statistics --------------------------------------------------------

KINDS = {
    "sgd": (lambda **d: optimizers.sgd(0.1, 0.9, **d), "accumulator_dtype", "trace"),
    "adam": (partial(optimizers.adam, 0.1), "mu_dtype", "mu"),
    "adamw": (partial(optimizers.adamw, 0.1), "mu_dtype", "mu"),
    "nadamw": (partial(optimizers.nadamw, 0.1), "mu_dtype", "mu"),
    "amsgrad": (partial(optimizers.amsgrad, 0.1), "mu_dtype", "mu"),
}


@pytest.mark.parametrize("kept", ["bfloat16", "float32", "complex64", None])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
@pytest.mark.parametrize("name", most({kind: kind for kind in KINDS}, "sgd", "adam"))
def test_the_dtype_of_a_mean_is_the_one_asked_for(name, dtype, kept):
    build, argument, field = KINDS[name]
    optimizer = build(**{argument: kept and jnp.dtype(kept)})
    assert optimizer == build(**{argument: kept}) and hash(optimizer)
    params = jnp.ones(2, dtype)
    state = optimizer.init(params)
    get = partial(optax.tree_utils.tree_get, key=field)
    # Half precision is kept in float32 where nothing else is said.
    default = "complex64" if dtype == "complex64" else "float32"
    assert get(state).dtype == (kept or default)
    if dtype == "complex64" and kept not in (None, "complex64"):
        with pytest.raises(TypeError, match="complex parameters need a complex dtype"):
            optimizer.update(params, state, params)
        return
    updates, state = optimizer.update(params, state, params)
    assert get(state).dtype == (kept or default) and updates.dtype == dtype
    reference = build().update(params, build().init(params), params)[0]
    close(*(a.astype("complex64") for a in (updates, reference)), rtol=1e-2)


# ---- Leaves that are no parameters -------------------------------------------------


class Model(eqx.Module):
    weight: jax.Array
    inner: dict
    act: object
    count: int
    name: str = eqx.field(static=True)


MODEL = Model(
    W,
    {"b": jnp.array([1.0, 2.0]), "frozen": jnp.array([3.0, 4.0]), "none": None},
    jax.nn.relu,
    7,
    "static",
)


@ours
def test_an_equinox_model_is_trained_where_it_has_arrays(build):
    params = eqx.filter(MODEL, eqx.is_inexact_array)
    grads = jax.tree.map(lambda p: 0.3 * p + 0.1, params)
    plain_grads, plain = (
        {"w": t.weight, "b": t.inner["b"], "f": t.inner["frozen"]}
        for t in (grads, params)
    )
    expected = build().update(plain_grads, build().init(plain), plain)[0]
    for given in (params, MODEL):  # filtered, and whole
        updates, state = build().update(grads, build().init(params), given)
        assert updates.act is updates.count is updates.inner["none"] is None
        got = {"w": updates.weight, "b": updates.inner["b"]}
        close(got | {"f": updates.inner["frozen"]}, expected)
    moved = eqx.apply_updates(MODEL, updates)
    assert moved.act is jax.nn.relu and moved.count == 7
    build().update(grads, state, params)  # and once more, with the new state


@ours
def test_a_leaf_without_a_gradient_is_left_alone(build):
    where = jax.tree.map(lambda _: True, MODEL)
    where = eqx.tree_at(lambda m: m.inner["frozen"], where, False)
    arrays = eqx.filter(MODEL, eqx.is_inexact_array)
    free, _ = eqx.partition(arrays, where)
    grads = jax.tree.map(jnp.ones_like, free)
    start = build().init(arrays)  # the state has a place for it
    updates, state = build().update(grads, start, arrays)
    assert updates.inner["frozen"] is None
    assert jax.tree.structure(state) == jax.tree.structure(start)
    alone, _ = build().update(grads, build().init(free), free)
    equal(updates, alone)
    for name in ("mu", "nu", "trace", "sum_of_squares", "e_g"):
        statistic = optax.tree_utils.tree_get(state, name)
        if statistic is not None:
            kept = optax.tree_utils.tree_get(start, name).inner["frozen"]
            equal(statistic.inner["frozen"], kept)
            assert (statistic.inner["b"] != kept).all()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda o: o.init(MODEL),
            "an optimizer moves arrays of numbers, got the",
        ),
        (lambda o: o.init({"n": "text"}), "got the leaf 'text': keep it out"),
        (lambda o: o.init(jnp.arange(3)), "got a leaf of dtype int32"),
        (lambda o: o.init(jax.random.key(0)), r"got a leaf of dtype key"),
        (
            lambda o: o.update(None, o.init({"a": Z}), {"a": Z}),
            r"grads\['a'\]: expected",
        ),
        (
            lambda o: o.update({"a": None}, o.init({"a": [Z]}), {"a": [Z]}),
            r"grads\['a'\]\[0\]: expected shape \(4, 2\) as in .*, got no leaf",
        ),
        (lambda o: o.update(Z, o.init(Z)[0]), "expected the state that its init or"),
        (lambda o: o.update(Z, optax.adam(0.1).init(Z)), "an OptimizerState, got"),
        (
            lambda o: o.update({"a": [Z]}, o.init({"a": (Z,)})),
            "grads: expected the",
        ),
    ],
)
def test_what_is_no_tree_of_parameters_is_refused(call, text):
    with pytest.raises((TypeError, ValueError), match=text):
        call(optimizers.adam(0.1))


@ours_but("adamw", "nadamw", "adadelta, decay", "max_norm")
def test_without_gradients_nothing_moves(build):
    params = {"w": W, "z": Z}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = build().update(zeros, build().init(params), params)
    equal(updates, zeros)


def test_the_table_has_every_factory():
    made = {type(build()) for build in OURS.values()} | {type(max_norm(1.0))}
    classes = {getattr(optimizers, name) for name in optimizers.__all__}
    kinds = {
        c for c in classes if hasattr(c, "update") and c is not optimizers.Optimizer
    }
    around = loss_scaled(optimizers.adam(0.1)), optimizers.ema(optimizers.adam(0.1))
    assert kinds <= made | {type(optimizer) for optimizer in around}
