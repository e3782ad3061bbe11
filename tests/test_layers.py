"""Properties of single layers. Those of all layers are in test_contract.py."""

import re
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn.core import Backward, Forward, Layer, Variables, layer
from fnn.layers import initializers
from fnn.losses import SquaredError

KEY = jax.random.key(3)
ENGINES = pytest.mark.parametrize("engine", ["manual", "autodiff"])


def slope_at(activation, x, engine):
    """Compute ∂y/∂x of an activation at one number."""
    x = jnp.full((1, 1), x)
    if engine == "manual":
        saved = activation.forward((), (), x).saved
        return float(activation.backward((), saved, jnp.ones_like(x)).dx[0, 0])
    return float(jax.grad(lambda x: activation.forward((), (), x).y.sum())(x)[0, 0])


def grads_of(net, variables, batch, engine, **options):
    grad_fn = fnn.value_and_grad(net, SquaredError(), engine, **options)
    return grad_fn(variables, batch, key=KEY)


def assert_trees_equal(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    jax.tree.map(np.testing.assert_array_equal, one, two)


def assert_trees_close(one, two, tolerance=1e-6):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), one, two
    )


# ---- Activations -----------------------------------------------------------------

AT_ZERO = [
    (fnn.Relu(), 0.0),
    (fnn.LeakyRelu(0.2), 0.2),
    (fnn.LeakyRelu(), 0.01),
    (fnn.Elu(), 1.0),
    (fnn.Elu(1.5), 1.5),
    (fnn.Sigmoid(), 0.25),
    (fnn.Tanh(), 1.0),
    (fnn.Gelu(), 0.5),
    (fnn.Silu(), 0.5),
    (fnn.Softplus(), 0.5),
]


@ENGINES
@pytest.mark.parametrize(("activation", "slope"), AT_ZERO, ids=lambda v: repr(v))
def test_slope_at_zero_is_the_documented_one(activation, slope, engine):
    assert slope_at(activation, 0.0, engine) == pytest.approx(slope, rel=1e-6)


NAMES = "Elu Gelu LeakyRelu Relu Sigmoid Silu Softmax Softplus Tanh".split()


@pytest.mark.parametrize("name", NAMES)
def test_nan_passes_through_activations(name):
    activation = getattr(fnn, name)()
    out = activation.forward((), (), jnp.array([[jnp.nan, 1.0]]))
    assert jnp.isnan(out.y[0, 0])


@ENGINES
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("x", [-1e4, 1e4])
def test_saturated_activations_have_finite_slopes(name, x, engine):
    assert np.isfinite(slope_at(getattr(fnn, name)(), x, engine))


X = np.linspace(-3, 3, 7)


@pytest.mark.parametrize(
    ("activation", "formula"),
    [
        (fnn.Sigmoid(), lambda x: 1 / (1 + np.exp(-x))),
        (fnn.Tanh(), np.tanh),
        (fnn.Relu(), lambda x: np.maximum(x, 0)),
        (fnn.LeakyRelu(0.2), lambda x: np.where(x > 0, x, 0.2 * x)),
        (fnn.Elu(1.5), lambda x: np.where(x > 0, x, 1.5 * np.expm1(x))),
        (fnn.Gelu(), lambda x: np.asarray(jax.nn.gelu(x, approximate=False))),
        (
            fnn.Gelu(approximate=True),
            lambda x: np.asarray(jax.nn.gelu(x, approximate=True)),
        ),
        (fnn.Silu(), lambda x: x / (1 + np.exp(-x))),
        (fnn.Softplus(), lambda x: np.log1p(np.exp(x))),
        (fnn.Softmax(), lambda x: np.exp(x) / np.exp(x).sum()),
    ],
    ids=lambda value: "" if callable(value) else repr(value),
)
def test_activation_is_its_formula(activation, formula):
    y = activation.forward((), (), jnp.asarray(X[None], jnp.float32)).y
    np.testing.assert_allclose(y, formula(X)[None], rtol=1e-5, atol=1e-6)


# ---- Dropout ---------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_with_probability_rate_and_keeps_the_expectation(rate):
    ones = jnp.ones((200, 500))
    y = fnn.Dropout(rate).forward((), (), ones, key=KEY, train=True).y
    standard_error = (rate * (1 - rate) / ones.size) ** 0.5
    assert abs((y == 0).mean() - rate) < 4 * standard_error
    assert abs(y.mean() - 1) < 4 * standard_error / (1 - rate)


