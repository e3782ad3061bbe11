"""Mistakes of whoever writes a layer, a loss or an optimizer: each has a plain error.

Each row is a mistake and the words of its error. A mistake in a layer is met by `init`,
`forward`, `value_and_grad`, `fit` and the audit alike.
"""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from breadth import some_of

import fnn

X = jnp.linspace(-1.0, 1.0, 24).reshape(8, 3)
Y = jnp.array([0, 1, 2, 0, 1, 2, 0, 1])
LOSS = fnn.losses.SoftmaxCrossEntropy()
KEY = jax.random.key(0)


class Layer(fnn.Layer):
    """y = 2 x, right in every way: each mistake below replaces one method."""

    def forward(self, params, state, x, *, key=None, train=False):
        return fnn.Forward(2 * x, saved=(), state=state)

    def backward(self, params, saved, dy):
        return fnn.Backward(dx=2 * dy, dparams=())


@fnn.layer
class Right(Layer):
    pass


class Undecorated(Layer):
    pass


@fnn.layer
class DxAlone(Layer):
    def backward(self, params, saved, dy):
        return 2 * dy


@fnn.layer
class BackwardReturnsNothing(Layer):
    def backward(self, params, saved, dy):
        fnn.Backward(dx=2 * dy, dparams=())


@fnn.layer
class PairOfDx(Layer):
    def backward(self, params, saved, dy):
        return fnn.Backward(dx=(dy, dy), dparams=())


@fnn.layer
class NumPyInBackward(Layer):
    def backward(self, params, saved, dy):
        return fnn.Backward(dx=jnp.asarray(2 * np.asarray(dy)), dparams=())


@fnn.layer
class IfInBackward(Layer):
    def backward(self, params, saved, dy):
        return fnn.Backward(dx=2 * dy if dy.sum() > 0 else dy, dparams=())


@fnn.layer
class ArrayFromForward(Layer):
    def forward(self, params, state, x, *, key=None, train=False):
        return 2 * x


@fnn.layer
class ForwardReturnsNothing(Layer):
    def forward(self, params, state, x, *, key=None, train=False):
        fnn.Forward(2 * x, saved=(), state=state)


@fnn.layer
class NumPyInForward(Layer):
    def forward(self, params, state, x, *, key=None, train=False):
        return fnn.Forward(jnp.asarray(np.tanh(np.asarray(x))), saved=(), state=state)


@fnn.layer
class IntInForward(Layer):
    def forward(self, params, state, x, *, key=None, train=False):
        return fnn.Forward(int(x.sum()) * x, saved=(), state=state)


@fnn.layer
class ParamsFromInit(Layer):
    def init(self, key, in_shape):
        return jnp.ones(in_shape)


@fnn.layer
class InitReturnsNothing(Layer):
    def init(self, key, in_shape):
        fnn.Variables((), ())


def pair(x):
    return x, x


def undecorated_loss():
    class Squared:
        def value(self, z, y):
            return jnp.square(z - y).mean()

        def delta(self, z, y):
            return 2 * (z - y) / z.size

        def check(self, out_shape, y):
            pass

    return Squared()


class Mistake(NamedTuple):
    layer: fnn.Layer
    error: str
    met_by: str = "init forward value_and_grad fit audit"


#: Whatever meets a mistake in `backward` differentiates by hand.
BACKWARD = "value_and_grad fit audit"

