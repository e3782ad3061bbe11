"""Arrays on many devices: every layer, in both engines, on explicit and automatic axes.

What eight devices compute is compared with what one computes.
"""

import functools
import re
from collections import Counter
from contextlib import nullcontext
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from breadth import some_of
from cases import LAYERS, LOSSES, LayerCase
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
KINDS = [AxisType.Explicit, AxisType.Auto]
BY_ROW = P("batch")


def mesh(kind, *shape):
    names = ("batch", "model")[: len(shape)]
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(shape))


def put(tree, on, spec):
    return jax.tree.map(lambda a: jax.device_put(a, NamedSharding(on, spec)), tree)


# ---- Layers ----------------------------------------------------------------------


def of_eight(case: LayerCase) -> LayerCase:
    """The row with a batch of eight examples, one for each device."""
    layer = case.layer
    if isinstance(layer, fnn.Probed):
        layer = fnn.Probed(layer.layer, 8)
    return case._replace(layer=layer, batch=8)


EIGHT = [of_eight(case) for case in LAYERS]
#: One row of each kind is traced, which shows where arrays lie. These are compiled,
#: too: their backward sums over examples, or moves them. The others are thorough.
KINDS_OF_LAYERS = {case.name for case in ROWS}
SUMMING = {
    *("dense", "prelu, image", "embedding", "convolution, remainder", "transposed"),
    *(
        "max pool, overlapping",
        "upsample, image",
        "batch norm, image",
        "dropout, image",
    ),
}
assert {case.name for case in EIGHT} >= SUMMING


def rows(quick):
    wanted = [case for case in EIGHT if case.name in quick]
    values = some_of(EIGHT, wanted, lambda case: case.name)
    return pytest.mark.parametrize("case", values)


TRACED, COMPILED = rows(KINDS_OF_LAYERS), rows(SUMMING)


def both(case: LayerCase, variables: Variables, x, dy, *, ways=(by_hand, by_jax)):
    """The handwritten backward, and JAX's, in training."""
    return [f(case.layer, *variables, x, dy, True) for f in ways]


run_both = jax.jit(both, static_argnums=0)


@TRACED
def test_gradients_lie_where_what_they_belong_to_lies(case):
    """Nothing is run: on explicit axes, the types say where every array lies."""
    on = mesh(AxisType.Explicit, 8)
    with jax.set_mesh(on):
        variables, x, dy = problem(case, jnp.float32)
        args = put(variables, on, P()), *put((x, dy), on, BY_ROW)
        for dx, dparams in jax.eval_shape(functools.partial(both, case), *args):
            assert dx.sharding.spec[0] == "batch"
            for leaf in jax.tree.leaves(dparams):
                assert set(leaf.sharding.spec) <= {None}


@pytest.mark.one_in(3)
@COMPILED
def test_every_layer_on_a_mesh_is_that_of_one_device(case):
    variables, x, dy = problem(case, jnp.float32)
    hand, auto = run_both(case, variables, x, dy)
    check("one device", hand, auto)
    for kind in KINDS:
        on = mesh(kind, 8)
        with jax.set_mesh(on):
            args = put(variables, on, P()), *put((x, dy), on, BY_ROW)
            found = run_both(case, *args)
        check(f"manual, {kind}", found[0], hand)
        check(f"autodiff, {kind}", found[1], auto)
        dparams = found[0].dparams
        if isinstance(case.layer, fnn.Probed):  # δ has an axis of examples
            dparams = dparams.params
        assert all(a.is_fully_replicated for a in jax.tree.leaves(dparams))


#: Rows that JAX itself cannot differentiate there; the handwritten backward is tried.
#: `jax.grad` of `lax.erfc` ends in "Primitive polynomial requires varying manual axes".
BEYOND_JAX = {"gelu"}


