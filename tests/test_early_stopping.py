"""Early stopping by itself: the same in a loop, under jit and under vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn.training.early_stopping import EarlyStopping

NAN, INF = float("nan"), float("inf")

# (name, early stopping, metrics by epoch, best_epoch, epoch of the stop or None)
RUNS = [
    ("patience 0", EarlyStopping(0), [3, 2, 4, 1], 2, 3),
    ("patience 0, improving", EarlyStopping(0), [3, 2, 1], 3, None),
    ("patience 1", EarlyStopping(1), [3, 2, 4, 1], 2, 3),
    ("exactly patience", EarlyStopping(2), [3, 2, 4, 4, 1], 2, 4),
    ("an improvement resets", EarlyStopping(2), [3, 4, 2, 4, 4], 3, 5),
    ("still improving", EarlyStopping(2), [3, 2, 1], 3, None),
    ("equal is not better", EarlyStopping(2), [1, 1, 1], 1, 3),
    ("max", EarlyStopping(2, mode="max", monitor="accuracy"), [1, 3, 2, 2], 2, 4),
    ("min_delta", EarlyStopping(2, 1.0), [9, 8, 7.5, 7.25], 3, None),
    ("max, min_delta", EarlyStopping(2, 1.0, "max", "gain"), [0, 1, 0.5, 2], 1, 3),
    ("NaN first", EarlyStopping(2), [NAN, 2, 3, 1], 4, None),
    ("NaN in between", EarlyStopping(2), [2, NAN, 1, NAN, NAN], 3, 5),
    ("NaN only", EarlyStopping(2), [NAN, NAN, NAN], 0, 2),
    ("inf first", EarlyStopping(2), [INF, 5, 6], 2, None),
    ("-inf", EarlyStopping(2), [-INF, -INF, -INF], 1, 3),
    ("stopped is stopped", EarlyStopping(1), [2, 3, 1, 0], 1, 2),
]


def by_loop(early_stopping, metrics):
    state, stops = early_stopping.init(), []
    for epoch, metric in enumerate(metrics, start=1):
        state = early_stopping.update(state, metric, epoch)
        stops.append(bool(state.stop))
    return int(state.best_epoch), np.array(stops)


@jax.jit
def by_scan(early_stopping, metrics):
    def body(state, inputs):
        state = early_stopping.update(state, *inputs)
        return state, state.stop

    epochs = jnp.arange(1, len(metrics) + 1)
    state, stops = jax.lax.scan(body, early_stopping.init(), (metrics, epochs))
    return state.best_epoch, stops


def by_vmap(early_stopping, metrics):
    # Together with a run that always improves, which must not change the other.
    metrics = jnp.asarray(metrics, float)
    sign = 1.0 if early_stopping.mode == "max" else -1.0
    both = jnp.stack([jnp.arange(0.0, len(metrics)) * sign, metrics])
    best, stops = jax.vmap(by_scan, in_axes=(None, 0))(early_stopping, both)
    return best[1], stops[1]


def as_scan(early_stopping, metrics):
    return by_scan(early_stopping, jnp.asarray(metrics, float))


@pytest.mark.parametrize("way", [by_loop, as_scan, by_vmap])
@pytest.mark.parametrize(
    ("early_stopping", "metrics", "best_epoch", "stop_at"),
    [run[1:] for run in RUNS],
    ids=[run[0] for run in RUNS],
)
def test_stops_when_it_should_and_knows_the_best(
    early_stopping, metrics, best_epoch, stop_at, way
):
    best, stops = way(early_stopping, metrics)
    expected = [stop_at is not None and e >= stop_at for e in range(1, len(stops) + 1)]
    assert best == best_epoch
    assert list(stops) == expected


def test_min_delta_is_a_leaf():
    metrics = jnp.array([9.0, 8.0, 7.0, 6.0])
    two = EarlyStopping(1, jnp.array([0.5, 1.5]))
    best, stops = jax.vmap(by_scan, in_axes=(0, None))(two, metrics)
    assert best.tolist() == [4, 1]
    assert stops[:, -1].tolist() == [False, True]


@pytest.mark.parametrize(
    ("early_stopping", "text"),
    [
        (EarlyStopping(), "EarlyStopping(patience=5, min_delta=0.0, every=1)"),
        (
            EarlyStopping(3, 0.5, "max", "accuracy", subset=0.5),
            "EarlyStopping(patience=3, min_delta=0.5, mode='max', monitor='accuracy', "
            "every=1, subset=0.5)",
        ),
    ],
)
def test_the_repr_shows_its_numbers_and_can_be_pasted_back(early_stopping, text):
    assert repr(early_stopping) == text
    assert eval(text) == early_stopping


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"patience": -1}, ValueError, "patience must be at least 0, got -1"),
        ({"patience": 2.0}, TypeError, "patience must be an integer, got 2.0"),
        ({"patience": None}, TypeError, "patience must be an integer, got None"),
        ({"every": 0}, ValueError, "every must be at least 1, got 0"),
        ({"min_delta": -1}, ValueError, "min_delta .* must be >= 0, got -1.0"),
        ({"min_delta": NAN}, ValueError, "min_delta .* must be >= 0, got nan"),
        ({"mode": "auto"}, ValueError, "mode must be \"min\" .*, got 'auto'"),
        ({"monitor": "accuracy"}, ValueError, 'keep the worst .*pass mode="max"'),
        ({"mode": "max"}, ValueError, 'keep the worst .*pass mode="min"'),
        ({"subset": 0}, ValueError, "at least 1 example, got 0"),
        ({"subset": 1.5}, ValueError, r"a share in \(0, 1\], got 1.5"),
        ({"subset": True}, TypeError, "subset must be a number of examples"),
    ],
)
def test_refuses(arguments, error, text):
    with pytest.raises(error, match=text):
        EarlyStopping(**arguments)
