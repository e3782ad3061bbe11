"""Activations, pooling and dropout at the edges, in both engines.

Infinite, huge, tiny and denormal numbers, NaN, and batches without examples.
"""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LAYERS

import fnn
from fnn.kernels.planes import space_to_planes
from fnn.kernels.pooling import argmax_of_planes, max_of_planes, scatter_to_argmax

INF, NAN = np.inf, np.nan
DTYPES = pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
KEY = jax.random.key(5)


@jax.jit
def run(layers, x, dys, key):
    """Run several layers in one program: it compiles sooner than one for each."""

    def one(layer, dy):
        def forward(x):
            out = layer.forward((), (), x, key=key, train=True)
            return out.y, out.saved

        y, vjp, saved = jax.vjp(forward, x, has_aux=True)
        return y, layer.backward((), saved, dy).dx, *vjp(dy)

    return [one(layer, dy) for layer, dy in zip(layers, dys, strict=True)]


def both_engines(layers, x, dys):
    """Return y, and dx by the backward and by autodiff, of each layer, in float64."""
    results = run(layers, x, dys, KEY)
    return jax.tree.map(lambda a: np.asarray(a, np.float64), results)


# ---- Activations -----------------------------------------------------------------

#: Each with y and dx far below 0, y and dx far above it (None: y is x), dx at NaN.
ACTIVATIONS = [
    (fnn.Identity(), (None, 1), (None, 1), 1),
    (fnn.Relu(), (0, 0), (None, 1), 0),
    (fnn.LeakyRelu(0.25), (lambda x: 0.25 * x, 0.25), (None, 1), 0.25),
    (fnn.LeakyRelu(0.0), (0, 0), (None, 1), 0),
    (fnn.Elu(), (-1, 0), (None, 1), NAN),
    (fnn.Elu(1.5), (-1.5, 0), (None, 1), NAN),
    (fnn.Gelu(), (0, 0), (None, 1), NAN),
    (fnn.Gelu(approximate=True), (0, 0), (None, 1), NAN),
    (fnn.Silu(), (0, 0), (None, 1), NAN),
    (fnn.Softplus(), (0, 0), (None, 1), NAN),
    (fnn.Sigmoid(), (0, 0), (1, 0), NAN),
    (fnn.Tanh(), (-1, 0), (1, 0), NAN),
]


def edges(dtype):
    """Numbers at which an activation has reached its limit, and others around 0."""
    info = jnp.finfo(dtype)
    most, tiny = float(info.max), float(info.tiny)
    far = [2e3, most**0.5, most / 4, most, INF]
    near = [0.0, float(info.smallest_subnormal), tiny / 4, tiny, 1.0]
    middle = [5.0, 20.0, 29.0, 31.0, 39.0, 41.0, 100.0, 799.0, 801.0]
    return far if dtype == "float16" else [*far, most**0.25, most**0.75], near, middle


def limit(case, x):
    """Return y and dx far away from 0, and at NaN."""
    _, below, above, at_nan = case
    y, dx = above if x > 0 else below
    if math.isnan(x):
        return x, at_nan
    return x if y is None else y(x) if callable(y) else y, dx


@pytest.mark.one_in(2)
@DTYPES
def test_activations_have_their_limits_in_both_engines(dtype):
    with jax.enable_x64(dtype == "float64"):
        far, near, middle = edges(dtype)
        far = [*far, *(-x for x in far), NAN]
        others = [sign * x for x in near + middle for sign in (1, -1)]
        x = jnp.asarray(np.array([far + others])).astype(dtype)
        layers = [case[0] for case in ACTIVATIONS]
        results = both_engines(layers, x, [jnp.ones_like(x)] * len(layers))
        eps = float(jnp.finfo(dtype).eps)
        x = np.asarray(x, np.float64)  # rounded to this dtype
    for case, (y, dx, by_autodiff) in zip(ACTIVATIONS, results, strict=True):
        near = dict(rtol=4 * eps, err_msg=repr(case[0]))
        np.testing.assert_allclose(dx, by_autodiff, atol=4 * eps, **near)
        count = len(far)
        assert np.isfinite(y[:, count:]).all() and np.isfinite(dx[:, count:]).all()
        expected = np.array([limit(case, number) for number in x[0, :count]])
        np.testing.assert_allclose(y[0, :count], expected[:, 0], **near)
        np.testing.assert_allclose(dx[0, :count], expected[:, 1], **near)


@DTYPES
def test_softmax_rules_out_minus_infinity_and_has_no_rank_for_the_rest(dtype):
    rows = np.array([
        [1, -INF, 2], [-INF, -INF, 0],
        [INF, 0, 1], [NAN, 0, 1], [-INF, -INF, -INF], [INF, INF, 0],
    ])  # fmt: skip
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(rows).astype(dtype)
        dy = jnp.asarray(np.tile([0.5, -1.0, 2.0], (6, 1))).astype(dtype)
        ((y, dx, by_autodiff),) = both_engines([fnn.Softmax()], x, [dy])
        eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(dx, by_autodiff, rtol=0, atol=4 * eps)
    assert (y[:2][rows[:2] == -INF] == 0).all() and (dx[:2][y[:2] == 0] == 0).all()
    assert np.isfinite(y[:2]).all() and np.isfinite(dx[:2]).all()
    assert np.isnan(y[2:]).all() and np.isnan(dx[2:]).all()


