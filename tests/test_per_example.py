"""Statistics of single examples: what `jax.jacrev` of all losses gives, from one walk.

The reference is the Jacobian of the N losses of one batch, by autodiff in float64: its
row n is g_n, with the masks that the batch has. Every statistic is computed from it in
NumPy.
"""

import functools
import importlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LAYERS, LOSSES, N
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from random_networks import random_image_trial, random_trial

import fnn
from fnn import per_example
from fnn.layers.freezing import frozen_paths
from fnn.layers.shared import Shared
from fnn.network import output_shape, places
from fnn.passes import factors, records
from fnn.passes import formulas as passes_formulas
from fnn.passes.observe import example_deltas, observe_losses
from fnn.shapes import count_examples
from fnn.training.compiled.meshes import check_mesh

KEY = jax.random.key(0)
SOFTMAX, SQUARED = fnn.losses.SoftmaxCrossEntropy(), fnn.losses.SquaredError()
CLIP = 0.7


# ---- Layers that are written here ------------------------------------------------


@fnn.layer
class Twice(fnn.Layer):
    """f(f(x)) with one set of parameters, whose gradients are added up."""

    inner: fnn.Layer = fnn.leaf()

    @property
    def children(self):
        return {"inner": self.inner}

    def with_children(self, *layers):
        return Twice(*layers)

    def init(self, key, in_shape):
        params, state = self.inner.init(key, in_shape)
        return fnn.Variables((params,), (state,))

    def forward(self, params, state, x, *, key=None, train=False):
        options = dict(key=key, train=train)
        first = self.inner.forward(params[0], state[0], x, **options)
        second = self.inner.forward(params[0], first.state, first.y, **options)
        saved = first.saved, second.saved
        return fnn.Forward(second.y, saved, (second.state,))

    def backward(self, params, saved, dy):
        dx, second = self.inner.backward(params[0], saved[1], dy)
        dx, first = self.inner.backward(params[0], saved[0], dx)
        return fnn.Backward(dx, (jax.tree.map(jnp.add, first, second),))


@fnn.layer
class HalfGradient(fnn.Dense):
    """A dense layer whose dW is half of what it should be: not a Dense to a formula."""

    def backward(self, params, saved, dy):
        dx, (dweight, dbias) = super().backward(params, saved, dy)
        return fnn.Backward(dx, fnn.DenseParams(0.5 * dweight, dbias))


@fnn.layer
class Scale(fnn.Layer):
    def init(self, key, in_shape):
        return fnn.Variables({"by": jnp.ones(in_shape)}, ())

    def forward(self, params, state, x, *, key=None, train=False):
        return fnn.Forward(params["by"] * x, saved=x, state=state)

    def backward(self, params, saved, dy):
        return fnn.Backward(params["by"] * dy, {"by": (dy * saved).sum(0)})


@fnn.layer
class Centred(fnn.Layer):
    """x minus the mean of the batch: it saves nothing that would tell."""

    def forward(self, params, state, x, *, key=None, train=False):
        return fnn.Forward(x - x.mean(0), saved=(), state=state)

    def backward(self, params, saved, dy):
        return fnn.Backward(dy - dy.mean(0), ())


def mixed_params(key, in_shape):
    return {"slope": jnp.ones(in_shape[-1:])}


def mixed(params, x):
    return x * jnp.tanh(params["slope"] * x)


# ---- The reference ---------------------------------------------------------------


class Problem(NamedTuple):
    net: fnn.Layer
    loss: fnn.losses.Loss
    variables: fnn.Variables
    batch: tuple
    train: bool = True
    all_statistics: bool = True


def problem(net, in_shape, n=N, loss=SQUARED, train=True) -> Problem:
    """Draw a problem in float64; parameters are moved, so that none is zero."""
    draw = np.random.default_rng(3)
    variables = net.init(KEY, in_shape)
    out = output_shape(net, variables, in_shape)
    variables = jax.tree.map(
        lambda a: np.asarray(a, float) + 0.1 * np.abs(draw.normal(size=a.shape)),
        variables,
    )
    y = draw.normal(size=(n, *out))
    if loss is SOFTMAX:
        y = draw.integers(0, out[0], size=n)
    return Problem(net, loss, variables, (draw.normal(size=(n, *in_shape)), y), train)


