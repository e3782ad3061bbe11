"""PyTorch: eager in both memory formats, and compiled."""

import copy

import jax
import numpy as np
import torch
from torch import nn

import fnn
from networks import LEARNING_RATE, Network, Part
from peers import Peer, by_steps

__all__ = ["peers"]


class Residual(nn.Module):
    """A shortcut around a body."""

    def __init__(self, body, projection):
        super().__init__()
        self.body, self.projection = body, projection

    def forward(self, x):
        return self.body(x) + self.projection(x)


class Concatenated(nn.Module):
    """Branches on the same input, whose features are concatenated."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


class MeanOfPositions(nn.Module):
    """The mean over all positions of an image, or of a series."""

    def forward(self, x):
        return x.flatten(2).mean(2)


def module(part: Part) -> nn.Module:
    """Build the layer in torch, with the same parameters."""
    match part.layer:
        case fnn.Serial():
            return nn.Sequential(*map(module, part.children()))
        case fnn.Residual():
            return Residual(*map(module, part.children()))
        case fnn.Parallel(merge="concatenate"):
            return Concatenated(*map(module, part.children()))
        case fnn.BatchNorm(momentum=momentum, eps=eps):
            return nn.BatchNorm2d(part.in_shape[-1], eps=eps, momentum=1 - momentum)
        case fnn.Dense(features=outputs, bias=bias):
            linear = nn.Linear(part.in_shape[-1], outputs, bias=bias)
            return _with_params(linear, *part.outputs_first())
        case fnn.Conv(features=outputs, bias=bias):
            size, strides, padding = part.geometry()
            if any(low != high for low, high in padding):
                raise NotImplementedError(
                    f"torch pads both sides alike: {part.layer!r}"
                )
            pads = tuple(low for low, _ in padding)
            kind = {1: nn.Conv1d, 2: nn.Conv2d}[len(size)]
            groups = part.layer.groups
            conv = kind(
                *(part.in_shape[-1], outputs, size, strides, pads),
                groups=groups,
                bias=bias,
            )
            return _with_params(conv, *part.outputs_first())
        case fnn.MaxPool():
            size, strides, _ = part.geometry()
            return {1: nn.MaxPool1d, 2: nn.MaxPool2d}[len(size)](size, strides)
        case fnn.AvgPool():
            size, strides, _ = part.geometry()
            return nn.AvgPool2d(size, strides)
        case fnn.GlobalAvgPool():
            if len(part.in_shape) == 2:
                return MeanOfPositions()
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        case fnn.Flatten():
            return nn.Flatten()
        case fnn.Relu():
            return nn.ReLU()
        case fnn.Identity():
            return nn.Identity()
        case fnn.Gelu(approximate=approximate):
            return nn.GELU(approximate="tanh" if approximate else "none")
        case fnn.GroupNorm(groups=groups, eps=eps):
            return nn.GroupNorm(groups, part.in_shape[-1], eps)
        case fnn.LayerNorm(eps=eps):
            return nn.LayerNorm(part.in_shape[-1], eps)
        case fnn.Dropout(rate=rate):
            return nn.Dropout(rate)
    raise NotImplementedError(f"torch: {part.layer!r}")


def _with_params(
    layer: nn.Module, weight: np.ndarray, bias: np.ndarray | None
) -> nn.Module:
    """Give the layer these parameters."""
    params = {"weight": weight} | ({} if bias is None else {"bias": bias})
    layer.load_state_dict({name: torch.tensor(a) for name, a in params.items()})
    return layer


def peers(network: Network) -> dict[str, Peer]:
    """Return eager, eager with the channels last (for images), and torch.compile."""
    device = {"cpu": "cpu", "gpu": "cuda"}.get(jax.default_backend())
    if device is None or (device == "cuda" and not torch.cuda.is_available()):
        raise ImportError(f"this torch does not run on the {jax.default_backend()}")
    # XLA also computes float32 products like this on a GPU; the CPU ignores it.
    torch.backends.cuda.matmul.allow_tf32 = True
    net = module(network.part()).to(device).train()
    compiled = torch.compile(copy.deepcopy(net), dynamic=False)
    found = {
        "torch, eager": _peer(net, torch.contiguous_format),
        "torch, torch.compile": _peer(compiled, torch.contiguous_format),
    }
    if network.has_images:
        last = copy.deepcopy(net).to(memory_format=torch.channels_last)
        found["torch, eager, channels last"] = _peer(last, torch.channels_last)
    return found


def _peer(net: nn.Module, memory_format: torch.memory_format) -> Peer:
    device = next(net.parameters()).device
    initial = copy.deepcopy(net.state_dict())
    loss_fn = nn.CrossEntropyLoss()

    def start():
        net.load_state_dict(initial)
        # Fused is the fastest of torch's three ways to compute the same update.
        return torch.optim.Adam(net.parameters(), LEARNING_RATE, fused=True)

    def step(optimizer, x, y, indices):
        optimizer.zero_grad()
        loss = loss_fn(net(x[indices]), y[indices])
        loss.backward()
        optimizer.step()
        return optimizer, loss.detach()

    def to_device(a: np.ndarray) -> torch.Tensor:
        tensor = torch.as_tensor(a, device=device)
        if a.ndim == 3:  # a series: features before positions
            return tensor.permute(0, 2, 1).contiguous()
        if a.ndim == 4:
            return tensor.permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
        return tensor if tensor.is_floating_point() else tensor.long()

    def to_indices(order: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(order, device=device)

    def wait(_) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    return by_steps(start, step, to_device, to_indices, wait)
