"""Backward rules: each does what its paper says, on any network, and what it claims."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import rules
from fnn.gradients.claims import Claiming, claimed
from fnn.layers import initializers
from fnn.passes.rules.feedback import Feedback
from fnn.passes.rules.keys import for_rule

KEY = jax.random.key(0)
THOROUGH = pytest.mark.thorough
SQUARED, SOFTMAX = fnn.losses.SquaredError(), fnn.losses.SoftmaxCrossEntropy()

#: Dense, convolutional, residual and transposed; a function in between.
IMAGES = fnn.serial(
    fnn.Conv(3, 2), fnn.Relu(),
    fnn.residual(fnn.serial(fnn.Conv(3, 2, groups=3), fnn.Tanh()), fnn.Conv(3, 1)),
    fnn.ConvTranspose(2, 2), fnn.GroupNorm(1), fnn.Lambda(jnp.sin), fnn.MaxPool(2),
    fnn.Flatten(), fnn.Dense(4), fnn.Dropout(0.2), fnn.Dense(3),
)  # fmt: skip
DENSE = fnn.serial(fnn.Dense(6), fnn.Tanh(), fnn.Dense(5), fnn.Sigmoid(), fnn.Dense(3))

MAKERS = {
    "feedback alignment": lambda net: rules.feedback_alignment(net, KEY),
    "uSF": lambda net: rules.sign_symmetric(net, KEY, "uniform"),
    "frSF": lambda net: rules.sign_symmetric(net, KEY, "fixed"),
    "brSF": lambda net: rules.sign_symmetric(net, KEY, "random"),
    "direct feedback": lambda net: rules.direct_feedback_alignment(net, KEY),
    "meProp": lambda net: rules.meprop(net, 2),
    "quantized": lambda net: rules.quantized_delta(net, 3),
    "noisy": lambda net: rules.noisy_delta(net, 0.3),
    "clipped": lambda net: rules.clipped_delta(net, 0.05),
    "three at once": lambda net: rules.direct_feedback_alignment(
        rules.meprop(rules.feedback_alignment(net, KEY), 2), KEY
    ),
}
#: Those with variables of their own.
OTHERS = {
    "Kolen-Pollack": rules.kolen_pollack,
    "surrogates": lambda net: fnn.serial(
        rules.Spike(3.0), fnn.Dense(4), rules.Quantized(2), fnn.Dense(3), rules.Sign()
    ),
}


def data(shape, n=5, seed=1):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(n, *shape)), draw.normal(size=(n, 3))


def in_float64(tree):
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a), float), tree)


def moved(variables):
    """Variables none of which is zero."""
    draw = np.random.default_rng(0)
    return jax.tree.map(
        lambda a: np.asarray(a, float) + 0.1 * draw.normal(size=a.shape), variables
    )


def assert_close(found, expected, tolerance=1e-12):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    scale = max(float(np.abs(a).max()) for a in jax.tree.leaves(expected))
    for one, two in pairs:
        np.testing.assert_allclose(one, two, rtol=0, atol=tolerance * scale)


def grads_of(net, variables, batch, loss=SQUARED, engine="manual", **options):
    grad = fnn.value_and_grad(net, loss, engine, **options)
    return grad(variables, batch, key=KEY).grads


# ---- Every rule ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("three at once", "brSF")
        else pytest.param(name, marks=THOROUGH)
        for name in MAKERS
    ],
)
def test_a_rule_has_the_variables_and_the_forward_of_the_network(name):
    rule, x = MAKERS[name](IMAGES), jnp.asarray(data((4, 4, 2))[0], jnp.float32)
    shapes = jax.eval_shape(lambda: IMAGES.init(KEY, (4, 4, 2)))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)

    def products(net):
        def forward(variables):
            return net.forward(*variables, x, key=KEY, train=True).y

        text = str(jax.make_jaxpr(forward)(zeros))
        return len(re.findall("dot_general|conv_general", text))

    def draws(net):
        return str(jax.make_jaxpr(lambda: net.init(KEY, (4, 4, 2)))())

    assert products(rule) == products(IMAGES)
    assert draws(rule) == draws(IMAGES)  # the same, by the same initialisers


@pytest.mark.parametrize("name", MAKERS)
def test_a_rule_is_a_value(name):
    one, two = (MAKERS[name](DENSE) for _ in range(2))
    assert one == two and hash(one) == hash(two)
    names = vars(fnn) | vars(rules) | {"initializers": initializers}
    assert eval(repr(one), names) == one
    assert one != DENSE


#: Rules that hold all kinds of wrappers; the others take a minute to compile.
QUICK = ["three at once", "Kolen-Pollack"]
QUICK_NET = fnn.serial(fnn.residual(fnn.Conv(2, 2)), fnn.Flatten(), fnn.Dense(3))


@pytest.mark.parametrize(
    ("names", "net"),
    [
        (QUICK, QUICK_NET),
        pytest.param([*MAKERS, "Kolen-Pollack"], IMAGES, marks=pytest.mark.thorough),
    ],
    ids=["quick", "all"],
)
def test_rules_are_what_they_claim(names, net):
    """All in one program: the handwritten backward, and JAX's of the claim."""
    given = {name: (MAKERS | OTHERS)[name](net) for name in names}
    with jax.enable_x64(True):
        batch = jax.tree.map(jnp.asarray, data((4, 4, 2), n=3))
        variables = {
            name: in_float64(moved(rule.init(KEY, (4, 4, 2))))
            for name, rule in given.items()
        }

        @jax.jit
        def run(variables):
            claims = {
                name: (
                    grads_of(rule, variables[name], batch),
                    grads_of(claimed(rule), variables[name], batch, engine="autodiff"),
                )
                for name, rule in given.items()
            }
            return claims, grads_of(net, variables[names[0]], batch)

        found, true = jax.device_get(run(variables))
    for name, (ours, claim) in found.items():
        assert_close(ours, claim)
        if name != "Kolen-Pollack":  # which has other variables
            with pytest.raises(AssertionError):
                assert_close(ours, true, 1e-3)