def jacobian(case: Problem, variables, batch) -> tuple:
    """The gradient of every example's loss, by autodiff of one forward of the batch."""
    x, y = batch
    if not jax.tree.leaves(variables.params):
        return variables.params

    def losses(params):
        z = case.net.forward(params, variables.state, x, key=KEY, train=case.train).y
        alone = jax.tree.map(lambda a: a[:, None], (z, y))
        return jax.vmap(case.loss.value)(*alone)

    return jax.jacrev(losses)(variables.params)


def statistics(case: Problem, variables, batch) -> dict:
    """All of them by fnn, each asked for as a user does, but from a single walk.

    Compiling the same walk seven times would take seven times as long.
    """
    walk = functools.cache(lambda: observe_losses(
        *(case.net, case.loss, variables, batch), key=KEY, train=case.train
    ))  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name in ("observe", "per_example.gram", "per_example.clipping"):
            module = importlib.import_module(f"fnn.passes.{name}")
            patch.setattr(module, "observe_losses", lambda *_, **__: walk())
        return statistics_by_name(case, variables, batch)


def statistics_by_name(case: Problem, variables, batch) -> dict:
    net, loss, options = case.net, case.loss, dict(key=KEY, train=case.train)

    def call(function, *arguments, **settings):
        f = function(net, loss, *arguments, **settings)
        return f(variables, batch, **options)

    found = dict(
        norms=call(per_example.norms),
        gradients=call(per_example.gradients),
        clipped=call(per_example.clipped_grad, CLIP),
    )
    if case.all_statistics:
        found["gram"] = call(per_example.gram)
        found["per_layer"] = call(per_example.clipped_grad, CLIP, per_layer=True)
        if count_examples(batch) > 1:
            found["variance"] = call(per_example.variance)
            found["noise"] = call(per_example.signal_noise)
    return found


def assert_close(found, expected, scale=1.0):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-12 * scale)


def check(case: Problem) -> None:
    """Compare all statistics with those of the Jacobian, in one program."""
    with jax.enable_x64(True):
        variables, batch = jax.tree.map(jnp.asarray, (case.variables, case.batch))

        def both(variables, batch):
            return jacobian(case, variables, batch), statistics(case, variables, batch)

        grads, found = jax.device_get(jax.jit(both)(variables, batch))
        check_numbers(case, grads, found)


def check_numbers(case: Problem, grads, found) -> None:
    n, params = count_examples(case.batch), case.variables.params
    structure = jax.tree.structure(params)
    leaves = [g.reshape(n, -1) for g in jax.tree.leaves(grads)]
    rows = np.concatenate([*leaves, np.zeros((n, 1))], axis=1)
    total = np.sqrt((rows**2).sum(1))
    scale = total.max()
    each = [np.sqrt((g**2).sum(1)) for g in leaves]
    assert_close(found["norms"].total, total, scale)
    assert_close(found["norms"].by_parameter, structure.unflatten(each), scale)
    assert_close(found["gradients"], grads, scale)

    def clipped(factors):
        return jax.tree.map(
            lambda g, c: np.einsum("n,n...->...", c, g) / n, grads, factors
        )

    flat = np.minimum(1, CLIP / np.maximum(total, 1e-300))
    assert_close(
        found["clipped"], clipped(structure.unflatten([flat] * len(each))), scale
    )
    if not case.all_statistics:
        return
    assert_close(found["gram"], rows @ rows.T, scale**2)
    if not has(case.net, (Twice, Shared)):  # they are one layer, though they have parts
        layers = per_example.by_layer(case.net, structure.unflatten(each))
        frozen = {p.rpartition(".")[0] for p in frozen_paths(case.net, params)}
        limit = CLIP / max(len(layers.keys() - frozen), 1) ** 0.5
        owners = [p.rpartition(".")[0] for p in fnn.named_params(case.net, params)]
        parts = [np.minimum(1, limit / np.maximum(layers[p], 1e-300)) for p in owners]
        assert_close(found["per_layer"], clipped(structure.unflatten(parts)), scale)
    if n > 1:
        variance = jax.tree.map(lambda g: g.var(0, ddof=1), grads)
        assert_close(found["variance"], variance, scale**2)
        noise = rows.var(0, ddof=1).sum()
        signal = (rows.mean(0) ** 2).sum() - noise / n
        expected = per_example.SignalNoise(signal, noise)
        assert_close(found["noise"], expected, scale**2)


