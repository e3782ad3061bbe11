"""Arrays on many devices: every layer, in both engines, on explicit and automatic axes.

What is computed on eight devices is compared with what one device computes.
"""

import functools
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LayerCase
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from test_contract import KEY, by_hand, by_jax, problem
from test_transforms import ROWS, check

import fnn
from fnn.core import Backward, Forward, Layer, Variables

pytestmark = pytest.mark.skipif(
    len(jax.devices()) < 8, reason="needs eight devices of one kind"
)
AXES = pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto], ids=str)
ENGINES = pytest.mark.parametrize("engine", ["manual", "autodiff"])
EVERY_ROW = pytest.mark.parametrize("case", ROWS, ids=[case.name for case in ROWS])


def mesh(kind):
    return jax.make_mesh((2, 4), ("batch", "model"), axis_types=(kind, kind))


def split(tree, on, spec=P("batch")):
    return jax.tree.map(lambda a: jax.device_put(a, NamedSharding(on, spec)), tree)


# ---- Layers ----------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0)
def both(case: LayerCase, variables: Variables, x, dy) -> list[Backward]:
    """The handwritten backward, and JAX's, in training."""
    return [f(case.layer, *variables, x, dy, True) for f in (by_hand, by_jax)]


@EVERY_ROW
def test_every_layer_on_a_mesh_is_that_of_one_device(case):
    variables, x, dy = problem(case, jnp.float32)
    hand, auto = both(case, variables, x, dy)
    check("one device", hand, auto)
    for kind in (AxisType.Explicit, AxisType.Auto):
        on = mesh(kind)
        with jax.set_mesh(on):
            found = both(case, split(variables, on, P()), *split((x, dy), on))
        check(f"manual, {kind}", found[0], hand)
        check(f"autodiff, {kind}", found[1], auto)
        for dx, dparams in found:
            assert dx.sharding.shard_shape(dx.shape)[0] == len(dx) // 2
            assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(dparams))


