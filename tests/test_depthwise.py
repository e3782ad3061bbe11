"""Depthwise and grouped convolutions: those of `lax`, and its vjp, faster."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnn
from fnn.kernels.depthwise import Depthwise
from fnn.kernels.layout import swap_batch_and_channels as swap
from fnn.layers.convolve import convolve, convolve_dw, convolve_dx
from fnn.layers.windows import Window

NONE, SOME = ((0, 0), (0, 0)), ((1, 2), (2, 0))

#: (sizes, window): every stride, dilation and padding, in one to three dimensions.
GEOMETRIES = {
    "plain": ((7, 6), Window((3, 3), (1, 1), NONE, (1, 1))),
    "same": ((7, 6), Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))),
    "stride": ((8, 7), Window((3, 2), (2, 3), SOME, (1, 1))),
    "a remainder": ((9, 8), Window((2, 3), (3, 2), NONE, (1, 1))),
    "dilation": ((9, 8), Window((3, 2), (1, 1), SOME, (2, 3))),
    "stride and dilation": ((9, 8), Window((3, 3), (2, 3), SOME, (3, 2))),
    "both even": ((9, 8), Window((3, 3), (2, 2), SOME, (2, 2))),
    "between windows": ((9, 8), Window((1, 2), (3, 4), NONE, (1, 1))),
    "padding beyond": ((3, 2), Window((2, 3), (1, 2), ((4, 5), (3, 3)), (1, 1))),
    "cut off": ((9, 8), Window((3, 3), (2, 1), ((-1, 1), (2, -2)), (1, 1))),
    "a template as large": ((4, 5), Window((4, 5), (1, 1), NONE, (1, 1))),
    "one tap": ((5, 4), Window((1, 1), (1, 1), NONE, (1, 1))),
    "one tap, stride": ((9, 8), Window((1, 1), (3, 2), SOME, (1, 2))),
    "one tap, cut off": ((9, 8), Window((1, 1), (2, 2), ((-1, 2), (0, -2)), (1, 1))),
    "one axis": ((11,), Window((4,), (2,), ((2, 1),), (1,))),
    "three axes": (
        (5, 4, 6),
        Window((2, 3, 1), (1, 2, 2), ((1, 0), (1, 1), (0, 0)), (1, 2, 1)),
    ),
}
#: (groups, inputs and outputs of each).
CHANNELS = {
    "no groups": (1, 3, 4),
    "depthwise": (5, 1, 1),
    "a multiplier": (3, 1, 2),
    "several inputs, one output": (3, 2, 1),
    "groups": (2, 3, 4),
    "many small groups": (8, 2, 2),
    "groups that are split": (2, 8, 9),
}
FLOATS = {jnp.float16: 2e-3, jnp.bfloat16: 2e-2, jnp.float32: 2e-6}


def draws(*shapes, dtype=jnp.float64, seed=0):
    draw = np.random.default_rng(seed)
    return [jnp.asarray(draw.normal(size=shape), dtype) for shape in shapes]


def arguments(sizes, window, channels, dtype=jnp.float64):
    """Draw x, W and dy."""
    groups, inputs, outputs = channels
    places = window.output_sizes(sizes)
    return draws(
        (2, *sizes, groups * inputs), (*window.size, inputs, groups * outputs),
        (2, *places, groups * outputs), dtype=dtype,
    )  # fmt: skip


def ours(x, weight, dy, window, groups):
    dx = convolve_dx(dy, weight, window, x.shape[1:-1], groups)
    return convolve(x, weight, window, groups), dx, convolve_dw(x, dy, window, groups)


def jaxs(x, weight, dy, window, groups):
    axes = "DHW"[5 - x.ndim :]

    def convolve(x, weight):
        return lax.conv_general_dilated(
            x, weight, window.stride, window.padding, rhs_dilation=window.dilation,
            dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
            feature_group_count=groups,
        )  # fmt: skip

    y, transpose = jax.vjp(convolve, x, weight)
    return y, *transpose(dy)


def assert_equal(have, want, tolerance):
    for a, b in zip(have, want, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = (np.asarray(c, np.float64) for c in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * abs(b).max())


@pytest.mark.one_in(5)  # 5 divides no side of the table: every row and column is met
@pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS)
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_it_is_the_convolution_of_jax(geometry, channels):
    with jax.enable_x64(True):
        arrays = arguments(*geometry, channels)

        @jax.jit
        def both(*arrays):
            options = geometry[1], channels[0]
            return ours(*arrays, *options), jaxs(*arrays, *options)

        assert_equal(*both(*arrays), 1e-12)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize(
    "geometry",
    ["same", "stride and dilation", "between windows", "cut off", "one axis"],
)
def test_channels_may_be_first(geometry, outputs):
    sizes, window = GEOMETRIES[geometry]
    with jax.enable_x64(True):
        x, weight, dy = arguments(sizes, window, (5, 1, outputs))
        options = window.stride, window.padding, window.dilation

        @jax.jit
        def inner(x, weight, dy):
            kernel = Depthwise(*options, channels_first=True)
            y = kernel.forward(swap(x), weight)
            dx = kernel.backward_dx(swap(dy), weight, sizes, 5)
            return swap(y), swap(dx), kernel.backward_dw(swap(x), swap(dy), window.size)

        want = jaxs(x, weight, dy, window, 5)
        assert_equal(inner(x, weight, dy), want, 1e-12)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("geometry", ["same", "one tap, stride"])
@pytest.mark.parametrize("channels", ["no groups", "a multiplier"])
def test_in_any_precision(dtype, geometry, channels):
    """Half precision is summed in float32, so that it is rounded once."""
    sizes, window = GEOMETRIES[geometry]
    groups = CHANNELS[channels][0]
    arrays = arguments(sizes, window, CHANNELS[channels], dtype)
    have = jax.jit(ours, static_argnums=(3, 4))(*arrays, window, groups)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a, np.float64)) for a in arrays]
        want = jaxs(*wide, window, groups)
        want = [a.astype(dtype) for a in want]
    assert_equal(have, want, FLOATS[dtype])


@pytest.mark.parametrize(
    "channels", ["depthwise", "no groups", "groups that are split"]
)
def test_mapped_over_weights_and_in_a_loop(channels):
    """Of three members, each what it is alone; the loop adds up the steps."""
    (sizes, window), groups = GEOMETRIES["one tap, stride"], CHANNELS[channels][0]
    if channels == "depthwise":
        sizes, window = GEOMETRIES["stride"]
    run = partial(ours, window=window, groups=groups)
    with jax.enable_x64(True):
        arrays = arguments(sizes, window, CHANNELS[channels])
        members = [jnp.stack([a, 2 * a, a[::-1]]) for a in arrays]

        @jax.jit
        def in_a_loop(members):
            return lax.scan(lambda carry, arrays: (carry, run(*arrays)), 0, members)[1]

        want = jax.tree.map(
            lambda *parts: jnp.stack(parts),
            *(jaxs(*arrays, window, groups) for arrays in zip(*members, strict=True)),
        )
        assert_equal(jax.jit(jax.vmap(run))(*members), want, 1e-12)
        assert_equal(in_a_loop(members), want, 1e-12)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("layer", "in_shape"),
    [
        (fnn.Conv(6, 3, stride=2, groups=3), (7, 6, 3)),
        (fnn.Conv(4, 1, stride=2), (7, 6, 3)),
        (fnn.Conv(16, 2, groups=2), (5, 4, 16)),
        (fnn.Conv(4, 3, padding="REFLECT", groups=4), (5, 6, 4)),
        (fnn.ConvTranspose(3, 3, stride=2, groups=3), (4, 3, 3)),
        (fnn.ConvTranspose(6, 3, stride=2, groups=3), (4, 3, 3)),
    ],
    ids=repr,
)
def test_both_engines_agree(layer, in_shape):
    net, loss = fnn.serial(layer, fnn.Tanh()), fnn.losses.SquaredError()
    variables = net.init(jax.random.key(0), in_shape)
    (x,) = draws((3, *in_shape), dtype=jnp.float32)
    y = jnp.zeros_like(net.forward(*variables, x).y)
    report = fnn.compare_gradients(net, loss, variables, (x, y), max_coordinates=8)
    assert report.passed, str(report)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="for the CPU alone")
@pytest.mark.parametrize(
    ("layer", "left"),
    [
        (fnn.Conv(6, 3, groups=6), 0),
        (fnn.Conv(4, 1), 0),
        (fnn.Conv(16, 1, groups=2), 0),
        (fnn.Conv(4, 3, groups=2), 1),
        (fnn.Conv(6, (13, 13), groups=6), 1),  # too many taps to write out
        (fnn.Conv(4, 3), 1),
    ],
    ids=repr,
)
def test_which_convolutions_are_left_to_xla(layer, left):
    inputs = 16 if layer.features == 16 else layer.groups * 6 // layer.groups
    params, _ = layer.init(jax.random.key(0), (14, 14, inputs))

    def backward(x):
        out = layer.forward(params, (), x)
        return out.y, layer.backward(params, out.saved, out.y)

    program = str(jax.make_jaxpr(backward)(jnp.ones((2, 14, 14, inputs))))
    assert program.count("conv_general_dilated[") == 3 * left