MISTAKES = {
    "@fnn.layer forgotten": Mistake(
        Undecorated(),
        r"is of class Undecorated, which JAX does not know as a pytree: write "
        r"@fnn.layer on the line before its class statement",
        "inside value_and_grad fit audit summary evaluate predict plan",
    ),
    "dx alone": Mistake(
        DxAlone(),
        r"DxAlone\(\)\.backward must return fnn\.Backward\(dx, dparams\), got float",
        BACKWARD,
    ),
    "backward returns nothing": Mistake(
        BackwardReturnsNothing(),
        r"BackwardReturnsNothing\(\)\.backward must return fnn\.Backward\(dx, dparams\)"
        r", got None",
        BACKWARD,
    ),
    "a pair as dx": Mistake(
        PairOfDx(), r"PairOfDx\(\)\.backward must return one array as dx, got", BACKWARD
    ),
    "NumPy in backward": Mistake(
        NumPyInBackward(),
        r"NumPyInBackward\(\)\.backward used NumPy, or Python's",
        "jitted fit audit",
    ),
    "if in backward": Mistake(
        IfInBackward(),
        r"IfInBackward\(\)\.backward used NumPy, or Python's",
        "jitted fit audit",
    ),
    "forward returns an array": Mistake(
        ArrayFromForward(),
        r"ArrayFromForward\(\)\.forward must return fnn\.Forward\(y, saved, state\), "
        r"got float",
    ),
    "forward returns nothing": Mistake(
        ForwardReturnsNothing(),
        r"ForwardReturnsNothing\(\)\.forward must return fnn\.Forward\(y, saved, "
        r"state\), got None",
    ),
    "NumPy in forward": Mistake(
        NumPyInForward(),
        r"NumPyInForward\(\)\.forward used NumPy, or Python's",
        "inside jitted fit audit",
    ),
    "int in forward": Mistake(
        IntInForward(),
        r"IntInForward\(\)\.forward used NumPy, or Python's",
        "inside jitted fit audit",
    ),
    "init returns params": Mistake(
        ParamsFromInit(),
        r"ParamsFromInit\(\)\.init must return fnn\.Variables\(params, state\), got "
        r"float",
        "init fit",
    ),
    "init returns nothing": Mistake(
        InitReturnsNothing(),
        r"InitReturnsNothing\(\)\.init must return fnn\.Variables\(params, state\), "
        r"got None",
        "init fit",
    ),
    "a Lambda of a pair": Mistake(
        fnn.Lambda(pair),
        r"Lambda\(fn=<function pair at 0x[0-9a-f]+>\)\.forward must return one array "
        r"as y, got \(float",
    ),
}
CALLS = {
    "inside": lambda net: fnn.serial(fnn.Dense(3), net).init(KEY, (3,)),
    "init": lambda net: fnn.serial(net, fnn.Dense(3)).init(KEY, (3,)),
    "forward": lambda net: net.forward((), (), X),
    "value_and_grad": lambda net: fnn.value_and_grad(net, LOSS)(NONE, (X, Y)),
    "jitted": lambda net: jax.jit(fnn.value_and_grad(net, LOSS))(NONE, (X, Y)),
    "fit": lambda net: fit(net),
    "audit": lambda net: read(fnn.compare_gradients(net, LOSS, NONE, (X, Y))),
    "summary": lambda net: fnn.summary(net, (3,)),
    "evaluate": lambda net: fnn.evaluate(net, LOSS, NONE, (X, Y)),
    "predict": lambda net: fnn.predict(net, NONE, X),
    "plan": lambda net: fnn.plan(net, (3,)),
}
NONE = fnn.Variables((), ())


def fit(net=None, loss=LOSS, optimizer=None, **options):
    net = fnn.serial(fnn.Dense(3)) if net is None else net
    optimizer = optimizer or fnn.optimizers.sgd(0.1)
    options = dict(train=(X, Y), key=KEY, epochs=1, batch_size=4, plan=None) | options
    return fnn.fit(net, loss, optimizer, **options)


def read(report):
    """The audit reports a wrong backward, and raises what else is wrong."""
    assert not report.passed
    raise TypeError(str(report))


@pytest.mark.parametrize(
    ("mistake", "call"),
    [
        pytest.param(mistake, CALLS[call], id=f"{name}: {call}")
        for name, mistake in MISTAKES.items()
        for call in mistake.met_by.split()
    ],
)
def test_a_mistake_in_a_layer_has_a_plain_error(mistake, call):
    with pytest.raises(TypeError, match=mistake.error):
        call(mistake.layer)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_right_layer_has_none(call):
    if call is CALLS["audit"]:
        assert fnn.compare_gradients(Right(), LOSS, NONE, (X, Y)).passed
    else:
        call(Right())


def test_the_error_names_the_place_in_the_network():
    net = fnn.serial(fnn.Dense(3), fnn.residual(fnn.serial(DxAlone())))
    variables = net.init(KEY, (3,))
    with pytest.raises(TypeError) as caught:
        fnn.value_and_grad(net, LOSS)(variables, (X, Y))
    notes = " | ".join(caught.value.__notes__)
    assert "in Serial layer 0: DxAlone(), dy shape (8, 3)" in notes
    assert "in Serial layer 1: residual(" in notes


# ---- Classes that are no layers --------------------------------------------------


def without_backward():
    @fnn.layer
    class Half(fnn.Layer):
        def forward(self, params, state, x, *, key=None, train=False):
            return fnn.Forward(x, (), state)

    return Half()


def without_either():
    class Nothing(fnn.Layer):
        pass

    return Nothing()


def with_a_field_called(name):
    def make():
        @fnn.layer
        class Named(Layer):
            __annotations__ = {name: int}

    return make


def not_a_subclass():
    class Double:
        def forward(self, params, state, x, *, key=None, train=False):
            return fnn.Forward(2 * x, (), state)

    return fnn.serial(Double())