IMAGE = problem(fnn.serial(fnn.Conv(2, 2), fnn.Flatten(), fnn.Dense(2)), (3, 2, 1), 16)
SMALL = problem(fnn.serial(fnn.Dense(3), fnn.Tanh(), fnn.Dense(2)), (4,))


def single(given):
    """The problem's variables and batch in float32."""
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), given[2:4])


SINGLE = single(SMALL)


# ---- Every layer -----------------------------------------------------------------

# A few of the layers, of each kind of formula: the others are `thorough` below.
VECTORS = fnn.serial(
    fnn.Lambda(mixed, mixed_params), Twice(fnn.serial(fnn.Dense(4), fnn.Dropout(0.3)))
)
IMAGES = fnn.serial(
    fnn.Conv(4, (3, 2), stride=2, padding=((1, 2), (0, 1)), dilation=2, groups=2),
    fnn.ConvTranspose(4, (3, 2), stride=(2, 3), padding="VALID", groups=2),
    fnn.BatchNorm(),
)
#: Ids and an image; frozen layers, and one without a formula; two outputs.
PARTS = fnn.serial(
    fnn.each(
        words=fnn.serial(fnn.Embedding(3, 2), fnn.Flatten(), fnn.PRelu(False)),
        image=fnn.serial(
            fnn.frozen(fnn.serial(fnn.Conv(2, 2), fnn.BatchNorm())),
            fnn.PRelu(),
            fnn.Flatten(),
        ),
    ),
    fnn.Merge("concatenate"),
    fnn.fork(a=fnn.Dense(2), b=fnn.serial(fnn.frozen(fnn.Dense(3)), fnn.RMSNorm())),
)


def parts_problem() -> Problem:
    draw, n = np.random.default_rng(0), 4
    variables = PARTS.init(KEY, {"words": (3,), "image": (3, 2, 1)})
    variables = jax.tree.map(
        lambda a: np.asarray(a, float) + 0.1 * np.abs(draw.normal(size=a.shape)),
        variables,
    )
    x = {
        "words": draw.integers(0, 3, (n, 3)),
        "image": draw.normal(size=(n, 3, 2, 1)),
    }
    y = {"a": draw.integers(0, 2, n), "b": draw.normal(size=(n, 3))}
    loss = fnn.losses.Weighted(fnn.losses.Each({"a": SOFTMAX, "b": SQUARED}))
    return Problem(PARTS, loss, variables, (x, (y, np.array([1.0, 0.5, 0.0, 2.0]))))


QUICK = {
    "vectors": problem(VECTORS, (4,), n=3, loss=SOFTMAX),
    "images": problem(IMAGES, (9, 7, 2), n=4, train=False),
}


#: A table that is the last layer's weight as well; a layer twice, a bias each place.
_STEP = fnn.tied("step", fnn.Dense(2), only=("weight",))
TIED = fnn.shared(
    fnn.serial(
        fnn.tied("table", fnn.Embedding(3, 2)), _STEP, fnn.Tanh(), _STEP,
        fnn.tied("table", fnn.DenseTranspose(3, bias=False)),
    )
)  # fmt: skip


def tied_problem() -> Problem:
    given = problem(TIED, (2,), n=4)
    ids = np.random.default_rng(0).integers(0, 3, (4, 2))
    return given._replace(batch=(ids, given.batch[1]))


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "case", [SMALL, parts_problem(), tied_problem()], ids=["small", "parts", "tied"]
)
def test_statistics_are_those_of_the_jacobian(case):
    check(case)


