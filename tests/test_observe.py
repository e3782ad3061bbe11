"""Functions that observe a run after every epoch, and their figure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn

KEY = jax.random.key(0)
SQUARED = fnn.losses.SquaredError()
NET = fnn.serial(fnn.Dense(2))
X, Y = np.ones((6, 3), np.float32), np.zeros((6, 2), np.float32)


def fit(observe, train=(X, Y), **options):
    options = dict(epochs=2, batch_size=4, key=KEY) | options
    return fnn.fit(
        NET, SQUARED, fnn.optimizers.sgd(0.1), train=train, observe=observe, **options
    )


def total(variables, batch, *, key):
    return fnn.per_example.norms(NET, SQUARED)(variables, batch, key=key).total


def test_every_function_is_recorded_after_every_epoch():
    seen = []
    observe = {
        "noise": fnn.per_example.signal_noise(NET, SQUARED),
        "norms": total,
        "sum": lambda variables, batch, *, key: jnp.sum(variables.params[0].bias),
    }
    result = fit(observe, on_epoch=seen.append)
    shapes = {
        name: {part: a.shape for part, a in parts.items()}
        for name, parts in result.observed.items()
    }
    assert shapes == {
        "noise": {"noise": (2,), "signal": (2,)},
        "norms": {"": (2, 4)},
        "sum": {"": (2,)},
    }
    bias = result.variables.params[0].bias
    np.testing.assert_allclose(result.observed["sum"][""][-1], bias.sum(), rtol=1e-6)
    at_the_end = total(result.variables, (X[:4], Y[:4]), key=None)
    np.testing.assert_allclose(result.observed["norms"][""][-1], at_the_end, rtol=1e-5)
    assert isinstance(seen[0]["observed"]["norms"][""][0], float)
    assert fit(None).observed is None


def test_a_resumed_run_goes_on_with_its_observations():
    first = fit({"norms": total})
    result = fit({"norms": total}, resume=first, epochs=3)
    norms = result.observed["norms"][""]
    assert norms.shape == (3, 4)
    np.testing.assert_array_equal(norms[:2], first.observed["norms"][""])
    later = fit({"norms": total}, resume=fit(None), epochs=3).observed["norms"][""]
    assert np.isnan(later[:2]).all()
    np.testing.assert_array_equal(later[2], norms[2])


def test_a_restored_result_has_its_observations(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    result = fit({"norms": total}, checkpoint_dir=tmp_path / "run", epochs=1)
    found = fnn.restore(tmp_path / "run").observed["norms"][""]
    np.testing.assert_array_equal(found, result.observed["norms"][""])


def test_weights_of_examples_are_observed():
    w = np.array([0, 2, 1, 1, 1, 1], np.float32)
    result = fit({"norms": total}, train=(X, Y, w), epochs=1)
    norms = result.observed["norms"][""][0]
    assert norms[0] == 0
    np.testing.assert_allclose(norms[1], 2 * norms[2], rtol=1e-5)


def test_angles_of_rules_over_a_run():
    net = fnn.serial(fnn.Dense(3), fnn.Dense(2))
    rules = {"feedback": fnn.rules.feedback_alignment(net, KEY)}

    def angles(variables, batch, *, key):
        return fnn.compare_rules(net, rules, SQUARED, variables, batch, key=key).angle

    result = fnn.fit(
        *(net, SQUARED, fnn.optimizers.sgd(0.1)),
        train=(X, Y), epochs=1, batch_size=6, key=KEY, observe={"angles": angles},
    )  # fmt: skip
    assert set(result.observed["angles"]) == {"feedback.0/Dense", "feedback.1/Dense"}
    np.testing.assert_allclose(
        result.observed["angles"]["feedback.1/Dense"], [0], atol=1e-3
    )


@pytest.mark.parametrize(
    ("observe", "text"),
    [
        (total, "observe must map names to functions"),
        ({"norms": 3}, "expected names and functions, got 'norms': 3"),
        ({1: total}, "expected names and functions, got 1"),
    ],
)
def test_what_is_no_function_is_refused(observe, text):
    with pytest.raises(TypeError, match=text):
        fit(observe)


def test_an_error_names_the_function_before_anything_is_trained():
    with pytest.raises(ValueError, match="at least two of them, got 1") as raised:
        fit({"noise": fnn.per_example.signal_noise(NET, SQUARED)}, batch_size=1)
    assert "in observe['noise'](variables, batch" in raised.value.__notes__[-1]


def test_the_figure_has_a_panel_for_each_function():
    pytest.importorskip("matplotlib")
    result = fit({"norms": total, "noise": fnn.per_example.signal_noise(NET, SQUARED)})
    figure = fnn.plot_observed(result)
    assert [panel.get_title() for panel in figure.axes] == ["noise", "norms"]
    assert len(figure.axes[0].get_lines()) == 2
    with pytest.raises(ValueError, match="the run observed nothing"):
        fnn.plot_observed(fit(None, epochs=0))
