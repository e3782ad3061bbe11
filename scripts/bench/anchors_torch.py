"""Single examples in torch: Opacus, which forms all gradients or none, and BackPACK."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from networks import Part
from peers_torch import module
from per_example import CLIP, Case
from timing import seconds

__all__ = ["WAYS"]

Run = Callable[[], float]


def _in_torch(case: Case) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return the network and the batch in torch; images with the channels first."""
    variables, (x, y) = case.data()
    net = module(Part(case.net, variables, case.in_shape)).train()
    images = np.moveaxis(np.asarray(x), -1, 1) if x.ndim == 4 else np.asarray(x)
    return net, torch.tensor(images), torch.tensor(np.asarray(y)).long()


def _timed(step: Callable[[], Any]) -> Run:
    return lambda: seconds(step)


def _torch_gradient(case: Case) -> Run:
    net, x, y = _in_torch(case)

    def step() -> None:
        net.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()

    return _timed(step)


def _opacus(case: Case) -> Run:
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    net, x, y = _in_torch(case)
    net = GradSampleModule(net)
    optimizer = DPOptimizer(
        torch.optim.SGD(net.parameters(), 0.0),
        noise_multiplier=0.0,
        max_grad_norm=CLIP,
        expected_batch_size=len(x),
    )

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.clip_and_accumulate()

    return _timed(step)


def _opacus_ghost(case: Case) -> Run:
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    net, x, y = _in_torch(case)
    net = GradSampleModuleFastGradientClipping(
        net, max_grad_norm=CLIP, use_ghost_clipping=True
    )
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(net.parameters(), 0.0),
        noise_multiplier=0.0,
        max_grad_norm=CLIP,
        expected_batch_size=len(x),
    )
    loss_fn = DPLossFastGradientClipping(net, optimizer, nn.CrossEntropyLoss())

    def step() -> None:
        optimizer.zero_grad()
        loss_fn(net(x), y).backward()

    return _timed(step)


def _backpack(case: Case) -> Run:
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    net, x, y = _in_torch(case)
    net, loss = extend(net), extend(nn.CrossEntropyLoss(reduction="sum"))

    def step() -> None:
        net.zero_grad()
        with backpack(BatchL2Grad()):
            loss(net(x), y).backward()

    return _timed(step)


#: Each way: the plain gradient that it is compared with, and what makes its run.
WAYS: dict[str, tuple[str, Callable[[Case], Run]]] = {
    "torch: gradient": ("torch: gradient", _torch_gradient),
    "Opacus: clipped sum": ("torch: gradient", _opacus),
    "Opacus, ghost: clipped sum": ("torch: gradient", _opacus_ghost),
    "BackPACK: norms": ("torch: gradient", _backpack),
}
