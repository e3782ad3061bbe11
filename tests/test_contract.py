"""The contract of a layer: each row of the table keeps it, in both modes."""

import dataclasses
import functools
import pickle
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LAYERS

import fnn
from fnn.core import Backward, Forward, Variables
from fnn.network import output_shape

KEYS = jax.random.split(jax.random.key(7))
KEY = KEYS[1]
EVERY_LAYER = pytest.mark.parametrize("case", LAYERS, ids=[c.name for c in LAYERS])
WITH_CODE_AS_REPR = pytest.mark.parametrize(
    "case",
    [c for c in LAYERS if c.repr_is_code],
    ids=[c.name for c in LAYERS if c.repr_is_code],
)


def kind_of(case):
    """Return what a row is of: its layer, and the number of spatial axes."""
    return type(case.layer), len(case.in_shape)


def modes(quick):
    """Return the rows of a table in both modes.

    Only layers with dropout or statistics of batches know their mode. The others
    compute the same in both, and run in the second mode in the thorough run alone.
    """

    def row(case, train):
        runs = case in quick and (train or KNOWS_ITS_MODE.search(repr(case.layer)))
        return pytest.param(
            case,
            train,
            id=f"{case.name}-{'train' if train else 'eval'}",
            marks=() if runs else pytest.mark.thorough,
        )

    rows = [row(case, train) for case in LAYERS for train in (True, False)]
    return pytest.mark.parametrize(("case", "train"), rows)


KNOWS_ITS_MODE = re.compile("Dropout|BatchNorm|Probe")
BY_KIND = list({kind_of(case): case for case in LAYERS}.values())
BY_LAYER = list({type(case.layer): case for case in LAYERS}.values())
BOTH_MODES = pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])


class Problem(NamedTuple):
    """Random numbers to run a layer on: variables, x and dy."""

    variables: Variables
    x: np.ndarray
    dy: np.ndarray


def problem(case, dtype, seed=0) -> Problem:
    """Draw everything at random: no scale is 1, no bias, delta or running mean is 0.

    NumPy draws, because JAX would compile each operation outside `jit` by itself.
    """
    rng = np.random.default_rng(seed)
    wide = dtype if dtype == jnp.float64 else jnp.float32

    def normal(shape, dtype):
        return rng.normal(size=shape).astype(dtype)

    shapes = jax.eval_shape(lambda key: case.layer.init(key, case.in_shape), KEY)
    params = jax.tree.map(lambda p: normal(p.shape, dtype), shapes.params)
    state = jax.tree.map(lambda s: abs(normal(s.shape, wide)) + 0.5, shapes.state)
    out_shape = output_shape(case.layer, shapes, case.in_shape)
    x = normal((case.batch, *case.in_shape), dtype)
    if case.ids:
        x = rng.integers(0, case.ids, x.shape).astype(dtype)
    return Problem(Variables(params, state), x, normal((case.batch, *out_shape), dtype))


def precision(dtype):
    return jax.enable_x64(dtype == jnp.float64)


def forward(layer, params, state, x, train) -> Forward:
    return layer.forward(params, state, x, key=KEY, train=train)


def by_hand(layer, params, state, x, dy, train) -> Backward:
    saved = forward(layer, params, state, x, train).saved
    return layer.backward(params, saved, dy)


def by_jax(layer, params, state, x, dy, train) -> Backward:
    _, vjp = jax.vjp(lambda p, x: forward(layer, p, state, x, train).y, params, x)
    dparams, dx = vjp(dy)
    return Backward(dx, dparams)