@pytest.mark.parametrize("name", QUICK)
def test_gradients_are_those_of_the_jacobian(name, monkeypatch):
    if name == "images":  # in chunks of one or two examples
        monkeypatch.setattr(records, "_chunk_bytes", lambda: 2000)
    check(QUICK[name]._replace(all_statistics=False))


@pytest.mark.thorough
@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_statistics_of_every_layer(case):
    if "probed" in case.name:
        pytest.skip("a probe's δ has a row for each example: see below")
    train = not has(case.layer, fnn.BatchNorm)
    given = problem(case.layer, case.in_shape, n=case.batch, train=train)
    if case.ids:
        x = np.arange(given.batch[0].size).reshape(given.batch[0].shape) % case.ids
        given = given._replace(batch=(x, given.batch[1]))
    check(given)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(300))
def test_statistics_of_random_networks(seed):
    draw = random_trial if seed < 200 else random_image_trial
    net, loss, variables, batch, options = draw(seed, np.float64)
    train = options["train"] and not has(net, fnn.BatchNorm)
    check(Problem(net, loss, variables, batch, train))


@pytest.mark.thorough
@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case.name)
def test_deltas_are_those_of_each_example_alone(case):
    with jax.enable_x64(True):
        z = jax.random.normal(KEY, (N, *case.positions, case.outputs), float)
        y, w = jnp.asarray(case.labels), jnp.arange(N, dtype=float)
        alone = jax.vmap(jax.grad(lambda z, y: case.loss.value(z[None], y[None])))
        expected = alone(z, y)
        assert_close(example_deltas(case.loss, z, y), expected)
        weighted = example_deltas(fnn.losses.Weighted(case.loss), z, (y, w))
        assert_close(weighted, w.reshape(-1, *[1] * (z.ndim - 1)) * expected)


SINGLE_DELTAS = {
    "an ignored label counts nothing, and the others as alone": (
        fnn.losses.SoftmaxCrossEntropy(ignore=-1), (2,), [0, -1, 1],
        [[-0.5, 0.5], [0, 0], [0.5, -0.5]],
    ),
    "a masked position leaves the mean to the others of its example": (
        fnn.losses.SoftmaxCrossEntropy(ignore=-1), (2, 2), [[0, -1], [1, 0]],
        [[[-0.5, 0.5], [0, 0]], [[0.25, -0.25], [-0.25, 0.25]]],
    ),
    "the weight of a class cancels where it is alone": (
        fnn.losses.SoftmaxCrossEntropy(class_weights=(1.0, 9.0)), (2,), [0, 1],
        [[-0.5, 0.5], [0.5, -0.5]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SINGLE_DELTAS.values(), ids=SINGLE_DELTAS)
def test_labels_that_do_not_count(case):
    loss, shape, labels, expected = case
    y = jnp.asarray(labels)
    found = example_deltas(loss, jnp.zeros((len(y), *shape)), y)
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_a_batch_with_weights_is_one_of_weighted_losses():
    variables, (x, y) = SINGLE
    w = jnp.array([0.0, 2.0, 1.0, 1.0, 0.5, 3.0])
    f = per_example.norms(SMALL.net, SQUARED)
    plain, weighted = jax.jit(
        lambda: (f(variables, (x, y)).total, f(variables, (x, y, w)).total)
    )()
    np.testing.assert_allclose(weighted, w * plain, rtol=1e-5)
    with pytest.raises(ValueError, match="weights must have one number an example"):
        f(variables, (x, y, w[:, None]))


def has(net, kind) -> bool:
    return any(isinstance(layer, kind) for _, layer in places(net))


# ---- Factors ---------------------------------------------------------------------

#: N, M, T, S, G, I, O: one place, few places for large weights, many for small ones.
SHAPES = {
    "one place": (5, 3, 1, 1, 2, 4, 7),
    "through places": (5, 3, 2, 3, 2, 40, 30),
    "formed": (5, 3, 6, 8, 2, 4, 7),
}


@pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES)
def test_what_follows_from_factors(sizes):
    n, m, t, s, g, i, o = sizes
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(n, t, g, i)), draw.normal(size=(n, t, g, o))
    c, d = draw.normal(size=(m, s, g, i)), draw.normal(size=(m, s, g, o))
    grads = np.einsum("ntgi,ntgo->nigo", a, b).reshape(n, -1)
    others = np.einsum("ntgi,ntgo->nigo", c, d).reshape(m, -1)
    with jax.enable_x64(True):
        left = factors.Outer(*map(jnp.asarray, (a, b)))
        right = factors.Outer(*map(jnp.asarray, (c, d)))
        shape = (i * g * o,)
        found = jax.jit(
            lambda: (
                factors.squared_norms(left),
                factors.inner_products(left, right),
                factors.formed(left, shape),
                factors.sum_of_squares(left, shape),
            )
        )()
    expected = (grads**2).sum(1), grads @ others.T, grads, (grads**2).sum(0)
    assert_close(found, expected, 100)