# ---- Maxima ----------------------------------------------------------------------

#: Lines of eight positions: ties, infinities, and NaN in any place of a window.
LINES = np.array([
    [1, 1, 0, 2, 2, 2, 0, 1],
    [NAN, 1, 2, 3, 1, NAN, 0, 4],
    [1, 2, 3, NAN, NAN, NAN, 0, 0],
    [NAN, INF, 2, INF, INF, NAN, 3, INF],
    [3, NAN, 3, 1, -INF, NAN, 1, -INF],
    [-INF, -INF, -INF, -INF, -INF, -INF, -INF, -INF],
    [-INF, -INF, 1, -INF, -INF, 0, -INF, -INF],
    [INF, INF, -INF, INF, -INF, -INF, INF, 0],
    [NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN],
])  # fmt: skip
POOLS = [
    fnn.MaxPool(1), fnn.MaxPool(2), fnn.MaxPool(2, 3), fnn.MaxPool(3, 1, "SAME"),
    fnn.MaxPool(3, 3, ((0, 2),)), fnn.MaxPool(3, ceil_mode=True), fnn.MaxPool(4),
    fnn.MaxPool(4, 2, 3), fnn.MaxPool(3, 2, 1, ceil_mode=True), fnn.GlobalMaxPool(),
]  # fmt: skip


def windows(pool):
    """Return the positions of a line of eight that each window holds."""
    if isinstance(pool, fnn.GlobalMaxPool):
        return [range(8)]
    window = pool.window_for((8,))
    starts = [s * window.stride[0] - window.padding[0][0] for s in range(8)]
    count = window.output_sizes((8,))[0]
    ranges = [range(max(a, 0), min(a + window.size[0], 8)) for a in starts]
    return ranges[:count]


def pooled(line, dy, pool):
    """Return y and dx by the definition, window by window."""
    y, dx = [], np.zeros(8)
    for positions, part in zip(windows(pool), dy, strict=True):
        values = [line[q] for q in positions]
        y.append(NAN if np.isnan(values).any() else max(values))
        if y[-1] > -INF:
            dx[positions[values.index(y[-1])]] += part
    return y, dx


def upstream(pool):
    """Return a different dy for each window, (lines, windows)."""
    count = len(windows(pool))
    return 1.0 + np.arange(len(LINES) * count).reshape(len(LINES), count) % 7