#: Two inputs; a layer at two places; frozen ones, also with a rule of their own.
_TWIN = fnn.tied("twin", fnn.Dense(3))
PARTS = fnn.serial(
    fnn.each(left=fnn.Dense(4), right=fnn.frozen(fnn.Dense(4))),
    fnn.Merge("product"),
    fnn.frozen(fnn.serial(fnn.Dense(3), fnn.Tanh())),
    fnn.shared(fnn.serial(_TWIN, fnn.Sigmoid(), _TWIN)),
)


def test_rules_keep_frozen_layers_frozen_and_tied_layers_tied():
    names = ["feedback alignment", "direct feedback", "meProp", "noisy"]
    given = {name: MAKERS[name](PARTS) for name in names}
    x, y = data((4,), n=3)
    with jax.enable_x64(True):
        variables = PARTS.init(KEY, {"left": (4,), "right": (4,)})
        variables = in_float64(moved(variables))
        batch = {"left": jnp.asarray(x), "right": jnp.asarray(x[::-1])}, jnp.asarray(y)

        @jax.jit
        def run(variables):
            return {
                name: (
                    grads_of(rule, variables, batch),
                    grads_of(claimed(rule), variables, batch, engine="autodiff"),
                )
                for name, rule in given.items()
            }

        found = jax.device_get(run(variables))
    for name, (ours, claim) in found.items():
        assert_close(ours, claim)
        for frozen in (ours[0][1], ours[2]):
            assert not any(g.any() for g in jax.tree.leaves(frozen)), name
        trainable = fnn.trainable(given[name], variables.params)
        assert trainable == fnn.trainable(PARTS, variables.params)
    one, _, two = given["feedback alignment"].layers[3].children.values()
    assert one.layer.key == two.layer.key


@pytest.mark.thorough
def test_the_audit_compares_a_rule_with_what_it_claims():
    rule = rules.feedback_alignment(fnn.serial(fnn.Dense(3)), KEY)
    variables = moved(rule.init(KEY, (4,)))
    report = fnn.compare_gradients(rule, SQUARED, variables, data((4,)), key=KEY)
    assert report.passed and report.by_claims
    assert "of what the rules of the network claim" in str(report)
    assert sum(row.checked for row in report.rows) == 0


@pytest.mark.thorough
def test_the_audit_finds_a_rule_that_does_not_do_what_it_claims(monkeypatch):
    def wrong(self, params, saved, dy):
        inner, step_key = saved
        feedback = self.feedback(params, step_key)
        return self.layer.backward(feedback, inner, -dy)

    rule = rules.feedback_alignment(fnn.serial(fnn.Dense(3, bias=False)), KEY)
    variables = moved(rule.init(KEY, (4,)))
    monkeypatch.setattr(Feedback, "backward", wrong)
    report = fnn.compare_gradients(rule, SQUARED, variables, data((4,)), key=KEY)
    assert report.first_divergence == "0/Dense.weight"