def test_a_norm_that_cancels_is_not_the_root_of_a_negative_number():
    a = jnp.ones((1, 2, 30)) * jnp.array([[[1.0], [1.0]]])
    b = jnp.ones((1, 2, 40)) * jnp.array([[[0.3], [-0.3]]])
    found = jax.jit(factors.squared_norms)(factors.Outer(a, b))
    assert 0 <= float(found[0]) < 1e-3


@pytest.mark.parametrize(
    ("a", "b"), [((5, 2), (5, 3, 2)), ((5,), (5,)), ((1,) * 5, (1,) * 5)]
)
def test_factors_of_other_shapes_are_refused(a, b):
    with pytest.raises(ValueError, match=r"Outer expected a and b of shapes \(N, I\)"):
        factors.squared_norms(factors.Outer(jnp.ones(a), jnp.ones(b)))


# ---- Layers that mix examples ----------------------------------------------------

MIXING = {
    "BatchNorm": (fnn.BatchNorm(), "1/BatchNorm normalises by statistics"),
    "inside a block": (
        fnn.residual(fnn.serial(fnn.BatchNorm(), fnn.Relu())),
        "1/Residual/body/0/BatchNorm normalises",
    ),
    "probed": (fnn.Probed(fnn.BatchNorm(), N), "1/BatchNorm normalises"),
    "inside a layer from elsewhere": (Twice(fnn.BatchNorm()), "1/Twice normalises"),
    "a layer from elsewhere": (Centred(), r"1/Centred, Centred\(\), mixes examples"),
    "a function": (fnn.Lambda(lambda x: x[::-1]), "1/Lambda, .*, mixes examples"),
    "a softmax over the batch": (
        fnn.Lambda(lambda x: jax.nn.softmax(x, 0)),
        "1/Lambda, .*, mixes examples",
    ),
}


@pytest.mark.parametrize(("layer", "text"), MIXING.values(), ids=MIXING)
def test_layers_that_mix_examples_are_refused_by_name(layer, text):
    net = fnn.serial(fnn.Dense(3), layer)
    variables = jax.eval_shape(lambda: net.init(KEY, (4,)))
    with pytest.raises(ValueError, match=text):
        jax.eval_shape(
            lambda v: per_example.norms(net, SQUARED)(
                v, (jnp.ones((N, 4)), jnp.ones((N, 3)))
            ),
            variables,
        )


def test_batch_norm_in_evaluation_is_not_refused():
    net = fnn.serial(fnn.Dense(3), fnn.BatchNorm())
    batch = jnp.ones((N, 4)), jnp.ones((N, 3))
    f = functools.partial(per_example.norms(net, SQUARED), train=False)
    assert jax.eval_shape(f, net.init(KEY, (4,)), batch).total.shape == (N,)


# ---- Formulas --------------------------------------------------------------------


@pytest.fixture
def formulas(monkeypatch):
    """Formulas that are registered in a test, and forgotten after it."""
    known = dict(passes_formulas._FORMULAS)
    monkeypatch.setattr(passes_formulas, "_FORMULAS", known)


def checked(layer, **options):
    given = problem(fnn.serial(fnn.Dense(4), layer), (3,))
    return per_example.check(*given[:4], key=KEY, **options)