@pytest.mark.one_in(3)
@DTYPES
def test_the_first_maximum_gets_dy_and_none_where_it_has_no_position(dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(LINES[..., None]).astype(dtype)
        pools = POOLS if dtype == "float32" else POOLS[-4:]
        dys = [jnp.asarray(upstream(pool)[..., None]).astype(dtype) for pool in pools]
        dys[-1] = dys[-1][:, 0]  # (N, C): the last is global
        results = both_engines(pools, x, dys)
    for pool, (y, dx, by_autodiff) in zip(pools, results, strict=True):
        for n, (line, dy) in enumerate(zip(LINES, upstream(pool), strict=True)):
            expected_y, expected_dx = pooled(line, dy, pool)
            what = f"{pool!r}, {line}"
            np.testing.assert_array_equal(y[n].ravel(), expected_y, what)
            np.testing.assert_array_equal(dx[n].ravel(), expected_dx, what)
            np.testing.assert_array_equal(by_autodiff[n].ravel(), expected_dx, what)


def test_the_kernel_has_the_same_maxima():
    width = 4
    x = jnp.asarray(LINES, jnp.float32).T[None, None]  # (C, H, W, N)
    dy = 1.0 + jnp.arange(8 // width * len(LINES), dtype=jnp.float32) % 7
    dy = dy.reshape(1, 1, 8 // width, len(LINES))
    pool = (1, width)

    @jax.jit
    def kernel(x, dy):
        planes = space_to_planes(x, pool)
        argmax = argmax_of_planes(planes, pool, pool)
        parts = scatter_to_argmax(argmax, (dy,), pool, pool)
        (y,) = max_of_planes(planes, pool, pool)
        return y, jnp.stack(parts, 3).reshape(x.shape)

    y, dx = kernel(x, dy)
    for n, line in enumerate(LINES):
        expected = pooled(line, np.asarray(dy[0, 0, :, n]), fnn.MaxPool(width))
        np.testing.assert_array_equal(y[0, 0, :, n], expected[0])
        np.testing.assert_array_equal(dx[0, 0, :, n], expected[1])


# ---- Dropout ---------------------------------------------------------------------

#: The last three rates are 1 in the precision that masks are drawn in.
RATES = [0.0, 0.5, 0.999, 0.99999, 1 - 2**-24, 1 - 2**-26, 1 - 2**-50]


@DTYPES
def test_dropout_of_any_rate_is_its_equation_in_both_engines(dtype):
    with jax.enable_x64(dtype == "float64"):
        values = np.array([0, 1e-4, -2e-3, 0.25, INF, -INF])
        x = jnp.asarray(np.tile(values, (2000, 40)).reshape(40, -1)).astype(dtype)
        dy = jnp.full_like(x, 2**-9)
        for rate in RATES:
            ((y, dx, by_autodiff),) = both_engines([fnn.Dropout(rate)], x, [dy])
            np.testing.assert_array_equal(dx, by_autodiff)
            kept = dx != 0
            spread = 5 * (x.size * rate * (1 - rate)) ** 0.5 + 1
            assert abs(kept.sum() - x.size * (1 - rate)) < spread
            assert (y[~kept] == 0).all()
            with np.errstate(over="ignore"):
                expected = np.asarray(x, np.float64)[kept] / (1 - rate)
                expected = np.asarray(jnp.asarray(expected).astype(dtype), np.float64)
            eps = float(jnp.finfo(dtype).eps)
            near = max(4 * eps, 1e-7 / (1 - rate))  # 1 − p is rounded to float32
            np.testing.assert_allclose(y[kept], expected, rtol=near)
            np.testing.assert_allclose(dx[kept], 2**-9 / (1 - rate), rtol=near)


# ---- Nothing at all --------------------------------------------------------------


def one_of_each_class():
    """The first row of each class in training, and of some in evaluation."""
    cases = {type(case.layer): case for case in reversed(LAYERS)}.values()
    evaluated = [case for case in cases if case.name in ("batch norm", "dropout, half")]
    return [(case, True) for case in cases] + [(case, False) for case in evaluated]


@pytest.mark.parametrize(
    ("case", "train"), one_of_each_class(), ids=lambda v: getattr(v, "name", str(v))
)
def test_an_empty_batch_gives_zeros_or_a_plain_error(case, train):
    shapes = jax.eval_shape(lambda: case.layer.init(KEY, case.in_shape))
    params, state = jax.tree.map(lambda a: np.ones(a.shape, a.dtype), shapes)
    x = np.zeros((0, *case.in_shape), np.float32)

    @jax.jit
    def run(params, state, x):
        def forward(params, x):
            out = case.layer.forward(params, state, x, key=KEY, train=train)
            return out.y, out

        y, vjp, out = jax.vjp(forward, params, x, has_aux=True)
        hand = case.layer.backward(params, out.saved, y)
        return out.state, y, hand, fnn.Backward(*vjp(y)[::-1])

    try:
        new_state, y, hand, auto = run(params, state, x)
    except ValueError as error:
        expected = ["there are none", "was made for batches of"]
        assert any(text in str(error) for text in expected)
        return
    assert len(y) == 0 and hand.dx.shape == auto.dx.shape == x.shape
    for leaf in jax.tree.leaves((hand, auto)):
        np.testing.assert_array_equal(leaf, 0)
    for leaf in jax.tree.leaves(new_state):
        assert np.isfinite(leaf).all()


EMPTY_IMAGES = [
    (fnn.GlobalAvgPool(), (2, 0, 3, 4)),
    (fnn.GlobalMaxPool(), (2, 3, 0, 4)),
    (fnn.AdaptiveAvgPool(2), (2, 0, 4)),
    (fnn.MaxPool(2), (2, 0, 3, 4)),
    (fnn.MaxPool(2, padding=1), (2, 0, 3, 4)),
    (fnn.AvgPool(3, 1, 1, ceil_mode=True), (2, 5, 0, 4)),
    (fnn.Conv(3, 3, padding=2), (2, 0, 5, 4)),
    (fnn.Conv(3, 3, padding="REPLICATE"), (2, 0, 5, 4)),
    (fnn.ConvTranspose(3, 3, padding=0), (2, 0, 5, 4)),
    (fnn.Upsample(2), (2, 0, 5, 4)),
    (fnn.InstanceNorm(), (2, 0, 5, 4)),
    (fnn.GroupNorm(2), (2, 0, 5, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), EMPTY_IMAGES, ids=repr)
def test_an_image_without_positions_is_refused(layer, shape):
    axes = tuple(size or 4 for size in shape[1:])
    variables = layer.init(KEY, axes)
    with pytest.raises(ValueError, match=r"which are none|there are none"):
        layer.forward(*variables, jnp.zeros(shape), train=True)


def test_every_layer_with_numbers_is_in_a_table_above():
    """A new activation or maximum adds a row."""
    module = inspect.getmodule(fnn.Relu)
    tested = {type(row[0]).__name__ for row in ACTIVATIONS}
    tested |= {"Rectifying", "Saturating"}
    assert set(module.__all__) == tested
