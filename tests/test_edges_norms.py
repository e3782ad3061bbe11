"""Normalisation at the edges: a single element, none, and a variance that overflows.

Also what `fit` and `sweep` say about them, and about a state that is not finite.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.kernels.batch_norm import batch_norm_backward, batch_norm_forward

KEY = jax.random.key(0)
LOSS = fnn.losses.SoftmaxCrossEntropy()

# ---- A single element ------------------------------------------------------------

#: A layer, the shape of an example that it has no statistics for, parts of the message.
SINGLE = [
    (fnn.LayerNorm(), (1,), ["LayerNorm()", "the features of each pixel", "BatchNorm"]),
    (fnn.LayerNorm(), (4, 3, 1), ["LayerNorm()", "there is one", "InstanceNorm"]),
    (fnn.InstanceNorm(), (1, 5), ["InstanceNorm()", "the pixels of each example"]),
    (fnn.InstanceNorm(), (1, 1, 5), ["InstanceNorm()", "LayerNorm"]),
    (fnn.GroupNorm(4), (4,), ["GroupNorm(groups=4)", "each group", "fewer groups"]),
    (fnn.GroupNorm(2), (1, 1, 2), ["GroupNorm(groups=2)", "there is one"]),
]


@pytest.mark.parametrize(("norm", "in_shape", "texts"), SINGLE, ids=repr)
def test_statistics_of_one_element_are_refused(norm, in_shape, texts):
    with pytest.raises(ValueError) as caught:
        fnn.serial(fnn.Identity(), norm).init(KEY, in_shape)
    assert all(text in str(caught.value) for text in texts)
    assert any("Serial layer 1" in note for note in caught.value.__notes__)
    # Also where it gets the parameters of other examples.
    params = fnn.NormParams(*jnp.ones((2, in_shape[-1])))
    with pytest.raises(ValueError, match="would be 0 for every x"):
        norm.forward(params, (), jnp.ones((3, *in_shape)))


BATCHES = [(1, 3), (0, 3), (1, 1, 1, 3), (0, 4, 5, 3)]


@pytest.mark.parametrize("shape", BATCHES, ids=str)
@pytest.mark.parametrize("planned", [False, True], ids=["plain", "planned"])
def test_batch_norm_refuses_to_train_on_one_vector_or_none(shape, planned):
    net = fnn.serial(fnn.Identity(), fnn.BatchNorm())
    variables = net.init(KEY, shape[1:])
    x = jnp.ones(shape)
    y = net.forward(*variables, x).y  # evaluation needs no other example
    assert y.shape == shape and np.isfinite(y).all()
    if planned:
        net = fnn.plan(net, shape[1:], batch_size=8, platform="cpu").net
    with pytest.raises(ValueError, match="choose a batch_size that does not leave one"):
        net.forward(*variables, x, train=True)


SMALLEST = [
    (fnn.BatchNorm(), (2, 1)),
    (fnn.BatchNorm(), (1, 2, 1, 1)),
    (fnn.LayerNorm(), (1, 2)),
    (fnn.InstanceNorm(), (1, 2, 1)),
    (fnn.GroupNorm(2), (1, 4)),
    (fnn.GroupNorm(1), (1, 2, 1)),
    (fnn.RMSNorm(), (1, 1)),
]


@jax.jit
def both_engines(norms, xs):
    """Return y, the state, and both engines' (dx, dparams), of each norm."""

    def one(norm, x):
        params, state = norm.init(KEY, x.shape[1:])
        params = jax.tree.map(lambda p: p.astype(x.dtype), params)
        dy = jnp.linspace(-1, 2, x.size).reshape(x.shape).astype(x.dtype)

        def forward(params, x):
            out = norm.forward(params, state, x, train=True)
            return out.y, out

        y, vjp, out = jax.vjp(forward, params, x, has_aux=True)
        hand = norm.backward(params, out.saved, dy)
        return y, out.state, hand, fnn.Backward(*vjp(dy)[::-1])

    return [one(norm, x) for norm, x in zip(norms, xs, strict=True)]


def test_two_elements_are_enough():
    norms, shapes = zip(*SMALLEST, strict=True)
    xs = [4.0 * jnp.cumsum(jnp.ones(s), s.index(max(s))) for s in shapes]
    for norm, (y, state, hand, auto) in zip(
        norms, both_engines(norms, xs), strict=True
    ):
        leaves = jax.tree.leaves((y, state, hand))
        assert all(np.isfinite(leaf).all() for leaf in leaves), norm
        assert np.abs(y).min() > 0.5
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), hand, auto
        )


# ---- Before training -------------------------------------------------------------