def test_a_formula_is_three_lines_and_is_checked(formulas):
    assert [row.formula for row in checked(Scale()).rows] == [True, True, False]

    @per_example.register(Scale)
    def factors_of_scale(layer, params, saved, dy):
        return {"by": dy * saved}

    report = checked(Scale())
    assert report.passed
    assert [row.formula for row in report.rows] == [True, True, True]
    assert "1/Scale.by" in str(report)
    assert str(report).endswith("PASSED")


def test_a_wrong_formula_is_found(formulas):
    @per_example.register(Scale)
    def without_x(layer, params, saved, dy):
        return {"by": dy}

    report = checked(Scale())
    assert not report.passed
    assert report.first_failure == "1/Scale.by"
    assert "FAILED: first at 1/Scale.by" in str(report)


def test_a_formula_of_another_tree_is_refused(formulas):
    @per_example.register(Scale)
    def forgot_the_dictionary(layer, params, saved, dy):
        return dy * saved

    with pytest.raises(ValueError, match=r"formula for Scale\(\) must return a tree"):
        checked(Scale())


def test_only_classes_of_layers_have_formulas():
    for wrong in (fnn.Dense(3), int, jnp.sin):
        with pytest.raises(TypeError, match="register expected classes of layers"):
            per_example.register(wrong)


@pytest.mark.thorough
def test_a_subclass_does_not_inherit_a_formula():
    """Its backward may be another one: here dW is half of a dense layer's."""
    half = checked(HalfGradient(2))
    assert half.passed
    assert [row.formula for row in half.rows] == [True, True, False, False]


# ---- Under JAX's transformations -------------------------------------------------


@pytest.mark.thorough
def test_vmap_scan_and_mesh_give_what_one_call_gives():
    variables, batch = single(problem(SMALL.net, (4,), n=16))
    f = per_example.norms(SMALL.net, SQUARED)
    scales = jnp.array([1.0, 2.0])

    def scaled(s):
        return fnn.Variables(jax.tree.map(lambda a: s * a, variables.params), ((),) * 3)

    @jax.jit
    def run(batch):
        mapped = jax.vmap(lambda s: f(scaled(s), batch))(scales)
        _, scanned = jax.lax.scan(lambda c, s: (c, f(scaled(s), batch)), 0, scales)
        return f(scaled(1.0), batch), mapped, scanned

    alone, mapped, scanned = run(batch)
    for many in (mapped, scanned):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-5), many, alone
        )
    if len(jax.devices()) >= 8:
        mesh = check_mesh(jax.make_mesh((8,), ("batch",)))
        split = jax.device_put(batch, NamedSharding(mesh, P("batch")))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
            *(run(split)[0], alone),
        )


@pytest.mark.thorough
def test_half_precision_gives_norms_in_float32():
    variables, batch = SINGLE
    halves = jax.tree.map(lambda a: a.astype(jnp.bfloat16), SINGLE)

    @jax.jit
    def run():
        in_precision = per_example.norms(SMALL.net, SQUARED, precision="bfloat16")
        f = per_example.norms(SMALL.net, SQUARED)
        return f(variables, batch), in_precision(variables, batch), f(*halves)

    exact, *found = run()
    for norms in found:
        assert norms.total.dtype == jnp.float32
        np.testing.assert_allclose(norms.total, exact.total, rtol=0.05)


def test_clipped_gradients_have_the_dtypes_of_the_parameters():
    variables, batch = SINGLE
    f = per_example.clipped_grad(SMALL.net, SQUARED, 1.0, precision="bfloat16")
    grads = jax.eval_shape(f, variables, batch)
    assert {g.dtype.name for g in jax.tree.leaves(grads)} == {"float32"}


def test_a_planned_network_is_walked_as_the_plain_one():
    (variables, batch), net = single(IMAGE), IMAGE.net
    planned = fnn.plan(net, (3, 2, 1), platform="cpu", ensemble=True)
    assert planned.changes
    one, two = (str(jax.make_jaxpr(per_example.norms(each, SQUARED))(variables, batch))
                for each in (net, planned))  # fmt: skip
    assert one == two


# ---- Each function ---------------------------------------------------------------