def in_shard_map(case: LayerCase):
    """`both` on two devices, with parameters that are the same on both."""
    layer, half = case.layer, case.batch // 2
    if isinstance(layer, fnn.Probed):  # its probe has the size of what a device gets
        layer = fnn.Probed(layer.layer, half)
    of_half = case._replace(layer=layer, batch=half)
    by_row = Backward(BY_ROW, P())
    ways = [by_hand] if case.name in BEYOND_JAX else [by_hand, by_jax]
    f = jax.shard_map(
        functools.partial(both, of_half, ways=ways), mesh=mesh(AxisType.Auto, 2),
        in_specs=(P(), BY_ROW, BY_ROW), out_specs=[by_row] * len(ways),
    )  # fmt: skip
    variables = problem(of_half, jnp.float32).variables
    return f, (variables, *problem(case, jnp.float32)[1:])


@TRACED
def test_in_shard_map_gradients_vary_as_what_they_belong_to_does(case):
    """JAX checks the types: parameters and their gradients are the same everywhere."""
    f, args = in_shard_map(case)
    for backward in jax.eval_shape(f, *args):
        assert backward.dx.shape == args[1].shape


@COMPILED
def test_in_shard_map_gradients_are_sums_over_the_devices(case):
    f, args = in_shard_map(case)
    hand, *auto = jax.jit(f)(*args)
    expected = auto[0] if auto else run_both(case, *args)[1]  # no rows are coupled
    check("shard_map", hand, expected)


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
    one = run_both(case, variables, x, dy)[0]
    on = mesh(AxisType.Explicit, 2, 4)
    variables = put(variables, on, P(None, "model"))
    x, dy = put((x, dy), on, BY_ROW)
    check("split", run_both(case, variables, x, dy)[0], one)
    out = case.layer.forward(*variables, x)  # outside jit
    assert out.y.sharding.spec == P("batch", None)
    found = case.layer.backward(variables.params, out.saved, dy)
    assert found.dparams["mix"].sharding.spec == P(None, "model")
    check("outside jit", found, one)


# ---- Networks --------------------------------------------------------------------

NET = fnn.serial(
    fnn.Conv(3, 3, bias=False), fnn.BatchNorm(), fnn.Relu(), fnn.MaxPool(2),
    fnn.residual(fnn.Conv(3, 3)), fnn.Flatten(), fnn.Dropout(0.2), fnn.Dense(2),
)  # fmt: skip
LOSS = fnn.losses.SoftmaxCrossEntropy()
X = np.random.default_rng(0).normal(size=(16, 4, 4, 1)).astype(np.float32)
Y = (X[:, 0, 0, 0] > 0).astype(np.int32)
VARIABLES = NET.init(KEY, (4, 4, 1))
BOTH_ENGINES = pytest.mark.parametrize(
    "engine", some_of(["manual", "autodiff"], ["manual"])
)


#: What moves numbers from one device to another in a compiled program.
MOVES = r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)\("


@BOTH_ENGINES
def test_gradients_of_a_network_are_those_of_one_device(engine):
    """With a penalty, and with variables that lie nowhere in particular."""
    grad_fn = fnn.value_and_grad(NET, LOSS, engine, l2=0.1)

    @jax.jit
    def gradient(variables, batch):
        return grad_fn(variables, batch, key=KEY)

    one, moves = gradient(VARIABLES, (X, Y)), []
    for kind in KINDS:
        on = mesh(kind, 8)
        batch = put((X, Y), on, BY_ROW)
        check(str(kind), gradient(VARIABLES, batch), one)
        with jax.set_mesh(on):
            program = gradient.lower(VARIABLES, batch).compile()
            check(f"{kind}, in a context", program(VARIABLES, batch), one)
        moves.append(Counter(re.findall(MOVES, program.as_text())))
    assert moves[0] == moves[1] and moves[0]["all-reduce"]  # as XLA itself would choose


@BOTH_ENGINES
def test_a_gradient_on_explicit_axes_can_be_differentiated_and_mapped(engine):
    net = fnn.serial(fnn.Flatten(), fnn.Dense(3), fnn.Tanh(), fnn.Dense(2))
    variables = net.init(KEY, (4, 4, 1))
    grad_fn = fnn.value_and_grad(net, LOSS, engine)

    @jax.jit
    def second(params, batch):
        def grads(params):
            return grad_fn(Variables(params, variables.state), batch).grads

        many = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params)
        return jax.jvp(grads, (params,), (params,))[1], jax.vmap(grads)(many)

    one = second(variables.params, (X, Y))
    on = mesh(AxisType.Explicit, 8)
    with jax.set_mesh(on):
        check(engine, second(variables.params, put((X, Y), on, BY_ROW)), one)


