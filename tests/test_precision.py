"""Half, single and double precision: the dtypes of results, and their rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from planting import plant

import fnn
from fnn import Backward, optimizers
from fnn.gradients.audit.rounding import lost_digits
from fnn.gradients.audit.scaling import scaled_for_float16
from fnn.gradients.precision import all_finite, with_wide_sums

HALF = ["bfloat16", "float16"]
ENGINES = ["manual", "autodiff"]
LOSS = fnn.losses.SoftmaxCrossEntropy()
NET = fnn.serial(fnn.Dense(4), fnn.BatchNorm(), fnn.Relu(), fnn.Dense(3))
X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2], np.int32)


def gradients(engine, precision=None, loss_scale=None):
    """Compute the gradients of NET's fresh variables, compiled."""
    variables = NET.init(jax.random.key(0), (5,))
    grad_fn = jax.jit(fnn.value_and_grad(NET, LOSS, engine, precision=precision))
    return grad_fn(variables, (X, Y), loss_scale=loss_scale)


@pytest.fixture(scope="module")
def exact():
    return gradients("autodiff")


def cosine(a, b):
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (a, b))
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


# ---- Half precision ----------------------------------------------------------------


@pytest.mark.parametrize("precision", HALF)
def test_results_are_float32_and_their_computation_is_half(exact, precision):
    outs = [gradients(e, precision, 2.0**10) for e in ENGINES]
    eps = float(jnp.finfo(precision).eps)
    for out in outs:
        assert {a.dtype for a in jax.tree.leaves(out)} == {jnp.dtype("float32")}
        # Rounded: by more than float32, by no more than the half precision explains.
        assert eps / 64 < abs(out.outputs - exact.outputs).max() < 16 * eps
        assert abs(out.loss - exact.loss) < 2 * eps
        assert 1 - cosine(out.grads, exact.grads) < eps
        for new, old in zip(
            *map(jax.tree.leaves, (out.state, exact.state)), strict=True
        ):
            np.testing.assert_allclose(new, old, rtol=2 * eps, atol=eps)
    assert 1 - cosine(*(out.grads for out in outs)) < eps**2 * 16


@pytest.mark.parametrize("engine", ENGINES)
def test_layers_compute_in_half_precision_and_state_stays(engine):
    seen = []

    def forward(self, params, state, x, *, key=None, train=False):
        out = fnn.BatchNorm.forward(self, params, state, x, key=key, train=train)
        seen.append((x.dtype, params.scale.dtype, state.mean.dtype, out.y.dtype))
        return out

    net = fnn.serial(fnn.Dense(3), plant(fnn.BatchNorm, forward=forward)())
    variables = net.init(jax.random.key(0), (5,))
    seen.clear()
    grad_fn = fnn.value_and_grad(net, LOSS, engine, precision="bfloat16")
    jax.eval_shape(grad_fn, variables, (X, Y))
    half, single = map(jnp.dtype, ("bfloat16", "float32"))
    assert set(seen) == {(half, half, single, half)}


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("net", "shape"),
    [(fnn.Dense(3), (8192, 2)), (fnn.Conv(3, 1), (32, 16, 16, 2))],
    ids=["dense", "conv"],
)
def test_sums_over_the_batch_are_accumulated_in_float32(net, shape, engine, precision):
    # Added one by one, ones do not get past 256 in bfloat16, nor past 2048 in float16.
    x = jnp.ones(shape)
    params, state = net.init(jax.random.key(0), shape[1:])
    variables = jax.tree.map(jnp.zeros_like, params), state
    # δ = (z − t)/N = 1: each gradient is a count.
    y = jnp.full((*shape[:-1], 3), -float(len(x)))
    loss = fnn.losses.SquaredError()
    grad_fn = jax.jit(fnn.value_and_grad(net, loss, engine, precision=precision))
    grads = grad_fn(variables, (x, y)).grads
    assert np.all(grads.weight == 8192) and np.all(grads.bias == 8192)


def test_wide_sums_reach_into_compiled_functions():
    x = jnp.ones((64, 16, 16, 3), jnp.bfloat16)
    slope = jax.jit(jax.grad(lambda b: (x + b).astype(jnp.float32).sum()))
    b = jnp.ones(3, jnp.bfloat16)
    program = str(jax.make_jaxpr(lambda b: with_wide_sums(slope, b))(b))
    assert "f32[3] = reduce_sum" in program and "bf16[3] = reduce_sum" not in program
    assert "bf16[3] = reduce_sum" in str(jax.make_jaxpr(slope)(b))  # as JAX has it
    assert np.all(with_wide_sums(slope, b) == 64 * 16 * 16)