@pytest.mark.thorough
def test_a_probe_has_the_norm_of_delta():
    net = fnn.serial(fnn.Probed(fnn.Dense(3), N))
    variables, x = net.init(KEY, (4,)), jax.random.normal(KEY, (N, 4))
    found = jax.jit(per_example.norms(net, SQUARED))(variables, (x, jnp.zeros((N, 3))))
    z = net.forward(*variables, x).y
    norms = jnp.linalg.norm(z, axis=1)
    np.testing.assert_allclose(found.by_parameter[0].delta, norms, rtol=1e-6)
    np.testing.assert_allclose(found.by_parameter[0].params.bias, norms, rtol=1e-6)


def test_a_network_without_parameters_has_norms_of_zero():
    batch = jnp.ones((3, 2)), jnp.ones((3, 2))
    none = fnn.Variables(((),), ((),))
    net = fnn.serial(fnn.Relu())
    for function in (per_example.norms, per_example.gram):
        found = jax.jit(function(net, SQUARED))(none, batch)
        np.testing.assert_array_equal(jax.tree.leaves(found)[0], 0)
    assert jax.jit(per_example.clipped_grad(net, SQUARED, 1.0))(none, batch) == ((),)


def test_by_layer_joins_the_parameters_of_a_layer():
    variables, batch = SINGLE
    found = jax.jit(per_example.norms(SMALL.net, SQUARED))(variables, batch)
    layers = per_example.by_layer(SMALL.net, found.by_parameter)
    assert list(layers) == ["0/Dense", "2/Dense"]
    both = found.by_parameter[2].weight ** 2 + found.by_parameter[2].bias ** 2
    np.testing.assert_allclose(layers["2/Dense"] ** 2, both, rtol=1e-5)
    total = layers["0/Dense"] ** 2 + layers["2/Dense"] ** 2
    np.testing.assert_allclose(found.total**2, total, rtol=1e-5)


def test_chunks_of_gradients_are_all_of_them():
    variables, batch = SINGLE

    def squares(grads):
        return jax.tree.map(lambda g: jnp.square(g).sum(), grads)

    @jax.jit
    def run():
        f = functools.partial(per_example.map_gradients, squares, SMALL.net, SQUARED)
        sizes = [f(chunk_size=size)(variables, batch) for size in (1, 4, 100, None)]
        return sizes, per_example.norms(SMALL.net, SQUARED)(variables, batch)

    sizes, norms = run()
    for found in sizes:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b**2, rtol=1e-4),
            *(found, norms.by_parameter),
        )


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "4"])
def test_a_chunk_is_a_positive_number_of_examples(wrong):
    with pytest.raises(ValueError, match="chunk_size must be a positive integer"):
        per_example.map_gradients(lambda g: g, SMALL.net, SQUARED, chunk_size=wrong)


def test_gram_between_batches_and_cosines():
    variables, (x, y) = SINGLE

    @jax.jit
    def run():
        f = per_example.gram(SMALL.net, SQUARED)
        cosines = per_example.gram(SMALL.net, SQUARED, cosine=True)
        both = variables, (x, y), (x[4:], y[4:])
        return f(variables, (x, y)), f(*both), cosines(*both)

    whole, between, cosines = run()
    np.testing.assert_allclose(between, whole[:, 4:], rtol=1e-4)
    lengths = np.sqrt(np.diag(whole))
    expected = whole[:, 4:] / np.outer(lengths, lengths[4:])
    np.testing.assert_allclose(cosines, expected, rtol=1e-4)


def test_the_cosine_with_a_gradient_of_zero_is_zero():
    net = fnn.serial(fnn.Dense(1, bias=False))
    batch = jnp.array([[0.0], [1.0]]), jnp.ones((2, 1))
    f = jax.jit(per_example.gram(net, SQUARED, cosine=True))
    found = f(fnn.Variables((fnn.DenseParams(jnp.zeros((1, 1)), ()),), ((),)), batch)
    np.testing.assert_array_equal(found, [[0, 0], [0, 1]])