@pytest.mark.thorough
@pytest.mark.parametrize("name", MAKERS | OTHERS)
@pytest.mark.parametrize("shape", [(4,), (4, 4, 2)], ids=["dense", "images"])
def test_the_audit_passes_every_rule(name, shape):
    rule = (MAKERS | OTHERS)[name](DENSE if len(shape) == 1 else IMAGES)
    if len(shape) > 1 and name == "surrogates":
        rule = fnn.serial(fnn.Flatten(), rule)
    variables = moved(rule.init(KEY, shape))
    report = fnn.compare_gradients(rule, SQUARED, variables, data(shape), key=KEY)
    assert report.passed, report


@pytest.mark.thorough
@pytest.mark.parametrize("name", [*MAKERS, "Kolen-Pollack"])
def test_a_rule_trains(name):
    x, y = (jnp.asarray(a, jnp.float32) for a in data((4,), n=16))
    result = fnn.fit(
        *((MAKERS | OTHERS)[name](DENSE), SQUARED, fnn.optimizers.sgd(0.1)),
        train=(x, y), key=KEY, epochs=20, batch_size=8,
    )  # fmt: skip
    losses = result.history["train_loss"]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.thorough
def test_the_key_of_a_rule_may_be_swept():
    net = fnn.serial(fnn.Dense(3), fnn.Dense(3))
    variables = jax.tree.map(jnp.ones_like, net.init(KEY, (4,)))

    def grads(key):
        rule = rules.feedback_alignment(net, key)
        return grads_of(rule, variables, data((4,)))[0].weight

    several = jax.jit(jax.vmap(grads))(jax.random.split(KEY, 3))
    assert several.shape == (3, 4, 3)
    assert len(np.unique(np.asarray(several)[:, 0, 0])) == 3


@pytest.mark.thorough
def test_another_key_does_not_compile_again():
    traces = []

    @jax.jit
    def f(rule, variables, batch):
        traces.append(1)
        return grads_of(rule, variables, batch)[0].weight

    net = fnn.serial(fnn.Dense(3), fnn.Dense(3))
    variables = jax.tree.map(jnp.ones_like, net.init(KEY, (4,)))
    one, two = (f(rules.feedback_alignment(net, key), variables, data((4,)))
                for key in jax.random.split(KEY))  # fmt: skip
    assert len(traces) == 1
    assert not np.allclose(one, two)


# ---- Feedback weights ------------------------------------------------------------


def feedback_of(rule, variables, i, key=None):
    """The weight B of layer i."""
    layer = rule.layers[i]
    return np.asarray(layer.feedback(variables.params[i], key).weight)


def test_feedback_and_direct_feedback_are_the_papers_equations():
    """Two hidden layers, in NumPy: δ by B, and the error to each layer by its own B."""
    names = "feedback alignment", "direct feedback"
    given, (x, y) = [MAKERS[name](DENSE) for name in names], data((4,))
    variables = DENSE.init(KEY, (4,))
    found = jax.jit(lambda v: [grads_of(rule, v, (x, y)) for rule in given])(variables)
    w = [np.asarray(p.weight) for p in variables.params[::2]]
    h1 = np.tanh(x @ w[0])
    h2 = 1 / (1 + np.exp(-h1 @ w[1]))
    e = (h2 @ w[2] - y) / len(x)
    b = [feedback_of(given[0], variables, i) for i in (2, 4)]
    direct = [
        np.asarray(
            jax.random.normal(for_rule(jax.random.fold_in(KEY, i)), (3, features))
        )
        / features**0.5
        for i, features in ((2, 6), (4, 5))
    ]
    d2 = e @ b[1].T * h2 * (1 - h2)
    d1 = d2 @ b[0].T * (1 - h1**2)
    deltas = (d1, d2), (e @ direct[0] * (1 - h1**2), e @ direct[1] * h2 * (1 - h2))
    for grads, (d1, d2) in zip(found, deltas, strict=True):
        for i, expected in ((4, h2.T @ e), (2, h1.T @ d2), (0, x.T @ d1)):
            np.testing.assert_allclose(grads[i].weight, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "make", [rules.feedback_alignment, rules.direct_feedback_alignment]
)
def test_feedback_is_independent_of_weights_drawn_from_the_same_key(make):
    """Else it would be backpropagation, almost."""
    net = fnn.serial(
        fnn.Dense(64), fnn.Relu(), fnn.Dense(64), fnn.Tanh(), fnn.Dense(32)
    )
    key = jax.random.key(5)
    x = jax.random.normal(jax.random.key(1), (128, 32))
    batch = x, jnp.zeros((128, 32))
    compared = fnn.compare_rules(
        net,
        {"rule": make(net, key)},
        fnn.losses.SquaredError(),
        net.init(key, (32,)),
        batch,
    )
    for path in ("0/Dense", "2/Dense"):
        assert 70 < float(compared.angle["rule"][path]) < 110


