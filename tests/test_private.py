"""Private training: what is drawn, clipped, added and spent."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn.passes.per_example import Private
from fnn.training.compiled import private as compiled
from fnn.training.compiled.descent import as_optimizer, initial_carry
from fnn.training.compiled.order import epoch_keys

KEY = jax.random.key(0)
SQUARED = fnn.losses.SquaredError()
NET = fnn.serial(fnn.Dense(1))
X = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
Y = (3 * X[:, 0] - X[:, 1] + 1).astype(np.float32)


def fit(private, net=NET, optimizer=None, train=(X, Y), epochs=1, **options):
    optimizer = optimizer or fnn.optimizers.sgd(0.1)
    options = dict(batch_size=20, key=KEY) | options
    return fnn.fit(
        *(net, SQUARED, optimizer),
        train=train, epochs=epochs, private=private, **options,
    )  # fmt: skip


def test_each_example_is_drawn_with_its_probability_and_for_itself():
    n, expected, trials = 30, 6, 4000
    keys = jax.random.split(KEY, trials)
    draw = jax.jit(jax.vmap(lambda key: compiled._poisson_sample(key, n, expected)))
    numbers, counts = map(np.asarray, draw(keys))
    drawn = np.zeros((trials, n))
    for row, found, count in zip(drawn, numbers, counts, strict=True):
        assert (np.diff(found[:count]) > 0).all()
        row[found[:count]] = 1
    q, deviation = expected / n, (expected / n * (1 - expected / n)) ** 0.5
    assert abs(drawn.mean(0) - q).max() < 4.5 * deviation / trials**0.5
    assert counts.var() == pytest.approx(n * q * (1 - q), rel=0.1)
    correlations = np.corrcoef(drawn.T) - np.eye(n)
    assert abs(correlations).max() < 5 / trials**0.5


def test_everything_is_drawn_where_the_batch_is_everything():
    numbers, count = compiled._poisson_sample(KEY, 7, 7)
    assert int(count) == 7 and sorted(numbers.tolist()) == list(range(7))


def test_an_epoch_is_algorithm_1_also_where_a_batch_has_several_chunks():
    """In NumPy, without noise: batches of 1 ± 1 examples, read three at a time."""
    n, clip, key = 40, 0.5, jax.random.key(3)
    optimizer = as_optimizer(fnn.optimizers.sgd(0.1))
    variables = NET.init(KEY, (2,))
    out = compiled.run_private_epoch(
        *(NET, SQUARED, optimizer, Private(clip, 0.0)),
        initial_carry(optimizer, variables), (X, Y), key, 1, batch_size=1,
    )  # fmt: skip
    weight, bias = (np.asarray(a, float) for a in variables.params[0])
    _, step_key = epoch_keys(key, 1)
    most = 0
    for t in range(n):
        draw_key = jax.random.fold_in(
            jax.random.fold_in(step_key, t), compiled.SAMPLING
        )
        numbers, count = compiled._poisson_sample(draw_key, n, 1)
        most = max(most, int(count))
        total = np.zeros(3)
        for i in np.asarray(numbers)[: int(count)]:
            error = X[i] @ weight + bias - Y[i]
            g = np.append(X[i] * error, error)
            total += g * min(1, clip / np.linalg.norm(g))
        weight, bias = weight - 0.1 * total[:2, None], bias - 0.1 * total[2:]
    assert most > 3  # so that a batch had two chunks
    found = out.carry.variables.params[0]
    np.testing.assert_allclose(found.weight, weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.bias, bias, rtol=1e-4, atol=1e-5)


def test_the_noise_has_its_size_and_another_draw_in_each_step():
    """Where all gradients are 0, a step is −rate σ C ξ / B; a frozen layer stays."""
    net = fnn.serial(fnn.frozen(fnn.Dense(2)), fnn.Dense(500, bias=False))
    optimizer = as_optimizer(optax.sgd(1.0))
    variables = jax.tree.map(jnp.zeros_like, net.init(KEY, (2,)))
    zeros = jnp.zeros((12, 2)), jnp.zeros((12, 500))
    sigma, clip, size = 3.0, 0.5, 4
    out = compiled.run_private_epoch(
        *(net, SQUARED, optimizer, Private(clip, sigma)),
        initial_carry(optimizer, variables), zeros, KEY, 1, batch_size=size,
    )  # fmt: skip
    frozen, dense = out.carry.variables.params
    assert not any(a.any() for a in jax.tree.leaves(frozen))
    expected = 3**0.5 * sigma * clip / size  # three steps, whose noises are added up
    assert np.asarray(dense.weight).std() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (dict(clip=0.0), "clip is the largest norm and must be positive, got 0.0"),
        (dict(noise_multiplier=-1.0), "noise_multiplier must be ≥ 0, got -1.0"),
        (dict(delta=1), "delta is a probability between 0 and 1"),
        (dict(delta=0.0), "delta is a probability between 0 and 1"),
        (dict(accountant="prv"), "accountant must be 'pld' or 'rdp', got 'prv'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        Private(**dict(clip=1.0, noise_multiplier=1.0) | settings)


def test_without_the_accountant_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ImportError, match=r"pip install 'fnn\[private\]'"):
        fit(Private(1.0, 1.0))


# ---- With the accountant ---------------------------------------------------------


@pytest.fixture
def accounting():
    return pytest.importorskip("dp_accounting", reason="the extra fnn[private]")


def test_the_budget_is_the_accountants(accounting):
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    result = fit(Private(1.0, 1.5, accountant="rdp"), epochs=2)
    step = dp_event.PoissonSampledDpEvent(0.5, dp_event.GaussianDpEvent(1.5))
    for epsilon, steps in zip(result.history["epsilon"], (2, 4), strict=True):
        accountant = RdpAccountant().compose(dp_event.SelfComposedDpEvent(step, steps))
        assert epsilon == accountant.get_epsilon(1e-5)
    assert result.history["train_loss"].shape == (2,)
    again = fit(Private(1.0, 1.5, accountant="rdp"), epochs=2)
    for one, two in zip(
        jax.tree.leaves(result.variables), jax.tree.leaves(again.variables), strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_published_budgets(accounting):
    """Opacus' table for MNIST: ε of its moments accountant, at δ = 1e-5."""
    for sigma, epochs, published in ((0.7, 45, 6.86), (1.1, 60, 2.91), (1.3, 15, 1.16)):
        found = Private(1.0, sigma, accountant="rdp").epsilon(60_000, 240, epochs)
        assert 0.7 * published < found < 1.02 * published  # conversions are tighter now


