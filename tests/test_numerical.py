import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.gradients import numerical

NET = fnn.serial(fnn.Dense(4), fnn.Tanh(), fnn.Dense(3))
LOSS = fnn.losses.SoftmaxCrossEntropy()


@pytest.fixture
def problem():
    """An objective in float64, its parameters, and its gradient by autodiff."""
    with jax.enable_x64(True):
        variables = NET.init(jax.random.key(0), (5,))
        x = jax.random.normal(jax.random.key(1), (6, 5))
        y = jnp.array([0, 1, 2, 0, 1, 2])
        f = fnn.objective(NET, LOSS, variables, (x, y), l2=0.1)
        yield f, variables.params, jax.grad(f)(variables.params)


def test_central_differences_agree_with_autodiff_to_ten_digits(problem):
    f, params, grads = problem
    found = fnn.numerical_gradients(f, params)
    for ours, theirs in zip(
        jax.tree.leaves(found), jax.tree.leaves(grads), strict=True
    ):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_the_error_falls_as_h_squared():
    with jax.enable_x64(True):
        at = jnp.array([0.3])
        errors = [
            float(fnn.numerical_gradients(lambda w: jnp.exp(w).sum(), at, h=h)[0])
            - float(jnp.exp(0.3))
            for h in (1e-2, 1e-3)
        ]
    # exp''' = exp: the truncation error is h² eˣ / 6.
    np.testing.assert_allclose(
        errors, [np.exp(0.3) / 6 * h**2 for h in (1e-2, 1e-3)], 1e-3
    )


def test_memory_is_bounded_by_running_few_directions_together(monkeypatch):
    f = lambda w: (w**3).sum()  # noqa: E731
    w = jnp.linspace(-1, 1, 1001)
    compiled = lambda: (  # noqa: E731
        jax.jit(lambda w: numerical.differences(f, w, jnp.arange(w.size), 1e-2).central)
        .lower(w)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
    )
    plenty = compiled()
    monkeypatch.setattr(numerical, "MEMORY", 4 * w.nbytes * 8)
    assert compiled() < plenty / 4
    with jax.enable_x64(True):
        w = np.asarray(w, np.float64)
        np.testing.assert_allclose(fnn.numerical_gradients(f, w), 3 * w**2, atol=1e-6)


def test_random_directions_accept_the_gradient_and_reject_another(problem):
    f, params, grads = problem
    key = jax.random.key(2)
    numerical, claimed = fnn.directional_derivatives(f, params, grads, key=key)
    assert numerical.shape == (8,)
    np.testing.assert_allclose(numerical, claimed, atol=1e-9)
    wrong = jax.tree.map(lambda g: g.at[0].multiply(-1), grads)
    numerical, claimed = fnn.directional_derivatives(f, params, wrong, key=key)
    assert (abs(numerical - claimed) > 1e-4).all()


@pytest.mark.parametrize(
    ("x64", "low", "high"), [(False, 1e-4, 1e-1), (True, 1e-7, 1e-3)]
)
def test_h_sweep_is_a_v_with_its_tip_near_theory(x64, low, high):
    with jax.enable_x64(x64):
        w = jnp.linspace(0.1, 1.0, 7)
        sweep = fnn.h_sweep(lambda w: jnp.sin(3 * w).sum(), w, 3 * jnp.cos(3 * w))
    assert low < sweep.best < high
    assert sweep.theory / 20 < sweep.best < sweep.theory * 20
    tip = sweep.error.argmin()
    assert sweep.error[0] > 100 * sweep.error[tip]
    assert sweep.error[-1] > 100 * sweep.error[tip]


def test_kinks_show_as_slopes_that_differ():
    with jax.enable_x64(True):
        slopes = numerical.differences(
            lambda w: jnp.abs(w).sum(), jnp.array([0.0, 1.0]), jnp.arange(2), 1e-6
        )
    np.testing.assert_allclose(slopes.left, [-1, 1], atol=1e-9)
    np.testing.assert_allclose(slopes.right, [1, 1], atol=1e-9)


@pytest.mark.parametrize("h", [0.0, -1e-3, float("nan")])
def test_a_step_that_is_not_positive_is_refused(h):
    with pytest.raises(ValueError, match="step h must be a positive number"):
        fnn.numerical_gradients(lambda w: w.sum(), jnp.ones(2), h=h)


def test_gradients_of_another_size_are_refused():
    with pytest.raises(ValueError, match="expected gradients of the 3 numbers"):
        fnn.directional_derivatives(
            lambda w: w.sum(), jnp.ones(3), jnp.ones(2), key=jax.random.key(0)
        )