def test_feedback_alignment_comes_to_agree_with_backpropagation():
    """Figure 1 of Lillicrap et al.: a linear function, learned; the angle falls."""
    net = fnn.serial(fnn.Dense(20, bias=False), fnn.Dense(10, bias=False))
    rule = rules.feedback_alignment(net, jax.random.key(3))
    target = jax.random.normal(KEY, (30, 10)) / 30**0.5
    optimizer = optax.sgd(0.02)

    def step(carry, key):
        variables, state = carry
        x = jax.random.normal(key, (32, 30))
        batch = x, x @ target
        out = fnn.value_and_grad(rule, SQUARED)(variables, batch)
        true = grads_of(net, variables, batch)[0].weight.ravel()
        ours = out.grads[0].weight.ravel()
        cosine = true @ ours / jnp.linalg.norm(true) / jnp.linalg.norm(ours)
        updates, state = optimizer.update(out.grads, state)
        params = optax.apply_updates(variables.params, updates)
        return (variables._replace(params=params), state), (out.loss, cosine)

    variables = net.init(KEY, (30,))
    start = variables, optimizer.init(variables.params)
    keys = jax.random.split(KEY, 800)
    _, (losses, cosines) = jax.jit(lambda: jax.lax.scan(step, start, keys))()
    angles = np.degrees(np.arccos(np.asarray(cosines)))
    assert angles[:20].mean() > 80
    assert angles[-200:].mean() < 70
    assert losses[-50:].mean() < 1e-3 * losses[:20].mean()


@pytest.mark.parametrize("kind", ["uniform", "fixed", "random"])
def test_sign_symmetric_feedback_has_the_signs_of_the_weights(kind):
    rule, variables = rules.sign_symmetric(DENSE, KEY, kind), DENSE.init(KEY, (4,))
    weight = np.asarray(variables.params[2].weight)
    one, two = (feedback_of(rule, variables, 2, key) for key in jax.random.split(KEY))
    again = feedback_of(rule, variables, 2)
    np.testing.assert_array_equal(np.sign(one), np.sign(weight))
    assert (kind == "uniform") == (len(np.unique(np.abs(again))) == 1)
    if kind == "uniform":
        np.testing.assert_allclose(np.abs(one), (2 / (6 + 5)) ** 0.5, rtol=1e-6)
    if kind == "random":
        assert not np.allclose(one, two)


@pytest.mark.thorough
def test_only_random_magnitudes_change_from_step_to_step():
    net = fnn.serial(fnn.Dense(3), fnn.Dense(3))
    variables, batch = net.init(KEY, (4,)), data((4,))

    @jax.jit
    def run(key):
        return {
            name: fnn.value_and_grad(MAKERS[name](net), SQUARED)(
                variables, batch, key=key
            ).grads[0].weight
            for name in ("uSF", "frSF", "brSF")
        }  # fmt: skip

    one, two = (run(key) for key in jax.random.split(KEY))
    changed = {name for name in one if not np.allclose(one[name], two[name])}
    assert changed == {"brSF"}


def test_the_papers_names_of_kinds_are_known_and_others_refused():
    for name, kind in (("uSF", "uniform"), ("frSF", "fixed"), ("brSF", "random")):
        assert rules.sign_symmetric(DENSE, KEY, name) == rules.sign_symmetric(
            DENSE, KEY, kind
        )
    with pytest.raises(ValueError, match="kind must be 'uniform', 'fixed', 'random'"):
        rules.sign_symmetric(DENSE, KEY, "Manhattan")


@pytest.mark.parametrize("name", ["brSF", "quantized", "noisy"])
def test_a_rule_that_draws_says_that_it_needs_a_key(name):
    rule = MAKERS[name](DENSE)
    variables, (x, y) = DENSE.init(KEY, (4,)), data((4,))
    with pytest.raises(ValueError, match=r"was given no key: pass key=jax\.random"):
        fnn.value_and_grad(rule, SQUARED)(variables, (x, y))
    rule.forward(*variables, jnp.asarray(x, jnp.float32))  # in evaluation it draws none


