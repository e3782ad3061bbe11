"""Convolution and pooling: any geometry, ties, products left out, and errors."""

import functools
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnn
from fnn.layers.padding import COPY_MODES
from fnn.layers.windows import make_window

LOSS = fnn.losses.SquaredError()


def numbers(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def assert_backward_is_vjp(layer, in_shape, x=None):
    """Compare every gradient with `jax.vjp` of the forward, in float64."""

    @jax.jit
    def both_ways(params, x, dy):
        out = layer.forward(params, (), x)
        _, vjp = jax.vjp(lambda p, x: layer.forward(p, (), x).y, params, x)
        by_jax = vjp(dy)
        return layer.backward(params, out.saved, dy), fnn.Backward(*by_jax[::-1])

    with jax.enable_x64(True):
        shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), in_shape))
        params = jax.tree.map(lambda p: numbers(p.shape), shapes.params)
        x = numbers((3, *in_shape), 1) if x is None else x
        y = jax.eval_shape(lambda p: layer.forward(p, (), x).y, params)
        hand, auto = both_ways(params, x, numbers(y.shape, 2))
        for have, want in zip(
            jax.tree.leaves(hand), jax.tree.leaves(auto), strict=True
        ):
            assert have.shape == want.shape
            scale = np.abs(want).max(initial=1)
            np.testing.assert_allclose(have, want, rtol=0, atol=1e-12 * scale)


#: A convolution whose dx XLA would end the process over, computed in one of its own.
MISTAKEN = """
import jax, jax.numpy as jnp, numpy as np, fnn
conv = fnn.Conv(
    3, (2, 2, 3), stride=(2, 3, 2), padding=((1, 1), 0, 0), dilation=(1, 2, 2)
)
params, _ = conv.init(jax.random.key(0), (4, 5, 5, 2))
x = jax.random.normal(jax.random.key(1), (2, 4, 5, 5, 2))
y, vjp = jax.vjp(lambda p, x: conv.forward(p, (), x).y, params, x)
dy = jnp.cos(jnp.arange(y.size * 1.0)).reshape(y.shape)
hand = jax.jit(conv.backward)(params, x, dy)
dparams, dx = jax.jit(vjp)(dy)
jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5),
    hand, fnn.Backward(dx, dparams),
)
linear = y - conv.forward(params, (), jnp.zeros_like(x)).y
np.testing.assert_allclose((linear * dy).sum(), (hand.dx * x).sum(), rtol=1e-5)
"""


def test_a_window_that_xla_takes_for_groups():
    run = subprocess.run([sys.executable, "-c", MISTAKEN], capture_output=True)
    assert run.returncode == 0, run.stderr.decode()[:500]


# ---- Any geometry ----------------------------------------------------------------

# Each example is compiled; random networks for images draw many more geometries.
QUICK = settings(max_examples=8, deadline=None, derandomize=True)


@st.composite
def geometries(draw, padding_below_window=False):
    """Draw (sizes, window, stride, padding, dilation) of one to three spatial axes."""
    axes = draw(st.integers(1, 3))

    def each(low, high):
        return draw(st.tuples(*[st.integers(low, high)] * axes))

    size, stride, dilation = each(1, 4), each(1, 5), each(1, 3)
    most = min(size) - 1 if padding_below_window else 3
    amounts = st.tuples(st.integers(0, most), st.integers(0, most))
    padding = draw(
        st.one_of(
            st.sampled_from(["SAME", "VALID"]),
            st.integers(0, most),
            st.tuples(*[amounts] * axes),
        )
    )
    return each(4, 7), size, stride, padding, dilation


def fits(layer, in_shape):
    try:
        jax.eval_shape(lambda: layer.init(jax.random.key(0), in_shape))
    except ValueError:
        return False
    return True