@ENGINES
def test_dropout_uses_one_mask_forward_and_backward(engine):
    dropout, x = fnn.Dropout(0.4), jnp.ones((30, 20))
    out = dropout.forward((), (), x, key=KEY, train=True)
    if engine == "manual":
        dx = dropout.backward((), out.saved, x).dx
    else:
        run = lambda x: dropout.forward((), (), x, key=KEY, train=True).y  # noqa: E731
        dx = jax.grad(lambda x: run(x).sum())(x)
    np.testing.assert_array_equal(dx == 0, out.y == 0)
    np.testing.assert_allclose(dx[dx != 0], 1 / 0.6, rtol=1e-6)


def test_the_same_key_gives_the_same_mask_in_every_precision():
    masks = []
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64):
        with jax.enable_x64(dtype == jnp.float64):
            ones = jnp.ones((50, 40), dtype)
            y = fnn.Dropout(0.3).forward((), (), ones, key=KEY, train=True).y
            assert y.dtype == dtype
            masks.append(np.asarray(y != 0))
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])


def test_a_high_dropout_rate_is_finite_in_bfloat16():
    ones = jnp.ones((100, 100), jnp.bfloat16)
    y = fnn.Dropout(0.999).forward((), (), ones, key=KEY, train=True).y
    assert jnp.isfinite(y).all()
    assert y.max() > 900


def test_different_keys_give_different_masks():
    one, two = (
        fnn.Dropout().forward((), (), jnp.ones((9, 9)), key=key, train=True).y
        for key in jax.random.split(KEY)
    )
    assert (one != two).any()


def test_dropout_does_nothing_in_evaluation_and_needs_no_key():
    x = jnp.arange(6.0).reshape(2, 3)
    out = fnn.Dropout(0.9).forward((), (), x)
    assert out.y is x
    assert fnn.Dropout(0.9).backward((), out.saved, x).dx is x


def test_dropout_without_a_key_says_which_layer_and_what_to_pass():
    net = fnn.serial(fnn.Dense(5), fnn.Dropout(0.25))
    variables = net.init(KEY, (4,))
    with pytest.raises(ValueError, match=r"no key: pass key=jax\.random\.key") as info:
        net.forward(*variables, jnp.ones((2, 4)), train=True)
    assert "Dropout(rate=0.25) draws random numbers in training" in str(info.value)
    assert info.value.__notes__ == [
        "in Serial layer 1: Dropout(rate=0.25), input shape (2, 5)"
    ]


@pytest.mark.parametrize("rate", [1, 1.0, -0.1, 1.5, float("nan")])
def test_dropout_refuses_a_rate_outside_0_to_1(rate):
    text = re.escape("must be in [0, 1), got ") + ".*For a probability q of keeping"
    with pytest.raises(ValueError, match=text):
        fnn.Dropout(rate)


# ---- Normalisation ---------------------------------------------------------------


def numpy_batch_norm(x, scale, bias, mean, var, momentum, eps):
    """Compute algorithm 1 of Ioffe and Szegedy, and the running statistics."""
    rows = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    m = len(rows)
    mu = rows.sum(0) / m
    sigma2 = ((rows - mu) ** 2).sum(0) / m
    y = scale * (rows - mu) / np.sqrt(sigma2 + eps) + bias
    unbiased = ((rows - mu) ** 2).sum(0) / (m - 1)
    running = (
        momentum * mean + (1 - momentum) * mu,
        momentum * var + (1 - momentum) * unbiased,
    )
    return y.reshape(x.shape), running


@pytest.mark.parametrize("shape", [(6, 3), (5, 4, 2, 3)], ids=["features", "images"])
def test_batch_norm_is_the_papers_algorithm(shape):
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, shape)
    scale, bias, mean, var = rng.uniform(0.5, 2, (4, 3))
    with jax.enable_x64(True):
        norm = fnn.BatchNorm(momentum=0.7, eps=1e-3)
        params = fnn.NormParams(*map(jnp.asarray, (scale, bias)))
        state = fnn.BatchNormState(*map(jnp.asarray, (mean, var)))
        out = norm.forward(params, state, jnp.asarray(x), train=True)
        y, running = numpy_batch_norm(x, scale, bias, mean, var, 0.7, 1e-3)
        np.testing.assert_allclose(out.y, y, rtol=1e-12)
        np.testing.assert_allclose(out.state, running, rtol=1e-12)

        evaluated = norm.forward(params, out.state, jnp.asarray(x))
        mean, var = running
        y = scale * (x - mean) / np.sqrt(var + 1e-3) + bias
        np.testing.assert_allclose(evaluated.y, y, rtol=1e-12)