def test_kolen_pollack_makes_feedback_weights_the_weights():
    """Equation 17 of Akrout et al., exactly: W − B shrinks by 1 − η λ/n a step."""
    rule, batch = rules.kolen_pollack(DENSE), data((4,))
    rate, l2, n, steps = 0.5, 2.0, 10, 30
    grad = fnn.value_and_grad(rule, SQUARED, l2=l2, n=n)
    variables = rule.init(KEY, (4,))

    def step(_, variables):
        grads = grad(variables, batch).grads
        params = jax.tree.map(lambda p, g: p - rate * g, variables.params, grads)
        return variables._replace(params=params)

    after = jax.jit(lambda v: jax.lax.fori_loop(0, steps, step, v))(variables)
    for old, new in zip(variables.params[::2], after.params[::2], strict=True):
        before = old.params.weight - old.feedback
        expected = (1 - rate * l2 / n) ** steps * before
        found = new.params.weight - new.feedback
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert list(fnn.named_params(rule, variables.params))[:3] == [
        "0/Dense.params.weight", "0/Dense.params.bias", "0/Dense.feedback"
    ]  # fmt: skip


# ---- Changes of δ ----------------------------------------------------------------

DY = np.random.default_rng(0).normal(size=(4, 3, 2, 7)).astype(np.float32)


def test_meprop_keeps_the_largest_entries_and_no_more():
    ties, sizes = jnp.ones((1, 5)), (1, 3, 7, 9)

    @jax.jit
    def run(dy):
        return [rules.TopK(k)(dy, None) for k in sizes], rules.TopK(2)(ties, None)

    found, of_equal = jax.device_get(run(DY))
    for k, kept in zip(sizes, found, strict=True):
        order = np.argsort(-np.abs(DY), axis=-1)[..., :k]
        expected = np.zeros_like(DY)
        np.put_along_axis(expected, order, np.take_along_axis(DY, order, -1), -1)
        np.testing.assert_array_equal(kept, expected)
    assert (of_equal != 0).sum() == 2


def test_meprop_of_all_entries_is_backpropagation():
    variables, batch = DENSE.init(KEY, (4,)), data((4,))

    def program(net):
        return str(jax.make_jaxpr(lambda v: grads_of(net, v, batch))(variables))

    assert program(rules.meprop(DENSE, 6)) == program(DENSE)


def test_quantized_delta_has_two_to_the_b_values_and_no_bias():
    dy, draws, several = DY[:2, 0, 0], 4000, (1, 2, 4)

    @jax.jit
    def run(keys):
        return [
            jax.vmap(functools.partial(rules.Quantize(bits), jnp.asarray(dy)))(keys)
            for bits in several
        ]

    largest = np.abs(dy).max(1)
    for bits, many in zip(several, run(jax.random.split(KEY, draws)), strict=True):
        many = np.asarray(many)
        for n in range(2):
            levels = np.unique(np.round(many[:, n] / largest[n], 5))
            assert len(levels) <= 2**bits
            assert np.abs(levels).max() <= 1.00001
        step = 2 * largest[:, None] / (2**bits - 1)
        error = np.abs(many.mean(0) - dy)
        assert (error < 4 * 0.5 * step / draws**0.5 + 1e-6).all()


def test_a_delta_of_zero_stays_zero():
    changes = rules.Quantize(2), rules.Noise(1.0), rules.Clip(1.0), rules.TopK(1)
    found = jax.jit(lambda dy: [change(dy, KEY) for change in changes])(
        jnp.zeros((2, 3))
    )
    for dy in found:
        np.testing.assert_array_equal(dy, 0)


@pytest.mark.thorough
def test_noise_is_in_proportion_to_delta():
    dy = jnp.ones((2, 20000)) * jnp.array([[1.0], [100.0]])
    noise = np.asarray(rules.Noise(0.25)(dy, KEY) - dy)
    np.testing.assert_allclose(noise.std(1), [0.25, 25], rtol=0.02)


