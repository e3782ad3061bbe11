"""Forward and gradients against PyTorch's, in float64.

A row has a layer, the shape of one example, and the same function in PyTorch, whose
arguments are the layer's parameters, in their order, and x. Parameters and x have fnn's
layout; a function that needs another one moves axes, and PyTorch differentiates that.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import pytest

import fnn

torch = pytest.importorskip("torch")
F = torch.nn.functional

N = 6


class Twin(NamedTuple):
    """A layer of fnn and a function of PyTorch that must compute the same."""

    name: str
    layer: fnn.Layer
    in_shape: tuple[int, ...]
    function: Callable


def channels_first(function: Callable) -> Callable:
    """Make a function of images (N, C, ...) one of images (N, ..., C)."""

    def channels_last(*arguments):
        *params, x = arguments
        return function(*params, x.movedim(-1, 1)).movedim(1, -1)

    return channels_last


@channels_first
def batch_norm(scale, bias, x):
    return F.batch_norm(x, None, None, scale, bias, training=True)


@channels_first
def instance_norm(scale, bias, x):
    return F.instance_norm(x, weight=scale, bias=bias, eps=1e-5)


def group_norm(groups):
    return channels_first(
        lambda scale, bias, x: F.group_norm(x, groups, scale, bias, eps=1e-5)
    )


def layer_norm(scale, bias, x):
    return F.layer_norm(x, x.shape[-1:], scale, bias, eps=1e-5)


def rms_norm(scale, x):
    return F.rms_norm(x, x.shape[-1:], scale, eps=1e-6)


def prelu(slope, x):
    return F.prelu(x.movedim(-1, 1), slope.reshape(-1)).movedim(1, -1)


def nearest(factor):
    return channels_first(
        lambda x: F.interpolate(x, scale_factor=factor, mode="nearest")
    )


def convolution(**options):
    """Return a convolution in as many dimensions as its weight (K, ..., I/G, O) has."""

    def run(weight, bias, x):
        weight = weight.movedim((-1, -2), (0, 1))
        run = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
        return run(x, weight, bias, **options)

    return channels_first(run)


def transposed(**options):
    """Return a transposed convolution; PyTorch's weight is (I, O/G, K, ...)."""

    def run(weight, bias, x):
        weight = weight.movedim((-1, -2), (0, 1))
        run = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[x.ndim - 3]
        return run(x, weight, bias, **options)

    return channels_first(run)


def padded(mode, amounts, **options):
    """Return padding and convolution; PyTorch's amounts begin with the last axis."""

    def run(weight, bias, x):
        x = F.pad(x.movedim(-1, 1), amounts, mode).movedim(1, -1)
        return convolution(**options)(weight, bias, x)

    return run


def pool(function, *arguments, **options):
    return channels_first(lambda x: function(x, *arguments, **options))


VECTOR, LINE, IMAGE, VOLUME = (8,), (5, 4), (7, 3, 8), (2, 5, 3, 4)
WIDE = (9, 7, 4)

MAX_POOLS = F.max_pool1d, F.max_pool2d, F.max_pool3d
AVG_POOLS = F.avg_pool1d, F.avg_pool2d, F.avg_pool3d
#: Windows, strides, paddings, and shapes that they do and do not divide.
CEIL_GEOMETRIES = [
    (2, 2, 0, (5, 4)),
    (3, 2, 1, (6, 4)),
    (3, 5, 1, (7, 4)),
    (2, 3, 1, (5, 4)),  # a window that would begin in the padding behind the image
    (4, 3, 0, (3, 4)),  # a window larger than the image
    ((3, 2), (2, 3), (1, 0), WIDE),
    (2, 2, 0, VOLUME),
]