def test_layer_norm_does_not_see_the_other_examples():
    norm, x = fnn.LayerNorm(), jnp.arange(12.0).reshape(3, 4) ** 2
    variables = norm.init(KEY, (4,))
    together = norm.forward(*variables, x).y
    alone = jnp.concatenate([norm.forward(*variables, row[None]).y for row in x])
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    np.testing.assert_allclose(together.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(together.var(1), 1, rtol=1e-4)


@pytest.mark.parametrize(
    ("in_shape", "groups", "other"),
    [
        ((8,), 1, fnn.LayerNorm(eps=1e-5)),
        ((7, 3, 8), 8, fnn.InstanceNorm(eps=1e-5)),
    ],
    ids=["one group", "groups of one"],
)
def test_group_norm_at_its_extremes_is_another_norm(in_shape, groups, other):
    norm, x = fnn.GroupNorm(groups), jax.random.normal(KEY, (6, *in_shape))
    variables = norm.init(KEY, in_shape)
    assert_trees_close(norm.forward(*variables, x).y, other.forward(*variables, x).y)


@pytest.mark.parametrize(
    "norm",
    [
        fnn.BatchNorm(),
        fnn.LayerNorm(),
        fnn.RMSNorm(),
        fnn.InstanceNorm(),
        fnn.GroupNorm(2),
    ],
    ids=repr,
)
def test_statistics_do_not_overflow_in_half_precision(norm):
    # The square of 300 is more than float16 can hold.
    x = 300 * jax.random.normal(KEY, (6, 5, 4))
    params, state = norm.init(KEY, (5, 4))
    single = norm.forward(params, state, x, train=True).y
    half = jax.tree.map(lambda a: a.astype(jnp.float16), params)
    y = norm.forward(half, state, x.astype(jnp.float16), train=True).y
    assert y.dtype == jnp.float16
    np.testing.assert_allclose(y, single, atol=0.01)


# ---- Initialisers ----------------------------------------------------------------

FAN_IN, FAN_OUT = 300, 200
VARIANCES = [
    (initializers.Normal(0.3), 0.09),
    (initializers.HeNormal(), 2 / FAN_IN),
    (initializers.HeUniform(), 2 / FAN_IN),
    (initializers.GlorotNormal(), 2 / (FAN_IN + FAN_OUT)),
    (initializers.GlorotUniform(), 2 / (FAN_IN + FAN_OUT)),
    (initializers.LecunNormal(), 1 / FAN_IN),
    (initializers.Orthogonal(2.0), 4 / FAN_IN),
]


@pytest.mark.parametrize(("init", "variance"), VARIANCES, ids=lambda v: repr(v))
def test_initialiser_has_its_variance(init, variance):
    weight = init(KEY, (FAN_IN, FAN_OUT))
    assert float(weight.var()) == pytest.approx(variance, rel=0.03)
    assert abs(float(weight.mean())) < 4 * (variance / weight.size) ** 0.5


def test_orthogonal_columns_are_orthonormal():
    weight = initializers.Orthogonal()(KEY, (7, 5))
    np.testing.assert_allclose(weight.T @ weight, np.eye(5), atol=1e-5)


@pytest.mark.parametrize(
    ("init", "value"),
    [
        (initializers.Zeros(), 0),
        (initializers.Ones(), 1),
        (initializers.Constant(0.25), 0.25),
    ],
)
def test_constant_initialisers(init, value):
    np.testing.assert_array_equal(init(KEY, (3, 2)), np.full((3, 2), value))


HE, GLOROT, LECUN = (
    initializers.HeNormal(),
    initializers.GlorotUniform(),
    initializers.LecunNormal(),
)


@pytest.mark.parametrize(
    ("followers", "expected"),
    [
        ([fnn.Relu()], HE),
        ([fnn.LeakyRelu()], HE),
        ([fnn.Gelu()], HE),
        ([fnn.BatchNorm(), fnn.Relu()], HE),
        ([fnn.Dropout(), fnn.BatchNorm(), fnn.Elu()], HE),
        ([fnn.Probed(fnn.Relu(), 2)], HE),
        ([fnn.Tanh()], GLOROT),
        ([fnn.Sigmoid()], GLOROT),
        ([fnn.Dropout(), fnn.Softmax()], GLOROT),
        ([], LECUN),
        ([fnn.BatchNorm()], LECUN),
        ([fnn.Dense(5), fnn.Relu()], LECUN),
        ([fnn.residual(fnn.Relu())], LECUN),
    ],
    ids=lambda v: repr(v),
)
@pytest.mark.parametrize("wrap", [lambda dense: dense, lambda d: fnn.Probed(d, 2)])
def test_serial_draws_weights_that_suit_the_activation(followers, expected, wrap):
    net = fnn.serial(wrap(fnn.Dense(5)), *followers)
    params = net.init(KEY, (4,)).params[0]
    weight = getattr(params, "params", params).weight
    dense = fnn.Dense(5, weight_init=expected)
    by_hand = dense.init(jax.random.fold_in(KEY, 0), (4,)).params
    np.testing.assert_array_equal(weight, by_hand.weight)


def test_an_initialiser_of_the_users_choice_stays():
    net = fnn.serial(fnn.Dense(5, weight_init=initializers.Ones()), fnn.Relu())
    np.testing.assert_array_equal(net.init(KEY, (4,)).params[0].weight, 1)


def test_init_under_jit_draws_the_same_network():
    net = fnn.serial(fnn.Dense(5), fnn.Relu(), fnn.BatchNorm(), fnn.Dense(3))
    jitted = jax.jit(lambda net, key: net.init(key, (4,)))(net, KEY)
    assert_trees_close(jitted, net.init(KEY, (4,)))


# ---- Wiring ----------------------------------------------------------------------


def test_child_i_of_serial_draws_from_fold_in_i():
    first, drop = fnn.Dense(5), fnn.Dropout(0.5)
    net, x = fnn.serial(first, drop), jnp.ones((6, 4))
    variables = net.init(KEY, (4,))
    by_hand = first.init(jax.random.fold_in(KEY, 0), (4,))
    assert_trees_equal(variables.params[0], by_hand.params)
    h = first.forward(*by_hand, x).y
    y = drop.forward((), (), h, key=jax.random.fold_in(KEY, 1), train=True).y
    np.testing.assert_array_equal(net.forward(*variables, x, key=KEY, train=True).y, y)


@pytest.mark.parametrize(
    "make",
    [
        lambda *two: fnn.residual(*two),
        lambda *two: fnn.parallel(*two),
        lambda *two: fnn.parallel(*two, merge="concatenate"),
    ],
    ids=["residual", "sum", "concatenate"],
)
def test_child_i_side_by_side_draws_from_fold_in_i(make):
    children = fnn.Dropout(0.5), fnn.Dropout(0.3)
    net, x = make(*children), jnp.ones((6, 4))
    variables = net.init(KEY, (4,))
    one, two = (
        child.forward((), (), x, key=jax.random.fold_in(KEY, i), train=True).y
        for i, child in enumerate(children)
    )
    concatenates = getattr(net, "merge", "sum") == "concatenate"
    expected = jnp.concatenate([one, two], -1) if concatenates else one + two
    y = net.forward(*variables, x, key=KEY, train=True).y
    np.testing.assert_array_equal(y, expected)


def test_an_empty_serial_is_the_identity():
    net, x = fnn.serial(), jnp.ones((2, 3))
    variables = net.init(KEY, (3,))
    out = net.forward(*variables, x)
    assert out.y is x
    assert net.backward(variables.params, out.saved, x) == Backward(dx=x, dparams=())


def test_flatten_keeps_row_major_order():
    x = jnp.arange(24.0).reshape(2, 3, 2, 2)
    np.testing.assert_array_equal(fnn.Flatten().forward((), (), x).y[1], np.r_[12:24])


# ---- Probes ----------------------------------------------------------------------

DEEP = fnn.serial(
    fnn.Dense(5),
    fnn.Tanh(),
    fnn.residual(fnn.serial(fnn.Dropout(0.4), fnn.Dense(5))),
    fnn.Dense(3),
)
BATCH = jnp.linspace(-1, 1, 24).reshape(6, 4), jnp.ones((6, 3))


@ENGINES
def test_a_probes_gradient_is_delta(engine):
    # δ of the last layer is the loss's; that of the others follows from it.
    variables = DEEP.init(KEY, (4,))
    probed, probed_variables = fnn.probe(DEEP, variables, BATCH[0])
    out = grads_of(probed, probed_variables, BATCH, engine)
    deltas = {
        path.removesuffix(".delta"): leaf
        for path, leaf in fnn.named_params(probed, out.grads).items()
        if path.endswith(".delta")
    }
    last = (out.outputs - BATCH[1]) / 6
    before = last @ variables.params[3].weight.T
    np.testing.assert_allclose(deltas[""], last, rtol=1e-6)
    np.testing.assert_allclose(deltas["3/Dense"], last, rtol=1e-6)
    np.testing.assert_allclose(deltas["2/Residual"], before, rtol=1e-5)
    np.testing.assert_allclose(deltas["2/Residual/body"], before, rtol=1e-5)
    assert set(deltas) == {
        "",
        "0/Dense",
        "1/Tanh",
        "2/Residual",
        "2/Residual/body",
        "2/Residual/body/0/Dropout",
        "2/Residual/body/1/Dense",
        "2/Residual/projection/Identity",
        "3/Dense",
    }


@ENGINES
def test_probing_changes_no_path_no_number_and_no_mask(engine):
    variables = DEEP.init(KEY, (4,))
    plain = grads_of(DEEP, variables, BATCH, engine, l2=0.1)
    probed, probed_variables = fnn.probe(DEEP, variables, BATCH[0])
    seen = grads_of(probed, probed_variables, BATCH, engine, l2=0.1)
    np.testing.assert_array_equal(seen.outputs, plain.outputs)
    np.testing.assert_allclose(seen.loss, plain.loss, rtol=1e-6)
    params = fnn.named_params(DEEP, plain.grads)
    seen_params = {
        path: leaf
        for path, leaf in fnn.named_params(probed, seen.grads).items()
        if not path.endswith(".delta")
    }
    assert list(seen_params) == list(params)
    assert_trees_close(seen_params, params)


def test_a_probe_refuses_a_batch_of_another_size():
    net = fnn.Probed(fnn.Dense(3), batch=6)
    variables = net.init(KEY, (4,))
    with pytest.raises(ValueError, match="made for batches of 6, got 5 examples"):
        net.forward(*variables, jnp.ones((5, 4)))


# ---- The penalty -----------------------------------------------------------------


@ENGINES
def test_the_penalty_falls_on_weights_alone(engine):
    net = fnn.serial(fnn.Dense(5), fnn.BatchNorm(), fnn.residual(fnn.Dense(5)))
    variables = net.init(KEY, (4,))
    batch = BATCH[0], jnp.ones((6, 5))
    plain = grads_of(net, variables, batch, engine)
    penalised = grads_of(net, variables, batch, engine, l2=0.3, n=50)
    without, with_penalty, params = (
        fnn.named_params(net, tree)
        for tree in (plain.grads, penalised.grads, variables.params)
    )
    squares = 0.0
    for path, param in params.items():
        expected = 0.0
        if path.endswith(".weight"):
            squares += float((param**2).sum())
            expected = 0.3 / 50 * param
        np.testing.assert_allclose(
            with_penalty[path] - without[path], expected, atol=1e-6
        )
    assert float(penalised.loss - plain.loss) == pytest.approx(
        0.3 / (2 * 50) * squares, rel=1e-4
    )


@layer
class Scale(Layer):
    """A layer y = s x, whose s is penalised although it is no `weight`."""

    penalized = ("s",)

    def init(self, key, in_shape):
        return Variables({"s": jnp.full(in_shape, 2.0), "weight": jnp.ones(())}, ())

    def forward(self, params, state, x, *, key=None, train=False):
        return Forward(params["s"] * x, saved=x, state=state)

    def backward(self, params, saved, dy):
        dparams = {"s": (saved * dy).sum(0), "weight": jnp.zeros(())}
        return Backward(dx=params["s"] * dy, dparams=dparams)


@ENGINES
def test_a_layer_may_declare_what_is_penalised(engine):
    net = fnn.serial(Scale())
    variables = net.init(KEY, (4,))
    batch = BATCH[0], jnp.ones((6, 4))
    plain, penalised = (
        grads_of(net, variables, batch, engine, l2=l2).grads[0] for l2 in (0.0, 0.6)
    )
    np.testing.assert_allclose(penalised["s"] - plain["s"], 0.6 / 6 * 2.0, rtol=1e-5)
    np.testing.assert_array_equal(penalised["weight"], 0)


@layer
class Product(Layer):
    """A layer y = x K, whose weights have a name of their own."""

    def init(self, key, in_shape):
        return Variables({"kernel": jnp.ones((*in_shape, 3)), "b": jnp.zeros(3)}, ())

    def forward(self, params, state, x, *, key=None, train=False):
        return Forward(x @ params["kernel"] + params["b"], saved=x, state=state)

    def backward(self, params, saved, dy):
        dparams = {"kernel": saved.T @ dy, "b": dy.sum(0)}
        return Backward(dx=dy @ params["kernel"].T, dparams=dparams)


@layer
class Unpenalised(Product):
    """The same, on purpose."""

    penalized = ()


@pytest.mark.parametrize(
    ("own", "l2", "warned"),
    [
        (Product(), 0.1, "0/Product.kernel: name the parameters"),
        (fnn.frozen(Product()), 0.1, None),
        (Unpenalised(), 0.1, None),
        (Product(), 0.0, None),
        (fnn.Dense(3), 0.1, None),
    ],
    ids=str,
)
def test_weights_that_the_penalty_passes_over_are_named(own, l2, warned):
    arguments = fnn.serial(own), SquaredError(), fnn.optimizers.sgd(0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fnn.fit(*arguments, train=BATCH, key=KEY, epochs=1, batch_size=6, l2=l2)
    texts = [str(w.message) for w in caught if "l2=" in str(w.message)]
    assert [warned in text for text in texts] == [True] * bool(warned)


def test_masked_weight_decay_is_a_penalty_of_one_layer():
    net = fnn.serial(fnn.Dense(5), fnn.Relu(), fnn.Dense(3))
    variables = net.init(KEY, (4,))
    plain, penalised = (
        grads_of(net, variables, BATCH, "manual", l2=l2).grads for l2 in (0.0, 0.6)
    )
    mine = fnn.map_params(
        lambda path, layer, _: path == "2/Dense.weight", net, variables.params
    )
    decay = optax.masked(optax.add_decayed_weights(0.6 / 6), mine)
    params = variables.params
    decayed, _ = decay.update(plain, decay.init(params), params)
    chex.assert_trees_all_equal(decayed[0], plain[0])
    chex.assert_trees_all_close(decayed[2], penalised[2], rtol=1e-5)


# ---- Errors ----------------------------------------------------------------------

NET = fnn.serial(fnn.Dense(5), fnn.Relu(), fnn.Dense(3))


def params_of(net, in_shape=(4,)):
    return net.init(KEY, in_shape).params


WRONG_CALLS = {
    "wrong feature count": (
        lambda: NET.forward(params_of(NET), ((), (), ()), jnp.ones((2, 7))),
        "Dense(features=5) expected an input of shape (N, ..., 4) (its weight is 4×5), "
        "got (2, 7). The first axis counts the examples: one example alone is x[None].",
    ),
    "missing batch axis": (
        lambda: NET.forward(params_of(NET), ((), (), ()), jnp.ones(4)),
        "expected an input of shape (N, ..., 4) (its weight is 4×5), got (4,). The "
        "first axis counts the examples: one example alone is x[None].",
    ),
    "missing batch axis, flatten": (
        lambda: fnn.Flatten().forward((), (), jnp.ones(4)),
        "Flatten() expected a batch (N, ...), got shape (4,): the batch axis is miss",
    ),
    "missing batch axis, batch norm": (
        lambda: fnn.BatchNorm().forward(*fnn.BatchNorm().init(KEY, (4,)), jnp.ones(4)),
        "BatchNorm() expected an input of shape (N, ..., 4), got (4,).",
    ),
    "wrong channels, layer norm": (
        lambda: fnn.LayerNorm().forward(
            *fnn.LayerNorm().init(KEY, (4,)), jnp.ones((2, 3))
        ),
        "LayerNorm() expected an input of shape (N, ..., 4), got (2, 3).",
    ),
    "no features, batch norm": (
        lambda: fnn.BatchNorm().init(KEY, ()),
        "BatchNorm() expected examples of shape (..., C), got ()",
    ),
    "too few params": (
        lambda: NET.forward(params_of(NET)[:2], ((), (), ()), jnp.ones((2, 4))),
        "Serial has 3 layers and expected its params as a tuple with an entry for each",
    ),
    "params that are no tuple": (
        lambda: NET.forward({}, ((), (), ()), jnp.ones((2, 4))),
        "got {}: they belong to another network. Make them with net.init(key, in_sh",
    ),
    "another layer's params": (
        lambda: fnn.Dense(5).forward(params_of(fnn.BatchNorm()), (), jnp.ones((2, 4))),
        "Dense(features=5) expected its parameters as DenseParams, got "
        "NormParams(scale=float32[4], bias=float32[4]): they belong to another network",
    ),
    "another width's params": (
        lambda: fnn.Dense(5).forward(params_of(fnn.Dense(3)), (), jnp.ones((2, 4))),
        "Dense(features=5) got DenseParams(weight=float32[4, 3], bias=float32[3]), "
        "which belongs to another network. Make its parameters with net.init(",
    ),
    "params without the bias": (
        lambda: fnn.Dense(5).forward(
            params_of(fnn.Dense(5, bias=False)), (), jnp.ones((2, 4))
        ),
        "Dense(features=5) got DenseParams(weight=float32[4, 5], bias=()), which",
    ),
    "params with a bias too much": (
        lambda: fnn.Dense(5, bias=False).forward(
            params_of(fnn.Dense(5)), (), jnp.ones((2, 4))
        ),
        "Dense(features=5, bias=False) got DenseParams(weight=float32[4, 5], bias=fl",
    ),
    "one feature into dense": (
        lambda: fnn.Dense(5).init(KEY, ()),
        "Dense(features=5) expected examples of shape (features,) or (..., features), "
        "got (): in_shape has no batch axis.",
    ),
    "no features": (
        lambda: fnn.Dense(0),
        "Dense: features must be a positive integer, got 0",
    ),
    "half a feature": (
        lambda: fnn.Dense(2.5),
        "Dense: features must be a positive integer, got 2.5",
    ),
    "class instead of instance": (
        lambda: fnn.serial(fnn.Dense(5), fnn.Relu),
        "serial: argument 1 is the class Relu; pass an instance, Relu()",
    ),
    "class in a residual": (
        lambda: fnn.residual(fnn.Relu),
        "residual: argument 0 is the class Relu; pass an instance, Relu()",
    ),
    "function instead of layer": (
        lambda: fnn.serial(jnp.sin),
        "serial: argument 0 is not a layer: ",
    ),
    "list instead of layers": (
        lambda: fnn.serial([fnn.Dense(5)]),
        "argument 0 is not a layer: [Dense(features=5)]. A function becomes a layer as "
        "fnn.Lambda(fn), a list as serial(*list).",
    ),
    "None instead of layer": (
        lambda: fnn.parallel(fnn.Dense(5), None),
        "parallel: argument 1 is not a layer: None",
    ),
    "shapes of a residual": (
        lambda: fnn.residual(fnn.Dense(5)).init(KEY, (4,)),
        "residual(Dense(features=5)) adds outputs of different shapes: body (5,), "
        "projection (4,). Give the shortcut a projection, or merge by concatenation.",
    ),
    "shapes of a sum": (
        lambda: fnn.parallel(fnn.Dense(5), fnn.Dense(1)).init(KEY, (4,)),
        "adds outputs of different shapes: 0 (5,), 1 (1,).",
    ),
    "shapes of a concatenation": (
        lambda: fnn.parallel(fnn.Flatten(), fnn.Identity(), merge="concatenate").init(
            KEY, (7, 3)
        ),
        "concatenates along the last axis outputs that differ in others: 0 (21,), "
        "1 (7, 3).",
    ),
    "no branches": (
        lambda: fnn.parallel(),
        "parallel expected at least one branch, got none",
    ),
    "unknown merge": (
        lambda: fnn.parallel(fnn.Relu(), merge="add"),
        """parallel: merge must be "sum", "product" or "concatenate", got 'add'""",
    ),
    "nothing left of an example": (
        lambda: fnn.serial(fnn.Lambda(lambda x: x[:, 4:])).init(KEY, (4,)),
        "turns an example of shape (4,) into one of shape (0,), which has an axis of "
        "size 0: nothing would be left.",
    ),
    "reshape of another size": (
        lambda: fnn.Reshape((3, 2)).forward((), (), jnp.ones((5, 4))),
        "Reshape(shape=(3, 2)) needs 6 elements an example, got 4 in a batch of shape "
        "(5, 4)",
    ),
    "reshape by a number": (
        lambda: fnn.Reshape(6),
        "Reshape: shape must be a tuple of positive integers, without the batch axis, "
        "got 6",
    ),
    "negative eps": (
        lambda: fnn.LayerNorm(eps=-1),
        "LayerNorm(eps=-1.0): eps is added under the root and must be ≥ 0",
    ),
    "eps that is no number": (
        lambda: fnn.RMSNorm(eps=float("nan")),
        "RMSNorm(eps=nan): eps is added under the root and must be ≥ 0",
    ),
    "layer norm's params in RMS norm": (
        lambda: fnn.RMSNorm().forward(params_of(fnn.LayerNorm()), (), jnp.ones((2, 4))),
        "RMSNorm() expected its parameters as RMSNormParams, got NormParams(scale=",
    ),
    "wrong channels, RMS norm": (
        lambda: fnn.RMSNorm().forward(params_of(fnn.RMSNorm()), (), jnp.ones((2, 3))),
        "RMSNorm() expected an input of shape (N, ..., 4), got (2, 3).",
    ),
    "vectors into instance norm": (
        lambda: fnn.InstanceNorm().init(KEY, (4,)),
        "InstanceNorm() normalises over pixels and expected examples of shape "
        "(pixels, ..., C), such as (28, 28, 1), got (4,). For vectors use "
        "fnn.LayerNorm() or fnn.BatchNorm().",
    ),
    "vectors into instance norm, later": (
        lambda: fnn.InstanceNorm().forward(
            params_of(fnn.LayerNorm()), (), jnp.ones((2, 4))
        ),
        "InstanceNorm() normalises over pixels and expected examples of shape",
    ),
    "groups of different sizes": (
        lambda: fnn.GroupNorm(3).init(KEY, (7, 5, 8)),
        "GroupNorm(groups=3) cannot split 8 features into 3 groups of one size: "
        "groups must be one of 1, 2, 4, 8",
    ),
    "groups of different sizes, later": (
        lambda: fnn.GroupNorm(3).forward(
            params_of(fnn.GroupNorm(2)), (), jnp.ones((2, 4))
        ),
        "GroupNorm(groups=3) cannot split 4 features into 3 groups of one size: "
        "groups must be one of 1, 2, 4",
    ),
    "no groups": (
        lambda: fnn.GroupNorm(0),
        "GroupNorm: groups must be a positive integer, got 0",
    ),
    "upsampling by less than one": (
        lambda: fnn.Upsample((2, 0.5)),
        "Upsample: factor must be a positive integer, or a tuple of one for each of at "
        "most three spatial axes, got (2, 0.5)",
    ),
    "upsampling four axes": (
        lambda: fnn.Upsample((2, 1, 2, 1)),
        "each of at most three spatial axes, got (2, 1, 2, 1)",
    ),
    "vectors into upsample": (
        lambda: fnn.Upsample(2).init(KEY, (4,)),
        "Upsample(factor=2) expected examples of shape (H, W, C), (L, C) or (D, H, W, "
        "C), without the batch axis, got (4,).",
    ),
    "vectors into upsample, later": (
        lambda: fnn.Upsample(2).forward((), (), jnp.ones((2, 4))),
        "Upsample(factor=2) expected examples of shape (H, W, C), (L, C) or (D, H, W, ",
    ),
    "lines into upsample for images": (
        lambda: fnn.Upsample((2, 3)).forward((), (), jnp.ones((2, 7, 4))),
        "Upsample(factor=(2, 3)) has a factor for 2 spatial axes, and its input has 1",
    ),
    "momentum above one": (
        lambda: fnn.BatchNorm(momentum=1.5),
        "is kept and must be in [0, 1], got 1.5",
    ),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_a_wrong_call_says_what_was_expected_what_came_and_how_to_mend_it(name):
    call, text = WRONG_CALLS[name]
    with pytest.raises((ValueError, TypeError)) as info:
        call()
    assert text in str(info.value)


def test_an_error_inside_a_network_names_the_layers_around_it():
    net = fnn.serial(fnn.Relu(), fnn.residual(fnn.serial(fnn.Dense(5), fnn.Dense(4))))
    params, state = net.init(KEY, (4,))
    broken = (params[0], params[1]._replace(body=params[1].body[::-1]))
    with pytest.raises(ValueError, match="belongs to another network") as info:
        net.forward(broken, state, jnp.ones((2, 4)))
    inner = "serial(Dense(features=5), Dense(features=4))"
    assert info.value.__notes__ == [
        "in Serial layer 0: Dense(features=5), input shape (2, 4)",
        f"in Residual layer body: {inner}, input shape (2, 4)",
        f"in Serial layer 1: residual({inner}), input shape (2, 4)",
    ]


def test_an_error_in_init_names_the_layer():
    with pytest.raises(ValueError, match=r"expected examples of shape") as info:
        fnn.serial(fnn.Identity(), fnn.GlobalAvgPool()).init(KEY, (7,))
    assert info.value.__notes__ == [
        "in Serial layer 1: GlobalAvgPool(), input shape (7,)"
    ]


def test_gelu_keeps_its_tail():
    with jax.enable_x64(True):
        x = jnp.array([[-3.0, -5.0, -8.0]])
        truth = fnn.Gelu().forward((), (), x).y
    single = fnn.Gelu().forward((), (), x.astype(jnp.float32)).y
    np.testing.assert_allclose(single, truth, rtol=1e-4)


def test_a_numpy_integer_counts_features():
    assert fnn.Dense(np.int64(3)) == fnn.Dense(3)
    with pytest.raises(ValueError, match="must be a positive integer, got True"):
        fnn.Dense(True)


def test_a_probed_layer_finds_its_place_in_a_residual():
    block = fnn.residual(fnn.Probed(fnn.Dense(4), batch=6))
    params, _ = block.init(jax.random.key(0), (4,))
    assert params.body.delta.shape == (6, 4)