@pytest.mark.parametrize("engine", ["manual", "autodiff"])
@pytest.mark.parametrize("weighs", [False, True], ids=["plain", "weights"])
def test_gradients_of_trees_of_arrays_lie_where_the_parameters_do(engine, weighs):
    net = fnn.serial(
        fnn.each(image=fnn.serial(fnn.Conv(2, 3), fnn.Flatten()), age=fnn.Dense(3)),
        fnn.Merge("concatenate"),
        fnn.Dense(2),
    )
    variables = net.init(KEY, {"image": (4, 4, 1), "age": (1,)})
    x, y, loss = {"image": X, "age": X[:, 0, 0]}, Y, LOSS
    if weighs:
        y, loss = (y, np.ones(len(Y), np.float32)), fnn.losses.Weighted(loss)
    on = mesh(AxisType.Explicit, 8)
    with jax.set_mesh(on):
        args = put(variables, on, P()), put((x, y), on, BY_ROW)
        out = jax.eval_shape(fnn.value_and_grad(net, loss, engine), *args)
    assert out.outputs.sharding.spec[0] == "batch"
    for leaf in jax.tree.leaves(out.grads):
        assert set(leaf.sharding.spec) <= {None}


OF_EACH_CLASS = {type(case.loss): case for case in reversed(LOSSES)}.values()


@pytest.mark.parametrize("case", some_of(LOSSES, OF_EACH_CLASS, lambda case: case.name))
def test_the_delta_of_every_loss_lies_as_the_outputs_do(case):
    """On explicit axes; and in shard_map it varies as they do, which JAX checks."""
    case = case._replace(labels=np.concatenate([case.labels, case.labels[:2]]))
    z = np.ones((8, *case.positions, case.outputs), np.float32)
    y = np.asarray(jnp.asarray(case.labels))
    on = mesh(AxisType.Explicit, 8)
    with jax.set_mesh(on):
        for f in (case.loss.delta, jax.grad(case.loss.value)):
            assert jax.eval_shape(f, *put((z, y), on, BY_ROW)).sharding.spec[0]
    for f in (case.loss.delta, jax.grad(case.loss.value)):
        mapped = jax.shard_map(
            f, mesh=mesh(AxisType.Auto, 8), in_specs=BY_ROW, out_specs=BY_ROW
        )
        assert jax.eval_shape(mapped, z, y).shape == z.shape


# ---- Functions that compile by themselves ----------------------------------------

SMALL = fnn.serial(fnn.Flatten(), fnn.Dropout(0.1), fnn.Dense(2))
START = SMALL.init(KEY, (4, 4, 1))


def fit(x, y, **options):
    return fnn.fit(
        SMALL, LOSS, fnn.optimizers.adam(1e-2), train=(x, y), validation=(x, y),
        key=KEY, epochs=2, batch_size=8, variables=START,
        early_stopping=fnn.EarlyStopping(patience=5), **options,
    ).history["validation_loss"]  # fmt: skip


def build(rate):
    return SMALL, LOSS, fnn.optimizers.adam(rate)


