"""Values and deltas of losses against PyTorch's, in float64.

A row has a loss of fnn, its labels, and PyTorch's loss of the same outputs (N, ..., K)
and labels. `times` is what fnn's value is, as a multiple of PyTorch's: fnn adds over K
outputs where PyTorch takes their mean.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import losses

torch = pytest.importorskip("torch")
F = torch.nn.functional

N, K, PIXELS = 6, 4, (3, 2)
RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, K, N)
CLASS_MAP = RNG.integers(0, K, (N, *PIXELS))
HOLES = np.where(RNG.random((N, *PIXELS)) < 0.3, -1, CLASS_MAP)
SOFT = RNG.dirichlet(np.ones(K), N)
SOFT_MAP = RNG.dirichlet(np.ones(K), (N, *PIXELS))
SEVERAL = RNG.integers(0, 2, (N, K))
YES_NO = RNG.integers(0, 2, N)
REALS = RNG.normal(size=(N, K))
COUNTS = RNG.poisson(2, (N, K))
WEIGHTS = (0.5, 2.0, 1.0, 0.25)


class Twin(NamedTuple):
    """A loss of fnn, labels, and PyTorch's function of outputs and labels."""

    name: str
    loss: Any
    labels: np.ndarray
    function: Callable
    outputs: int = K
    times: float = 1


def cross_entropy(**options):
    """Return PyTorch's cross-entropy, which wants the classes on axis 1."""
    options = {
        name: torch.tensor(value, dtype=torch.float64) if name == "weight" else value
        for name, value in options.items()
    }

    def run(z, y):
        rows = y.ndim == z.ndim
        return F.cross_entropy(
            z.movedim(-1, 1), y.movedim(-1, 1) if rows else y, **options
        )

    return run


def binary(**options):
    def run(z, y):
        return F.binary_cross_entropy_with_logits(z, y.to(z.dtype), **options)

    return run


def squeezed(function):
    """Make a function of outputs (N, ...) one of outputs (N, ..., 1)."""
    return lambda z, y: function(z[..., 0], y)


def divergence(z, y):
    return F.kl_div(F.log_softmax(z, -1), y, reduction="batchmean")


SOFTMAX, SIGMOID = losses.SoftmaxCrossEntropy, losses.SigmoidCrossEntropy
TWINS = [
    Twin("softmax", SOFTMAX(), CLASSES, cross_entropy()),
    Twin("softmax, smoothed", SOFTMAX(0.2), CLASSES,
         cross_entropy(label_smoothing=0.2)),
    Twin("softmax, rows", SOFTMAX(), SOFT, cross_entropy()),
    Twin("softmax, map", SOFTMAX(), CLASS_MAP, cross_entropy()),
    Twin("softmax, map of rows", SOFTMAX(), SOFT_MAP, cross_entropy()),
    Twin("softmax, holes", SOFTMAX(ignore=-1), HOLES, cross_entropy(ignore_index=-1)),
    Twin("softmax, class 2 ignored", SOFTMAX(ignore=2), CLASSES,
         cross_entropy(ignore_index=2)),
    Twin("softmax, smoothed, holes", SOFTMAX(0.2, ignore=-1), HOLES,
         cross_entropy(ignore_index=-1, label_smoothing=0.2)),
    Twin("softmax, weights", SOFTMAX(class_weights=WEIGHTS), CLASSES,
         cross_entropy(weight=WEIGHTS)),
    Twin("softmax, all at once", SOFTMAX(0.1, ignore=-1, class_weights=WEIGHTS), HOLES,
         cross_entropy(ignore_index=-1, label_smoothing=0.1, weight=WEIGHTS)),
    # PyTorch divides by N, and not by the weights, where labels are rows.
    Twin("softmax, weights of rows", SOFTMAX(class_weights=WEIGHTS), SOFT,
         cross_entropy(weight=WEIGHTS), times=N / (SOFT @ WEIGHTS).sum()),
    Twin("sigmoid, several", SIGMOID(), SEVERAL, binary(), times=K),
    Twin("sigmoid, yes/no", SIGMOID(), YES_NO, squeezed(binary()), outputs=1),
    Twin("sigmoid, weight of yes", SIGMOID(class_weights=(1, 3)), YES_NO,
         squeezed(binary(pos_weight=torch.tensor(3.0))), outputs=1,
         times=N / np.where(YES_NO, 3, 1).sum()),
    Twin("divergence", losses.KullbackLeibler(), SOFT, divergence),
    Twin("divergence, map", losses.KullbackLeibler(), SOFT_MAP, divergence,
         times=1 / 6),
    Twin("squared error", losses.SquaredError(), REALS, F.mse_loss, times=K / 2),
    Twin("absolute error", losses.AbsoluteError(), REALS, F.l1_loss, times=K),
    Twin("huber", losses.Huber(0.7), REALS, lambda z, y: F.huber_loss(z, y, delta=0.7),
         times=K),
    Twin("poisson", losses.Poisson(), COUNTS, F.poisson_nll_loss, times=K),
    Twin("hinge, signs", losses.Hinge(), 2 * YES_NO - 1, squeezed(
         lambda z, y: F.margin_ranking_loss(z, 0 * z, y, margin=1)), outputs=1),
    # Of two classes there is one wrong one: then PyTorch's sum is Crammer and Singer's.
    Twin("hinge, two classes", losses.Hinge(0.5), YES_NO,
         lambda z, y: F.multi_margin_loss(z, y, margin=0.5), outputs=2, times=2),
]  # fmt: skip


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
def test_value_and_delta_are_pytorchs(twin):
    y = twin.labels
    shape = y.shape if y.dtype == float or y is SEVERAL or y is COUNTS else ()
    z = np.random.default_rng(1).normal(size=shape or (*y.shape, twin.outputs))
    theirs = torch.tensor(z, requires_grad=True)
    expected = twin.times * twin.function(theirs, torch.tensor(y))
    expected.backward()
    with jax.enable_x64(True):
        twin.loss.check(z.shape[1:], jnp.asarray(y))
        value = twin.loss.value(jnp.asarray(z), jnp.asarray(y))
        delta = twin.loss.delta(jnp.asarray(z), jnp.asarray(y))
    np.testing.assert_allclose(value, expected.item(), rtol=1e-13)
    np.testing.assert_allclose(delta, theirs.grad.numpy(), rtol=0, atol=1e-14)


def test_where_all_labels_are_ignored_pytorch_has_nan_and_fnn_zero():
    z, y = np.ones((2, K)), np.full(2, -1)
    assert torch.isnan(cross_entropy(ignore_index=-1)(torch.tensor(z), torch.tensor(y)))
    loss = fnn.losses.SoftmaxCrossEntropy(ignore=-1)
    assert loss.value(jnp.asarray(z, jnp.float32), jnp.asarray(y, jnp.int32)) == 0
