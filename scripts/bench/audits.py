"""The time and the memory of a gradient check, against those of one gradient.

Each row is measured in processes of its own, since what is compiled stays: how long
the first gradient takes from the network to the number, compilation included, then the
first check, one gradient in float64, and a second check, of another batch. Images are
MNIST's.
"""

import json
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from timing import ratio, seconds

__all__ = ["ROWS", "measure"]

LOSS = fnn.losses.SoftmaxCrossEntropy()


def _digits() -> fnn.Layer:
    hidden = [fnn.Dense(256), fnn.Relu(), fnn.Dropout(0.5)]
    return fnn.serial(fnn.Dropout(0.1), *hidden, *hidden, fnn.Dense(10))


def _lenet() -> fnn.Layer:
    def block(features: int) -> list[fnn.Layer]:
        return [fnn.Conv(features, 5, padding="VALID"), fnn.Relu(), fnn.MaxPool(2)]

    dense = [fnn.Dense(500), fnn.Relu(), fnn.Dropout(0.5), fnn.Dense(10)]
    return fnn.serial(*block(20), *block(40), fnn.Flatten(), *dense)


def _resnet() -> fnn.Layer:
    def conv() -> list[fnn.Layer]:
        return [fnn.Conv(16, 3, bias=False), fnn.BatchNorm()]

    def block() -> list[fnn.Layer]:
        body = fnn.serial(*conv(), fnn.Relu(), *conv())
        return [fnn.residual(body), fnn.Relu()]

    blocks = [*block(), *block(), *block()]
    end = [fnn.GlobalAvgPool(), fnn.Dense(10)]
    return fnn.serial(*conv(), fnn.Relu(), *blocks, *end)


def _u_net() -> fnn.Layer:
    """Build a U-Net of 3,000 parameters, its shortcuts concatenated."""

    def conv(features: int) -> list[fnn.Layer]:
        return [fnn.Conv(features, 3), fnn.Relu()]

    def below(features: int, *middle: fnn.Layer) -> fnn.Layer:
        down = [fnn.MaxPool(2), *conv(features), *middle]
        up = fnn.ConvTranspose(features, 2, stride=2)
        return fnn.parallel(fnn.Identity(), fnn.serial(*down, up), merge="concatenate")

    inner = [below(12), *conv(8)]
    net = [*conv(4), below(8, *inner), *conv(4), fnn.Conv(1, 1)]
    return fnn.serial(*net, fnn.Flatten(), fnn.Dense(10))


def _pooled() -> fnn.Layer:
    layers = [fnn.Conv(8, 3), fnn.BatchNorm(), fnn.Relu(), fnn.MaxPool(2)]
    return fnn.serial(*layers, fnn.Flatten(), fnn.Dense(10))


#: A network, and the shape of an example: MNIST's pixels, cut to it.
ROWS = {
    "digits 64-256-256-10": (_digits, (64,)),
    "LeNet": (_lenet, (28, 28, 1)),
    "ResNet, 3 blocks": (_resnet, (28, 28, 1)),
    "U-Net": (_u_net, (16, 16, 1)),
    "Conv-BatchNorm-ReLU-MaxPool": (_pooled, (28, 28, 1)),
}


def measure(row: tuple, rounds: int = 5) -> dict:
    """Measure the check of one network, in a process for each round."""
    name = next(name for name, other in ROWS.items() if other is row)
    command = [sys.executable, str(Path(__file__)), name]
    found = [
        json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        for _ in range(rounds)
    ]
    columns = {key: np.array([run[key] for run in found], float) for key in found[0]}
    return {
        "seconds": {key: float(np.median(column)) for key, column in columns.items()},
        "first": ratio(columns["first check"], columns["gradient"])._asdict(),
        "second": ratio(columns["second check"], columns["gradient64"])._asdict(),
        "megabytes": float(np.median(columns["megabytes"])),
        "passed": bool(columns["passed"].all()),
    }


def _once(name: str) -> dict:
    """Measure one network in this process, from its first gradient on."""
    build, shape = ROWS[name]
    net, key = build(), jax.random.key(1)
    x, y = fnn.data.mnist().train
    x = x.reshape(-1, 28, 28, 1)[:, : shape[0], : shape[0]]
    x = (x[:, :8, :8] if len(shape) == 1 else x).reshape(len(x), *shape)
    variables = net.init(jax.random.key(0), shape)
    batch, other = (x[:32], y[:32]), (x[32:64], y[32:64])

    def gradient(variables, batch):
        grad_fn = fnn.value_and_grad(net, LOSS, "autodiff")
        return grad_fn(variables, batch, key=key).grads

    def run(grad_fn, *arguments) -> float:
        return seconds(lambda: jax.block_until_ready(grad_fn(*arguments)))

    found = {"gradient": run(jax.jit(gradient), variables, batch)}
    before = _peak_megabytes()
    check = partial(fnn.compare_gradients, net, LOSS, variables, key=key)
    reports = []
    found["first check"] = seconds(lambda: reports.append(check(batch)))
    found["megabytes"] = _peak_megabytes() - before
    with jax.enable_x64(True):
        doubles = jax.tree.map(
            lambda a: jnp.asarray(np.asarray(a), float), (variables, other[0])
        )
        compiled, arguments = jax.jit(gradient), (doubles[0], (doubles[1], other[1]))
        run(compiled, *arguments)
        found["gradient64"] = min(run(compiled, *arguments) for _ in range(3))
    found["second check"] = seconds(lambda: reports.append(check(other)))
    found["passed"] = all(report.passed for report in reports)
    return found


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    print(json.dumps(_once(sys.argv[1])))