@EVERY_ROW
def test_every_layer_in_shard_map_has_the_gradients_of_jax(case):
    """What is the same on all devices has the sum of their gradients."""
    variables, x, dy = problem(case, jnp.float32)
    half = case._replace(batch=case.batch // 2)
    if "Probed" in repr(case.layer):  # its probe has the size of the whole batch
        variables, x, dy = problem(half, jnp.float32)
        x, dy = np.concatenate([x, 2 * x]), np.concatenate([dy, 3 * dy])
        half = half._replace(layer=fnn.Probed(case.layer.layer, half.batch))
    by_row = Backward(P("batch"), P())
    f = jax.shard_map(
        functools.partial(both, half), mesh=mesh(AxisType.Auto),
        in_specs=(P(), P("batch"), P("batch")), out_specs=[by_row, by_row],
    )  # fmt: skip
    hand, auto = jax.jit(f)(variables, x, dy)
    check("shard_map", hand, auto)


@fnn.layer
class Mixed(Layer):
    """A layer of a user's, which says nowhere where its results lie."""

    def init(self, key, in_shape):
        return Variables({"mix": jnp.ones((*in_shape, *in_shape))}, ())

    def forward(self, params, state, x, *, key=None, train=False):
        y = x @ params["mix"]
        return Forward(y, saved=(x, y.sum(0)), state=state)

    def backward(self, params, saved, dy):
        x, _ = saved
        return Backward(dy @ params["mix"].T, {"mix": x.T @ dy})


def test_a_layer_of_your_own_need_not_say_where_its_results_lie():
    case = LayerCase("mixed", Mixed())
    variables, x, dy = problem(case, jnp.float32)
    on = mesh(AxisType.Explicit)
    hand, _ = both(case, *split((variables, x, dy), on, P()))
    check("whole", hand, both(case, variables, x, dy)[0])
    by_feature = split(variables, on, P(None, "model"))
    found, _ = both(case, by_feature, *split((x, dy), on))
    check("split", found, hand)
    assert found.dparams["mix"].sharding.spec == P(None, "model")
    out = case.layer.forward(*by_feature, split(x, on))  # outside jit
    assert out.y.sharding.spec == P("batch", None)


# ---- Networks --------------------------------------------------------------------

NET = fnn.serial(
    fnn.Conv(4, 3, bias=False), fnn.BatchNorm(), fnn.Relu(), fnn.MaxPool(2),
    fnn.residual(fnn.Conv(4, 3)), fnn.Flatten(), fnn.Dropout(0.2), fnn.Dense(2),
)  # fmt: skip
LOSS = fnn.losses.SoftmaxCrossEntropy()
X = np.random.default_rng(0).normal(size=(48, 4, 4, 1)).astype(np.float32)
Y = (X[:, 0, 0, 0] > 0).astype(np.int32)
VARIABLES = NET.init(KEY, (4, 4, 1))


@ENGINES
@AXES
def test_gradients_of_a_network_are_those_of_one_device(kind, engine):
    grad_fn = jax.jit(fnn.value_and_grad(NET, LOSS, engine, l2=0.1))

    @jax.jit
    def product(variables, batch):
        """A Hessian-vector product: the derivative of the gradient."""

        def grads(params):
            return grad_fn(variables._replace(params=params), batch, key=KEY).grads

        return jax.jvp(grads, (variables.params,), (variables.params,))[1]

    one = grad_fn(VARIABLES, (X, Y), key=KEY), product(VARIABLES, (X, Y))
    on = mesh(kind)
    batch = split((X, Y), on)
    check("without a context", grad_fn(VARIABLES, batch, key=KEY), one[0])
    with jax.set_mesh(on):
        check("in a context", grad_fn(VARIABLES, batch, key=KEY), one[0])
        check("second derivative", product(VARIABLES, batch), one[1])


def fit(x, y, **options):
    return fnn.fit(
        NET, LOSS, fnn.optimizers.adam(1e-2), train=(x, y), validation=(x, y), key=KEY,
        epochs=2, batch_size=16, early_stopping=fnn.EarlyStopping(patience=5),
        variables=VARIABLES, **options,
    )  # fmt: skip


def build(rate):
    return NET, LOSS, fnn.optimizers.adam(rate)


FUNCTIONS = {
    "fit": lambda x, y: list(fit(x, y).history.values())[:2],
    "evaluate": lambda x, y: fnn.evaluate(NET, LOSS, VARIABLES, (x, y), batch_size=20),
    "predict": lambda x, y: fnn.predict(NET, VARIABLES, x, batch_size=20),
    "predict, jit": lambda x, y: jax.jit(
        lambda v, x: fnn.predict(NET, v, x, batch_size=20)
    )(VARIABLES, x),
    "compare_gradients": lambda x, y: (
        fnn.compare_gradients(
            NET, LOSS, VARIABLES, (x, y), key=KEY, numerical=False
        ).passed
    ),
    "first_nonfinite": lambda x, y: (
        fnn.first_nonfinite(NET, LOSS, VARIABLES, (jnp.log(x - x), y), key=KEY)
        == "the minibatch's x"
    ),
    "explain": lambda x, y: (
        fnn.explain(NET, LOSS, VARIABLES, (x, y), "7/Dense.bias", 1, key=KEY).product
    ),
    "sweep": lambda x, y: fnn.sweep(
        build, {"rate": [1e-2]}, train=(x, y), keys=KEY, epochs=1, batch_size=16
    ).history["train_loss"],
}


@functools.cache
def on_one_device(name):
    return jax.tree.map(np.asarray, FUNCTIONS[name](X, Y))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_data_may_lie_split(name):
    """No mesh is passed: the functions take the data as they lie."""
    on = mesh(AxisType.Explicit)
    x, y = split((X, Y), on)
    for context in (nullcontext(), jax.set_mesh(on)):
        with context:
            check(name, FUNCTIONS[name](x, y), on_one_device(name))
    with jax.set_mesh(on):
        check("data of the host", FUNCTIONS[name](X, Y), on_one_device(name))


def test_a_mesh_passed_to_fit_may_be_the_explicit_one_around_it():
    on = mesh(AxisType.Explicit)
    with jax.set_mesh(on):
        found = fit(*split((X, Y), on), mesh=on).history["train_loss"]
    check("fit", found, fit(X, Y).history["train_loss"])


# ---- fnn.ops ---------------------------------------------------------------------


def jaxs_max_pool(x, window, strides):
    return lax.reduce_window(
        x, -np.inf, lax.max, (1, *window, 1), (1, *strides, 1), "VALID"
    )


def gradients(conv, max_pool):
    def cost(x, w):
        y = conv(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sin(max_pool(y, (2, 2), (2, 2))).sum()

    return jax.grad(cost, (0, 1))


OURS = gradients(fnn.ops.conv, fnn.ops.max_pool)
THEIRS = gradients(lax.conv_general_dilated, jaxs_max_pool)
IMAGES, TEMPLATES = (
    X[..., :1] * np.float32([1, 2]),
    np.float32(np.random.default_rng(1).normal(size=(3, 3, 2, 4))),
)
PLACES = {
    "examples": (P("batch"), P()),
    "features": (P(), P(None, None, None, "model")),
    "both": (P("batch"), P(None, None, None, "model")),
    "neither": (P(), P()),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("check_vma", [True, False])
def test_drop_ins_in_shard_map(place, check_vma):
    ours, theirs = (
        jax.jit(
            jax.shard_map(
                f, mesh=mesh(AxisType.Auto), in_specs=PLACES[place],
                out_specs=PLACES[place], check_vma=check_vma,
            )
        )(IMAGES, TEMPLATES)
        for f in (OURS, THEIRS)
    )  # fmt: skip
    check(place, ours, theirs)


@pytest.mark.parametrize("place", ["examples", "neither"])  # what JAX's own takes
def test_drop_ins_on_explicit_axes(place):
    on = mesh(AxisType.Explicit)
    x, w = (
        split(a, on, spec)
        for a, spec in zip((IMAGES, TEMPLATES), PLACES[place], strict=True)
    )
    ours, theirs = (jax.jit(f)(x, w) for f in (OURS, THEIRS))
    check(place, ours, theirs)
    assert [a.sharding for a in ours] == [a.sharding for a in theirs]