def assert_close(got, expected, tolerance):
    """Compare every leaf, to `tolerance` times the largest number of all leaves."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    expected = [in_float64(leaf) for leaf in jax.tree.leaves(expected)]
    scale = max([1e-3, *(abs(leaf).max(initial=0) for leaf in expected)])
    for have, want in zip(jax.tree.leaves(got), expected, strict=True):
        assert have.shape == want.shape
        np.testing.assert_allclose(have, want, rtol=0, atol=tolerance * scale)


def in_float64(leaf):
    return np.asarray(leaf, np.float64)


def stack(*trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def unstack(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def specs(tree):
    """Return the pytree with the shape and dtype of each leaf in its place."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def rebuilt(value):
    """Construct the same layer anew."""
    if isinstance(value, tuple):
        return tuple(map(rebuilt, value))
    if not dataclasses.is_dataclass(value):
        return value
    fields = [field.name for field in dataclasses.fields(value)]
    return type(value)(**{name: rebuilt(getattr(value, name)) for name in fields})


# ---- The backward ----------------------------------------------------------------


@modes(quick=LAYERS)
def test_backward_is_the_derivative_of_forward_in_float64(case, train):
    def slope(p, dp, dx):
        """Return the central difference of <y, dy> along (dp, dx)."""

        def along(h):
            params = jax.tree.map(lambda a, da: a + h * da, p.variables.params, dp)
            y = forward(case.layer, params, p.variables.state, p.x + h * dx, train).y
            return (y * p.dy).sum()

        return (along(1e-6) - along(-1e-6)) / 2e-6

    @jax.jit
    def derivatives(p, directions):
        layer = case.layer  # a closure here, an argument in the tests that follow
        hand = by_hand(layer, *p.variables, p.x, p.dy, train)
        auto = by_jax(layer, *p.variables, p.x, p.dy, train)
        return hand, auto, jax.vmap(lambda d: slope(p, *d))(directions)

    with precision(jnp.float64):
        p = problem(case, jnp.float64)
        drawn = [problem(case, jnp.float64, seed) for seed in (1, 2, 3)]
        directions = [(d.variables.params, d.x) for d in drawn]
        results = derivatives(p, stack(*directions))
        hand, auto, slopes = jax.device_get(results)
        assert_close(hand, auto, 1e-12)
        for slope, (dp, dx) in zip(slopes, directions, strict=True):
            pairs = zip(
                jax.tree.leaves(hand), jax.tree.leaves(Backward(dx, dp)), strict=True
            )
            products = [g * d for g, d in pairs]
            scale = sum(abs(product).sum() for product in products)
            assert abs(sum(map(np.sum, products)) - slope) <= 1e-8 * scale


@modes(quick=BY_KIND)
def test_backward_holds_across_jit_in_float32_and_bfloat16(case, train):
    # Two programs, so that `saved` leaves one and enters the other.
    single, half = (problem(case, dtype) for dtype in (jnp.float32, jnp.bfloat16))

    @jax.jit
    def forwards(layer, single, half):
        outs = [forward(layer, *p.variables, p.x, train) for p in (single, half)]
        auto = by_jax(layer, *single.variables, single.x, single.dy, train)
        return outs, auto

    @jax.jit
    def backwards(layer, saved, single, half):
        return [
            layer.backward(p.variables.params, s, p.dy)
            for s, p in zip(saved, (single, half), strict=True)
        ]

    outs, auto = forwards(case.layer, single, half)
    hand = backwards(case.layer, [out.saved for out in outs], single, half)
    for p, out, grads in zip((single, half), outs, hand, strict=True):
        assert specs(out.y) == specs(p.dy)
        assert specs(out.state) == specs(p.variables.state)
        assert specs(grads) == Backward(specs(p.x), specs(p.variables.params))
    assert_close(hand[0], auto, 1e-5)
    assert_close(jax.tree.map(in_float64, hand[1]), auto, 0.1)


# ---- Shapes and state ------------------------------------------------------------


@EVERY_LAYER
@BOTH_MODES
def test_output_shape_is_the_one_that_init_computes(case, train):
    p = problem(case, jnp.float32)
    y = jax.eval_shape(lambda p: forward(case.layer, *p.variables, p.x, train).y, p)
    expected = output_shape(case.layer, p.variables, case.in_shape)
    assert y == jax.ShapeDtypeStruct((case.batch, *expected), jnp.float32)