@QUICK
@given(geometries(), st.sampled_from([(1, 2, 3), (2, 2, 4), (2, 4, 2), (3, 3, 3)]))
def test_convolution_of_any_geometry(geometry, channels):
    sizes, size, stride, padding, dilation = geometry
    groups, inputs, outputs = channels
    layer = fnn.Conv(
        outputs, size, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    if fits(layer, (*sizes, inputs)):
        assert_backward_is_vjp(layer, (*sizes, inputs))


@QUICK
@given(
    geometries(),
    st.sampled_from([(1, 2, 3), (2, 2, 4), (3, 3, 3)]),
    st.sampled_from([0, 0, 1, 2]),
)
def test_transposed_convolution_of_any_geometry(geometry, channels, added):
    sizes, size, stride, padding, dilation = geometry
    groups, inputs, outputs = channels
    layer = fnn.ConvTranspose(
        outputs, size, stride=stride, padding=padding, dilation=dilation, groups=groups,
        output_padding=0 if padding == "SAME" else added,
    )  # fmt: skip
    if fits(layer, (*sizes, inputs)):
        assert_backward_is_vjp(layer, (*sizes, inputs))


@QUICK
@given(
    *(geometries(padding_below_window=True), st.booleans(), st.booleans()),
    st.booleans(),
)
def test_pooling_of_any_geometry(geometry, largest, ties, ceil_mode):
    sizes, size, stride, padding, _ = geometry
    pool = fnn.MaxPool if largest else fnn.AvgPool
    layer = pool(size, stride, padding, ceil_mode=ceil_mode)
    x = numbers((3, *sizes, 2), 1)
    if fits(layer, (*sizes, 2)):
        assert_backward_is_vjp(layer, (*sizes, 2), x.round() if ties else x)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("mode", COPY_MODES)
@pytest.mark.parametrize(
    ("sizes", "size", "stride", "dilation"),
    [
        ((7, 6), 3, 1, 1),
        ((7, 6), 4, 2, 1),
        ((9,), 3, 2, 2),
        ((5, 4, 6), (3, 2, 1), 1, 1),
    ],
)
def test_padding_with_the_images_own_pixels(mode, sizes, size, stride, dilation):
    layer = fnn.Conv(3, size, stride=stride, padding=mode, dilation=dilation)
    assert_backward_is_vjp(layer, (*sizes, 2))


@pytest.mark.parametrize("mode", COPY_MODES)
def test_padding_is_numpys(mode):
    # A template of ones shows the padding at the edges.
    x = numbers((2, 6, 1)).astype(np.float32)
    layer = fnn.Conv(1, 3, padding=mode, bias=False)
    y = layer.forward(fnn.ConvParams(np.ones((3, 1, 1), np.float32), ()), (), x).y
    modes = {"CIRCULAR": "wrap", "REFLECT": "reflect", "REPLICATE": "edge"}
    padded = np.pad(x[..., 0], ((0, 0), (1, 1)), modes[mode])
    sums = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    np.testing.assert_allclose(y[..., 0], sums, rtol=1e-6)


# ---- By definition ---------------------------------------------------------------


def test_convolution_is_the_sum_in_its_docstring():
    # y_npo = Σ_k Σ_i x_n,(sp+dk−lo),i W_kio, index by index.
    layer = fnn.Conv(
        4,
        (3, 2),
        stride=(2, 1),
        padding=((1, 2), (0, 1)),
        dilation=(1, 2),
        groups=2,
        bias=False,
    )
    x, weight = numbers((2, 5, 4, 6)), numbers((3, 2, 3, 4), 1)
    with jax.enable_x64(True):
        y = np.asarray(layer.forward(fnn.ConvParams(weight, ()), (), x).y)
    expected = np.zeros(y.shape)
    for n, p, q, o in np.ndindex(*y.shape):
        for k, m, i in np.ndindex(3, 2, 3):
            row, column = 2 * p + k - 1, q + 2 * m
            if 0 <= row < 5 and 0 <= column < 4:
                group = o // 2
                expected[n, p, q, o] += (
                    x[n, row, column, 3 * group + i] * weight[k, m, i, o]
                )
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)


def test_transposed_convolution_is_the_adjoint_of_a_convolution():
    # ⟨Conv(a), b⟩ = ⟨a, ConvTranspose(b)⟩ for the same weight.
    conv = fnn.Conv(3, 4, stride=2, bias=False)
    back = fnn.ConvTranspose(5, 4, stride=2, bias=False)
    with jax.enable_x64(True):
        params = fnn.ConvParams(numbers((4, 4, 5, 3)), ())
        a, b = numbers((2, 8, 6, 5), 1), numbers((2, 4, 3, 3), 2)
        left = (conv.forward(params, (), a).y * b).sum()
        right = (a * back.forward(params, (), b).y).sum()
        assert abs(left - right) < 1e-11


@pytest.mark.parametrize("layer", [fnn.MaxPool(2), fnn.MaxPool(3, 2)])
def test_the_first_of_equal_maxima_wins(layer):
    x = jnp.ones((1, 5, 5, 1))
    y, saved, _ = layer.forward((), (), x)
    dx = layer.backward((), saved, jnp.ones_like(y)).dx[0, :, :, 0]
    expected = np.zeros((5, 5))
    expected[:3:2, :3:2] = 1
    np.testing.assert_array_equal(dx, expected)


# ---- Products that are left out --------------------------------------------------