def test_clipped_delta_is_as_long_as_allowed_and_points_the_same_way():
    found = np.asarray(rules.Clip(3.0)(jnp.asarray(DY), None)).reshape(4, -1)
    rows = DY.reshape(4, -1)
    lengths = np.linalg.norm(rows, axis=1)
    expected = rows * np.minimum(1, 3 / lengths)[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert (lengths > 3).any()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: rules.meprop(DENSE, 0), "meprop: k must be a positive integer"),
        (lambda: rules.meprop(DENSE, 2.5), "meprop: k must be a positive integer"),
        (lambda: rules.quantized_delta(DENSE, 0), "bits must be a positive integer"),
        (lambda: rules.quantized_delta(DENSE, 17), "bits must be at most 16, got 17"),
        (lambda: rules.noisy_delta(DENSE, -1), "deviation must be ≥ 0"),
        (lambda: rules.clipped_delta(DENSE, 0), "norm must be > 0"),
        (lambda: rules.Quantized(0), "Quantized: bits must be a positive integer"),
        (lambda: rules.Spike(-1), "slope must be ≥ 0"),
        (lambda: rules.local_losses(DENSE, 3, "both"), "kind must be 'pred', 'sim'"),
        (lambda: rules.local_losses(DENSE, 0), "outputs must be a positive integer"),
        (lambda: rules.forward_forward(DENSE, 0), "classes must be a positive integer"),
    ],
)
def test_wrong_arguments_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()


# ---- Activations with jumps ------------------------------------------------------

X = np.array([[-3.0, -1.0, -0.4, 0.0, 0.2, 0.7, 1.0, 2.5]], np.float32)


#: A layer, and in NumPy its value and its slope at X.
JUMPS = [
    (rules.Sign(), np.where(X >= 0, 1, -1), np.abs(X) <= 1),
    (rules.Quantized(2), np.round(3 * np.clip(X, 0, 1)) / 3, (X >= 0) & (X <= 1)),
    (rules.Spike(4.0), X > 0, 1 / (1 + 4 * np.abs(X)) ** 2),
]


def test_surrogate_slopes():
    @jax.jit
    def run(x):
        found = []
        for layer, _, _ in JUMPS:
            y, saved, _ = layer.forward((), (), x)
            claim = claimed(layer)
            theirs = jax.grad(lambda x, c=claim: c.forward((), (), x).y.sum())(x)
            found.append(
                (y, layer.backward((), saved, 2 * jnp.ones_like(x)).dx, theirs)
            )
        return found

    for (layer, value, slope), (y, dx, theirs) in zip(JUMPS, run(X), strict=True):
        assert isinstance(layer, Claiming)
        np.testing.assert_allclose(y, value, rtol=1e-6)
        np.testing.assert_allclose(dx, 2 * slope, rtol=1e-6)
        np.testing.assert_allclose(theirs, slope, rtol=1e-6)


# ---- Local losses ----------------------------------------------------------------

SMALL = fnn.serial(
    *(fnn.Conv(2, 2), fnn.Relu(), fnn.MaxPool(2)),
    *(fnn.Conv(2, 1), fnn.Flatten(), fnn.Dense(3)),
)
LABELS = np.array([0, 1, 2, 0, 1])


def local_reference(rule, params, x, y, weights):
    """The sum of all local losses, cut by stop_gradient between blocks: by autodiff."""
    inner, *heads = params
    stop, total = jax.lax.stop_gradient, 0.0
    cuts = [range(0, 3), range(3, 5), range(5, 6)]
    for i, numbers in enumerate(cuts):
        x = stop(x)
        for j in numbers:
            x = SMALL.layers[j].forward(inner[j], (), x).y
        if i == 2:
            return total + SOFTMAX.value(x, y)
        (classifier, mixing), flat = heads[i], x.reshape(len(x), -1)
        if weights[0]:
            z = flat @ classifier[1].weight + classifier[1].bias
            total = total + weights[0] * SOFTMAX.value(z, y)
        if weights[1]:
            mix = fnn.Dense(8) if x.ndim == 2 else fnn.Conv(2, 3)
            total = total + weights[1] * rules.similarity(
                mix.forward(mixing, (), x).y, y, 3
            )
    raise AssertionError


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["predsim", "pred", "sim"])
def test_local_losses_are_gradients_of_losses_cut_between_blocks(kind):
    rule = rules.local_losses(SMALL, 3, kind)
    with jax.enable_x64(True):
        batch = jnp.asarray(data((4, 4, 2))[0]), jnp.asarray(LABELS)
        variables = in_float64(moved(rule.init(KEY, (4, 4, 2))))

        @jax.jit
        def run(variables):
            ours = grads_of(rule, variables, batch, SOFTMAX, rules.local_learning)
            theirs = jax.grad(local_reference, 1)
            return ours, theirs(rule, variables.params, *batch, rule.weights)

        assert_close(*jax.device_get(run(variables)), 1e-11)


