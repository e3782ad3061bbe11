"""Rematerialisation: the same numbers, and less memory."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from breadth import some_of

import fnn
from fnn.planning.memory import autodiff_step, manual_step, temporary_bytes

KEY = jax.random.key(0)
LOSS = fnn.losses.SoftmaxCrossEntropy()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 8, 8, 2)).astype(np.float32)
Y = RNG.integers(0, 3, 6)

BLOCK = fnn.serial(
    fnn.Conv(4, 3), fnn.BatchNorm(), fnn.Relu(), fnn.Dropout(0.5), fnn.MaxPool(2)
)


def network(wrap):
    shortcut = fnn.residual(fnn.serial(fnn.Conv(4, 3), fnn.Tanh()))
    ends = fnn.GlobalAvgPool(), fnn.Dense(3)
    return fnn.serial(wrap(BLOCK), wrap(shortcut), wrap(fnn.Conv(4, 1)), *ends)


PLAIN, NET = network(lambda layer: layer), network(fnn.remat)
VARIABLES = PLAIN.init(KEY, (8, 8, 2))


def test_it_has_the_variables_and_paths_of_the_network_inside():
    jax.tree.map(np.testing.assert_array_equal, NET.init(KEY, (8, 8, 2)), VARIABLES)
    named = [fnn.named_params(net, VARIABLES.params) for net in (NET, PLAIN)]
    assert [*named[0]] == [*named[1]]
    assert fnn.summary(NET, (8, 8, 2)) == fnn.summary(PLAIN, (8, 8, 2))
    assert eval(repr(NET), vars(fnn)) == NET
    with pytest.raises(TypeError, match=re.escape("remat: net is not a layer")):
        fnn.remat(jnp.sin)


@pytest.mark.parametrize("train", some_of([True, False], [True]))
@pytest.mark.parametrize("engine", ["manual", "autodiff"])
def test_loss_state_and_gradients_are_those_without_it(engine, train):
    """With the same masks, and statistics that move once."""
    ours, plain = (
        jax.jit(lambda v, net=net: fnn.value_and_grad(net, LOSS, engine)(
            v, (X, Y), key=KEY, train=train
        ))(VARIABLES)
        for net in (NET, PLAIN)
    )  # fmt: skip
    for a, b in zip(*map(jax.tree.leaves, (ours, plain)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


STEPS = {"manual": manual_step, "autodiff": autodiff_step}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the CPU's memory")
@pytest.mark.skipif(
    jax.__version__.startswith("0.10."), reason="XLA there looks through the barrier"
)
@pytest.mark.parametrize("engine", STEPS)
def test_it_saves_memory(engine):
    """Of six blocks of three layers, six inputs and one block."""
    layers = fnn.Conv(4, 3), fnn.Tanh(), fnn.BatchNorm(), fnn.Gelu()
    block = fnn.serial(*layers, *layers)
    needed = [
        temporary_bytes(STEPS[engine](net), net, (16, 16, 4), 16)
        for wrap in (fnn.remat, lambda layer: layer)
        for net in [fnn.serial(*[wrap(block)] * 6, fnn.GlobalAvgPool(), fnn.Dense(2))]
    ]
    assert needed[0] < 0.6 * needed[1]


def test_the_audit_has_the_rows_inside_and_finds_a_bug_there():
    @fnn.layer
    class Wrong(fnn.Tanh):
        def backward(self, params, saved, dy):
            out = super().backward(params, saved, dy)
            return out._replace(dx=1.01 * out.dx)

    report = fnn.compare_gradients(NET, LOSS, VARIABLES, (X, Y), key=KEY)
    assert report.passed
    assert {"0/0/Conv.weight", "1/Residual/body/0/Conv.weight", "2/Conv.weight"} <= {
        row.path for row in report.rows
    }
    net = fnn.serial(fnn.remat(fnn.serial(fnn.Flatten(), Wrong())), fnn.Dense(3))
    report = fnn.compare_gradients(net, LOSS, net.init(KEY, (8, 8, 2)), (X, Y))
    assert not report.passed and "Wrong" in report.first_divergence


def test_it_is_planned_around_trained_and_observed():
    plan = fnn.plan(NET, (8, 8, 2), platform="cpu")
    assert fnn.plain(plan) == NET
    results = [
        fnn.fit(
            net, LOSS, fnn.optimizers.adam(1e-2), train=(X, Y), key=KEY, epochs=2,
            batch_size=4,
        ).history["train_loss"]
        for net in (NET, PLAIN)
    ]  # fmt: skip
    np.testing.assert_allclose(*results, rtol=1e-4)


@pytest.mark.parametrize("wrap", [fnn.remat, lambda layer: layer])
def test_norms_of_single_examples(wrap):
    net = fnn.serial(wrap(fnn.serial(fnn.Flatten(), fnn.Dense(4), fnn.Tanh())),
                     wrap(fnn.Dense(3)))  # fmt: skip
    variables = net.init(KEY, (8, 8, 2))
    norms = jax.jit(fnn.per_example.norms(net, LOSS))(variables, (X, Y))
    one = fnn.value_and_grad(net, LOSS, "autodiff")
    for n in range(2):
        grads = one(variables, (X[n : n + 1], Y[n : n + 1])).grads
        total = sum(float((g**2).sum()) for g in jax.tree.leaves(grads)) ** 0.5
        np.testing.assert_allclose(norms.total[n], total, rtol=1e-4)