def count_convolutions(net, in_shape, function):
    """Count the convolutions in a compiled function of (net, variables, x, y)."""
    variables = net.init(jax.random.key(0), in_shape)
    x = jnp.ones((2, *in_shape))
    y = net.forward(*variables, x).y
    run = jax.jit(functools.partial(function, net)).lower(variables, x, y)
    # On a GPU, convolutions are calls of cuDNN.
    return len(re.findall(r" convolution\(|__cudnn\$conv", run.compile().as_text()))


def test_dx_of_the_first_layer_is_not_computed_where_nobody_uses_it():
    net = fnn.serial(fnn.Conv(3, 3), fnn.Tanh(), fnn.Conv(2, 3))

    def gradient(net, variables, x, y):
        return fnn.value_and_grad(net, LOSS)(variables, (x, y)).grads

    def with_dx(net, variables, x, y):
        saved = net.forward(*variables, x).saved
        return net.backward(variables.params, saved, y)

    forwards, weights = 2, 2
    assert count_convolutions(net, (6, 5, 2), gradient) == forwards + weights + 1
    assert count_convolutions(net, (6, 5, 2), with_dx) == forwards + weights + 2 - 1


# ---- The receptive field ---------------------------------------------------------


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "net",
    [
        fnn.serial(fnn.Conv(2, 5, padding="VALID"), fnn.MaxPool(2), fnn.Conv(2, 3)),
        fnn.serial(
            fnn.Conv(2, 3, dilation=2), fnn.AvgPool(3, 2), fnn.Conv(2, 3, stride=2)
        ),
        fnn.serial(
            fnn.Conv(2, 3, stride=2), fnn.ConvTranspose(2, 4, stride=2), fnn.Conv(2, 3)
        ),
        fnn.serial(fnn.AvgPool(2), fnn.Upsample(2), fnn.Conv(2, 3)),
        fnn.residual(fnn.serial(fnn.Conv(2, 3), fnn.Conv(1, (5, 1))), fnn.Conv(1, 1)),
    ],
    ids=repr,
)
def test_receptive_field_is_the_support_of_the_gradient(net):
    shape = (24, 24, 1)
    sees = fnn.summary(net, shape).rows[-1].receptive_field
    if isinstance(net, type(fnn.residual(fnn.Identity()))):
        sees = (7, 3)  # of the body; the last row is the projection's
    variables = jax.tree.map(
        lambda a: jnp.abs(a) + 0.1, net.init(jax.random.key(0), shape)
    )
    widest = np.zeros(2, int)

    @jax.jit
    def support(x, dy):
        out = net.forward(*variables, x)
        return net.backward(variables.params, out.saved, dy).dx

    for seed in range(3):  # a max-pool has one winner at a time
        x = jax.random.uniform(jax.random.key(seed), (1, *shape))
        y = net.forward(*variables, x).y
        middle = y.shape[1] // 2
        for row in (middle, middle + 1):
            dy = jnp.zeros_like(y).at[0, row, row, 0].set(1)
            touched = np.argwhere(np.asarray(support(x, dy))[0, :, :, 0] != 0)
            widest = np.maximum(widest, np.ptp(touched, axis=0) + 1)
    assert all(w <= s for w, s in zip(widest, sees, strict=True))
    assert tuple(widest) == sees or any(
        isinstance(layer, fnn.MaxPool) for layer in net.children.values()
    )


# ---- Errors ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: fnn.Conv(0, 3), "features must be a positive integer"),
        (lambda: fnn.Conv((2, 3), 3), "features must be one number"),
        (
            lambda: fnn.Conv(4, 2.5),
            "kernel_size must be a positive integer, or a tuple",
        ),
        (lambda: fnn.Conv(4, (3, 3, 3, 3)), "at most three spatial axes"),
        (lambda: fnn.Conv(4, 3, stride=0), "stride must be a positive integer"),
        (lambda: fnn.Conv(4, 3, padding="FULL"), "'SAME', 'VALID', 'CIRCULAR', 'REFL"),
        (lambda: fnn.Conv(4, 3, padding=-1), "got -1"),
        (lambda: fnn.Conv(4, 3, groups=3), "groups=3 does not divide features=4"),
        (lambda: fnn.ConvTranspose(4, 3, padding="CIRCULAR"), "'SAME', 'VALID', a"),
        (lambda: fnn.MaxPool(0), "window must be a positive integer"),
        (lambda: fnn.AvgPool(2, padding="REFLECT"), "padding must be 'SAME', 'VALID'"),
        (lambda: fnn.AdaptiveAvgPool(0), "output_size must be a positive integer"),
        (lambda: fnn.AvgPool(2, divisor_override=0), "divisor_override must be a posi"),
        (lambda: fnn.AvgPool(2, divisor_override=True), "divisor_override must be a"),
        (
            lambda: fnn.ConvTranspose(4, 3, padding=1, output_padding=-1),
            "output_padding must be a number of positions, or a tuple",
        ),
        (
            lambda: fnn.ConvTranspose(4, 3, stride=2, output_padding=1),
            'output_padding=1 adds to the smallest size of y, and padding="SAME"',
        ),
    ],
)
def test_impossible_layers_are_refused(make, text):
    with pytest.raises(ValueError, match="(?s).*" + text.replace("(", "\\(")):
        make()