def test_similarity_of_equal_rows_and_of_rows_without_direction():
    y = jnp.asarray(LABELS)

    @jax.jit
    def run():
        slope = jax.grad(lambda x: rules.similarity(x, y, 3))(jnp.ones((5, 4)))
        return rules.similarity(jnp.eye(3)[y], y, 3), slope

    of_equal, slope = run()
    assert float(of_equal) < 1e-12
    assert np.isfinite(slope).all()


def test_engines_of_their_own_networks_refuse_others():
    x, y = data((4,))
    variables = DENSE.init(KEY, (4,))
    for engine in (rules.local_learning, rules.forward_forward_learning):
        with pytest.raises(TypeError, match="is the engine of networks that"):
            grads_of(DENSE, variables, (x, y), engine=engine)
    for make in (rules.local_losses, rules.forward_forward):
        with pytest.raises(TypeError, match=r"learns block by block is a fnn\.serial"):
            make(fnn.Dense(3), 3)


# ---- Forward-forward -------------------------------------------------------------

HIDDEN = fnn.serial(fnn.Dense(6), fnn.Relu(), fnn.Dense(5), fnn.Relu())


@pytest.mark.thorough
def test_forward_forward_is_the_gradient_of_each_blocks_loss():
    rule = rules.forward_forward(HIDDEN, classes=3, threshold=0.5)
    stop = jax.lax.stop_gradient

    def reference(params, x, y, shift):
        def marked(y):
            return jnp.concatenate([jax.nn.one_hot(y, 3, dtype=x.dtype), x[:, 3:]], 1)

        total, pair = 0.0, [marked(y), marked((y + shift) % 3)]
        for i in (0, 2):
            pair = [jax.nn.relu(h @ params[i].weight + params[i].bias) for h in pair]
            right, wrong = ((h**2).mean(1) for h in pair)
            total += jax.nn.softplus(0.5 - right).mean()
            total += jax.nn.softplus(wrong - 0.5).mean()
            pair = [
                stop(h / jnp.sqrt((h**2).mean(1, keepdims=True) + 1e-8)) for h in pair
            ]
        return total

    with jax.enable_x64(True):
        x, y = jnp.asarray(data((7,))[0]), jnp.asarray(LABELS, jnp.int32)
        variables = in_float64(moved(rule.init(KEY, (7,))))
        grad = fnn.value_and_grad(rule, SOFTMAX, rules.forward_forward_learning)

        def run(variables):
            shift = jax.random.randint(for_rule(KEY), (5,), 1, 3, jnp.int32)
            theirs = jax.value_and_grad(reference)(variables.params, x, y, shift)
            return grad(variables, (x, y), key=KEY), theirs

        ours, (value, grads) = jax.device_get(jax.jit(run)(variables))
    assert ours.loss == pytest.approx(value, rel=1e-12)
    assert_close(ours.grads, grads, 1e-11)


@pytest.mark.thorough
def test_forward_forward_learns_to_tell_labels_apart():
    draw = np.random.default_rng(0)
    y = draw.integers(0, 3, size=300)
    centres = 2 * draw.normal(size=(3, 8))
    x = np.concatenate([np.zeros((300, 3)), centres[y] + draw.normal(size=(300, 8))], 1)
    rule = rules.forward_forward(
        fnn.serial(fnn.Dense(32), fnn.Relu(), fnn.Dense(32), fnn.Relu()), classes=3
    )
    result = fnn.fit(
        *(rule, SOFTMAX, fnn.optimizers.adam(0.01)),
        train=(x, y), key=KEY, epochs=40, batch_size=50,
        engine=rules.forward_forward_learning,
    )  # fmt: skip
    scores = fnn.predict(rule, result.variables, jnp.asarray(x, jnp.float32))
    assert (np.asarray(scores).argmax(1) == y).mean() > 0.95


def test_forward_forward_needs_room_for_the_label_and_classes():
    rule = rules.forward_forward(HIDDEN, classes=9)
    with pytest.raises(ValueError, match="the first 9 entries of an example"):
        rule.init(KEY, (7,))
    rule = rules.forward_forward(HIDDEN, classes=3)
    grad = fnn.value_and_grad(rule, SQUARED, rules.forward_forward_learning)
    x, y = data((7,))
    with pytest.raises(TypeError, match="needs labels"):
        jax.eval_shape(lambda: grad(rule.init(KEY, (7,)), (x, y), key=KEY))


