"""Random networks, losses and batches: what the audit must not cry wolf about."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnn

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
SIBLINGS = [fnn.LayerNorm(), fnn.RMSNorm(), fnn.GroupNorm(1)]  # they fit any width
WITH_SIBLINGS = 500  # the first seed that has them: networks below stay what they were


class Trial(NamedTuple):
    """Everything one audit needs."""

    net: fnn.Layer
    loss: fnn.losses.Loss
    variables: fnn.Variables
    batch: tuple
    options: dict


def random_trial(seed: int, dtype=np.float32) -> Trial:
    """A random network with a random loss on a random batch, all from one seed."""
    draw = np.random.default_rng(seed)
    shape = _shape(draw)
    examples = int(draw.choice([2, 3, 5, 8, 13]))
    net, outputs = _network(draw, shape)
    if seed >= WITH_SIBLINGS:
        net = _with_siblings(draw, net)
    loss, y = _loss(draw, examples, outputs)
    key = jax.random.key(seed)
    variables = net.init(key, shape)
    scale = draw.choice([0.1, 1.0, 3.0])
    x = (scale * draw.normal(size=(examples, *shape))).astype(dtype)
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


def _with_siblings(draw, net: fnn.Layer) -> fnn.Layer:
    """The network with any of its siblings in place of each LayerNorm."""

    def is_layer_norm(node) -> bool:
        return isinstance(node, fnn.LayerNorm)

    def sibling(node):
        return SIBLINGS[draw.integers(len(SIBLINGS))] if is_layer_norm(node) else node

    return jax.tree.map(sibling, net, is_leaf=is_layer_norm)


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