NO_LAYERS = {
    "no backward": (
        without_backward,
        "Half is not a layer yet: it does not define backward. A layer defines",
    ),
    "neither": (
        without_either,
        "Nothing is not a layer yet: it does not define backward and forward",
    ),
    **{
        f"a field called {name}": (
            with_a_field_called(name),
            f"Named: the field '{name}' has the name of a part of the layer contract",
        )
        for name in ("children", "kind", "init", "reach", "penalized")
    },
    "not a subclass": (not_a_subclass, r"Make its class a subclass: class Double\("),
}


@pytest.mark.parametrize(("make", "error"), NO_LAYERS.values(), ids=NO_LAYERS)
def test_what_is_no_layer_says_what_it_lacks(make, error):
    with pytest.raises(TypeError, match=error):
        make()


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["plain", "net", "layers", "weight_init", "merge"])
def test_a_field_may_have_a_name_that_fnn_uses_elsewhere(name):
    made = fnn.layer(type("Named", (Layer,), {"__annotations__": {name: bool}}))(True)
    net = fnn.serial(fnn.Dense(3), made)
    variables = net.init(KEY, (3,))
    assert fnn.compare_gradients(net, LOSS, variables, (X, Y)).passed
    assert fnn.plan(net, (3,)).changes == ()
    assert fit(net, plan="fast").history["train_loss"].shape == (1,)


# ---- Arguments written as for another library, or swapped ------------------------


NET = fnn.serial(fnn.Dense(3))
VARIABLES = NET.init(KEY, (3,))
ARGUMENTS = {
    "Dense(64, 10)": (
        lambda: fnn.Dense(64, 10),
        r"Dense takes features by position; bias, weight_init, bias_init must be "
        r"passed by name; got 64, 10\. The number of input features is not an argument",
    ),
    "Dense(64, bias=10)": (
        lambda: fnn.Dense(64, bias=10),
        r"Dense\.bias must be True or False, got 10",
    ),
    "Conv(1, 16, 3)": (
        lambda: fnn.Conv(1, 16, 3),
        r"Conv takes features, kernel_size by position; stride, .* got 1, 16, 3\. The",
    ),
    "ConvTranspose(1, 16, 3)": (
        lambda: fnn.ConvTranspose(1, 16, 3),
        r"ConvTranspose takes features, kernel_size by position; .* got 1, 16, 3\. The",
    ),
    **{
        f"{norm.__name__}(16)": (
            lambda norm=norm: norm(16),
            rf"{norm.__name__} takes no argument by position; .* got 16\. The number",
        )
        for norm in (fnn.BatchNorm, fnn.LayerNorm, fnn.RMSNorm, fnn.InstanceNorm)
    },
    "GroupNorm(4, 16)": (
        lambda: fnn.GroupNorm(4, 16),
        r"GroupNorm takes groups by position; eps must be passed by name; got 4, 16\.",
    ),
    "Gelu('tanh')": (
        lambda: fnn.Gelu("tanh"),
        r"Gelu takes no argument by position; approximate must be passed by name",
    ),
    "Gelu(approximate='tanh')": (
        lambda: fnn.Gelu(approximate="tanh"),
        r"Gelu\.approximate must be True or False, got 'tanh'",
    ),
    "Relu(inplace)": (
        lambda: fnn.Relu(True),
        r"Relu takes no argument by position; got True\.",
    ),
    "init with a seed": (
        lambda: NET.init(0, (3,)),
        r"key must be a JAX random key, got 0: pass key=jax\.random\.key\(0\)",
    ),
    "init of one layer with a seed": (
        lambda: fnn.Dense(3).init(7, (3,)),
        r"key must be a JAX random key, got 7: pass key=jax\.random\.key\(7\)",
    ),
    "init, swapped": (
        lambda: NET.init((3,), KEY),
        r"key must be a JAX random key, got \(3,\)",
    ),
    "init with the batch axis": (
        lambda: NET.init(KEY, X),
        r"in_shape must be the shape of ONE example, .* got float32\[8, 3\]",
    ),
    "forward with a seed": (
        lambda: NET.forward(*VARIABLES, X, key=3),
        r"key must be a JAX random key, got 3",
    ),
    "evaluate: variables first": (
        lambda: fnn.evaluate(VARIABLES, LOSS, NET, (X, Y)),
        r"net is not a layer: Variables\(params=\(DenseParams\(weight=float32\[3, 3\], "
        r"bias=float32\[3\]\)\), state=\(\(\)\)\)",
    ),
    "evaluate: no loss": (
        lambda: fnn.evaluate(NET, VARIABLES, (X, Y), LOSS),
        r"loss must have value\(z, y\), delta\(z, y\) and check\(out_shape, y\), got "
        r"Variables\(params=\(DenseParams\(weight=float32\[3, 3\]",
    ),
    "evaluate: data and variables swapped": (
        lambda: fnn.evaluate(NET, LOSS, (X, Y), VARIABLES),
        r"variables must be .* got \(float32\[8, 3\], int32\[8\]\)",
    ),
    "predict: variables first": (
        lambda: fnn.predict(VARIABLES, NET, X),
        r"net is not a layer: Variables\(params=\(DenseParams\(weight=float32\[3, 3\]",
    ),
    "predict: x before the variables": (
        lambda: fnn.predict(NET, X, VARIABLES),
        r"variables must be Variables\(params, state\), .* got float32\[8, 3\]",
    ),
    "summary: shape first": (
        lambda: fnn.summary((3,), NET),
        r"net is not a layer: \(3,\)",
    ),
    "summary: of variables": (
        lambda: fnn.summary(VARIABLES, (3,)),
        r"net is not a layer: Variables\(params=\(DenseParams\(weight=float32\[3, 3\]",
    ),
    "summary: of a batch": (
        lambda: fnn.summary(NET, X),
        r"in_shape must be the shape of ONE example, .* got float32\[8, 3\]",
    ),
    "value_and_grad: swapped": (
        lambda: fnn.value_and_grad(LOSS, NET),
        r"net is not a layer: SoftmaxCrossEntropy\(\)",
    ),
    "compare_gradients: swapped": (
        lambda: fnn.compare_gradients(NET, VARIABLES, LOSS, (X, Y)),
        r"loss must have .* got Variables\(params=\(DenseParams\(weight=float32",
    ),
}