FUNCTIONS = {
    "fit": fit,
    "evaluate": lambda x, y: fnn.evaluate(SMALL, LOSS, START, (x, y), batch_size=10),
    "predict": lambda x, y: fnn.predict(SMALL, START, x, batch_size=10),
    "predict, jit": lambda x, y: jax.jit(
        lambda v, x: fnn.predict(SMALL, v, x, batch_size=10)
    )(START, x),
    "compare_gradients": lambda x, y: (
        fnn.compare_gradients(
            SMALL, LOSS, START, (x, y), key=KEY, numerical=False
        ).passed
    ),
    "first_nonfinite": lambda x, y: (
        fnn.first_nonfinite(SMALL, LOSS, START, (x, y), key=KEY) is None
    ),
    "explain": lambda x, y: (
        fnn.explain(SMALL, LOSS, START, (x, y), "2/Dense.bias", 1, key=KEY).product
    ),
    "sweep": lambda x, y: fnn.sweep(
        build, {"rate": [1e-2]}, train=(x, y), keys=KEY, epochs=1, batch_size=8
    ).history["train_loss"],
}


QUICK = [("fit", "outside"), ("evaluate", "inside"), ("predict", "outside")]


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "where", some_of(product(FUNCTIONS, ["outside", "inside"]), QUICK, ", ".join)
)
def test_data_may_lie_split_where_no_mesh_is_passed(where):
    name, place = where  # outside or inside the context of a mesh
    function, on = FUNCTIONS[name], mesh(AxisType.Explicit, 8)
    one, batch = function(X, Y), put((X, Y), on, BY_ROW)
    with jax.set_mesh(on) if place == "inside" else nullcontext():
        check(name, function(*batch), one)


def test_a_mesh_passed_to_fit_may_be_the_explicit_one_around_it():
    on = mesh(AxisType.Explicit, 8)
    with jax.set_mesh(on):
        found = fit(*put((X, Y), on, BY_ROW), mesh=on)
    check("fit", found, fit(X, Y))


# ---- fnn.ops ---------------------------------------------------------------------


def jaxs_max_pool(x, window, strides):
    sizes = (1, *window, 1), (1, *strides, 1)
    return lax.reduce_window(x, -np.inf, lax.max, *sizes, "VALID")


def gradients(conv, max_pool):
    def cost(x, w):
        y = conv(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sin(max_pool(y, (2, 2), (2, 2))).sum()

    return jax.grad(cost, (0, 1))


OURS = gradients(fnn.ops.conv, fnn.ops.max_pool)
THEIRS = gradients(lax.conv_general_dilated, jaxs_max_pool)
TEMPLATES = np.random.default_rng(1).normal(size=(3, 3, 1, 4)).astype(np.float32)
BY_TEMPLATE = P(None, None, None, "model")
PLACES = {
    "examples": (BY_ROW, P()),
    "features": (P(), BY_TEMPLATE),
    "both": (BY_ROW, BY_TEMPLATE),
    "neither": (P(), P()),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])
def test_drop_ins_in_shard_map(place, check_vma):
    specs = PLACES[place]
    on = mesh(AxisType.Auto, 2, 4)
    ours, theirs = (
        jax.jit(
            jax.shard_map(
                f, mesh=on, in_specs=specs, out_specs=specs, check_vma=check_vma
            )
        )(X, TEMPLATES)
        for f in (OURS, THEIRS)
    )
    check(place, ours, theirs)


@pytest.mark.parametrize("place", ["examples", "neither"])  # what JAX's own take
def test_drop_ins_on_explicit_axes(place):
    on = mesh(AxisType.Explicit, 2, 4)
    args = [
        put(a, on, spec) for a, spec in zip((X, TEMPLATES), PLACES[place], strict=True)
    ]
    ours, theirs = (jax.jit(f)(*args) for f in (OURS, THEIRS))
    check(place, ours, theirs)
    assert [a.sharding for a in ours] == [a.sharding for a in theirs]