def test_no_epochs_cost_nothing_and_no_noise_costs_all(accounting):
    assert Private(1.0, 1.0).epsilon(100, 10, 0) == 0
    assert Private(1.0, 0.0, accountant="rdp").epsilon(100, 10, 1) == np.inf


REFUSED = {
    "batches": (dict(train=lambda: iter([(X, Y)])), "draws its batches from arrays"),
    "engine": (dict(engine="autodiff"), "computes clipped gradients by itself"),
    "guard": (dict(on_nonfinite="skip"), "leave out on_nonfinite"),
    "mesh": (dict(mesh=True), "runs on one device"),
    "batch norm": (
        dict(net=fnn.serial(fnn.Dense(1), fnn.BatchNorm())),
        "1/BatchNorm normalises by statistics",
    ),
}


@pytest.mark.parametrize(("options", "text"), REFUSED.values(), ids=REFUSED)
def test_what_would_not_be_private_is_refused(accounting, options, text):
    if options.get("mesh"):
        options = dict(mesh=jax.make_mesh((1,), ("batch",)))
    with pytest.raises(ValueError, match=text):
        fit(Private(1.0, 1.0, accountant="rdp"), **options)


def test_an_optimizer_that_looks_at_the_data_is_refused(accounting):
    with pytest.raises(TypeError, match="value") as raised:
        fit(Private(1.0, 1.0, accountant="rdp"), optimizer=optax.lbfgs())
    notes = "".join(raised.value.__notes__)
    assert "an optimizer gets the noisy gradient alone" in notes


def test_other_settings_are_refused():
    for wrong in (True, 1.0, {"clip": 1.0}):
        with pytest.raises(TypeError, match=r"private must be fnn.per_example.Private"):
            fit(wrong)
