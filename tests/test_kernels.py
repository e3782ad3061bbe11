"""Each kernel against the operation that it replaces, in float64 and exactly."""

from fractions import Fraction
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnn
from fnn.kernels.batch_norm import batch_norm_backward, batch_norm_forward
from fnn.kernels.conv_block import ConvBlock
from fnn.kernels.im2col import Im2col, col2im, im2col
from fnn.kernels.layout import swap_batch_and_channels as swap
from fnn.kernels.planes import (
    materialize,
    pad_or_crop,
    planes_to_space,
    space_to_planes,
    split_planes,
)
from fnn.kernels.winograd import Winograd, toom_cook
from fnn.layers.convolution import ConvParams
from fnn.layers.normalization import moments

NONE, SOME = ((0, 0), (0, 0)), ((1, 2), (2, 0))


def draws(*shapes, seed=0):
    draw = np.random.default_rng(seed)
    return [jnp.asarray(draw.normal(size=shape)) for shape in shapes]


@partial(jax.jit, static_argnums=(0, 4))
def both(kernel, x, weight, dy, window):
    """Compute (y, dx, dW) by the kernel, and by XLA's convolution and its transpose."""
    stride, padding, dilation = window

    def convolve(x, weight):
        y = lax.conv_general_dilated(
            swap(x), weight, stride, padding, rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return swap(y)

    y, transpose = jax.vjp(convolve, x, weight)
    planes, saved = kernel.forward(x, weight)
    ours = planes_to_space(planes, kernel.group, y.shape[1:3])
    gradients = kernel.backward(weight, saved, space_to_planes(dy, kernel.group))
    return (ours, *gradients), (y, *transpose(dy))


def check(kernel, kernel_size, window=((1, 1), NONE, (1, 1)), tolerance=1e-12):
    with jax.enable_x64(True):
        x, weight = draws((3, 11, 13, 2), (*kernel_size, 3, 4))
        rows, columns = kernel.output_sizes(weight.shape, x.shape[1:3])
        (dy,) = draws((4, rows, columns, 2), seed=1)
        for a, b in zip(*both(kernel, x, weight, dy, window), strict=True):
            np.testing.assert_allclose(a, b, atol=tolerance * float(abs(b).max()))


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "group", "kernel_size"),
    [
        ((1, 1), NONE, (1, 1), (1, 1), (3, 3)),
        ((1, 1), SOME, (1, 1), (2, 2), (5, 5)),
        ((2, 3), SOME, (1, 1), (1, 1), (3, 2)),
        ((2, 2), SOME, (1, 1), (2, 3), (3, 4)),
        ((1, 2), SOME, (2, 3), (1, 1), (3, 3)),
        ((3, 3), NONE, (1, 1), (1, 1), (1, 1)),  # positions between windows
    ],
)
def test_im2col_is_the_convolution(stride, padding, dilation, group, kernel_size):
    kernel = Im2col(stride, padding, dilation, group)
    check(kernel, kernel_size, (stride, padding, dilation))


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("m", "r"), [(2, 3), (4, 3), (2, 5), (4, 5), (3, 2)])
@pytest.mark.parametrize("padding", [NONE, SOME])
def test_winograd_is_the_convolution(m, r, padding):
    # 13 and 11 columns: the last tile is never full.
    check(Winograd(m, padding), (3, r), ((1, 1), padding, (1, 1)))


@pytest.mark.parametrize(
    ("kernel", "size"),
    [(Im2col(keep_patches=False), (3, 3)), (Winograd(2, keep_patches=False), (3, 3))],
)
def test_patches_can_be_made_again(kernel, size):
    check(kernel, size)
    with jax.enable_x64(True):
        _, saved = kernel.forward(*draws((3, 11, 13, 2), (*size, 3, 4)))
        kept = [a.shape for a in jax.tree.leaves(saved)]
        assert (3, 11, 13, 2) in kept, "x is kept, and no patches"
        assert max(map(np.prod, kept)) == 3 * 11 * 13 * 2


def test_col2im_is_the_transpose_of_im2col():
    with jax.enable_x64(True):
        for stride, padding, group in product([1, 2], [NONE, SOME], [(1, 1), (2, 2)]):
            kernel = Im2col((stride, stride), padding, (1, 1), group)
            axes = kernel.patch_axes((3, 3), (7, 8))
            (x,) = draws((2, 7, 8, 3))
            (p,) = draws(im2col(x, *axes).shape, seed=1)
            ours = (col2im(p, *axes, 3) * x).sum()
            np.testing.assert_allclose(ours, (p * im2col(x, *axes)).sum(), rtol=1e-10)


def test_another_kernel_of_the_same_numbers_is_another_kernel():
    """Compiled programs are found by equality: a kernel of your own must differ."""

    class Mine(Winograd):
        pass

    assert Mine(2) != Winograd(2) and Mine(2) == Mine(2)
    assert ConvBlock(Mine(2)) != ConvBlock(Winograd(2))
    assert len({Mine(2), Winograd(2), Winograd(2)}) == 2


