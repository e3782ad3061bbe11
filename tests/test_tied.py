"""Tied layers: one set of parameters in several places, in every part of fnn."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from breadth import some_of
from cases import autoencoder, siamese

import fnn
from fnn import losses, optimizers

KEY, N = jax.random.key(0), 6
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 8)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2])
SOFTMAX, SQUARED = losses.SoftmaxCrossEntropy(), losses.SquaredError()
ENGINES = pytest.mark.parametrize("engine", ["manual", "autodiff"])

SIAMESE = fnn.serial(siamese(fnn.Dense(5), fnn.Tanh()), fnn.Dense(3))
DECODER = autoencoder(3, 8)


@pytest.mark.one_in(2)
@ENGINES
def test_gradients_of_all_places_are_added_up(engine):
    """A network with two copies of the same numbers has the two summands."""
    variables = SIAMESE.init(KEY, (8,))
    first, second = variables.params[0][1]
    assert jax.tree.leaves(second) == []
    apart = siamese_apart()
    both = (variables.params[0][0], (first, first)), variables.params[1]
    ours = fnn.value_and_grad(SIAMESE, SOFTMAX, engine)(variables, (X, Y))
    theirs = fnn.value_and_grad(apart, SOFTMAX, engine)(
        fnn.Variables(both, variables.state), (X, Y)
    )
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-6)
    one, two = (theirs.grads[0][1][i][2][0] for i in (0, 1))
    assert (one.weight != two.weight).any()
    found = ours.grads[0][1][0][2][0]
    np.testing.assert_allclose(found.weight, one.weight + two.weight, rtol=1e-5)
    np.testing.assert_allclose(found.bias, one.bias + two.bias, rtol=1e-5)


def siamese_apart():
    """Make the network with two independent copies."""
    twin = fnn.serial(fnn.Dense(5), fnn.Tanh())
    halves = fnn.Crop(((0, 1),)), fnn.Crop(((1, 0),))
    branches = (fnn.serial(half, fnn.Flatten(), twin) for half in halves)
    body = fnn.serial(fnn.Reshape((2, 4)), fnn.parallel(*branches))
    return fnn.serial(body, fnn.Dense(3))


@ENGINES
@pytest.mark.parametrize("l2", [0.0, 2.0])
def test_an_autoencoder_is_its_formula(engine, l2):
    variables = DECODER.init(KEY, (8,))

    def cost(params):
        (w, b), _, (nothing, c) = params
        assert nothing is None
        z = jnp.tanh(X @ w + b) @ w.T + c
        return ((z - X) ** 2).sum() / 2 / N + l2 / (2 * N) * (w**2).sum()

    out = fnn.value_and_grad(DECODER, SQUARED, engine, l2=l2)(variables, (X, X))
    value, grads = jax.value_and_grad(cost)(variables.params)
    np.testing.assert_allclose(out.loss, value, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        out.grads,
        grads,
    )


def test_each_parameter_has_one_name_and_counts_once():
    variables = DECODER.init(KEY, (8,))
    names = ["0/Dense.weight", "0/Dense.bias", "2/DenseTranspose.bias"]
    assert [*fnn.named_params(DECODER, variables.params)] == names
    summary = fnn.summary(DECODER, (8,))
    assert [row.params for row in summary.rows] == [8 * 3 + 3, 0, 8]
    assert summary.params == 8 * 3 + 3 + 8
    nodes = {node.path: node.variables.params for node in fnn.walk(DECODER, variables)}
    assert nodes["2/DenseTranspose"].weight.shape == (8, 3)  # complete at each place


NETS = {
    "siamese": (SIAMESE, SOFTMAX, Y),
    "product": (
        fnn.serial(siamese(fnn.Dense(5), fnn.Tanh(), merge="product"), fnn.Dense(3)),
        SOFTMAX, Y,
    ),
    "batch norm": (
        fnn.serial(siamese(fnn.Dense(5), fnn.BatchNorm(), fnn.Relu()), fnn.Dense(3)),
        SOFTMAX, Y,
    ),
    "autoencoder": (DECODER, SQUARED, X),
    "recurrent": (
        fnn.shared(fnn.serial(*[fnn.tied("w", fnn.Dense(8)), fnn.Tanh()] * 3)),
        SQUARED, X,
    ),
    "residual": (
        fnn.serial(
            fnn.shared(fnn.residual(
                fnn.serial(fnn.tied("w", fnn.Dense(8)), fnn.Tanh()),
                fnn.tied("w", fnn.Dense(8)),
            )),
            fnn.Dense(3),
        ),
        SOFTMAX, Y,
    ),
    "frozen": (fnn.serial(fnn.frozen(DECODER), fnn.Dense(3)), SOFTMAX, Y),
    "tied and frozen": (
        fnn.serial(
            fnn.shared(fnn.serial(*[fnn.tied("w", fnn.frozen(fnn.Dense(8)))] * 2)),
            fnn.Dense(3),
        ),
        SOFTMAX, Y,
    ),
    "shared in shared": (
        fnn.shared(fnn.serial(
            fnn.tied("w", fnn.Dense(8)),
            autoencoder(3, 8),  # whose "w" is another one
            fnn.tied("w", fnn.Dense(8)),
        )),
        SQUARED, X,
    ),
}  # fmt: skip
QUICK = "siamese", "autoencoder", "frozen", "shared in shared"
EVERY_NET = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.thorough)
        for name in NETS
    ],
)


@pytest.mark.one_in(4)
@EVERY_NET
def test_the_audit_passes_and_names_each_parameter_once(name):
    net, loss, y = NETS[name]
    variables = net.init(KEY, (8,))
    report = fnn.compare_gradients(net, loss, variables, (X, y), l2=0.3)
    assert report.passed, str(report)
    paths = [row.path for row in report.rows]
    assert len(set(paths)) == len(paths)
    named = fnn.named_params(net, variables.params)
    assert {path for path in paths if not path.endswith((".delta", ".x"))} == {*named}
    # And each was differenced, but for the frozen ones.
    unchecked = [r.path for r in report.rows if not r.checked and r.verdict == "pass"]
    assert unchecked == []


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", some_of(NETS, ["siamese", "autoencoder"]))
def test_both_engines_train_to_the_same(name):
    net, loss, y = NETS[name]
    x, y = np.tile(X, (4, 1)), np.tile(y, (4, 1) if y is X else 4)
    given = dict(train=(x, y), key=KEY, epochs=3, batch_size=8, l2=0.1)
    results = [
        fnn.fit(net, loss, optimizers.adam(0.01), engine=engine, **given)
        for engine in ("manual", "autodiff")
    ]
    histories = [result.history["train_loss"] for result in results]
    np.testing.assert_allclose(*histories, rtol=1e-4)
    assert histories[0][-1] < histories[0][0]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_agrees_with_full(precision):
    variables = SIAMESE.init(KEY, (8,))
    half, full = (
        fnn.value_and_grad(SIAMESE, SOFTMAX, precision=p)(variables, (X, Y)).grads
        for p in (precision, None)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.02), half, full)


def test_the_audit_finds_a_place_that_is_forgotten_and_a_wrong_layer():
    class Forgets(fnn.Shared):
        def backward(self, params, saved, dy):
            out = super().backward(params, saved, dy)
            halved = jax.tree.map(
                lambda g: g / 2 if g.shape == (8, 3) else g, out.dparams
            )
            return out._replace(dparams=halved)

    class Wrong(fnn.Dense):
        def backward(self, params, saved, dy):
            out = super().backward(params, saved, dy)
            return out._replace(dparams=out.dparams._replace(bias=2 * out.dparams.bias))

    Forgets, Wrong = fnn.layer(Forgets), fnn.layer(Wrong)
    forgetful = Forgets(DECODER.net)
    wrong = fnn.shared(
        fnn.serial(fnn.tied("w", Wrong(8)), fnn.Tanh(), fnn.tied("w", Wrong(8)))
    )
    for net, found in ((forgetful, "Forgets.dparams"), (wrong, "2/Wrong.bias")):
        variables = net.init(KEY, (8,))
        params = jax.tree.map(lambda a: a + 0.1, variables.params)
        variables = variables._replace(params=params)
        report = fnn.compare_gradients(net, SQUARED, variables, (X, X))
        assert report.first_divergence == found, str(report)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["siamese", "autoencoder", "recurrent"])
def test_explain_treats_all_places_as_one_factor(name):
    net, loss, y = NETS[name]
    variables = net.init(KEY, (8,))
    for parameter in fnn.named_params(net, variables.params):
        why = fnn.explain(net, loss, variables, (X[:2], y[:2]), parameter, limit=4096)
        assert why.agrees
        # The product of the factors is the gradient.
        product = np.linalg.multi_dot([f.value for f in why.factors])
        np.testing.assert_allclose(product.ravel(), why.product.ravel(), atol=1e-12)


def test_delta_has_its_own_number_at_every_place():
    variables = DECODER.init(KEY, (8,))
    probed, probed_variables = fnn.probe(DECODER, variables, jnp.asarray(X))
    grads = fnn.value_and_grad(probed, SQUARED)(probed_variables, (X, X)).grads
    named = fnn.named_params(probed, grads)
    deltas = [path for path in named if path.endswith(".delta")]
    assert deltas[:3] == ["0/Dense.delta", "1/Tanh.delta", "2/DenseTranspose.delta"]
    assert [*fnn.record(DECODER, variables, X)] == [
        *("", "0/Dense", "1/Tanh", "2/DenseTranspose")
    ]


def test_it_is_saved_loaded_planned_and_mapped(tmp_path):
    variables = SIAMESE.init(KEY, (8,))
    fnn.save(tmp_path / "v.npz", variables)
    loaded = fnn.load(tmp_path / "v.npz", variables)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    z = SIAMESE.forward(*variables, jnp.asarray(X)).y
    plan = fnn.plan(SIAMESE, (8,), batch_size=N)
    np.testing.assert_allclose(plan.forward(*variables, jnp.asarray(X)).y, z, rtol=1e-6)
    two = jax.tree.map(lambda a: jnp.stack([a, a]), variables)
    mapped = jax.vmap(lambda v: SIAMESE.forward(*v, jnp.asarray(X)).y)(two)
    np.testing.assert_allclose(mapped, jnp.stack([z, z]), rtol=1e-5)
    optimizer = optax.adamw(0.1)
    with jax.numpy_dtype_promotion("standard"):
        state = optimizer.init(variables.params)
        grads = fnn.value_and_grad(SIAMESE, SOFTMAX)(variables, (X, Y)).grads
        updates, _ = optimizer.update(grads, state, variables.params)
    assert jax.tree.structure(updates) == jax.tree.structure(variables.params)


def test_without_a_name_the_same_object_is_two_layers():
    dense = fnn.Dense(8)
    params = fnn.serial(dense, dense).init(KEY, (8,)).params
    assert (params[0].weight != params[1].weight).any()


def test_a_layer_with_a_parameter_of_its_own_can_be_tied():
    scaled = fnn.Lambda(lambda p, x: p * x, lambda key, shape: jnp.float32(2))
    net = fnn.shared(fnn.serial(*[fnn.tied("s", scaled)] * 3))
    variables = net.init(KEY, (8,))
    grads = fnn.value_and_grad(net, SQUARED)(variables, (X, 0 * X)).grads
    expected = jax.grad(lambda s: ((s**3 * X) ** 2).sum() / 2 / N)(2.0)
    np.testing.assert_allclose(grads[0], expected, rtol=1e-5)


W = fnn.tied("w", fnn.Dense(8))
WRONG = {
    "no shared around": (
        lambda: fnn.serial(W, W).init(KEY, (8,)),
        "tied('w', Dense(features=8)) shares nothing yet: put fnn.shared(...) around",
    ),
    "no shared around, forward": (
        lambda: W.forward((), (), jnp.ones((2, 8))),
        "shares nothing yet",
    ),
    "one place": (
        lambda: fnn.shared(fnn.serial(W, fnn.tied("v", fnn.Dense(8)), W)),
        "the name 'v' has one place",
    ),
    "a tag in a tag": (
        lambda: fnn.shared(fnn.serial(W, fnn.tied("v", fnn.serial(W)))),
        "holds another tied layer",
    ),
    "a tag inside another wrapper": (
        lambda: fnn.shared(fnn.serial(fnn.Frozen(W), fnn.Frozen(W))),
        "shared: write the tag outside, around frozen(tied('w', Dense(features=8)))",
    ),
    "other parameters": (
        lambda: fnn.shared(fnn.serial(W, fnn.tied("w", fnn.Dense(8), only=("bias",)))),
        "all places of 'w' must share the same parameters, got only=None, ('bias',)",
    ),
    "other shapes": (
        lambda: fnn.shared(fnn.serial(W, fnn.tied("w", fnn.Dense(5)))).init(KEY, (8,)),
        "cannot share 'weight' of shape (8, 5) with the first place",
    ),
    "a parameter that the first place lacks": (
        lambda: fnn.shared(
            fnn.serial(fnn.tied("w", fnn.Dense(8, bias=False)), W)
        ).init(KEY, (8,)),
        "which has nothing there",
    ),
    "no name": (lambda: fnn.tied(3, fnn.Dense(8)), "tied: name must be a text, got 3"),
    "no layer": (lambda: fnn.tied("w", jnp.sin), "tied: layer is not a layer"),
    "nothing to share": (lambda: fnn.shared(jnp.sin), "shared: net is not a layer"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_say_what_was_expected(name):
    call, text = WRONG[name]
    with pytest.raises((ValueError, TypeError), match=re.escape(text)):
        call()