def test_the_penalty_is_computed_in_float32():
    net = fnn.Dense(3)
    variables = net.init(jax.random.key(0), (2,))
    x, y = jnp.zeros((4, 2)), jnp.zeros((4, 3))
    loss = fnn.losses.SquaredError()
    for engine in ENGINES:
        grad_fn = fnn.value_and_grad(net, loss, engine, l2=0.3, precision="float16")
        out = jax.jit(grad_fn)(variables, (x, y), loss_scale=8.0)
        weight = variables.params.weight
        np.testing.assert_allclose(out.grads.weight, 0.3 / 4 * weight, rtol=1e-6)
        np.testing.assert_allclose(out.loss, 0.3 / 8 * (weight**2).sum(), rtol=1e-6)


def test_objective_is_the_loss_in_that_precision(exact):
    params, state = NET.init(jax.random.key(0), (5,))
    f = fnn.objective(NET, LOSS, (params, state), (X, Y), precision="float16")
    value = float(jax.jit(f)(params))
    assert value == pytest.approx(float(gradients("manual", "float16").loss), rel=1e-6)
    assert value != float(exact.loss)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision must be 'bfloat16' or 'float16'"):
        fnn.value_and_grad(NET, LOSS, precision="float64")
    with pytest.raises(ValueError, match=r"loss_scale keeps .* pass precision="):
        gradients("manual", loss_scale=8.0)


# ---- Loss scaling ------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_loss_scale_keeps_gradients_that_vanish_in_float16(engine):
    net = fnn.Dense(3)
    variables = net.init(jax.random.key(0), (2,))
    # δ is 2e-8, a third of float16's smallest number; x is 1 and the gradient Σ δ.
    batch = jnp.ones((4, 2)), jnp.zeros((4, 3))
    tiny = fnn.losses.Huber(8e-8)
    grad_fn = jax.jit(fnn.value_and_grad(net, tiny, engine, precision="float16"))
    lost = grad_fn(variables, batch).grads.weight
    kept = grad_fn(variables, batch, loss_scale=2.0**14).grads.weight
    assert np.all(lost == 0)
    np.testing.assert_allclose(abs(kept), 8e-8, rtol=1e-2)


def test_an_overflow_skips_the_step_and_keeps_the_state():
    net = fnn.serial(fnn.Dense(3), fnn.BatchNorm(), fnn.Dense(3))
    optimizer = optimizers.loss_scaled(optimizers.adam(0.1), initial=2.0**40)
    variables = net.init(jax.random.key(0), (2,))
    x = X[:, :2]
    grad_fn = fnn.value_and_grad(net, LOSS, precision="float16")

    @jax.jit
    def step(variables, state):
        scale = optimizers.loss_scale(state)
        out = grad_fn(variables, (x, Y), loss_scale=scale)
        updates, state = optimizer.update(out.grads, state, variables.params)
        params = optax.apply_updates(variables.params, updates)
        return fnn.Variables(params, out.state), state, all_finite(out.grads)

    state, finite, scales = optimizer.init(variables.params), False, []
    start = jax.tree.map(np.array, (variables, state.inner))
    while not finite:
        last = jax.tree.map(np.array, (variables, state.inner))
        jax.tree.map(np.testing.assert_array_equal, last, start)
        scales.append(float(state.scale))
        variables, state, finite = step(variables, state)
    assert scales == [2.0 ** (40 - i) for i in range(len(scales))]
    assert 2.0**10 < scales[-1] < 2.0**30
    assert int(state.good) == 1 and int(state.inner.count) == 1
    assert float(abs(variables.state[1].mean).max()) > 0


def test_the_scale_changes_as_in_pytorch():
    # The scales are those of torch.amp.GradScaler.
    optimizer = optimizers.loss_scaled(optimizers.sgd(0.1), 8, period=3, minimum=2)
    update = jax.jit(optimizer.update)
    bad, nan, fine = jnp.array([1, jnp.inf]), jnp.array([jnp.nan, 1]), jnp.ones(2)
    state, scales = optimizer.init(fine), []
    for grads in (fine, fine, fine, fine, bad, fine, fine, fine, bad, nan, bad, bad):
        updates, state = update(grads, state)
        scales.append(float(optimizers.loss_scale(state)))
        np.testing.assert_allclose(updates, -0.1 * fine if grads is fine else 0 * fine)
    assert scales == [8, 8, 16, 16, 8, 8, 8, 16, 8, 4, 2, 2]
    largest = state._replace(scale=jnp.float32(2.0**127), good=jnp.int32(2))
    assert float(update(fine, largest)[1].scale) == 2.0**127  # never infinite


