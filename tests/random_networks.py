"""Random networks, losses and batches that are right: the audit must pass them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from fnn.network import output_shape

ACTIVATIONS = [
    fnn.Sigmoid(),
    fnn.Tanh(),
    fnn.Relu(),
    fnn.LeakyRelu(0.1),
    fnn.Elu(),
    fnn.Gelu(),
    fnn.Gelu(approximate=True),
    fnn.Silu(),
    fnn.Softplus(),
    fnn.Softmax(),
    fnn.Identity(),
    fnn.Lambda(jnp.sin),
]
NORMS = [fnn.LayerNorm(), fnn.RMSNorm(), fnn.GroupNorm(1)]  # they fit any width
WITH_NORMS = 500  # the first seed that draws from all; below it networks stay the same


class Trial(NamedTuple):
    """The arguments of one audit."""

    net: fnn.Layer
    loss: fnn.losses.Loss
    variables: fnn.Variables
    batch: tuple
    options: dict


def random_trial(seed: int, dtype=np.float32) -> Trial:
    """Draw a random network, loss and batch from one seed."""
    draw = np.random.default_rng(seed)
    shape = _shape(draw)
    examples = int(draw.choice([2, 3, 5, 8, 13]))
    net, outputs = _network(draw, shape)
    if seed >= WITH_NORMS:
        net = _with_other_norms(draw, net)
    return random_trial_of(draw, seed, net, outputs, (examples, *shape), dtype)


def random_image_trial(seed: int, dtype=np.float32) -> Trial:
    """Draw a small convolutional network, and a loss and a batch, from one seed."""
    draw = np.random.default_rng((seed, 1))
    shape = *_several(draw, 5, 10), int(draw.integers(1, 4))
    examples = int(draw.choice([2, 3, 5]))
    net, outputs = _image_network(draw, shape)
    trial = random_trial_of(draw, seed, net, outputs, (examples, *shape), dtype)
    if draw.random() < 0.3:
        return trial
    # Where an output sees only padding, a bias of zero puts a ReLU exactly at its kink.
    params = jax.tree.map(
        lambda a: (a + 0.3 * draw.normal(size=a.shape)).astype(dtype),
        trial.variables.params,
    )
    return trial._replace(variables=trial.variables._replace(params=params))


def random_trial_of(
    draw, seed: int, net, outputs: int, shape: tuple[int, ...], dtype
) -> Trial:
    examples, *one = shape
    loss, y = _loss(draw, examples, outputs)
    key = jax.random.key(seed)
    variables = net.init(key, tuple(one))
    scale = draw.choice([0.1, 1.0, 3.0])
    x = (scale * draw.normal(size=shape)).astype(dtype)
    variables = jax.tree.map(lambda a: np.asarray(a, dtype), variables)
    options = dict(
        key=jax.random.fold_in(key, 1),
        train=bool(draw.random() < 0.8),
        l2=float(draw.choice([0.0, 0.1])),
    )
    return Trial(net, loss, variables, (x, y), options)


def _shape(draw) -> tuple[int, ...]:
    if draw.random() < 0.3:
        return tuple(int(n) for n in draw.integers(2, 5, size=3))
    return (int(draw.integers(2, 9)),)


def _network(draw, shape):
    layers = []
    if draw.random() < 0.2:
        layers.append(fnn.Dropout(float(draw.uniform(0, 0.5))))
    if len(shape) > 1:
        if draw.random() < 0.5:
            layers.append(fnn.BatchNorm())
        layers.append(fnn.Flatten())
    width = int(np.prod(shape))
    for _ in range(draw.integers(1, 5)):
        block, width = _block(draw, width, depth=0)
        layers.append(block)
    outputs = int(draw.integers(1, 5))
    return fnn.serial(*layers, fnn.Dense(outputs)), outputs


def _with_other_norms(draw, net: fnn.Layer) -> fnn.Layer:
    """Replace each LayerNorm by any normalisation that fits all widths."""

    def is_layer_norm(node) -> bool:
        return isinstance(node, fnn.LayerNorm)

    def replaced(node):
        return NORMS[draw.integers(len(NORMS))] if is_layer_norm(node) else node

    return jax.tree.map(replaced, net, is_leaf=is_layer_norm)


def _block(draw, width: int, depth: int):
    kind = draw.choice(["plain", "plain", "plain", "residual", "parallel", "reshape"])
    if kind == "reshape" and width % 2 == 0:
        return fnn.serial(fnn.Reshape((2, width // 2)), fnn.Flatten()), width
    if kind == "residual" and depth < 2:
        body, out = _block(draw, width, depth + 1)
        projection = fnn.Dense(out) if out != width or draw.random() < 0.3 else None
        return fnn.residual(body, projection), out
    if kind == "parallel" and depth < 2:
        pairs = [_block(draw, width, depth + 1) for _ in range(draw.integers(1, 4))]
        widths = [out for _, out in pairs]
        merge = "sum" if len(set(widths)) == 1 else "concatenate"
        out = widths[0] if merge == "sum" else sum(widths)
        return fnn.parallel(*(block for block, _ in pairs), merge=merge), out
    return _plain(draw, width)


def _plain(draw, width: int):
    layers = []
    if draw.random() < 0.8:
        width = int(draw.integers(2, 9))
        layers.append(fnn.Dense(width, bias=bool(draw.random() < 0.8)))
    if draw.random() < 0.4:
        layers.append(fnn.BatchNorm() if draw.random() < 0.6 else fnn.LayerNorm())
    layers.append(ACTIVATIONS[draw.integers(len(ACTIVATIONS))])
    if draw.random() < 0.3:
        layers.append(fnn.Dropout(float(draw.uniform(0, 0.7))))
    return fnn.serial(*layers), width


# ---- Images ----------------------------------------------------------------------


def _image_network(draw, shape):
    layers = []
    for _ in range(_one_of(draw, 1, 1, 2, 2, 3)):
        layer, shape = _fitting(draw, shape)
        layers.append(layer)
    size = tuple(int(draw.integers(1, min(h, 3) + 1)) for h in shape[:2])
    ends = [
        (fnn.GlobalAvgPool(),),
        (fnn.GlobalMaxPool(),),
        (fnn.Flatten(),),
        (fnn.AdaptiveAvgPool(size), fnn.Flatten()),
    ]
    outputs = int(draw.integers(1, 5))
    end = ends[draw.integers(len(ends))]
    return fnn.serial(*layers, *end, fnn.Dense(outputs)), outputs


def _fitting(draw, shape):
    """Draw a block with 1 to 12 output positions along each axis; add its shape."""
    while True:
        layer = IMAGE_BLOCKS[draw.integers(len(IMAGE_BLOCKS))](draw, shape)
        try:
            out = out_shape(layer, shape)
        except ValueError:  # the window does not fit
            continue
        if max(out[:2]) <= 12:
            return layer, out


def out_shape(layer: fnn.Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    variables = jax.eval_shape(lambda: layer.init(jax.random.key(0), shape))
    return output_shape(layer, variables, shape)


def _several(draw, low: int, high: int) -> tuple[int, int]:
    """Draw two numbers, for the two axes of an image."""
    return tuple(int(n) for n in draw.integers(low, high, size=2))


def _one_of(draw, *choices):
    return choices[draw.integers(len(choices))]


def _conv(draw, shape, stride=None, padding=None):
    groups = int(draw.choice([g for g in (1, 1, 2, 3) if shape[-1] % g == 0]))
    features = groups * int(draw.integers(1, 3) if groups > 1 else draw.integers(2, 5))
    stride = _one_of(draw, 1, 1, 2, _several(draw, 1, 4)) if stride is None else stride
    around = _several(draw, 0, 3), _several(draw, 0, 3)
    anything = "SAME", "VALID", "CIRCULAR", "REFLECT", int(draw.integers(3)), around
    return fnn.Conv(
        features,
        _several(draw, 1, 4),
        stride=stride,
        padding=_one_of(draw, *anything) if padding is None else padding,
        dilation=_one_of(draw, 1, 1, 2, _several(draw, 1, 3)),
        groups=groups,
        bias=bool(draw.random() < 0.7),
    )


def _grow(draw, shape):
    if draw.random() < 0.4:
        return fnn.Upsample(_several(draw, 1, 3))
    kernel, padding = _several(draw, 1, 4), _one_of(draw, "SAME", "VALID", 1)
    stride, groups = _several(draw, 1, 3), 2 - shape[-1] % 2
    return fnn.ConvTranspose(
        2 * groups, kernel, stride=stride, padding=padding, groups=groups
    )


def _pool(draw, shape):
    window = _several(draw, 1, 4)
    stride = _one_of(draw, None, None, _several(draw, 1, 4))
    padding = _one_of(draw, "VALID", "VALID", "SAME", ((0, min(window) - 1),) * 2)
    if draw.random() < 0.6:
        return fnn.MaxPool(window, stride, padding)
    return fnn.AvgPool(window, stride, padding, bool(draw.random() < 0.5))


def _norm(draw, features: int):
    norms = [fnn.BatchNorm(), fnn.BatchNorm(), fnn.InstanceNorm()]
    norms += [fnn.GroupNorm(2 - features % 2)]
    if features > 1:  # over a single one they leave nothing, or a sign
        norms += [fnn.LayerNorm(), fnn.RMSNorm()]
    return _one_of(draw, *norms)


def _activation(draw):
    return _one_of(draw, *ACTIVATIONS, *[fnn.Relu()] * 5)


def _conv_block(draw, shape):
    conv = _conv(draw, shape)
    if draw.random() < 0.5:
        return fnn.serial(conv, _activation(draw))
    return fnn.serial(conv, _norm(draw, conv.features), _activation(draw))


def _residual_block(draw, shape):
    """Draw a block of normalisation, activation and convolution, with a shortcut."""
    conv = _conv(draw, shape, padding="SAME")
    body = fnn.serial(_norm(draw, shape[-1]), _activation(draw), conv)
    if out_shape(body, shape) == shape and draw.random() < 0.5:
        return fnn.residual(body)
    return fnn.residual(
        body, fnn.Conv(conv.features, 1, stride=conv.stride, bias=False)
    )


def _parallel_block(draw, shape):
    """Draw branches that keep the size of the image, their features concatenated."""
    pool = _one_of(draw, fnn.MaxPool(3, 1, "SAME"), fnn.AvgPool(3, 1, "SAME"))
    branches = [
        _conv(draw, shape, 1, _one_of(draw, "SAME", "CIRCULAR")),
        fnn.serial(fnn.Conv(2, 1), _activation(draw), fnn.Conv(1, 3)),
        pool,
        fnn.Identity(),
    ]
    chosen = draw.permutation(4)[: draw.integers(2, 4)]
    return fnn.parallel(*(branches[i] for i in chosen), merge="concatenate")


def _conv_and_pool(draw, shape):
    block = _conv_block(draw, shape)
    return fnn.serial(block, _pool(draw, shape))


IMAGE_BLOCKS = [
    _conv_block, _conv_block, _conv_and_pool, _pool, _grow,
    _residual_block, _parallel_block,
]  # fmt: skip


# ---- Losses ----------------------------------------------------------------------


def _loss(draw, examples: int, outputs: int):
    kinds = ["sigmoid", "squared", "huber", *(["softmax"] if outputs > 1 else [])]
    kind = draw.choice(kinds)
    if kind == "softmax":
        smoothing = float(draw.choice([0.0, 0.1]))
        y = draw.integers(0, outputs, size=examples).astype(np.int32)
        if draw.random() < 0.3:
            y = np.eye(outputs, dtype=np.float32)[y]
        return fnn.losses.SoftmaxCrossEntropy(smoothing), y
    if kind == "sigmoid":
        y = (draw.random((examples, outputs)) < 0.5).astype(np.float32)
        return fnn.losses.SigmoidCrossEntropy(), y
    y = draw.normal(size=(examples, outputs)).astype(np.float32)
    if kind == "huber":
        return fnn.losses.Huber(float(draw.uniform(0.3, 2))), y
    return fnn.losses.SquaredError(), y
