"""Activations with kinks, borders of images, and merges of branches."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn

KEY = jax.random.key(0)
ENGINES = pytest.mark.parametrize("engine", ["manual", "autodiff"])

#: An activation, where it has a kink, and its slope there.
KINKS = [
    (fnn.PRelu(), 0.0, 0.25),
    (fnn.PRelu(per_channel=False, initial_slope=2), 0.0, 2.0),
    (fnn.Clip(), -1.0, 0.0),
    (fnn.Clip(), 1.0, 0.0),
    (fnn.Clip(0, 6), 0.0, 0.0),
    (fnn.Clip(0, 6), 6.0, 0.0),
    (fnn.HardSigmoid(), -3.0, 0.0),
    (fnn.HardSigmoid(), 3.0, 0.0),
    (fnn.HardSwish(), -3.0, 0.0),
    (fnn.HardSwish(), 3.0, 1.0),
]
ACTIVATIONS = [fnn.PRelu(), fnn.Clip(), fnn.HardSigmoid(), fnn.HardSwish()]
ACTIVATIONS += [fnn.LogSoftmax(), fnn.Clip(0, 6)]


def slope_at(activation, x, engine):
    """Compute ∂y/∂x of an activation at one number."""
    params, _ = activation.init(KEY, (1,))
    x = jnp.full((1, 1), x)
    if engine == "manual":
        saved = activation.forward(params, (), x).saved
        dx = activation.backward(params, saved, jnp.ones_like(x)).dx
    else:
        dx = jax.grad(lambda x: activation.forward(params, (), x).y.sum())(x)
    return float(dx[0, 0])


@ENGINES
@pytest.mark.parametrize(("activation", "x", "slope"), KINKS, ids=repr)
def test_the_slope_at_a_kink_is_the_documented_one(activation, x, slope, engine):
    assert slope_at(activation, x, engine) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_nan_passes_through(activation):
    params, _ = activation.init(KEY, (2,))
    y = activation.forward(params, (), jnp.array([[jnp.nan, 1.0]])).y
    assert jnp.isnan(y[0, 0])


@ENGINES
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("x", [-3e38, 3e38, -jnp.inf, jnp.inf])
def test_far_from_zero_slopes_are_finite(activation, x, engine):
    if isinstance(activation, fnn.LogSoftmax) and np.isinf(x):
        return  # inf − inf
    assert np.isfinite(slope_at(activation, x, engine))


def test_the_learned_slope_is_not_penalised():
    net = fnn.serial(fnn.Dense(3), fnn.PRelu())
    variables = net.init(KEY, (2,))
    batch = jnp.ones((4, 2)), jnp.zeros((4, 3))
    grads = [
        fnn.value_and_grad(net, fnn.losses.SquaredError(), l2=l2)(variables, batch)
        for l2 in (0.0, 5.0)
    ]
    slopes = [out.grads[1].slope for out in grads]
    np.testing.assert_array_equal(*slopes)


def test_what_crop_takes_off_pad_puts_back():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 5, 3)), jnp.float32)
    border = ((1, 2), 1)
    padded = fnn.Pad(border, value=9.0).forward((), (), x).y
    widths = (0, 0), (1, 2), (1, 1), (0, 0)
    np.testing.assert_array_equal(padded, np.pad(x, widths, constant_values=9))
    np.testing.assert_array_equal(fnn.Crop(border).forward((), (), padded).y, x)
    # Each one's backward is the other's forward, with zeros.
    np.testing.assert_array_equal(fnn.Pad(border).backward((), (), padded).dx, x)
    zeros = fnn.Pad(border).forward((), (), x).y
    np.testing.assert_array_equal(fnn.Crop(border).backward((), (), x).dx, zeros)


def test_a_border_does_not_widen_the_receptive_field():
    rows = fnn.summary(fnn.serial(fnn.Pad(2), fnn.Conv(3, 5), fnn.Crop(1)), (9, 9, 1))
    assert [row.receptive_field for row in rows.rows] == [(1, 1), (5, 5), (5, 5)]


def test_a_product_with_zeros_has_the_right_gradient():
    """The product of the others is not y / y_b."""
    branches = [
        fnn.Lambda(lambda x: x - 1),
        fnn.Identity(),
        fnn.Lambda(lambda x: 2 * x),
    ]
    net = fnn.parallel(*branches, merge="product")
    x = jnp.array([[0.0, 1.0, 3.0]])
    variables = net.init(KEY, (3,))
    out = net.forward(*variables, x)
    dx = net.backward(variables.params, out.saved, jnp.ones_like(x)).dx
    np.testing.assert_allclose(out.y, 2 * x**2 * (x - 1))
    np.testing.assert_allclose(dx, 6 * x**2 - 4 * x)


WRONG = {
    "clip, bounds reversed": (
        lambda: fnn.Clip(1, -1),
        "Clip: low must be below high, got 1.0 and -1.0",
    ),
    "prelu of other channels": (
        lambda: fnn.PRelu().forward(
            fnn.PReluParams(jnp.ones(3)), (), jnp.ones((2, 4))
        ),
        "PRelu() expected an input of shape (N, ..., 3), got (2, 4)",
    ),
    "prelu, others' parameters": (
        lambda: fnn.PRelu().forward((), (), jnp.ones((2, 4))),
        "PRelu() expected its parameters as PReluParams, got ()",
    ),
    "prelu of a number": (
        lambda: fnn.PRelu().init(KEY, ()),
        "PRelu() expected examples of shape (..., C), got ()",
    ),
    "pad, negative": (
        lambda: fnn.Pad(-1),
        "Pad: padding must be a number of positions, or a tuple",
    ),
    "pad by a name": (lambda: fnn.Pad("SAME"), "Pad: padding must be a number of"),
    "pad of a vector": (
        lambda: fnn.Pad(1).forward((), (), jnp.ones((2, 3))),
        "expected examples of shape (H, W, C)",
    ),
    "pad, other axes": (
        lambda: fnn.Pad((1, 2, 3)).forward((), (), jnp.ones((2, 5, 5, 1))),
        "padding has 3 entries, and images of shape (5, 5, 1) have 2 spatial axes",
    ),
    "crop of everything": (
        lambda: fnn.Crop((1, 2)).forward((), (), jnp.ones((2, 5, 4, 1))),
        "takes 4 of 4 positions off an image of shape (5, 4, 1): nothing would be left",
    ),
    "merge by a quotient": (
        lambda: fnn.parallel(fnn.Relu(), merge="quotient"),
        'parallel: merge must be "sum", "product" or "concatenate", got \'quotient\'',
    ),
    "concatenate examples": (
        lambda: fnn.parallel(fnn.Relu(), merge="concatenate", axis=0),
        "axis must be an integer other than 0, the axis of the examples, got 0",
    ),
    "concatenate along no axis": (
        lambda: fnn.parallel(fnn.Relu(), merge="concatenate", axis=None),
        "axis must be an integer other than 0",
    ),
    "concatenate along an axis too many": (
        lambda: fnn.parallel(fnn.Relu(), merge="concatenate", axis=3).init(KEY, (4, 2)),
        "along axis 3 of the batch: expected -2 to -1, or 1 to 2",
    ),
    "concatenate along the examples, from the end": (
        lambda: fnn.parallel(fnn.Relu(), merge="concatenate", axis=-3).forward(
            ((),), ((),), jnp.ones((5, 4, 2))
        ),
        "along axis -3 of the batch: expected -2 to -1, or 1 to 2",
    ),
    "concatenate other widths": (
        lambda: fnn.parallel(
            fnn.Dense(3), fnn.Dense(2), merge="concatenate", axis=1
        ).init(KEY, (4, 2)),
        "concatenates along axis 1 outputs that differ in others: 0 (4, 3), 1 (4, 2).",
    ),
    "product of other widths": (
        lambda: fnn.parallel(fnn.Dense(3), fnn.Dense(2), merge="product").init(
            KEY, (4,)
        ),
        "multiplies outputs of different shapes: 0 (3,), 1 (2,)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_say_what_was_expected(name):
    call, text = WRONG[name]
    with pytest.raises((ValueError, TypeError), match=re.escape(text)):
        call()


IMAGES = {
    "clip": fnn.serial(fnn.Conv(3, 3), fnn.Clip(0, 6), fnn.Conv(2, 3)),
    "hard swish": fnn.serial(fnn.Conv(3, 3), fnn.HardSwish(), fnn.Conv(2, 3)),
    "prelu": fnn.serial(fnn.Conv(3, 3), fnn.PRelu(), fnn.MaxPool(2)),
    "pad": fnn.serial(fnn.Conv(3, 3), fnn.Pad(1), fnn.BatchNorm(), fnn.Crop(2)),
    "rows": fnn.parallel(
        fnn.Conv(3, 3), fnn.Conv(3, 1), merge="concatenate", axis=1
    ),
    "gate": fnn.parallel(
        fnn.Conv(3, 3), fnn.serial(fnn.Conv(3, 1), fnn.HardSigmoid()), merge="product"
    ),
}  # fmt: skip


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", IMAGES)
def test_a_plan_of_it_computes_the_same(name):
    net, loss = IMAGES[name], fnn.losses.SquaredError()
    variables = net.init(KEY, (8, 6, 2))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 6, 2)), jnp.float32)
    y = jnp.zeros(net.forward(*variables, x).y.shape)
    plan = fnn.plan(net, (8, 6, 2), batch_size=4)
    found = [
        jax.jit(fnn.value_and_grad(each, loss))(variables, (x, y))
        for each in (net, plan)
    ]
    np.testing.assert_allclose(found[0].loss, found[1].loss, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        *(out.grads for out in found),
    )
