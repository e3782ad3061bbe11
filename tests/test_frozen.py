"""Frozen layers: no gradient, no update, no statistics; the same variables."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from breadth import some_of

import fnn
from fnn import losses, optimizers

KEY, N = jax.random.key(0), 16
LOSS = losses.SoftmaxCrossEntropy()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 8, 8, 2)).astype(np.float32)
Y = RNG.integers(0, 3, N)

FEATURES = fnn.serial(
    fnn.Conv(4, 3), fnn.BatchNorm(), fnn.Relu(), fnn.MaxPool(2), fnn.Dropout(0.5)
)
HEAD = fnn.serial(fnn.Flatten(), fnn.Dense(5), fnn.Tanh(), fnn.Dense(3))
PLAIN = fnn.serial(FEATURES, HEAD)
NET = fnn.serial(fnn.frozen(FEATURES), HEAD)
VARIABLES = PLAIN.init(KEY, (8, 8, 2))


def gradients(net, engine="manual", **options):
    grad_fn = jax.jit(fnn.value_and_grad(net, LOSS, engine, **options))
    return grad_fn(VARIABLES, (X, Y), key=KEY)


def is_zero(tree):
    return all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(tree))


# ---- What it is ------------------------------------------------------------------


def test_it_has_the_variables_and_paths_of_the_network_inside():
    own = NET.init(KEY, (8, 8, 2))
    jax.tree.map(np.testing.assert_array_equal, own, VARIABLES)
    named = [fnn.named_params(net, VARIABLES.params) for net in (NET, PLAIN)]
    assert [*named[0]] == [*named[1]]
    z, frozen_z = (fnn.predict(net, VARIABLES, X) for net in (PLAIN, NET))
    np.testing.assert_array_equal(z, frozen_z)
    assert fnn.summary(NET, (8, 8, 2)) == fnn.summary(PLAIN, (8, 8, 2))


def test_its_initialiser_suits_the_activation_that_follows():
    for activation in (fnn.Relu(), fnn.frozen(fnn.Relu())):
        own = fnn.serial(fnn.frozen(fnn.Dense(5)), activation).init(KEY, (4,)).params
        other = fnn.serial(fnn.Dense(5), fnn.Relu()).init(KEY, (4,)).params
        jax.tree.map(np.testing.assert_array_equal, own, other)


def test_its_repr_can_be_pasted_back():
    assert eval(repr(NET), vars(fnn)) == NET
    assert repr(fnn.frozen(fnn.Dense(2))) == "frozen(Dense(features=2))"
    assert fnn.frozen(fnn.frozen(fnn.Dense(2))) == fnn.frozen(fnn.Dense(2))
    with pytest.raises(TypeError, match=re.escape("frozen: net is not a layer")):
        fnn.frozen(jnp.sin)


# ---- Gradients -------------------------------------------------------------------


@pytest.mark.one_in(3)
@pytest.mark.parametrize("engine", some_of(["manual", "autodiff"], ["manual"]))
@pytest.mark.parametrize(
    "options", [{}, {"l2": 3.0}, {"precision": "bfloat16"}], ids=str
)
def test_gradients_are_zero_where_it_is_frozen_and_all_others_are_not(engine, options):
    out = gradients(NET, engine, **options)
    assert is_zero(out.grads[0])
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(out.grads[1]))
    # The others are those of the features in evaluation mode.
    fixed = fnn.serial(fnn.Lambda(lambda x: x), HEAD)
    x = FEATURES.forward(VARIABLES.params[0], VARIABLES.state[0], jnp.asarray(X)).y
    head = fnn.Variables(((), VARIABLES.params[1]), ((), VARIABLES.state[1]))
    expected = fnn.value_and_grad(fixed, LOSS, engine, **options)(head, (x, Y))
    tolerance = 0.02 if "precision" in options else 1e-5
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        out.grads[1],
        expected.grads[1],
    )
    np.testing.assert_allclose(out.loss, expected.loss, rtol=tolerance)


def test_statistics_stand_still_and_nothing_is_dropped():
    out = gradients(NET)
    jax.tree.map(np.testing.assert_array_equal, out.state, VARIABLES.state)
    moving = gradients(PLAIN)
    assert (moving.state[0][1].mean != VARIABLES.state[0][1].mean).any()
    grad_fn = fnn.value_and_grad(NET, LOSS)
    np.testing.assert_allclose(out.loss, grad_fn(VARIABLES, (X, Y)).loss, rtol=1e-6)


def operations(fn, *arguments):
    """Count products and convolutions in the jaxpr of a function."""
    text = str(jax.make_jaxpr(fn)(*arguments))
    return len(re.findall(r"dot_general\[|conv_general_dilated\[", text))


@pytest.mark.parametrize("engine", ["manual", "autodiff"])
@pytest.mark.parametrize(
    ("layer", "in_shape"),
    [
        (fnn.Dense(5), (4,)),
        (fnn.Dense(5), (7, 4)),
        (fnn.Conv(5, 3), (6, 7, 4)),
        (fnn.ConvTranspose(5, 3), (6, 7, 4)),
    ],
    ids=repr,
)
def test_the_gradient_of_its_parameters_is_not_computed(layer, in_shape, engine):
    """Of forward, dx and dΘ, two products are left: also before XLA sees them."""
    variables = layer.init(KEY, in_shape)
    x = jnp.ones((2, *in_shape))

    def both(net):
        def by_hand(params, x):
            out = net.forward(params, (), x)
            return net.backward(params, out.saved, out.y)

        def by_jax(params, x):
            return jax.grad(lambda p, x: net.forward(p, (), x).y.sum(), argnums=(0, 1))(
                params, x
            )

        fn = by_hand if engine == "manual" else by_jax
        return operations(fn, variables.params, x)

    assert (both(layer), both(fnn.frozen(layer))) == (3, 2)


@pytest.mark.parametrize("engine", ["manual", "autodiff"])
def test_below_the_first_layer_that_trains_no_delta_is_computed(engine):
    """A compiled step has the forward of the features, and no more."""

    def flops(net):
        grad_fn = jax.jit(fnn.value_and_grad(net, LOSS, engine))
        compiled = grad_fn.lower(VARIABLES, (X, Y), key=KEY).compile()
        return compiled.cost_analysis()["flops"]

    features = jax.jit(lambda x: FEATURES.forward(*jax.tree.map(jnp.asarray, (
        VARIABLES.params[0], VARIABLES.state[0])), x).y)  # fmt: skip
    forward = features.lower(X).compile().cost_analysis()["flops"]
    whole, frozen = flops(PLAIN), flops(NET)
    assert frozen < whole - 0.9 * forward


# ---- The audit -------------------------------------------------------------------


@pytest.mark.parametrize("train", [True, False])
def test_the_audit_says_what_is_frozen(train):
    net = fnn.serial(
        fnn.Dense(4), fnn.frozen(fnn.residual(fnn.Dense(4))), fnn.Tanh(), fnn.Dense(3)
    )
    variables = net.init(KEY, (5,))
    batch = RNG.normal(size=(6, 5)).astype(np.float32), Y[:6]
    report = fnn.compare_gradients(net, LOSS, variables, batch, train=train, l2=0.1)
    assert report.passed, str(report)
    verdicts = {row.path: row.verdict for row in report.rows}
    frozen = {path for path, verdict in verdicts.items() if verdict == "frozen"}
    assert frozen == {f"1/Residual/body/Dense.{name}" for name in ("weight", "bias")}
    assert verdicts["1/Residual/body/Dense.delta"] == "pass"
    assert verdicts["0/Dense.weight"] == "pass"
    assert "frozen" in str(report)


def test_the_audit_finds_a_gradient_that_is_not_zero_or_a_wrong_dx():
    class Leaky(fnn.Frozen):
        def backward(self, params, saved, dy):
            return self.layer.backward(params, saved, dy)

    class Wrong(fnn.Dense):
        def backward(self, params, saved, dy):
            out = super().backward(params, saved, dy)
            return out._replace(dx=2 * out.dx)

    Leaky, Wrong = fnn.layer(Leaky), fnn.layer(Wrong)
    for middle, found in (
        (Leaky(fnn.Dense(4)), "1/Dense.bias"),
        (fnn.frozen(Wrong(4)), "1/Wrong.dx"),
    ):
        net = fnn.serial(fnn.Dense(4), middle, fnn.Dense(3))
        variables = net.init(KEY, (5,))
        batch = RNG.normal(size=(6, 5)).astype(np.float32), Y[:6]
        report = fnn.compare_gradients(net, LOSS, variables, batch)
        assert report.first_divergence == found, str(report)


# ---- Training --------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": optimizers.sgd(0.1, momentum=0.9),
    "adamw": optimizers.adamw(0.01, weight_decay=0.5),
    "lookahead": optimizers.nesterov(0.1, momentum=0.5),
    "max norm": optax.chain(optimizers.sgd(0.1), optimizers.max_norm(0.01)),
    "optax adamw": optax.adamw(0.01, weight_decay=0.5),
    "optax decay": optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1)),
    "optax noise": optax.chain(optax.sgd(0.1), optax.add_noise(0.1, 0.5, 0)),
    "optax lbfgs": optax.lbfgs(),
}


@pytest.mark.parametrize("name", some_of(OPTIMIZERS, ["optax adamw", "max norm"]))
def test_no_optimizer_moves_what_is_frozen(name):
    net = fnn.serial(fnn.frozen(fnn.Dense(4)), fnn.Relu(), fnn.Dense(3))
    variables = net.init(KEY, (5,))
    x = RNG.normal(size=(N, 5)).astype(np.float32)
    result = fnn.fit(
        net, LOSS, OPTIMIZERS[name], train=(x, Y), key=KEY, epochs=2, batch_size=8,
        variables=variables, l2=0.3, validation=(x, Y), health=name == "adamw",
    )  # fmt: skip
    before, after = variables.params, result.variables.params
    jax.tree.map(np.testing.assert_array_equal, before[0], after[0])
    assert (before[2].weight != after[2].weight).any()
    if name == "adamw":
        assert result.health["0/Dense"]["updates"].max() == 0
        assert result.health["2/Dense"]["updates"].min() > 0


def test_a_plan_leaves_it_alone_and_trains_the_rest():
    result = fnn.fit(
        NET, LOSS, optimizers.adamw(0.1, weight_decay=1.0), train=(X, Y), key=KEY,
        epochs=1, batch_size=8, variables=VARIABLES, plan="fast",
    )  # fmt: skip
    after, before = result.variables, VARIABLES
    jax.tree.map(np.testing.assert_array_equal, after.params[0], before.params[0])
    jax.tree.map(np.testing.assert_array_equal, after.state, before.state)
    assert (after.params[1][1].weight != before.params[1][1].weight).any()


def test_a_sweep_leaves_it_alone():
    net = fnn.serial(fnn.frozen(fnn.Dense(4)), fnn.Relu(), fnn.Dense(3))
    keys = jax.random.split(KEY, 1)
    swept = fnn.sweep(
        lambda rate: (net, LOSS, optimizers.adamw(rate, weight_decay=1.0)),
        {"rate": [0.01, 0.1]}, train=(X[:, 0, 0], Y), keys=keys, epochs=2, batch_size=8,
    )  # fmt: skip
    first = net.init(jax.random.split(keys[0])[0], (2,)).params
    for after in np.asarray(swept.variables.params[0].weight)[:, 0]:
        np.testing.assert_allclose(after, first[0].weight, rtol=1e-6)
    assert (np.asarray(swept.variables.params[2].weight)[0, 0] != first[2].weight).any()


def test_trainable_is_a_mask_for_a_loop_of_ones_own():
    mask = fnn.trainable(NET, VARIABLES.params)
    optimizer = optax.masked(optax.adamw(0.1, weight_decay=1.0), mask)
    params, grads = VARIABLES.params, gradients(NET).grads
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes freely
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    jax.tree.map(np.testing.assert_array_equal, after[0], params[0])
    assert (after[1][1].weight != params[1][1].weight).any()


def test_unfreezing_goes_on_with_the_same_variables():
    first = fnn.fit(
        NET, LOSS, optimizers.adam(0.01), train=(X, Y), key=KEY, epochs=1, batch_size=8
    )
    second = fnn.fit(
        PLAIN, LOSS, optimizers.adam(0.01), train=(X, Y), key=KEY, epochs=1,
        batch_size=8, variables=first.variables,
    )  # fmt: skip
    weights = [r.variables.params[0][0].weight for r in (first, second)]
    assert (weights[0] != weights[1]).any()


# ---- Layers of layers with parameters of their own -------------------------------


def scaled(body):
    """Make a layer of layers with a parameter of its own: y = s body(x)."""

    @fnn.layer
    class Scaled(fnn.Layer):
        body: fnn.Layer = fnn.leaf()

        @property
        def children(self):
            return {"body": self.body}

        def with_children(self, *layers):
            return Scaled(*layers)

        def init(self, key, in_shape):
            params, state = self.body.init(jax.random.fold_in(key, 0), in_shape)
            return fnn.Variables((params, jnp.float32(2)), (state,))

        def forward(self, params, state, x, *, key=None, train=False):
            out = self.body.forward(params[0], state[0], x, key=key, train=train)
            return fnn.Forward(params[1] * out.y, (out.saved, out.y), (out.state,))

        def backward(self, params, saved, dy):
            inner = self.body.backward(params[0], saved[0], params[1] * dy)
            return fnn.Backward(inner.dx, (inner.dparams, (dy * saved[1]).sum()))

    return Scaled(body)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("engine", ["manual", "autodiff"])
def test_what_a_layer_of_layers_owns_is_frozen_with_it(engine):
    net = fnn.serial(fnn.Dense(4), fnn.frozen(scaled(fnn.Dense(3))))
    variables = net.init(KEY, (5,))
    batch = jnp.asarray(RNG.normal(size=(6, 5)), jnp.float32), Y[:6]
    grads = fnn.value_and_grad(net, LOSS, engine)(variables, batch).grads
    assert is_zero(grads[1]) and not is_zero(grads[0])
    report = fnn.compare_gradients(net, LOSS, variables, batch)
    assert report.passed, str(report)
    frozen = [row.path for row in report.rows if row.verdict == "frozen"]
    assert len(frozen) == 3