# ---- Winograd's matrices ---------------------------------------------------------


@pytest.mark.parametrize(("m", "r"), [(1, 3), (2, 3), (4, 3), (6, 3), (2, 5), (4, 5)])
def test_toom_cook_is_exact(m, r):
    """y = Aᵀ ((G g) ⊙ (Bᵀ d)), in fractions: not an approximation of it."""
    matrices = toom_cook(m, r)
    d = [Fraction(3 * j * j - 7, j + 2) for j in range(m + r - 1)]
    g = [Fraction(k - 2, 5) for k in range(r)]

    def times(matrix, vector):
        return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]

    products = [
        a * b for a, b in zip(times(matrices.g, g), times(matrices.bt, d), strict=True)
    ]
    expected = [sum(d[i + k] * g[k] for k in range(r)) for i in range(m)]
    assert times(matrices.at, products) == expected


@pytest.mark.parametrize(("m", "r"), [(2, 3), (4, 3), (4, 5)])
def test_rounding_stays_within_its_bound(m, r):
    x, weight = (a.astype(jnp.float32) for a in draws((8, 9, 24, 4), (3, r, 8, 4)))
    planes, _ = Winograd(m).forward(x, weight)
    y = planes_to_space(planes, (1, m), (7, 25 - r))
    with jax.enable_x64(True):
        wide = [jnp.asarray(a, jnp.float64) for a in (x, weight)]
        exact = Im2col().forward(*wide)[0][0]
    error = np.abs(np.asarray(y, np.float64) - np.asarray(exact)).max((1, 2, 3))
    eps, kappa = np.finfo(np.float32).eps, toom_cook(m, r).growth
    largest = np.abs(weight).max(1).sum((0, 1)) * np.abs(x).max()
    # Without the number of additions, which only the worst of cases adds up.
    assert (error <= eps * kappa * largest).all()
    assert (error <= 16 * eps * np.abs(exact).max()).all(), "what the page says"
    assert (error > eps * np.abs(exact).max() / 16).any(), "it is not exact either"


def test_equal_outputs_of_a_constant_row_are_equal_to_the_bit():
    weight = draws((5, 5, 3, 4))[0].astype(jnp.float32)
    x = jnp.full((3, 8, 12, 2), 0.3, jnp.float32)
    y = planes_to_space(Winograd(4).forward(x, weight)[0], (1, 4), (4, 8))
    assert (np.asarray(y) == np.asarray(y)[:, :1, :1]).all()


# ---- Planes ----------------------------------------------------------------------


@pytest.mark.parametrize("group", [(1, 1), (2, 2), (1, 4), (3, 2)])
def test_planes_back_in_space_are_the_image(group):
    (x,) = draws((2, 7, 9, 3))
    planes = space_to_planes(x, group)
    assert len(planes) == group[0] * group[1]
    np.testing.assert_array_equal(planes_to_space(planes, group, (7, 9)), x)
    np.testing.assert_array_equal(planes[-1][:, 0, 0], x[:, group[0] - 1, group[1] - 1])