def test_loss_scaled_keeps_eval_params_of_look_ahead_optimizers():
    inner = optimizers.nesterov(0.25, momentum=0.5)
    optimizer, params = optimizers.loss_scaled(inner), jnp.ones(2)
    updates, state = optimizer.update(jnp.ones(2), optimizer.init(params), params)
    theta = optimizer.eval_params(state, params + updates)
    np.testing.assert_allclose(theta, 0.75)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial": 0}, "initial must be finite and > 0"),
        ({"factor": 1}, "factor must be finite and > 1"),
        ({"minimum": -1}, "minimum must be finite and > 0"),
        ({"period": 0}, "period counts steps and must be ≥ 1"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        optimizers.loss_scaled(optimizers.sgd(0.1), **arguments)


# ---- The audit ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_lost_digits_are_those_of_the_precision(dtype):
    eps = float(jnp.finfo(dtype).eps)
    with jax.enable_x64(True):
        lost = lost_digits(lambda a: 3 * a, jnp.linspace(0.34, 0.66, 50), dtype=dtype)
        # Half a unit in the last place of c a, which is below 4; divided by c.
        assert eps / 2 < abs(lost).max() <= eps


def test_float16_is_audited_with_gradients_that_it_can_hold():
    net, small = fnn.Dense(3), fnn.losses.Huber(1e-6)
    variables = net.init(jax.random.key(0), (5,))
    options = dict(train=True, l2=1e-7, n=6)
    batch = X, np.ones((6, 3), np.float32)
    scaled, l2 = scaled_for_float16(net, small, variables, batch, key=None, **options)
    assert l2 == scaled.scale * 1e-7 and np.log2(scaled.scale) % 1 == 0
    grads = fnn.value_and_grad(net, scaled, l2=l2)(variables, batch).grads
    assert 2**7 < max(float(abs(g).max()) for g in grads) <= 2**10


def in_half_only(dx, dy):
    """Return dx, 7% too large in the half precisions alone."""
    return dx * jnp.asarray(1.07 if dx.dtype.itemsize == 2 else 1, dx.dtype)


def wrong_dx(self, params, saved, dy):
    right = fnn.Dense.backward(self, params, saved, dy)
    return Backward(in_half_only(right.dx, dy), right.dparams)


def audited(layer, precision):
    net = fnn.serial(fnn.Dense(4), layer, fnn.Dense(3))
    variables = net.init(jax.random.key(0), (5,))
    options = dict(precision=precision, max_coordinates=2)
    return fnn.compare_gradients(net, LOSS, variables, (X, Y), **options)


def test_right_layers_pass_in_float16_which_is_judged_by_its_own_digits():
    report = audited(fnn.Tanh(), "float16")
    assert report.passed, str(report)
    assert report.precision == "float16" and "float16     rounding" in str(report)
    eps = float(jnp.finfo("float16").eps)
    assert eps / 16 < max(row.engine32 for row in report.rows) < 16 * eps
    # The report shows the gradients themselves, without the scale for float16.
    assert all(row.largest < 1 for row in report.rows)


def test_a_bug_of_bfloat16_alone_is_found_and_located():
    report = audited(plant(fnn.Dense, backward=wrong_dx)(4), "bfloat16")
    assert [node.path for node in report.nodes if not node.passed] == ["1/Dense.dx"]
    assert report.first_divergence == "1/Dense.dx"
    assert "in bfloat16, where autodiff" in str(report)


# ---- float64, end to end -------------------------------------------------------------


def test_float64_reaches_from_the_data_to_the_optimizer_and_the_history():
    with jax.enable_x64(True):
        net = fnn.serial(fnn.Dense(4), fnn.Tanh(), fnn.BatchNorm(), fnn.Dense(3))
        x, y = np.random.default_rng(2).normal(size=(12, 5)), np.arange(12) % 3
        options = dict(
            epochs=2, batch_size=12, plan=None, key=jax.random.key(1), l2=0.1
        )
        manual, auto = (
            fnn.fit(
                net, LOSS, optimizers.adam(0.01), train=(x, y), engine=engine, **options
            )
            for engine in ENGINES
        )
        floats = [
            leaf
            for leaf in jax.tree.leaves((manual.carry, manual.variables))
            if jnp.issubdtype(leaf.dtype, jnp.floating)
        ]
        assert len(floats) == 28 and {a.dtype for a in floats} == {np.dtype("float64")}
        for a, b in zip(*map(jax.tree.leaves, (manual.carry, auto.carry)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
        losses = [result.history["train_loss"] for result in (manual, auto)]
        np.testing.assert_allclose(*losses, rtol=1e-14)
        assert not np.any(losses[0] == losses[0].astype(np.float32))