@pytest.mark.parametrize(("call", "error"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_wrong_arguments_have_short_errors(call, error):
    with pytest.raises((TypeError, ValueError), match=error) as caught:
        call()
    assert len(str(caught.value)) < 600  # no weights are printed


# ---- Losses ----------------------------------------------------------------------


def loss_without(*names):
    methods = {
        "value": lambda self, z, y: jnp.square(z).mean(),
        "delta": lambda self, z, y: 2 * z / z.size,
        "check": lambda self, out_shape, y: None,
    }
    return fnn.layer(
        type("Own", (), {k: v for k, v in methods.items() if k not in names})
    )()


LOSSES = {
    "no check": (loss_without("check"), "which has no check. delta is the derivative"),
    "no delta": (loss_without("delta"), "which has no delta. delta is the derivative"),
    "neither": (loss_without("delta", "check"), "which has no delta and no check"),
    "no pytree": (undecorated_loss(), "loss is of class Squared, which JAX does not"),
    "a function": (jnp.square, "wrap it: fnn.losses.Lambda(square)"),
}


@pytest.mark.parametrize("call", ["value_and_grad", "fit", "audit", "evaluate"])
@pytest.mark.parametrize(("loss", "error"), LOSSES.values(), ids=LOSSES)
def test_a_loss_says_what_it_lacks(loss, error, call):
    calls = {
        "value_and_grad": lambda: fnn.value_and_grad(NET, loss),
        "fit": lambda: fit(loss=loss),
        "audit": lambda: fnn.compare_gradients(NET, loss, VARIABLES, (X, Y)),
        "evaluate": lambda: fnn.evaluate(NET, loss, VARIABLES, (X, Y)),
    }
    with pytest.raises(TypeError, match=re.escape(error)):
        calls[call]()


def test_a_whole_loss_of_ones_own_is_accepted():
    assert fit(loss=loss_without()).history["train_loss"].shape == (1,)


# ---- Optimizers ------------------------------------------------------------------


def grows():
    """An optimizer whose state has another structure after an update."""
    return optax.GradientTransformation(
        lambda params: (), lambda grads, state, params=None: (grads, (jnp.zeros(()),))
    )


def widens():
    """One whose state has other shapes."""
    return optax.GradientTransformation(
        lambda params: jnp.zeros(()),
        lambda grads, state, params=None: (grads, jnp.zeros((2,))),
    )


def returns_no_state():
    return optax.GradientTransformation(
        lambda params: (), lambda grads, state, params=None: grads
    )


def updates_like_nothing():
    return optax.GradientTransformation(
        lambda params: (), lambda grads, state, params=None: ((), state)
    )


OPTIMIZERS = {
    "another structure": (
        grows(),
        r"optimizer\.update must return a state like the one it is given:\n"
        r"  extra: 0 float32\[\]",
    ),
    "other shapes": (
        widens(),
        r"optimizer\.update must return a state like the one it is given:\n"
        r"  different: value expected float32\[\], got float32\[2\]",
    ),
    "no pair": (
        returns_no_state(),
        r"optimizer\.update must return \(updates, state\), got",
    ),
    "other updates": (
        updates_like_nothing(),
        r"optimizer\.update must return updates like the parameters:\n"
        r"  missing: 0/weight",
    ),
    "lookahead": (
        optax.lookahead(optax.sgd(0.1), 5, 0.5),
        r"optax\.lookahead",
    ),
    "SAM": (
        optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1)),
        r"optax\.contrib\.sam",
    ),
}