def test_planes_split_again_are_planes_of_the_product():
    (x,) = draws((2, 12, 8, 3))
    split = split_planes(space_to_planes(x, (2, 1)), (2, 1), (2, 2), (3, 4))
    for a, b in zip(split, space_to_planes(x, (4, 2)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_pad_or_crop_moves_pads_and_crops():
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    moved = pad_or_crop(x, (1, -1), (3, 3))[0, :, :, 0]
    np.testing.assert_array_equal(moved, [[0, 0, 0], [1, 2, 0], [4, 5, 0]])


def test_materialize_is_the_identity_also_of_nan():
    x = jnp.array([jnp.nan, -0.0, jnp.inf, 1.0])
    np.testing.assert_array_equal(materialize(x), x)
    np.testing.assert_array_equal(materialize(x, after=jnp.zeros(1)), x)


# ---- Blocks and batch normalisation ----------------------------------------------

BLOCKS = [
    ConvBlock(Im2col(), True),
    ConvBlock(Im2col(), True, (2, 2)),
    ConvBlock(Im2col(group=(2, 2)), False, (2, 2)),
    ConvBlock(Im2col(group=(3, 2)), True, (3, 2)),
    # F(2, 3) has powers of two only, and rounds nothing here.
    ConvBlock(Winograd(2), True, (2, 2)),
    ConvBlock(Winograd(2), False, (3, 2)),
    ConvBlock(Winograd(2), True, (3, 4)),
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("block", BLOCKS, ids=repr)
@pytest.mark.parametrize("bias", [True, False])
def test_block_is_its_layers_ties_included(block, bias):
    """Small integers: nearly every window has several maxima."""
    layers = [fnn.Conv(4, 3, padding="VALID", bias=bias)]
    layers += [fnn.Relu()] if block.relu else []
    layers += [fnn.MaxPool(block.pool)] if block.pool != (1, 1) else []
    net, draw = fnn.serial(*layers), np.random.default_rng(0)

    @jax.jit
    def run(x, weight, b, dy):
        params = ConvParams(weight, b if bias else ())
        out = net.forward((params, *[()] * len(layers[1:])), ((),) * len(layers), x)
        back = net.backward((params, *[()] * len(layers[1:])), out.saved, dy)
        y, saved = block.forward(swap(x), *params)
        dx, dweight, db = block.backward(*params, saved, swap(dy))
        plain = back.dparams[0]
        return (swap(y), swap(dx), dweight, db), (out.y, back.dx, *plain)

    with jax.enable_x64(True):
        x = jnp.asarray(draw.integers(-1, 2, size=(2, 11, 12, 3)).astype(float))
        weight = jnp.asarray(draw.integers(-1, 2, size=(3, 3, 3, 4)).astype(float))
        b = jnp.asarray(draw.integers(-2, 3, size=4).astype(float))
        h, w = (size // p for size, p in zip((9, 10), block.pool, strict=True))
        dy = jnp.asarray(draw.normal(size=(2, h, w, 4)))
        ours, plain = run(x, weight, b, dy)
        for a, expected in zip(*map(jax.tree.leaves, (ours, plain)), strict=True):
            np.testing.assert_allclose(a, expected, atol=1e-11)


def test_winograd_and_im2col_have_the_same_argmax_on_a_background():
    with jax.enable_x64(True):
        (weight,) = draws((3, 3, 3, 4))
        x, gradients = jnp.full((3, 10, 14, 2), 0.3), []
        for kernel in (Winograd(4), Im2col()):
            block = ConvBlock(kernel, False, (2, 2))
            y, saved = jax.jit(block.forward)(x, weight, ())
            (dy,) = draws(y.shape, seed=1)
            gradients.append(jax.jit(block.backward)(weight, (), saved, dy)[0])
        np.testing.assert_allclose(*gradients, atol=1e-11)


def test_block_passes_on_nan_and_no_gradient_of_its_window():
    block = ConvBlock(Im2col(group=(2, 2)), False, (2, 2))
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 2, 0].set(jnp.nan)
    weight = jnp.ones((1, 1, 1, 1))
    y, saved = block.forward(x, weight, ())
    assert np.isnan(y).sum() == 1
    dx, _, _ = block.backward(weight, (), saved, jnp.ones_like(y))
    np.testing.assert_array_equal(dx[0, :, :, 0].sum(), 3)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("relu", [True, False])
def test_batch_norm_is_its_layers(train, relu):
    norm = fnn.BatchNorm(eps=0.1)

    @jax.jit
    def run(params, state, x, dy):
        out = norm.forward(params, state, x, train=train)
        g = jnp.where(out.y > 0, dy, 0) if relu else dy
        y = jax.nn.relu(out.y) if relu else out.y
        back = norm.backward(params, out.saved, g)
        stats = map(jnp.ravel, moments(x, (0, 1, 2))) if train else state
        ours, saved = batch_norm_forward(swap(x), *params, *stats, norm.eps, relu)
        dx, *rest = batch_norm_backward(params.scale, saved, swap(dy), train)
        return (swap(ours), swap(dx), *rest), (y, back.dx, *back.dparams)

    with jax.enable_x64(True):
        x, dy = draws((3, 4, 5, 2), (3, 4, 5, 2))
        params, state = jax.tree.map(
            lambda a: a + 0.3 * jnp.arange(2.0), norm.init(jax.random.key(0), (4, 5, 2))
        )
        for a, b in zip(*run(params, state, x, dy), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("mean", [0.0, 30.0, 1000.0])
def test_dscale_of_batch_norm_is_within_its_bound(mean):
    """A few ε of the sums that are subtracted, also where μ is many times σ."""

    def dscale(x, dy):
        stats = map(jnp.ravel, moments(swap(x), (0, 1, 2)))
        one = jnp.ones(len(x), x.dtype)
        _, saved = batch_norm_forward(x, one, 0 * one, *stats, 1e-5, False)
        return batch_norm_backward(one, saved, dy, True)[1]

    with jax.enable_x64(True):
        x, dy = (a.astype(jnp.float32) for a in draws((2, 9, 9, 16), (2, 9, 9, 16)))
        x = x + jnp.float32(mean)
        exact = np.asarray(dscale(x.astype(float), dy.astype(float)))
        error = abs(np.asarray(dscale(x, dy)) - exact)
    x, dy = np.asarray(x), np.asarray(dy)
    sums = abs(dy * x).sum((1, 2, 3)) + mean * abs(dy).sum((1, 2, 3))
    bound = np.finfo(np.float32).eps * sums / x.std((1, 2, 3))
    assert (error > 0).all() and (error <= bound).all()
