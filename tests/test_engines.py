"""The engines against each other, against the textbook, and against bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import DenseParams, textbook
from fnn.gradients.engines import Gradients, manual
from fnn.losses import SigmoidCrossEntropy, SoftmaxCrossEntropy, SquaredError

ENGINES = ["manual", "autodiff"]


def sigmoid_net(*sizes):
    """Make the lecture's network: sigmoid units, the last sigmoid inside the loss."""
    layers = [part for size in sizes[1:] for part in (fnn.Dense(size), fnn.Sigmoid())]
    return fnn.serial(*layers[:-1])


def to_theta(params: DenseParams) -> np.ndarray:
    """Return Θ (s_{l+1}, s_l + 1): the bias in column 0, then the transposed weight."""
    return np.column_stack([params.bias, np.transpose(params.weight)])


def to_params(theta: np.ndarray) -> DenseParams:
    return DenseParams(
        weight=jnp.asarray(theta[:, 1:].T), bias=jnp.asarray(theta[:, 0])
    )


@pytest.mark.one_in(3)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("sizes", [(4, 3), (3, 5, 2), (5, 4, 3, 2)], ids=str)
@pytest.mark.parametrize("l2", [0.0, 0.7])
def test_engines_agree_with_the_textbook_loops(engine, sizes, l2):
    thetas = textbook.initialise(sizes, seed=1)
    draw = np.random.default_rng(2)
    x, y = draw.normal(size=(6, sizes[0])), draw.integers(0, 2, size=(6, sizes[-1]))
    with jax.enable_x64(True):
        net = sigmoid_net(*sizes)
        params = [
            to_params(thetas[i // 2]) if i % 2 == 0 else ()
            for i in range(len(net.layers))
        ]
        variables = fnn.Variables(tuple(params), ((),) * len(params))
        grad_fn = fnn.value_and_grad(net, SigmoidCrossEntropy(), engine, l2=l2)
        out = jax.jit(grad_fn)(variables, (x, y.astype(float)))
    assert float(out.loss) == pytest.approx(textbook.cost(thetas, x, y, l2), rel=1e-12)
    found = [to_theta(grads) for grads in out.grads if grads]
    for ours, theirs in zip(found, textbook.gradients(thetas, x, y, l2), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_the_lectures_penalty_fails_the_check_and_the_right_one_passes():
    # J has (λ/2n) Σ Θ², whose derivative is (λ/n) Θ; the lecture's D adds λ Θ.
    def lectures(net, loss, variables, batch, *, key, train, l2, n):
        out = manual(net, loss, variables, batch, key=key, train=train, l2=l2, n=n)
        return out._replace(grads=add(out.grads, variables.params, l2 - l2 / n))

    def add(grads, params, extra):
        moved = [
            g and g._replace(weight=g.weight + extra * p.weight)
            for g, p in zip(grads, params, strict=True)
        ]
        return tuple(moved)

    net = sigmoid_net(4, 3, 2)
    variables = net.init(jax.random.key(0), (4,))
    x = jax.random.normal(jax.random.key(1), (5, 4))
    y = jnp.array([0, 1, 0, 1, 1])
    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), variables)
        batch = jnp.asarray(x, jnp.float64), y
        f = fnn.objective(net, SigmoidCrossEntropy(), double, batch, l2=0.5)
        differences = fnn.numerical_gradients(f, double.params)

        def error(engine):
            run = fnn.value_and_grad(net, SigmoidCrossEntropy(), engine, l2=0.5)
            grads = run(double, batch).grads
            return max(
                float(abs(a - b).max())
                for a, b in zip(
                    jax.tree.leaves(grads), jax.tree.leaves(differences), strict=True
                )
            )

        assert error("manual") < 1e-9
        assert error(lectures) > 1e-2


@pytest.mark.parametrize("train", [True, False])
def test_engines_agree_on_everything_they_return(train):
    net = fnn.serial(
        fnn.Dropout(0.2), fnn.Dense(7), fnn.BatchNorm(), fnn.Relu(),
        fnn.residual(fnn.Dense(7)), fnn.Dropout(0.5), fnn.Dense(3),
    )  # fmt: skip
    variables = net.init(jax.random.key(0), (5,))
    batch = jax.random.normal(jax.random.key(1), (6, 5)), jnp.array([0, 1, 2, 0, 1, 2])
    outs = [
        jax.jit(fnn.value_and_grad(net, SoftmaxCrossEntropy(0.1), engine, l2=0.3, n=50),
                static_argnames="train")(
            variables, batch, key=jax.random.key(2), train=train
        )
        for engine in ENGINES
    ]  # fmt: skip
    for ours, theirs in zip(*map(jax.tree.leaves, outs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_n_of_the_penalty_is_the_batch_unless_given():
    net, x = fnn.serial(fnn.Dense(2, bias=False)), jnp.zeros((4, 3))
    variables = net.init(jax.random.key(0), (3,))
    weight = variables.params[0].weight
    for n, divisor in ((None, 4), (60, 60)):
        out = fnn.value_and_grad(net, SquaredError(), l2=2.0, n=n)(
            variables, (x, jnp.zeros((4, 2)))
        )
        np.testing.assert_allclose(
            out.grads[0].weight, 2.0 / divisor * weight, rtol=1e-6
        )
        np.testing.assert_allclose(out.loss, 1 / divisor * (weight**2).sum(), rtol=1e-6)


def test_a_third_engine_is_called_with_the_documented_arguments():
    seen = {}

    def mine(net, loss, variables, batch, **options):
        seen.update(options)
        return manual(net, loss, variables, batch, **options)

    net = fnn.serial(fnn.Dense(2))
    variables = net.init(jax.random.key(0), (3,))
    batch = jnp.ones((4, 3)), jnp.array([0, 1, 0, 1])
    out = fnn.value_and_grad(net, SoftmaxCrossEntropy(), mine, l2=0.1)(variables, batch)
    assert isinstance(out, Gradients)
    assert seen == dict(key=None, train=True, l2=0.1, n=4)


NET = fnn.serial(fnn.Dense(5), fnn.Relu(), fnn.Dense(3))
OTHER = fnn.serial(fnn.Dense(5), fnn.Relu(), fnn.Dense(4), fnn.Dense(3))
BAD_INPUT = {
    "wrong feature count": (
        (jnp.ones((6, 7)), jnp.zeros(6, int)),
        r"expected an input of shape \(N, \.\.\., 4\)",
    ),
    "missing batch axis": (
        (jnp.ones(4), jnp.zeros(4, int)),
        r"one example alone is x\[",
    ),
    "empty data": (
        (jnp.ones((0, 4)), jnp.zeros(0, int)),
        "expected a batch of examples",
    ),
    "label out of range": (
        (jnp.ones((2, 4)), jnp.array([0, 3])),
        r"a class 0 .. 2.*got 3 at y\[1\]",
    ),
    "negative label": ((jnp.ones((2, 4)), jnp.array([-1, 0])), r"got -1 at y\[0\]"),
    "more labels than examples": (
        (jnp.ones((2, 4)), jnp.zeros(3, int)),
        "one entry an example",
    ),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_explained(engine, name):
    batch, text = BAD_INPUT[name]
    variables = NET.init(jax.random.key(0), (4,))
    with pytest.raises(ValueError, match=text):
        fnn.value_and_grad(NET, SoftmaxCrossEntropy(), engine)(variables, batch)


def test_labels_of_a_wrong_dtype_are_explained():
    variables = NET.init(jax.random.key(0), (4,))
    batch = jnp.ones((2, 4)), jnp.array([0.0, 1.0])
    with pytest.raises(
        TypeError, match=r"integer dtype, or rows \(N, 3\), got float32"
    ):
        fnn.value_and_grad(NET, SoftmaxCrossEntropy())(variables, batch)


@pytest.mark.parametrize("engine", ENGINES)
def test_parameters_of_another_network_are_explained(engine):
    variables = OTHER.init(jax.random.key(0), (4,))
    batch = jnp.ones((2, 4)), jnp.array([0, 1])
    with pytest.raises((ValueError, TypeError), match="another network"):
        fnn.value_and_grad(NET, SoftmaxCrossEntropy(), engine)(variables, batch)


def test_an_unknown_engine_is_explained():
    with pytest.raises(
        ValueError, match="unknown engine 'manul': expected 'manual' or"
    ):
        fnn.value_and_grad(NET, SoftmaxCrossEntropy(), "manul")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda grads: grads[:-1], "do not form a tree like the parameters"),
        (
            lambda grads: (grads[0]._replace(bias=jnp.zeros(9)), *grads[1:]),
            r"gradient of 0/Dense.bias has shape \(9,\), the parameter \(5,\)",
        ),
    ],
)
def test_gradients_unlike_the_parameters_are_refused(change, text):
    def mine(*arguments, **options):
        out = manual(*arguments, **options)
        return out._replace(grads=change(out.grads))

    variables = NET.init(jax.random.key(0), (4,))
    batch = jnp.ones((2, 4)), jnp.array([0, 1])
    with pytest.raises(ValueError, match=text):
        fnn.value_and_grad(NET, SoftmaxCrossEntropy(), mine)(variables, batch)


def test_a_missing_key_names_the_layer():
    net = fnn.serial(fnn.Dense(5), fnn.Dropout(0.5))
    variables = net.init(jax.random.key(0), (4,))
    batch = jnp.ones((2, 4)), jnp.array([0, 1])
    with pytest.raises(ValueError, match=r"Dropout.*pass key=jax.random.key") as error:
        fnn.value_and_grad(net, SoftmaxCrossEntropy())(variables, batch)
    assert "in Serial layer 1: Dropout(rate=0.5)" in error.value.__notes__[0]


LOSS = SoftmaxCrossEntropy()
X, Y = jnp.ones((2, 4)), jnp.array([0, 1])
MISTAKES = {
    "params for variables": (
        dict(variables=lambda v: v.params),
        "be Variables",
    ),
    "x without y": (dict(batch=X), r"batch must be a pair \(x, y\)"),
    "a whole dataset": (
        dict(batch=fnn.data.Dataset((X, Y), (X, Y))),
        "got a Dataset: pass its .train",
    ),
    "a loss that is a class": (
        dict(loss=SoftmaxCrossEntropy),
        r"loss is the class SoftmaxCrossEntropy; pass an instance",
    ),
    "a seed for a key": (dict(key=7), r"pass key=jax.random.key\(7\)"),
    "a negative penalty": (dict(l2=-0.1), "l2 must be finite and not negative"),
    "a penalty in words": (dict(l2="0.1"), "l2 must be a number"),
    "an engine without result": (
        dict(engine=lambda *a, **k: None),
        "an engine returns fnn.Gradients",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_explained(name):
    wrong, text = MISTAKES[name]
    variables = wrong.get("variables", lambda v: v)(NET.init(jax.random.key(0), (4,)))
    with pytest.raises((TypeError, ValueError), match=text):
        grad_fn = fnn.value_and_grad(
            NET,
            wrong.get("loss", LOSS),
            wrong.get("engine", "manual"),
            l2=wrong.get("l2", 0.0),
        )
        grad_fn(variables, wrong.get("batch", (X, Y)), key=wrong.get("key"))


@pytest.mark.parametrize("in_shape", [4, (4, 0), "4", X], ids=str)
def test_a_shape_that_is_none_is_explained(in_shape):
    for ask in (
        lambda s: NET.init(jax.random.key(0), s),
        lambda s: fnn.summary(NET, s),
    ):
        with pytest.raises(
            TypeError, match="in_shape must be the shape of ONE example"
        ):
            ask(in_shape)


@pytest.mark.parametrize("engine", ENGINES)
def test_integer_inputs_are_numbers_like_others(engine):
    net = fnn.serial(fnn.BatchNorm(), fnn.LeakyRelu(0.3), fnn.Dense(3))
    variables = net.init(jax.random.key(0), (4,))
    x = jnp.arange(24).reshape(6, 4) - 12
    y = jnp.array([0, 1, 2, 0, 1, 2])
    grad_fn = fnn.value_and_grad(net, LOSS, engine)
    ours, theirs = (grad_fn(variables, (a, y)) for a in (x, x.astype(jnp.float32)))
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert float(abs(ours.outputs).max()) > 0.1


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_the_penalty_in_half_precision_is_the_same_in_both_engines(dtype):
    net = fnn.serial(fnn.Dense(3))
    variables = net.init(jax.random.key(0), (4,))
    variables = jax.tree.map(lambda a: a.astype(dtype), variables)
    batch = jnp.zeros((2, 4), dtype), Y
    grads = [
        fnn.value_and_grad(net, LOSS, engine, l2=500.0, n=70_000)(variables, batch)
        .grads[0]
        .weight.astype(jnp.float32)
        for engine in ENGINES
    ]
    assert float(abs(grads[1]).max()) > 1e-3
    np.testing.assert_allclose(grads[0], grads[1], rtol=2e-2)