@pytest.mark.thorough
def test_the_tangent_kernel_is_that_of_the_jacobian():
    net = fnn.serial(fnn.Dense(3), fnn.Tanh())
    given = problem(net, (4,))
    with jax.enable_x64(True):
        variables, (x, _) = jax.tree.map(jnp.asarray, given[2:4])

        def both(x):
            def z(params):
                return net.forward(params, variables.state, x).y

            f = per_example.ntk(net)
            kernels = f(variables, x), f(variables, x, x[:2])
            return jax.jacrev(z)(variables.params), kernels

        rows, (kernel, between) = jax.jit(both)(x)
        rows = jnp.concatenate(
            [g.reshape(N, 3, -1) for g in jax.tree.leaves(rows)], axis=2
        )
        expected = jnp.einsum("nkp,mjp->nmkj", rows, rows)
        assert_close(kernel, expected, 10)
        assert_close(between, expected[:, :2], 10)


# ---- Clipping --------------------------------------------------------------------


def test_clipping_at_infinity_changes_nothing_and_a_traced_norm_is_allowed():
    variables, batch = SINGLE

    @jax.jit
    def run(clip):
        clipped = per_example.clipped_grad(SMALL.net, SQUARED, clip)(variables, batch)
        return clipped, fnn.value_and_grad(SMALL.net, SQUARED)(variables, batch).grads

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        *run(jnp.inf),
    )
    leaves = jax.device_get(jax.tree.leaves(run(1e-3)[0]))
    length = np.sqrt(sum(np.square(g).sum() for g in leaves))
    assert 0 < float(length) <= 1e-3


def test_examples_of_weight_zero_are_left_out_of_the_sum():
    variables, (x, y) = SINGLE
    f = per_example.clipped_grad(SMALL.net, SQUARED, CLIP)
    weights = jnp.array([1, 1, 0, 0, 1, 0])
    kept = np.flatnonzero(weights)
    some, few = jax.jit(
        lambda: (
            f(variables, (x, y), weights=weights),
            f(variables, (x[kept], y[kept])),
        )
    )()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(2 * a, b, rtol=1e-5, atol=1e-7),
        some,
        few,
    )


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan")])
def test_a_norm_that_is_not_positive_is_refused(wrong):
    with pytest.raises(ValueError, match="clip is the largest norm and must be pos"):
        per_example.clipped_grad(SMALL.net, SQUARED, wrong)


@pytest.mark.parametrize("wrong", [True, "1", np.array([1.0, 2.0])])
def test_a_norm_that_is_no_number_is_refused(wrong):
    with pytest.raises(TypeError, match="clip must be a number"):
        per_example.clipped_grad(SMALL.net, SQUARED, wrong)


# ---- Noise -----------------------------------------------------------------------


def test_signal_and_noise_are_estimated_without_bias():
    """Gradients z − y of a bias: N(G, s² I) by construction, 4,000 batches of 5."""
    draw = np.random.default_rng(0)
    mean, deviation, k = np.array([0.3, -0.4]), 1.5, 2
    y = -(mean + deviation * draw.normal(size=(4000, 5, k)))
    net = fnn.serial(fnn.Dense(k))
    variables = jax.tree.map(jnp.zeros_like, net.init(KEY, (1,)))
    f = per_example.signal_noise(net, SQUARED)

    def estimate(y):
        return f(variables, (jnp.zeros((5, 1)), y))

    found = jax.jit(jax.vmap(estimate))(jnp.asarray(y, jnp.float32))
    signal, noise = (np.asarray(part) for part in found)
    for part, truth in ((signal, (mean**2).sum()), (noise, k * deviation**2)):
        assert abs(part.mean() - truth) < 4 * part.std() / 4000**0.5
    average = per_example.NoiseAverage(0.999)
    state = average.init()
    state, _ = jax.lax.scan(
        lambda s, pair: (average.update(pair, s), None), state, found
    )
    assert float(state.noise_scale) == pytest.approx(18, rel=0.2)


def test_a_variance_needs_two_examples():
    variables, (x, y) = SINGLE
    for function in (per_example.noise_scale, per_example.variance):
        with pytest.raises(ValueError, match="at least two of them, got 1"):
            function(SMALL.net, SQUARED)(variables, (x[:1], y[:1]))


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_an_average_keeps_less_than_all(decay):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        per_example.NoiseAverage(decay)