NET = fnn.serial(fnn.Dense(4), fnn.BatchNorm(), fnn.Relu(), fnn.Dense(2))
X = np.random.default_rng(0).normal(size=(13, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)


def in_batches(x, y, size):
    return fnn.Batches(
        lambda: ((x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)),
        n=len(x),
    )


def fit(net=NET, data=(X, Y), **options):
    given = dict(key=KEY, epochs=2, batch_size=4) | options
    return fnn.fit(net, LOSS, fnn.optimizers.sgd(0.1), train=data, **given)


def sweep(net=NET, data=(X, Y), **options):
    def build(learning_rate):
        return net, LOSS, fnn.optimizers.sgd(learning_rate)

    given = dict(keys=KEY, epochs=2, batch_size=4) | options
    return fnn.sweep(build, {"learning_rate": [0.1]}, train=data, **given)


REFUSED = {
    "the last batch of one": lambda: fit(),
    "by autodiff": lambda: fit(engine="autodiff"),
    "without a plan": lambda: fit(plan=None),
    "batches of one": lambda: fit(batch_size=1),
    "batches that are read": lambda: fit(data=in_batches(X, Y, 4)),
    "a sweep": lambda: sweep(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_last_batch_of_one_is_refused_before_the_first_step(name, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("a step was taken, or traced")

    monkeypatch.setattr("fnn.training.compiled.descent.optax.apply_updates", never)
    with pytest.raises(ValueError, match=r"BatchNorm\(\) takes the mean") as caught:
        REFUSED[name]()
    notes = " ".join(caught.value.__notes__)
    assert "Serial layer 1: BatchNorm()" in notes
    size = 1 if name == "batches of one" else 4
    assert f"of size 1: train has 13 examples in batches of {size}" in notes


def test_a_last_batch_of_one_image_is_enough():
    image = fnn.serial(fnn.Reshape((3, 1)), fnn.BatchNorm(), fnn.Flatten(), NET[3])
    assert np.isfinite(fit(image, epochs=1).history["train_loss"]).all()


# ---- A variance beyond the largest number ----------------------------------------

OVERFLOWING = [
    (fnn.BatchNorm(), (6, 4)),
    (fnn.LayerNorm(), (6, 4)),
    (fnn.RMSNorm(), (6, 4)),
    (fnn.InstanceNorm(), (2, 6, 4)),
    (fnn.GroupNorm(2), (2, 3, 4)),
]
#: Powers of ten of x whose squares fit, and do not.
POWERS = {"bfloat16": (17, 20), "float32": (17, 20), "float64": (150, 160)}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("dtype", POWERS)
def test_a_variance_that_overflows_is_loud_in_both_engines(dtype):
    norms, shapes = zip(*OVERFLOWING, strict=True)
    numbers = [np.random.default_rng(0).normal(size=shape) for shape in shapes]

    def outcomes(power):
        with jax.enable_x64(dtype == "float64"):
            xs = [jnp.asarray(a * 10.0**power).astype(dtype) for a in numbers]
            return jax.tree.map(np.float64, both_engines(norms, xs))

    moderate, large, too_large = map(outcomes, (6, *POWERS[dtype]))
    near = dict(rtol=0, atol=32 * float(jnp.finfo(dtype).eps))
    for i, norm in enumerate(norms):
        y, _, hand, auto = large[i]
        np.testing.assert_allclose(y, moderate[i][0], **near, err_msg=repr(norm))
        for ours, theirs in zip(*map(jax.tree.leaves, (hand, auto)), strict=True):
            np.testing.assert_allclose(ours, theirs, **near, err_msg=repr(norm))
        y, _, hand, auto = too_large[i]
        assert np.isnan(y).all(), norm
        for back in (hand, auto):
            assert np.isnan(back.dx).all() and np.isnan(back.dparams.scale).all()


def test_the_kernel_is_as_loud():
    x = 1e20 * jax.random.normal(KEY, (2, 3, 4, 5))
    mean, var = x.mean((1, 2, 3)), jnp.full(2, jnp.inf)
    ones = jnp.ones(2)
    y, saved = batch_norm_forward(x, ones, ones, mean, var, 1e-5, relu=False)
    dx, dscale, _ = batch_norm_backward(ones, saved, jnp.ones_like(x), train=True)
    assert all(np.isnan(a).all() for a in (y, dx, dscale))


# ---- A state that is not finite --------------------------------------------------


@fnn.layer
class Sum(fnn.Layer):
    """The identity, whose state adds up the cube of the largest x of every batch."""

    def init(self, key, in_shape):
        return fnn.Variables((), (jnp.zeros(()),))

    def forward(self, params, state, x, *, key=None, train=False):
        return fnn.Forward(x, (), (state[0] + jnp.abs(x).max() ** 3,))

    def backward(self, params, saved, dy):
        return fnn.Backward(dy, ())


def large(factor):
    """Twelve examples, one of them this many times as large."""
    x = X[:12].copy()
    x[7] *= factor
    return x, Y[:12]


def test_the_layer_whose_variance_overflows_is_named():
    variables = NET.init(KEY, (3,))
    where = fnn.first_nonfinite(NET, LOSS, variables, large(1e21))
    assert where == "the output of 1/BatchNorm"


def test_a_step_whose_state_overflows_is_named_and_left_out():
    net = fnn.serial(fnn.Flatten(), fnn.serial(Sum(), fnn.Tanh()), fnn.Dense(2))
    result = fit(net, large(1e14), on_nonfinite="skip", epochs=1)
    assert result.nonfinite.where == "the new state 1/0/Sum.0"
    assert result.history["skipped"].tolist() == [1]
    leaves = jax.tree.leaves(result.last_variables)
    assert all(np.isfinite(leaf).all() for leaf in leaves)


@pytest.mark.thorough
def test_a_state_that_begins_infinite_is_no_bad_step_but_named():
    net = fnn.serial(Sum(), fnn.Dense(2))
    variables = net.init(KEY, (3,))
    variables = variables._replace(state=((jnp.array(jnp.inf),), ()))
    with pytest.raises(FloatingPointError, match="the state 0/0 is not finite"):
        fit(net, (X, Y), variables=variables, on_nonfinite="raise", epochs=1)


def test_an_update_that_overflows_names_the_parameter():
    with pytest.raises(FloatingPointError, match=r"0/Dense\.weight after the update"):
        fnn.fit(
            fnn.serial(fnn.Dense(2)), LOSS, fnn.optimizers.sgd(1e38),
            train=(1e3 * X[:4], Y[:4]), key=KEY, epochs=1, batch_size=4,
            on_nonfinite="raise",
        )  # fmt: skip