@pytest.mark.parametrize(("optimizer", "error"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_that_cannot_be_used_is_refused(optimizer, error):
    with pytest.raises((TypeError, ValueError), match=error):
        fit(optimizer=optimizer)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (optax.sgd(0.1), optax.adam(0.1)),
        (fnn.optimizers.sgd(0.1), fnn.optimizers.adam(0.1)),
        (fnn.optimizers.adam(0.1), optax.adam(0.1)),
    ],
)
def test_a_result_goes_on_with_its_own_optimizer_only(first, second):
    result = fit(optimizer=first)
    with pytest.raises(ValueError, match="resume is the result of another optimizer"):
        fit(optimizer=second, resume=result, epochs=2)
    assert fit(optimizer=first, resume=result, epochs=2).history["epoch"].shape == (2,)


# ---- Sweeps ----------------------------------------------------------------------


BUILDS = {
    "int": lambda width: fnn.serial(fnn.Dense(int(width)), fnn.Dense(3)),
    "depth": lambda width: fnn.serial(*[fnn.Relu()] * int(width), fnn.Dense(3)),
    "if": lambda width: fnn.serial(fnn.Dense(3), *[fnn.Relu()] * (width > 4)),
    "float": lambda width: fnn.serial(fnn.Dropout(float(width) / 10), fnn.Dense(3)),
    "NumPy": lambda width: fnn.serial(fnn.Dropout(np.sqrt(width) / 10), fnn.Dense(3)),
}


def sweep_width(build):
    return fnn.sweep(
        lambda width: (build(width), LOSS, fnn.optimizers.sgd(0.1)),
        {"width": [2, 5]},
        train=(X, Y),
        keys=jax.random.split(KEY, 2),
        epochs=1,
        batch_size=4,
    )


@pytest.mark.parametrize("name", some_of(BUILDS, ["if"]))
def test_a_swept_number_that_build_needs_to_know_is_compiled_in(name):
    swept = sweep_width(BUILDS[name])
    assert swept.compiled_in == ("width",)
    assert swept.history["train_loss"].shape == (2, 2, 1)


def test_a_swept_size_that_is_no_integer_is_an_error_in_words():
    with pytest.raises(ValueError, match="features must be a positive int") as caught:
        sweep_width(lambda width: fnn.serial(fnn.Dense(width / 2), fnn.Dense(3)))
    note = caught.value.__notes__[0]
    assert "in build(width=2), for the member at (0,) of the grid. Sizes must" in note


def test_a_swept_rate_is_none():
    swept = sweep_width(lambda width: fnn.serial(fnn.Dropout(width / 10), fnn.Dense(3)))
    assert swept.history["train_loss"].shape == (2, 2, 1)


# ---- A network's layers by index -------------------------------------------------


def test_a_serial_is_indexed_like_a_tuple():
    net = fnn.serial(fnn.Dense(4), fnn.Relu(), fnn.Dense(3))
    variables = net.init(KEY, (3,))
    assert net[2] == fnn.Dense(3) and net[-1] == fnn.Dense(3) and len(net) == 3
    assert net[:2] == fnn.serial(fnn.Dense(4), fnn.Relu())
    assert list(net) == [fnn.Dense(4), fnn.Relu(), fnn.Dense(3)]
    whole = net.forward(*variables, X).y
    first = net[:2].forward(variables.params[:2], variables.state[:2], X).y
    last = net[2:].forward(variables.params[2:], variables.state[2:], first).y
    np.testing.assert_array_equal(last, whole)
    assert fnn.serial() and not len(fnn.serial())
    with pytest.raises(IndexError):
        net[3]
    with pytest.raises(TypeError, match="net\\[2\\] or net\\[:3\\]"):
        net["0/Dense"]


def test_a_layer_shows_its_numbers():
    assert repr(fnn.Dropout()) == "Dropout(rate=0.5)"
    assert repr(fnn.Dropout(0.1)) == "Dropout(rate=0.1)"
    assert repr(fnn.Dense(3)) == "Dense(features=3)"
