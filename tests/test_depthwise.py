"""Depthwise and grouped convolutions: those of `lax`, and its vjp, faster."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnn
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
    "one axis": ((11,), Window((4,), (2,), ((2, 1),), (1,))),
    "three axes": (
        (5, 4, 6),
        Window((2, 3, 1), (1, 2, 2), ((1, 0), (1, 1), (0, 0)), (1, 2, 1)),
    ),
}
#: (groups, inputs and outputs of each).
CHANNELS = {
    "depthwise": (5, 1, 1),
    "a multiplier": (3, 1, 2),
    "several inputs, one output": (3, 2, 1),
    "groups": (2, 3, 4),
    "many groups": (8, 2, 2),
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