@EVERY_LAYER
def test_eval_returns_the_state_it_was_given(case):
    @jax.make_jaxpr
    def check(p):
        state = case.layer.forward(*p.variables, p.x).state
        given = p.variables.state
        assert jax.tree.structure(state) == jax.tree.structure(given)
        pairs = zip(jax.tree.leaves(state), jax.tree.leaves(given), strict=True)
        assert all(have is want for have, want in pairs)

    check(problem(case, jnp.float32))


@EVERY_LAYER
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=["f32", "f64"])
def test_train_returns_a_state_that_scan_can_carry(case, dtype):
    with precision(dtype):
        p = problem(case, dtype)
        state = jax.eval_shape(
            lambda p: forward(case.layer, *p.variables, p.x, train=True).state, p
        )
        assert state == specs(p.variables.state)


# ---- init ------------------------------------------------------------------------


@EVERY_LAYER
def test_init_is_a_pure_function_of_its_key(case):
    def init(key):
        return case.layer.init(key, case.in_shape)

    eager = jax.device_get(init(KEY))
    assert jax.eval_shape(init, KEY) == specs(eager)
    batched = jax.device_get(jax.vmap(init)(KEYS))
    assert specs(unstack(batched, 1)) == specs(eager)
    assert_close(unstack(batched, 1), eager, 1e-6)


# ---- vmap ------------------------------------------------------------------------


@modes(quick=BY_LAYER)
def test_vmap_over_networks_is_a_loop_over_networks(case, train):
    # vmap runs over the parameters and over the layer's own numbers, such as dropout
    # rates. These are float32 and the computation is float64: a layer casts them.

    def run(layer, p):
        out = forward(layer, *p.variables, p.x, train)
        return out.y, layer.backward(p.variables.params, out.saved, p.dy)

    @jax.jit
    def both_ways(layers, ps):
        loop = [run(unstack(layers, i), unstack(ps, i)) for i in range(2)]
        return jax.vmap(run)(layers, ps), loop

    with precision(jnp.float64):
        ps = stack(*(problem(case, jnp.float64, seed) for seed in (0, 1)))
        layers = jax.tree.map(
            lambda number: np.asarray([number, 0.9 * number], np.float32), case.layer
        )
        batched, loop = jax.device_get(both_ways(layers, ps))
        for i in range(2):
            assert_close(unstack(batched, i), loop[i], 1e-12)


# ---- Layers as values ------------------------------------------------------------


@EVERY_LAYER
@BOTH_MODES
def test_rebuilding_or_a_new_number_does_not_trace_again(case, train):
    traces = []

    @functools.partial(jax.jit, static_argnames="train")
    def step(layer, p, train):
        traces.append(layer)
        return by_hand(layer, *p.variables, p.x, p.dy, train)

    p = problem(case, jnp.float32)
    other_numbers = jax.tree.map(lambda number: 0.9 * number, case.layer)
    for layer in (case.layer, rebuilt(case.layer), other_numbers):
        step.eval_shape(layer, p, train=train)
    assert len(traces) == 1


@EVERY_LAYER
def test_equal_constructions_are_equal_and_hash_alike(case):
    again = rebuilt(case.layer)
    assert again is not case.layer
    assert again == case.layer
    assert hash(again) == hash(case.layer)
    assert jax.tree.structure(again) == jax.tree.structure(case.layer)
    assert again != fnn.Dense(99)


@WITH_CODE_AS_REPR
def test_repr_can_be_pasted_back(case):
    names = vars(fnn)
    assert eval(repr(case.layer), names) == case.layer


@WITH_CODE_AS_REPR
def test_pickle_returns_an_equal_layer(case):
    assert pickle.loads(pickle.dumps(case.layer)) == case.layer


@EVERY_LAYER
def test_a_layer_refuses_to_be_changed(case):
    for field in dataclasses.fields(case.layer):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(case.layer, field.name, None)