@pytest.mark.parametrize(
    ("layer", "in_shape", "texts"),
    [
        (fnn.Conv(4, 5, padding="VALID"), (4, 8, 1), ["4×8", "5×5", "0×4 positions"]),
        (fnn.Conv(4, 3, dilation=4, padding=1), (5, 5, 1), ["9×9", "2×2", "0×0"]),
        (fnn.Conv(4, 3, groups=2), (5, 5, 3), ["groups=2", "the 3 features"]),
        (fnn.Conv(4, 3), (784,), ["(H, W, C)", "(784,)", "Reshape"]),
        (fnn.Conv(4, (3, 3)), (9, 1), ["2 spatial axes", "its input has 1"]),
        (fnn.Conv(4, 7, padding="REFLECT"), (3, 9, 1), ["pads 3", "images of 3", "2"]),
        (fnn.ConvTranspose(4, 2, padding=3), (3, 3, 1), ["4×4", "takes off 6×6"]),
        (fnn.MaxPool(6), (5, 7, 2), ["5×7", "6×6", "0×1"]),
        (fnn.MaxPool(2, padding=2), (5, 7, 2), ["a window of 2 with padding 2"]),
        (fnn.AvgPool(2, padding=2, ceil_mode=True), (5, 7, 2), ["with padding 2"]),
        (fnn.MaxPool(6, 1, ceil_mode=True), (5, 7, 2), ["5×7", "6×6", "0×2"]),
        (
            fnn.ConvTranspose(4, 3, stride=2, padding=1, output_padding=(1, 2)),
            (3, 3, 1),
            ["output_padding=2", "the stride, 2", "the dilation, 1"],
        ),
        (
            fnn.ConvTranspose(4, 3, stride=2, padding=1, output_padding=(1,)),
            (3, 3, 1),
            ["output_padding for 1 spatial axes"],
        ),
        (fnn.GlobalAvgPool(), (7,), ["(H, W, C)", "(7,)"]),
    ],
    ids=repr,
)
def test_a_layer_that_does_not_fit_is_refused_at_init(layer, in_shape, texts):
    with pytest.raises(ValueError) as caught:
        fnn.serial(layer).init(jax.random.key(0), in_shape)
    message = str(caught.value)
    for text in texts:
        assert text in message
    assert any("Serial layer 0" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("layer", "x_shape", "texts"),
    [
        (fnn.Conv(4, 3), (2, 6, 6, 3), ["(N, H, W, 2)", "(2, 6, 6, 3)"]),
        (fnn.Conv(4, 3), (6, 6, 2), ["(N, H, W, 2)", "one example alone is x[None]"]),
        (fnn.ConvTranspose(4, 3), (2, 6, 6, 3), ["(N, H, W, 2)", "3×3×4×2"]),
        (fnn.Conv(5, 3), (2, 6, 6, 2), ["another network"]),
        (fnn.Conv(4, 2), (2, 6, 6, 2), ["another network"]),
        (fnn.Conv(4, 3, bias=False), (2, 6, 6, 2), ["another network"]),
    ],
    ids=repr,
)
def test_wrong_inputs_and_parameters_are_explained(layer, x_shape, texts):
    kind = type(layer)
    variables = kind(4, 3).init(jax.random.key(0), (6, 6, 2))
    with pytest.raises(ValueError) as caught:
        layer.forward(*variables, jnp.ones(x_shape))
    for text in texts:
        assert text in str(caught.value)


def test_a_convolution_takes_the_initialiser_of_what_follows():
    key, shape = jax.random.key(0), (8, 8, 32)
    drawn = {
        follows: fnn.serial(fnn.Conv(64, 3), follows).init(key, shape).params[0].weight
        for follows in (fnn.Relu(), fnn.Identity())
    }
    fan_in = 3 * 3 * 32
    assert float(drawn[fnn.Relu()].var()) == pytest.approx(2 / fan_in, rel=0.1)
    assert float(drawn[fnn.Identity()].var()) == pytest.approx(1 / fan_in, rel=0.1)


def test_a_window_has_an_extent_padding_and_output_sizes():
    window = make_window(fnn.MaxPool(2), (7,), 3, 2, "SAME", 2)
    assert (window.extent, window.padding, window.output_sizes((7,))) == (
        (5,),
        ((2, 2),),
        (4,),
    )
