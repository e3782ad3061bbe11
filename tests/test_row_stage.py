"""Networks of one axis, planned as rows of images, compute what they do plain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.planning.costs import Costs, Work, built_in
from fnn.planning.row_stage import as_row

L, C = 13, 3
LOSS = fnn.losses.SquaredError()

NETS = {
    "SAME": (fnn.Conv(4, 3), fnn.Relu()),
    "VALID": (fnn.Conv(4, 5, padding="VALID"), fnn.Relu(), fnn.MaxPool(2)),
    "padding by numbers": (fnn.Conv(4, 5, padding=((2, 1),)), fnn.MaxPool((3,))),
    "padding by a number": (fnn.Conv(4, (3,), padding=2), fnn.Tanh()),
    "stride": (fnn.Conv(4, 3, stride=2), fnn.BatchNorm(), fnn.Relu()),
    "dilation": (fnn.Conv(4, 3, dilation=(2,), bias=False), fnn.BatchNorm()),
    "an even template": (fnn.Conv(4, 4), fnn.MaxPool(2), fnn.Relu()),
    "overlapping windows": (fnn.Conv(4, 3), fnn.MaxPool(3, stride=2, padding=1)),
    "means of windows": (fnn.Conv(4, 3), fnn.AvgPool(3, stride=2)),
    "ceil mode": (fnn.Conv(4, 3), fnn.MaxPool(2, ceil_mode=True), fnn.Relu()),
    "depthwise": (fnn.Conv(2 * C, 3, groups=C), fnn.Conv(4, 1)),
    "copied pixels": (fnn.Conv(4, 3, padding="CIRCULAR"), fnn.Relu(), fnn.Conv(4, 3)),
    "branches": (
        fnn.Conv(4, 3),
        fnn.residual(fnn.serial(fnn.BatchNorm(), fnn.Relu(), fnn.Conv(4, 5))),
        fnn.parallel(fnn.Conv(2, 1), fnn.Conv(2, 3), merge="concatenate"),
    ),
}  # fmt: skip

KERNELS = ("im2col", "grouped im2col", "Winograd F(2,3)", "Winograd F(4,5)")


def costs(best: str) -> Costs:
    """Return a table in which one kernel is the fastest, and everything is planned."""
    ms = dict.fromkeys([*KERNELS, "Winograd F(4,3)", "Winograd F(2,5)"], 1.0)
    ms |= {best: 0.5, "plain": 9.0}
    elements = dict.fromkeys(built_in().elements, 0.1) | {"transpose": 0.0}
    elements |= dict.fromkeys(("BatchNorm", "Relu", "MaxPool", "GlobalAvgPool"), 1.0)
    return Costs("a test", ((Work(3, 1, 1, 4, 4, 25, 4), ms),), elements)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", NETS)
def test_loss_state_and_gradients_are_those_of_the_plain_network(kind, kernel):
    net = fnn.serial(*NETS[kind], fnn.GlobalAvgPool(), fnn.Dense(2))
    plan = fnn.plan(net, (L, C), platform="cpu", costs=costs(kernel))
    assert any("Conv" in change.path for change in plan.changes), plan
    with jax.enable_x64(True):
        draw = np.random.default_rng(0)
        variables = jax.tree.map(
            lambda a: jnp.asarray(a + 0.3 * draw.normal(size=a.shape)),
            net.init(jax.random.key(0), (L, C)),
        )
        variables = variables._replace(state=jax.tree.map(abs, variables.state))
        batch = draw.normal(size=(5, L, C)), draw.normal(size=(5, 2))
        results = [
            jax.jit(fnn.value_and_grad(n, LOSS))(variables, batch) for n in (plan, net)
        ]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_the_layer_of_rows_has_the_windows_of_the_layer_of_signals():
    conv = fnn.Conv(4, 5, stride=2, padding=((2, 1),), dilation=1)
    for layer in (conv, fnn.Conv(4, 3), fnn.MaxPool(3, stride=2), fnn.AvgPool(2)):
        one = layer.window_for((L,))
        two = as_row(layer).window_for((1, L))
        assert one.output_sizes((L,)) == two.output_sizes((1, L))[1:]
        assert (one.size, one.stride, one.padding) == (
            two.size[1:], two.stride[1:], two.padding[1:]
        )  # fmt: skip


def test_a_plan_of_signals_is_audited_and_trained():
    net = fnn.serial(*NETS["VALID"], *NETS["branches"], fnn.Flatten(), fnn.Dense(2))
    plan = fnn.plan(net, (L, C), platform="cpu", costs=costs("Winograd F(4,5)"))
    draw = np.random.default_rng(0)
    x = draw.normal(size=(6, L, C)).astype(np.float32)
    y = x[:, :2, 0]
    variables = net.init(jax.random.key(0), (L, C))
    assert fnn.compare_gradients(plan, LOSS, variables, (x, y)).passed
    losses = [
        fnn.fit(
            n, LOSS, fnn.optimizers.adam(0.01), train=(x, y), key=jax.random.key(0),
            epochs=2, batch_size=4, plan=None,
        ).history["train_loss"]
        for n in (plan, net)
    ]  # fmt: skip
    np.testing.assert_allclose(*losses, rtol=1e-4)