TWINS = [
    Twin("batch norm, vector", fnn.BatchNorm(), VECTOR, batch_norm),
    Twin("batch norm, image", fnn.BatchNorm(), IMAGE, batch_norm),
    Twin("layer norm, vector", fnn.LayerNorm(), VECTOR, layer_norm),
    Twin("layer norm, image", fnn.LayerNorm(), IMAGE, layer_norm),
    Twin("RMS norm, vector", fnn.RMSNorm(), VECTOR, rms_norm),
    Twin("RMS norm, image", fnn.RMSNorm(), IMAGE, rms_norm),
    Twin("instance norm, line", fnn.InstanceNorm(), LINE, instance_norm),
    Twin("instance norm, image", fnn.InstanceNorm(), IMAGE, instance_norm),
    Twin("instance norm, volume", fnn.InstanceNorm(), VOLUME, instance_norm),
    Twin("group norm, vector", fnn.GroupNorm(2), VECTOR, group_norm(2)),
    Twin("group norm, line", fnn.GroupNorm(2), LINE, group_norm(2)),
    Twin("group norm, image", fnn.GroupNorm(4), IMAGE, group_norm(4)),
    Twin("group norm, volume", fnn.GroupNorm(2), VOLUME, group_norm(2)),
    Twin("group norm, one group", fnn.GroupNorm(1), IMAGE, group_norm(1)),
    Twin("group norm, groups of one", fnn.GroupNorm(8), IMAGE, group_norm(8)),
    Twin("prelu, vector", fnn.PRelu(), VECTOR, prelu),
    Twin("prelu, image", fnn.PRelu(), IMAGE, prelu),
    Twin("prelu, one slope", fnn.PRelu(per_channel=False), IMAGE, prelu),
    Twin("clip", fnn.Clip(), VECTOR, F.hardtanh),
    Twin("clip, relu6", fnn.Clip(0, 6), IMAGE, F.relu6),
    # F.hardsigmoid multiplies by 1/6 in float32.
    Twin("hard sigmoid", fnn.HardSigmoid(), VECTOR, lambda x: F.relu6(x + 3) / 6),
    Twin("hard swish", fnn.HardSwish(), IMAGE, F.hardswish),
    Twin("log softmax", fnn.LogSoftmax(), IMAGE, lambda x: F.log_softmax(x, -1)),
    Twin("dense, vector", fnn.Dense(5), VECTOR, lambda w, b, x: F.linear(x, w.T, b)),
    Twin("dense, image", fnn.Dense(5), IMAGE, lambda w, b, x: F.linear(x, w.T, b)),
    Twin(
        "pad, image",
        fnn.Pad(((1, 2), 3), value=0.5),
        IMAGE,
        lambda x: F.pad(x, (0, 0, 3, 3, 1, 2), value=0.5),
    ),
    Twin(
        "crop, image",
        fnn.Crop(((1, 2), 1)),
        IMAGE,
        lambda x: F.pad(x, (0, 0, -1, -1, -1, -2)),
    ),
    Twin("upsample, line", fnn.Upsample(3), LINE, nearest(3)),
    Twin("upsample, image", fnn.Upsample(2), IMAGE, nearest(2)),
    Twin("upsample, unequal", fnn.Upsample((2, 5)), IMAGE, nearest((2, 5))),
    Twin("upsample, volume", fnn.Upsample((3, 1, 2)), VOLUME, nearest((3, 1, 2))),
    Twin(
        "convolution, line",
        fnn.Conv(5, 3, stride=2, padding=1, dilation=2),
        (11, 4),
        convolution(stride=2, padding=1, dilation=2),
    ),
    Twin(
        "convolution, image",
        fnn.Conv(5, (3, 2), stride=(2, 3), padding=(2, 1)),
        WIDE,
        convolution(stride=(2, 3), padding=(2, 1)),
    ),
    Twin(
        "convolution, even template",
        fnn.Conv(5, (4, 2), dilation=(1, 3)),
        WIDE,
        padded("constant", (1, 2, 1, 2), dilation=(1, 3)),
    ),
    Twin(
        "convolution, groups",
        fnn.Conv(6, 3, stride=2, padding=2, dilation=2, groups=2),
        WIDE,
        convolution(stride=2, padding=2, dilation=2, groups=2),
    ),
    Twin(
        "convolution, depthwise",
        fnn.Conv(8, (3, 2), padding="VALID", groups=4),
        WIDE,
        convolution(groups=4),
    ),
    Twin(
        "convolution, volume",
        fnn.Conv(5, (2, 3, 1), stride=(1, 2, 1), padding=(1, 0, 2)),
        VOLUME,
        convolution(stride=(1, 2, 1), padding=(1, 0, 2)),
    ),
    Twin(
        "convolution, circular",
        fnn.Conv(5, (3, 2), padding="CIRCULAR"),
        WIDE,
        padded("circular", (0, 1, 1, 1)),
    ),
    Twin(
        "convolution, reflect",
        fnn.Conv(5, (3, 4), stride=(2, 1), padding="REFLECT", dilation=(2, 1)),
        WIDE,
        padded("reflect", (1, 2, 2, 2), stride=(2, 1), dilation=(2, 1)),
    ),
    Twin(
        "transposed, line",
        fnn.ConvTranspose(5, 4, stride=3, padding=1),
        LINE,
        transposed(stride=3, padding=1),
    ),
    Twin(
        "transposed, image",
        fnn.ConvTranspose(5, (3, 2), stride=(2, 3), padding=1, dilation=2),
        WIDE,
        transposed(stride=(2, 3), padding=1, dilation=2),
    ),
    Twin(
        "transposed, same",
        fnn.ConvTranspose(5, 4, stride=2),
        WIDE,
        transposed(stride=2, padding=1),
    ),
    Twin(
        "transposed, groups",
        fnn.ConvTranspose(6, 3, stride=2, padding="VALID", groups=2),
        IMAGE,
        transposed(stride=2, groups=2),
    ),
    Twin("max pool", fnn.MaxPool(2), WIDE, pool(F.max_pool2d, 2)),
    Twin(
        "max pool, overlapping",
        fnn.MaxPool((3, 2), (2, 1), 1),
        WIDE,
        pool(F.max_pool2d, (3, 2), (2, 1), 1),
    ),
    Twin("max pool, volume", fnn.MaxPool(2, 1), VOLUME, pool(F.max_pool3d, 2, 1)),
    Twin("average pool", fnn.AvgPool(2), WIDE, pool(F.avg_pool2d, 2)),
    Twin(
        "average pool, padding counted",
        fnn.AvgPool((3, 2), (2, 1), 1),
        WIDE,
        pool(F.avg_pool2d, (3, 2), (2, 1), 1),
    ),
    Twin(
        "average pool, padding not counted",
        fnn.AvgPool((3, 2), (2, 1), 1, count_include_pad=False),
        WIDE,
        pool(F.avg_pool2d, (3, 2), (2, 1), 1, count_include_pad=False),
    ),
    Twin(
        "adaptive average pool, line",
        fnn.AdaptiveAvgPool(3),
        LINE,
        pool(F.adaptive_avg_pool1d, 3),
    ),
    Twin(
        "adaptive average pool, image",
        fnn.AdaptiveAvgPool((4, 5)),
        WIDE,
        pool(F.adaptive_avg_pool2d, (4, 5)),
    ),
    Twin(
        "adaptive average pool, more outputs than inputs",
        fnn.AdaptiveAvgPool((13, 5)),
        WIDE,
        pool(F.adaptive_avg_pool2d, (13, 5)),
    ),
    Twin(
        "adaptive average pool, volume grows",
        fnn.AdaptiveAvgPool((3, 2, 8)),
        VOLUME,
        pool(F.adaptive_avg_pool3d, (3, 2, 8)),
    ),
    Twin(
        "convolution, replicate",
        fnn.Conv(5, (4, 3), stride=(2, 1), padding="REPLICATE", dilation=(1, 2)),
        WIDE,
        padded("replicate", (2, 2, 1, 2), stride=(2, 1), dilation=(1, 2)),
    ),
    Twin(
        "convolution, replicate more than there is",
        fnn.Conv(5, 7, padding="REPLICATE"),
        (2, 4),
        padded("replicate", (3, 3)),
    ),
    Twin(
        "transposed, output padding, line",
        fnn.ConvTranspose(5, 4, stride=3, padding=1, output_padding=2),
        LINE,
        transposed(stride=3, padding=1, output_padding=2),
    ),
    Twin(
        "transposed, output padding",
        fnn.ConvTranspose(
            6, 3, stride=2, padding=1, dilation=(1, 3), groups=2, output_padding=(1, 2)
        ),
        WIDE,
        transposed(
            stride=2, padding=1, dilation=(1, 3), groups=2, output_padding=(1, 2)
        ),
    ),
    Twin(
        "transposed, output padding beyond all windows",
        fnn.ConvTranspose(
            5, (1, 2, 3), stride=(4, 3, 1), padding="VALID", output_padding=(3, 2, 0)
        ),
        VOLUME,
        transposed(stride=(4, 3, 1), output_padding=(3, 2, 0)),
    ),
    *(
        Twin(
            f"{name} pool, ceil mode, {window}, {stride}, {padding}{options or ''}",
            layer(window, stride, padding, ceil_mode=True, **options),
            in_shape,
            pool(function, window, stride, padding, ceil_mode=True, **options),
        )
        for window, stride, padding, in_shape in CEIL_GEOMETRIES
        for name, layer, function, options in [
            ("max", fnn.MaxPool, MAX_POOLS[len(in_shape) - 2], {}),
            ("average", fnn.AvgPool, AVG_POOLS[len(in_shape) - 2], {}),
            (
                *("average", fnn.AvgPool, AVG_POOLS[len(in_shape) - 2]),
                {"count_include_pad": False},
            ),
        ]
    ),
    *(
        Twin(
            f"average pool, divisor, {options}",
            fnn.AvgPool((3, 2), (2, 1), 1, divisor_override=5, **options),
            WIDE,
            pool(F.avg_pool2d, (3, 2), (2, 1), 1, divisor_override=5, **options),
        )
        for options in [{}, {"ceil_mode": True}, {"count_include_pad": False}]
    ),
    Twin("global average pool", fnn.GlobalAvgPool(), WIDE, lambda x: x.mean((1, 2))),
    Twin("global max pool", fnn.GlobalMaxPool(), WIDE, lambda x: x.amax((1, 2))),
]


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
def test_forward_and_gradients_are_pytorchs(twin):
    rng = np.random.default_rng(0)
    params, state = jax.eval_shape(
        lambda key: twin.layer.init(key, twin.in_shape), jax.random.key(0)
    )
    params = jax.tree.map(lambda p: rng.normal(size=p.shape), params)
    state = jax.tree.map(lambda s: np.ones(s.shape), state)
    x = rng.normal(0.5, 2, size=(N, *twin.in_shape))

    theirs = [
        torch.tensor(a, requires_grad=True) for a in (*jax.tree.leaves(params), x)
    ]
    y = twin.function(*theirs)
    dy = rng.normal(size=y.shape)
    y.backward(torch.tensor(dy))

    @jax.jit
    def run(layer, params, state, x, dy):
        out = layer.forward(params, state, x, train=True)
        back = layer.backward(params, out.saved, dy)
        return out.y, *jax.tree.leaves(back.dparams), back.dx

    with jax.enable_x64(True):
        ours = jax.device_get(run(twin.layer, params, state, x, dy))
    expected = [y.detach().numpy(), *(tensor.grad.numpy() for tensor in theirs)]
    for have, want in zip(ours, expected, strict=True):
        assert have.dtype == np.float64
        np.testing.assert_allclose(have, want, rtol=0, atol=1e-12 * abs(want).max())