# ---- Forward gradients -----------------------------------------------------------


def test_forward_gradients_are_right_on_average():
    net, batch = fnn.serial(fnn.Dense(1)), data((2,))
    batch = batch[0], batch[1][:, :1]
    variables = moved(net.init(KEY, (2,)))
    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), variables)
    grad = fnn.value_and_grad(net, SQUARED, rules.forward_gradient, l2=0.1)

    def flat(tree):
        return jnp.concatenate([a.ravel() for a in jax.tree.leaves(tree)])

    @jax.jit
    def run(keys):
        many = jax.vmap(lambda key: flat(grad(variables, batch, key=key).grads))(keys)
        return many, flat(grads_of(net, variables, batch, l2=0.1))

    many, true = map(np.asarray, run(jax.random.split(KEY, 20000)))
    size = (true**2).sum()
    spread = ((many - true) ** 2).sum(1).mean()
    assert spread == pytest.approx((len(true) + 1) * size, rel=0.1)
    assert np.abs(many.mean(0) - true).max() < 5 * (2 * size / 20000) ** 0.5
    with pytest.raises(ValueError, match="was given no key"):
        grad(variables, batch)


# ---- Comparison ------------------------------------------------------------------


COMPARED = fnn.serial(fnn.Dense(6), fnn.Tanh(), fnn.Dense(3))


def compared():
    given = {
        "backprop": COMPARED,
        "feedback": MAKERS["feedback alignment"](COMPARED),
        "direct": MAKERS["direct feedback"](COMPARED),
    }
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: COMPARED.init(KEY, (4,)))
    variables = jax.tree.map(
        lambda a: jnp.asarray(draw.normal(size=a.shape), jnp.float32), shapes
    )
    batch = tuple(jnp.asarray(a, jnp.float32) for a in data((4,)))
    return given, variables, batch


def test_angles_and_ratios_are_those_of_the_gradients():
    given, variables, batch = compared()
    given.pop("direct")
    run = functools.partial(fnn.compare_rules, COMPARED, given, SQUARED)
    found = jax.jit(lambda v, b: run(v, b, key=KEY))(variables, batch)
    true, ours = jax.jit(
        lambda v: [grads_of(net, v, batch) for net in (COMPARED, given["feedback"])]
    )(variables)
    for i in (0, 2):
        u, v = (np.concatenate([np.ravel(g) for g in tree[i]]) for tree in (true, ours))
        cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
        path = f"{i}/Dense"
        angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        np.testing.assert_allclose(found.angle["feedback"][path], angle, atol=0.1)
        ratio = np.linalg.norm(v) / np.linalg.norm(u)
        np.testing.assert_allclose(found.ratio["feedback"][path], ratio, rtol=1e-4)
        np.testing.assert_array_equal(found.angle["backprop"][path], 0)
    assert float(found.angle["feedback"]["2/Dense"]) < 1e-3  # the error itself is true
    assert float(found.angle["feedback"]["0/Dense"]) > 5
    text = str(found)
    assert all(name in text.splitlines()[0] for name in given)
    assert "0.0°, 1" in text
    assert len(found.plot().axes) == 2


@pytest.mark.thorough
def test_rules_are_compared_from_one_forward():
    given, variables, batch = compared()

    def products(rules_by_name):
        f = jax.jit(
            lambda v, b: fnn.compare_rules(COMPARED, rules_by_name, SQUARED, v, b)
        )
        text = f.lower(variables, batch).compile().as_text()
        return len(re.findall(r" dot\(|custom-call.*matmul|__onednn", text))

    alone = products({"feedback": given["feedback"]})
    both = products({name: given[name] for name in ("feedback", "direct")})
    # Direct feedback adds e B, and one dW; the other dW, and the forward, are shared.
    assert (alone, both) == (7, 9)


def test_what_is_no_rule_is_refused():
    _, variables, batch = compared()
    for wrong in (3, "bp", fnn.Dense, None):
        with pytest.raises(TypeError, match="'mine' must be a network with another"):
            fnn.compare_rules(COMPARED, {"mine": wrong}, SQUARED, variables, batch)


def test_a_rule_with_other_variables_is_refused():
    _, variables, batch = compared()
    other = {"mine": lambda *_, **__: fnn.Gradients(0.0, 0.0, (), ())}
    with pytest.raises(ValueError, match="'mine' has other variables"):
        jax.eval_shape(
            lambda: fnn.compare_rules(COMPARED, other, SQUARED, variables, batch)
        )
