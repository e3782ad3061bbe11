"""Curvature: what `jax.hessian` and Jacobians of small networks give, in float64."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LOSSES, N
from jax.flatten_util import ravel_pytree
from random_networks import random_image_trial, random_trial

import fnn
from fnn import curvature
from fnn.network import places
from fnn.passes.curvature import loss_hessians, overlaps
from fnn.passes.curvature.loss_hessians import hessian_product, hessian_root
from fnn.passes.formulas import factors_of

KEY = jax.random.key(0)
SOFTMAX, SQUARED = fnn.losses.SoftmaxCrossEntropy(), fnn.losses.SquaredError()


def problem(net, in_shape, outputs, n=4, loss=SQUARED):
    """Draw variables and a batch, as NumPy arrays of float64."""
    draw = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda a: np.asarray(a, float) + 0.2 * np.abs(draw.normal(size=a.shape)),
        net.init(KEY, in_shape),
    )
    shape = outputs if isinstance(outputs, tuple) else (outputs,)
    y = draw.normal(size=(n, *shape))
    if loss is SOFTMAX:
        y = draw.integers(0, outputs, size=n)
    return variables, (draw.normal(size=(n, *in_shape)), y)


def in_float64(test):
    """Run a test in float64."""

    @functools.wraps(test)
    def wrapped(*arguments, **options):
        with jax.enable_x64(True):
            test(*arguments, **options)

    return wrapped


def on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


def dense_matrices(net, loss, variables, batch, train=False):
    """The Hessian and the GGN (P, P) of the mean loss, by autodiff."""
    flat, unravel = ravel_pytree(variables.params)
    x, y = batch

    def outputs(flat):
        z = net.forward(unravel(flat), variables.state, x, key=KEY, train=train).y
        return ravel_pytree(z)[0]

    z = net.forward(*variables, x, key=KEY, train=train).y
    z, as_tree = ravel_pytree(z)
    hessian = jax.hessian(lambda flat: loss.value(as_tree(outputs(flat)), y))(flat)
    jacobian = jax.jacobian(outputs)(flat)
    of_loss = jax.hessian(lambda z: loss.value(as_tree(z), y))(z)
    return hessian, jacobian.T @ of_loss @ jacobian


def assert_close(found, expected, tolerance=1e-10):
    scale = float(np.abs(np.asarray(expected)).max(initial=1e-300))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


# ---- Losses ----------------------------------------------------------------------


#: One loss of each formula, at one position and at several.
QUICK_LOSSES = [
    *("sigmoid, classes", "softmax, classes", "softmax, tokens", "divergence"),
    *("squared error", "huber", "poisson", "softmax, padding 0"),
]
ALL_LOSSES = {c.name: c for c in LOSSES if c.loss != fnn.losses.Huber(0.1)}


@pytest.mark.parametrize(
    "names",
    [QUICK_LOSSES, pytest.param([*ALL_LOSSES], marks=pytest.mark.thorough)],
    ids=["quick", "all"],
)
@in_float64
def test_hessians_of_losses_are_the_derivatives_of_their_deltas(names):
    """By hand and by δ; products and roots, all in one program."""
    rows = [ALL_LOSSES[name] for name in names]
    weights = jnp.arange(N, dtype=float)

    @jax.jit
    def run():
        found = {}
        for case in rows:
            shape = (N, *case.positions, case.outputs)
            z, u = (jax.random.normal(jax.random.key(i), shape, float) for i in (0, 1))
            y = jnp.asarray(case.labels)
            for weighted in (False, True):
                loss, labels = case.loss, y
                if weighted:
                    loss, labels = fnn.losses.Weighted(loss), (y, weights)
                product = hessian_product(loss, z, labels, u)
                root = hessian_root(loss, z, labels)
                flat = u.reshape(N, -1)
                by_root = jnp.einsum("nkr,njr,nj->nk", root, root, flat)
                by_delta = loss_hessians._by_delta(loss, z, labels, u)
                found[case.name, weighted] = [
                    a.reshape(N, -1) for a in (product, by_root, by_delta)
                ]
        return found

    for product, by_root, by_delta in run().values():
        assert_close(product, by_delta, 1e-12)
        assert_close(by_root, by_delta, 1e-12)


@fnn.layer
class LogCosh:
    """A loss from elsewhere, of outputs with several axes."""

    def value(self, z, y):
        return jnp.log(jnp.cosh(z - y)).sum() / len(z)

    def delta(self, z, y):
        return jnp.tanh(z - y) / len(z)

    def check(self, out_shape, y):
        pass


@in_float64
def test_a_loss_from_elsewhere_needs_no_registration_and_may_have_one(monkeypatch):
    z, y, u = on_device(tuple(np.random.default_rng(0).normal(size=(3, 3, 2, 2))))
    run = jax.jit(lambda: (hessian_product(LogCosh(), z, y, u),
                           hessian_root(LogCosh(), z, y)))  # fmt: skip
    product, root = map(np.asarray, run())
    expected = np.asarray(u) / np.cosh(np.asarray(z - y)) ** 2
    by_root = np.einsum("nkr,njr,nj->nk", root, root, u.reshape(3, 4))
    assert_close(product, expected)
    assert_close(by_root.reshape(u.shape), expected)
    monkeypatch.setattr(loss_hessians, "_HESSIANS", dict(loss_hessians._HESSIANS))
    hessian = curvature.LossHessian(product=lambda loss, z, y, u: 7 * u)
    curvature.register(LogCosh)(hessian)
    assert_close(hessian_product(LogCosh(), z, y, u), 7 * u)
    with pytest.raises(TypeError, match="register expected classes of losses"):
        curvature.register(LogCosh())


# ---- Products, and the diagonal --------------------------------------------------

NET = fnn.serial(fnn.Dense(3), fnn.Tanh(), fnn.Dense(3))
IMAGES = fnn.serial(
    fnn.Conv(2, 2, stride=2), fnn.GroupNorm(1), fnn.Silu(), fnn.Flatten(), fnn.Dense(3)
)


def check_matrices(net, loss, variables, batch, train=False, one_by_one=True):
    """Compare products with all directions, and the diagonal."""
    variables, batch = on_device((variables, batch))

    @jax.jit
    def run(variables, batch):
        options = dict(key=KEY, train=train)
        found = {
            of: curvature.operator(
                net, loss, variables, batch, of=of, **options
            ).dense()
            for of in ("hessian", "ggn")
        }
        if one_by_one:
            diagonal = curvature.ggn_diagonal(net, loss)(variables, batch, **options)
            found["diagonal"] = ravel_pytree(diagonal)[0]
        return found, dense_matrices(net, loss, variables, batch, train)

    found, (hessian, ggn) = run(variables, batch)
    scale = float(np.abs(ggn).max()) + float(np.abs(hessian).max())
    for one, two in ((found["hessian"], hessian), (found["ggn"], ggn)):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-10 * scale)
    if one_by_one:
        diagonal = np.diag(ggn)
        np.testing.assert_allclose(
            found["diagonal"], diagonal, rtol=0, atol=1e-10 * diagonal.max()
        )


@pytest.mark.parametrize(
    ("net", "in_shape", "loss"),
    [
        (NET, (2,), SOFTMAX),
        pytest.param(IMAGES, (3, 3, 2), SQUARED, marks=pytest.mark.thorough),
    ],
    ids=["dense", "images"],
)
@in_float64
def test_products_and_the_diagonal_are_those_of_the_matrices(net, in_shape, loss):
    check_matrices(net, loss, *problem(net, in_shape, 3, loss=loss))


@in_float64
def test_curvature_of_trees_of_shared_and_frozen_layers_with_weights():
    step = fnn.tied("step", fnn.Dense(2))
    net = fnn.serial(
        fnn.each(ids=fnn.Embedding(3, 2), x=fnn.frozen(fnn.Dense(2))),
        fnn.Merge("sum"),
        fnn.shared(fnn.serial(step, fnn.Tanh(), step)),
        fnn.fork(a=fnn.Identity(), b=fnn.PRelu()),
    )
    draw, n = np.random.default_rng(0), 4
    variables = jax.tree.map(
        lambda a: np.asarray(a, float) + 0.2 * np.abs(draw.normal(size=a.shape)),
        net.init(KEY, {"ids": (), "x": (2,)}),
    )
    x = {"ids": draw.integers(0, 3, n), "x": draw.normal(size=(n, 2))}
    y = {"a": draw.integers(0, 2, n), "b": draw.normal(size=(n, 2))}
    loss = fnn.losses.Weighted(fnn.losses.Each({"a": SOFTMAX, "b": SQUARED}))
    weights = np.array([1.0, 0.5, 0.0, 2.0])
    check_matrices(net, loss, variables, (x, (y, weights)))


@pytest.mark.thorough
@in_float64
def test_batch_norm_in_training_has_products():
    net = fnn.serial(fnn.Dense(3), fnn.BatchNorm())
    given = problem(net, (2,), 3)
    check_matrices(net, SQUARED, *given, train=True, one_by_one=False)


@in_float64
def test_batch_norm_in_training_has_no_diagonal():
    net = fnn.serial(fnn.Dense(3), fnn.BatchNorm())
    given = problem(net, (2,), 3)
    for function in (curvature.ggn_diagonal, curvature.kfac_factors):
        with pytest.raises(ValueError, match="normalises by statistics of the batch"):
            jax.eval_shape(function(net, SQUARED), *on_device(given))


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(40))
@in_float64
def test_products_and_diagonals_of_random_networks(seed):
    draw = random_trial if seed < 25 else random_image_trial
    net, loss, variables, batch, _ = draw(seed, np.float64)
    if sum(a.size for a in jax.tree.leaves(variables.params)) > 400:
        pytest.skip("its dense matrix would take long")
    dropout = any(isinstance(layer, fnn.Dropout) for _, layer in places(net))
    norm = any(isinstance(layer, fnn.BatchNorm) for _, layer in places(net))
    check_matrices(net, loss, variables, batch, train=dropout and not norm)


@pytest.mark.thorough
def test_products_in_a_scan_under_vmap_and_in_half_precision():
    net = fnn.serial(fnn.Dense(3), fnn.Tanh())
    variables, batch = problem(net, (2,), 3)
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (variables, batch))
    halves = jax.tree.map(lambda a: a.astype(jnp.bfloat16), single)
    (variables, batch), f = single, curvature.hvp(net, SQUARED)
    ones = jax.tree.map(jnp.ones_like, variables.params)

    @jax.jit
    def run():
        def along(scale):
            direction = jax.tree.map(lambda a: scale * a, ones)
            return ravel_pytree(f(variables, batch, direction))[0]

        scales = jnp.array([1.0, 2.0])
        _, scanned = jax.lax.scan(lambda c, s: (c, along(s)), 0, scales)
        half = curvature.ggn_vp(net, SQUARED)(*halves, halves[0].params)
        whole = curvature.ggn_vp(net, SQUARED)(*single, variables.params)
        return along(1.0), jax.vmap(along)(scales), scanned, half, whole

    alone, mapped, scanned, half, whole = run()
    for many in (mapped, scanned):
        np.testing.assert_allclose(many[0], alone, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(many[1], 2 * alone, rtol=1e-4, atol=1e-5)
    assert {a.dtype.name for a in jax.tree.leaves(half)} == {"bfloat16"}
    half, whole = (np.asarray(ravel_pytree(t)[0], float) for t in (half, whole))
    assert np.abs(half - whole).max() < 0.05 * np.abs(whole).max()


@pytest.mark.parametrize("wrong", [(), "shape"])
def test_a_direction_of_another_tree_is_refused(wrong):
    net = fnn.serial(fnn.Dense(3))
    variables, batch = on_device(problem(net, (2,), 3))
    if wrong:
        wrong = jax.tree.map(lambda a: a[..., :1], variables.params)
    for function in (curvature.hvp, curvature.ggn_vp):
        with pytest.raises(ValueError, match="direction must be a tree like the param"):
            function(net, SQUARED)(variables, batch, wrong)


@pytest.mark.thorough
@in_float64
def test_the_diagonal_is_estimated_without_bias():
    net = fnn.serial(fnn.Dense(3))
    variables, batch = on_device(problem(net, (2,), 3, loss=SOFTMAX))

    @jax.jit
    def run(keys):
        f = curvature.ggn_diagonal(net, SOFTMAX, samples=2)
        many = jax.vmap(lambda key: ravel_pytree(f(variables, batch, key=key))[0])(keys)
        exact = curvature.ggn_diagonal(net, SOFTMAX)(variables, batch)
        return many, ravel_pytree(exact)[0]

    many, exact = map(np.asarray, run(jax.random.split(KEY, 4000)))
    error = np.abs(many.mean(0) - exact)
    assert (error < 5 * many.std(0) / 4000**0.5 + 1e-12).all()
    with pytest.raises(ValueError, match="was given no key"):
        curvature.ggn_diagonal(net, SOFTMAX, samples=2)(variables, batch)


@pytest.mark.thorough
@in_float64
def test_traces_and_diagonals_by_hutchinson():
    net = fnn.serial(fnn.Dense(3))
    variables, batch = on_device(problem(net, (2,), 3, loss=SOFTMAX))

    @jax.jit
    def run(keys):
        def estimates(key):
            trace = curvature.trace(net, SOFTMAX, of="ggn", samples=4)
            diagonal = curvature.diagonal(net, SOFTMAX, of="hessian", samples=4)
            found = diagonal(variables, batch, key=key)
            return trace(variables, batch, key=key), ravel_pytree(found)[0]

        return jax.vmap(estimates)(keys), dense_matrices(net, SOFTMAX, variables, batch)

    found, (hessian, ggn) = run(jax.random.split(KEY, 1000))
    for many, truth in zip(found, (np.trace(ggn), np.diag(hessian)), strict=True):
        many = np.asarray(many)
        error = np.abs(many.mean(0) - truth)
        assert (error < 5 * many.std(0) / 1000**0.5 + 1e-12).all()
    for function in (curvature.trace, curvature.diagonal):
        with pytest.raises(ValueError, match="was given no key"):
            function(net, SOFTMAX)(variables, batch)
        with pytest.raises(ValueError, match="of must be 'hessian' or 'ggn'"):
            function(net, SOFTMAX, of="fisher")


# ---- The operator ----------------------------------------------------------------


@in_float64
def test_the_operator_multiplies_trees_and_vectors_and_serves_scipy():
    from scipy.sparse.linalg import eigsh

    net = fnn.serial(fnn.Dense(3))
    variables, batch = on_device(problem(net, (2,), 3))
    matrix = curvature.operator(net, SQUARED, variables, batch, damping=0.5)
    v = jnp.arange(9.0)

    @jax.jit
    def run():
        tree = ravel_pytree(variables.params)[1](v)
        return matrix.dense(), matrix @ v, ravel_pytree(matrix @ tree)[0]

    dense, of_vector, of_tree = map(np.asarray, run())
    assert matrix.shape == dense.shape == (9, 9)
    assert_close(of_vector, dense @ v)
    assert_close(of_tree, dense @ v)
    largest = eigsh(matrix.as_scipy(), k=1, return_eigenvectors=False)
    assert_close(largest, np.linalg.eigvalsh(dense)[-1:], 1e-8)
    assert np.linalg.eigvalsh(dense)[0] >= 0.5 - 1e-12
    with pytest.raises(ValueError, match=r"has shape \(9, 9\) and multiplies trees"):
        matrix @ jnp.ones(8)


@in_float64
def test_the_spectrum_is_that_of_the_dense_matrix():
    pytest.importorskip("matfree", reason="the extra fnn[spectra]")
    net = fnn.serial(fnn.Dense(3))
    variables, batch = on_device(problem(net, (2,), 3))
    matrix = curvature.operator(net, SQUARED, variables, batch)
    values = np.linalg.eigvalsh(jax.jit(matrix.dense)())
    # As many products as there are different eigenvalues: each is of three outputs.
    found = curvature.spectrum(matrix, KEY, products=3, starts=400)
    assert_close(found.nodes, np.tile(values[::3], (400, 1)), 1e-8)
    assert_close(found.largest, values[-1], 1e-8)
    assert_close(found.smallest, values[0], 1e-8)
    deviation = float(np.std((found.weights * found.nodes).sum(1)))
    assert abs(found.moment(1) - values.mean()) < 5 * deviation / 400**0.5
    grid = np.linspace(-3, 3 + values[-1], 2000)
    assert np.trapezoid(found.density(jnp.asarray(grid), 0.1), grid) == pytest.approx(1)
    with pytest.raises(ValueError, match="products must be at most the 9 parameters"):
        curvature.spectrum(matrix, KEY, products=10)


def test_without_matfree_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matfree.decomp", None)
    matrix = curvature.CurvatureOperator(lambda v: v, jnp.ones(40))
    with pytest.raises(ImportError, match=r"pip install 'fnn\[spectra\]'"):
        curvature.spectrum(matrix, KEY)


# ---- KFAC ------------------------------------------------------------------------


def block_of(net, loss, variables, batch, path):
    """The block of the dense GGN that belongs to the weight and bias of a layer."""
    _, ggn = dense_matrices(net, loss, variables, batch)
    positions, start = [], 0
    for name, leaf in fnn.named_params(net, variables.params).items():
        if name.rpartition(".")[0] == path:
            positions += range(start, start + leaf.size)
        start += leaf.size
    # The parameters lie bias after weight, as in A ⊗ B.
    return ggn[np.ix_(positions, positions)]


LINEAR = fnn.serial(fnn.Dense(4), fnn.Dense(2), fnn.Dense(3))
PIXELS = fnn.serial(fnn.Conv(2, 1), fnn.Conv(3, 1, bias=False))
MEANS = fnn.serial(fnn.Conv(2, (2, 1)), fnn.GlobalAvgPool(), fnn.Dense(3))

#: Network, shape of an example, of outputs, examples, loss, kind: where KFAC is exact.
EXACT = {
    "linear, all examples": (LINEAR, (2,), (3,), 5, SQUARED, "expand"),
    "linear, reduce": (LINEAR, (2,), (3,), 5, SQUARED, "reduce"),
    "one example, any network and loss": (NET, (2,), 3, 1, SOFTMAX, "expand"),
    "an output for each place": (PIXELS, (2, 3, 2), (2, 3, 3), 3, SQUARED, "expand"),
    "means over places": (MEANS, (3, 2, 2), (3,), 3, SQUARED, "reduce"),
}


@pytest.mark.parametrize(
    "case",
    [
        case
        if name.startswith("one")
        else pytest.param(case, marks=pytest.mark.thorough)
        for name, case in EXACT.items()
    ],
    ids=EXACT,
)
@in_float64
def test_kfac_is_exact_where_it_should_be(case):
    net, in_shape, outputs, n, loss, kind = case
    variables, batch = on_device(problem(net, in_shape, outputs, n, loss))

    @jax.jit
    def run(variables, batch):
        found = curvature.kfac_factors(net, loss, kind)(variables, batch)
        blocks = {path: block_of(net, loss, variables, batch, path) for path in found}
        return found, blocks

    found, blocks = run(variables, batch)
    assert len(found) >= 2
    for path, (inputs, outputs) in found.items():
        assert_close(np.kron(inputs, outputs), blocks[path])


#: Convolutions, and the images that they see.
OVERLAPPING = {
    "5 × 5": (fnn.Conv(2, 5, padding="VALID"), (9, 8, 3)),
    "same, a bias": (fnn.Conv(2, 3), (6, 7, 2)),
    "no bias": (fnn.Conv(2, 3, bias=False), (6, 7, 2)),
    "stride": (fnn.Conv(2, 3, stride=2), (9, 8, 2)),
    "unequal strides": (fnn.Conv(2, (3, 4), stride=(3, 1)), (10, 7, 2)),
    "a stride that skips rows": (fnn.Conv(2, 2, stride=3), (10, 11, 1)),
    "dilation": (fnn.Conv(2, 3, dilation=2), (8, 9, 2)),
    "one row": (fnn.Conv(2, (1, 3)), (5, 6, 2)),
    "one column": (fnn.Conv(2, (3, 1)), (5, 6, 2)),
    "copies": (fnn.Conv(2, 3, padding="REFLECT"), (6, 5, 2)),
    "unequal padding": (fnn.Conv(2, 3, padding=((2, 0), (0, 1))), (6, 5, 2)),
    "three axes": (fnn.Conv(2, 2), (4, 3, 5, 2)),
    "one axis": (fnn.Conv(2, 3), (7, 2)),
    "groups": (fnn.Conv(4, 3, groups=2), (5, 5, 4)),
}


@in_float64
@pytest.mark.parametrize("name", OVERLAPPING)
def test_the_inputs_factor_is_the_mean_over_all_patches(name, monkeypatch):
    if name == "stride":  # in two parts
        monkeypatch.setattr(overlaps, "CHUNK", 4000)
    layer, shape = OVERLAPPING[name]
    net = fnn.serial(layer, fnn.Flatten(), fnn.Dense(3))
    variables = net.init(KEY, shape)
    x = jax.random.normal(KEY, (4, *shape), float)
    variables = jax.tree.map(lambda a: a.astype(float), variables)
    f = curvature.kfac_factors(net, SOFTMAX)
    found = f(variables, (x, jnp.arange(4) % 3))["0/Conv"].inputs
    y = layer.forward(variables.params[0], (), x).y
    patches = factors_of(layer, variables.params[0], x, y).weight.a
    patches = patches.reshape(-1, *patches.shape[2:])  # of all images
    if layer.bias:
        ones = jnp.ones((*patches.shape[:2], 1))
        patches = jnp.concatenate([patches, ones], axis=-1)
    expected = jnp.einsum("mgi,mgj->gij", patches, patches) / len(patches)
    np.testing.assert_allclose(found, jnp.squeeze(expected), atol=1e-12)


@pytest.mark.thorough
@in_float64
def test_kfac_of_groups_has_a_pair_for_each_and_skips_what_does_not_multiply():
    net = fnn.serial(
        fnn.Conv(4, 2, groups=2), fnn.GroupNorm(2), fnn.ConvTranspose(2, 2),
        fnn.Flatten(), fnn.Dense(3),
    )  # fmt: skip
    variables, batch = on_device(problem(net, (2, 2, 2), (3,)))
    found = jax.eval_shape(curvature.kfac_factors(net, SQUARED), variables, batch)
    shapes = {
        path: jax.tree.map(jnp.shape, tuple(pair)) for path, pair in found.items()
    }
    assert shapes == {
        "0/Conv": ((2, 5, 5), (2, 2, 2)),
        "4/Dense": ((9, 9), (3, 3)),
    }


@pytest.mark.thorough
@in_float64
def test_kfac_is_estimated_without_bias():
    net = fnn.serial(fnn.Dense(3))
    variables, batch = on_device(problem(net, (2,), 3, loss=SOFTMAX))

    @jax.jit
    def run(keys):
        f = curvature.kfac_factors(net, SOFTMAX, samples=2)
        many = jax.vmap(lambda key: f(variables, batch, key=key)["0/Dense"])(keys)
        return many, curvature.kfac_factors(net, SOFTMAX)(variables, batch)["0/Dense"]

    many, exact = run(jax.random.split(KEY, 4000))
    assert_close(many.inputs[0], exact.inputs)
    draws = np.asarray(many.outputs)
    error = np.abs(draws.mean(0) - exact.outputs)
    assert (error < 5 * draws.std(0) / 4000**0.5 + 1e-12).all()


def test_another_kind_of_kfac_is_refused():
    with pytest.raises(ValueError, match='kind must be "expand" or "reduce"'):
        curvature.kfac_factors(NET, SQUARED, "sum")


@pytest.mark.thorough
@in_float64
def test_a_step_of_kfac_divides_by_the_damped_factors():
    """For groups, with and without a bias: the inverse of a Kronecker product."""
    net = fnn.serial(fnn.Conv(4, 2, groups=2), fnn.GroupNorm(2), fnn.Flatten(),
                     fnn.Dense(3, bias=False))  # fmt: skip
    variables, _ = problem(net, (2, 2, 2), (3,))
    damping = 0.3

    draw = np.random.default_rng(0)

    def positive(*shape):
        root = jnp.asarray(draw.normal(size=shape))
        return root @ root.swapaxes(-1, -2)

    factors = {
        "0/Conv": curvature.KroneckerFactors(positive(2, 5, 5), positive(2, 2, 2)),
        "3/Dense": curvature.KroneckerFactors(positive(16, 16), positive(3, 3)),
    }
    grads = on_device(
        jax.tree.map(lambda a: draw.normal(size=a.shape), variables.params)
    )
    run = jax.jit(lambda g: curvature.precondition(net, g, factors, damping))
    factors, grads, found = jax.device_get((factors, grads, run(grads)))
    np.testing.assert_array_equal(found[1].scale, grads[1].scale)

    def divided(rows, a, b):
        pi = np.sqrt(np.trace(a) / len(a) / (np.trace(b) / len(b)))
        a = a + pi * damping**0.5 * np.eye(len(a))
        b = b + damping**0.5 / pi * np.eye(len(b))
        return np.linalg.solve(np.kron(a, b), rows.ravel()).reshape(rows.shape)

    assert_close(found[3].weight, divided(grads[3].weight, *factors["3/Dense"]))
    for g, (a, b) in enumerate(zip(*factors["0/Conv"], strict=True)):
        columns = slice(2 * g, 2 * g + 2)
        weight = grads[0].weight[..., columns].reshape(4, 2)
        rows = np.concatenate([weight, grads[0].bias[None, columns]])
        ours = found[0].weight[..., columns].reshape(4, 2)
        ours = np.concatenate([ours, found[0].bias[None, columns]])
        assert_close(ours, divided(rows, a, b))


def test_kfac_says_what_its_update_needs():
    transformation = curvature.kfac(NET, SQUARED)
    with pytest.raises(ValueError, match="kfac needs the variables and the batch"):
        transformation.update((), transformation.init(()), ())
