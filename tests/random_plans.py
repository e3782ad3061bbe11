"""Random convolutional networks, planned by random costs: any mixture of rewrites.

Measured costs would choose the same few kernels again and again, and hardly any for
images this small. With random costs every rewrite and every algorithm occurs, next to
plain layers, next to each other, and in both layouts.
"""

import jax
import numpy as np
from random_networks import Trial, out_shape, random_trial_of

import fnn
from fnn.planning.costs import Costs, Work

ALGORITHMS = (
    "im2col", "grouped im2col",
    "Winograd F(2,3)", "Winograd F(4,3)", "Winograd F(2,5)", "Winograd F(4,5)",
)  # fmt: skip
ELEMENTS = (
    "BatchNorm", "Relu", "MaxPool", "GlobalAvgPool", "batch norm", "batch norm + ReLU",
    "maximum of planes", "mean of rows", "as it is",
)  # fmt: skip


#: The modes, as often as they are drawn: "memory" compiles, and takes long.
MODES = *["fast"] * 6, *["exact"] * 3, "memory"


def random_costs(draw) -> Costs:
    """Draw a table in which kernels are mostly faster than plain layers."""
    ms = {name: float(draw.random()) for name in ALGORITHMS}
    ms["plain"] = float(draw.uniform(0.5, 2))
    elements = {name: float(draw.random()) for name in ELEMENTS}
    elements["transpose"] = float(draw.choice([0.0, 0.1, 1.0]))
    return Costs("random", ((Work(3, 1, 1, 4, 4, 25, 4), ms),), elements)


def random_plan_trial(seed: int, dtype=np.float32) -> Trial:
    """Draw a planned network, a loss and a batch from one seed."""
    draw = np.random.default_rng((seed, 2))
    shape = *(int(n) for n in draw.integers(8, 14, size=2)), int(draw.integers(1, 4))
    outputs = int(draw.integers(1, 5))
    net = _network(draw, shape, outputs)
    planned = fnn.plan(
        net, shape, batch_size=4, platform="cpu",
        mode=_one_of(draw, *MODES), costs=random_costs(draw),
    )  # fmt: skip
    examples = int(draw.choice([2, 3, 4]))
    trial = random_trial_of(draw, seed, planned, outputs, (examples, *shape), dtype)
    params = jax.tree.map(
        lambda a: (a + 0.3 * draw.normal(size=a.shape)).astype(dtype),
        trial.variables.params,
    )
    return trial._replace(variables=trial.variables._replace(params=params))


def _network(draw, shape, outputs: int) -> fnn.Layer:
    layers: list[fnn.Layer] = []
    for _ in range(draw.integers(2, 5)):
        block = BLOCKS[draw.integers(len(BLOCKS))](draw, shape[-1])
        try:
            out = out_shape(block, shape)
        except ValueError:  # the window does not fit
            continue
        layers.append(block)
        shape = out
    end = [fnn.Flatten()] if draw.random() < 0.5 else [fnn.GlobalAvgPool()]
    return fnn.serial(*layers, *end, fnn.Dense(outputs))


def _one_of(draw, *choices):
    return choices[draw.integers(len(choices))]


# ---- Blocks: every rewrite, and layers between them ------------------------------


def _conv(draw) -> fnn.Conv:
    return fnn.Conv(
        int(draw.integers(2, 5)),
        _one_of(draw, 1, 3, 3, 3, 5, 5, (3, 5), (5, 3), (2, 3), (3, 2), 4),
        stride=_one_of(draw, 1, 1, 1, 2, (2, 1), (1, 3)),
        padding=_one_of(draw, "SAME", "SAME", "VALID", 1, ((1, 0), (0, 2)), "CIRCULAR"),
        dilation=_one_of(draw, 1, 1, 1, 1, 2),
        bias=bool(draw.random() < 0.7),
    )


def _pool(draw) -> fnn.Layer:
    if draw.random() < 0.8:
        return fnn.MaxPool(_one_of(draw, 2, 2, (2, 1), (1, 2), 3, (2, 4)))
    others = fnn.MaxPool(3, 2), fnn.MaxPool(3, padding="SAME"), fnn.AvgPool(2)
    return _one_of(draw, *others)


def _activation(draw) -> fnn.Layer:
    return _one_of(draw, fnn.Relu(), fnn.Relu(), fnn.Tanh(), fnn.LeakyRelu(0.1))


def _conv_relu_pool(draw, features):
    return fnn.serial(_conv(draw), fnn.Relu(), _pool(draw))


def _conv_pool_relu(draw, features):
    return fnn.serial(_conv(draw), _pool(draw), fnn.Relu())


def _conv_norm_relu(draw, features):
    return fnn.serial(_conv(draw), fnn.BatchNorm(), _activation(draw))


def _conv_only(draw, features):
    return _conv(draw)


def _pool_only(draw, features):
    return _pool(draw)


def _noise(draw, features):
    return fnn.serial(fnn.Dropout(0.2), _activation(draw))


def _residual(draw, features):
    last = fnn.Conv(features, 3)
    body = fnn.serial(fnn.BatchNorm(), fnn.Relu(), last)
    if draw.random() < 0.5:
        return fnn.residual(body)
    stride = int(draw.integers(1, 3))
    last = fnn.Conv(3, 3, stride=stride, bias=False)
    body = fnn.serial(fnn.BatchNorm(), _activation(draw), fnn.Conv(2, 3), last)
    return fnn.residual(body, fnn.Conv(3, 1, stride=stride))


def _parallel(draw, features):
    merge = _one_of(draw, "sum", "concatenate")
    branches = [
        fnn.Conv(3, 3),
        fnn.serial(fnn.Conv(2, 1), fnn.Relu(), fnn.Conv(3, (3, 5))),
        fnn.serial(_activation(draw), fnn.Conv(3, 5)),
    ]
    return fnn.parallel(*branches[: draw.integers(2, 4)], merge=merge)


BLOCKS = [
    _conv_relu_pool, _conv_relu_pool, _conv_pool_relu, _conv_norm_relu, _conv_norm_relu,
    _conv_only, _pool_only, _noise, _residual, _residual, _parallel,
]  # fmt: skip
