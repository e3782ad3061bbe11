"""A sweep over what changes shapes: a program for each shape, and the grid whole."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn.training.sweep.grid import Setting, groups, read_grid
from fnn.training.sweep.members import train_members

X = jax.random.normal(jax.random.key(0), (30, 3))
Y = (X[:, 0] > 0).astype(jnp.int32)
DATA = dict(train=(X, Y), validation=(X[:11], Y[:11]))
LOSS = fnn.losses.SoftmaxCrossEntropy()
KEYS = jax.random.split(jax.random.key(1), 2)
OPTIONS = dict(keys=KEYS, epochs=3, batch_size=8, **DATA)
MLP = fnn.serial(fnn.Dense(4), fnn.Tanh(), fnn.Dense(2))


def wide(width, learning_rate):
    net = fnn.serial(fnn.Dense(int(width)), fnn.Tanh(), fnn.Dense(2))
    return net, LOSS, fnn.optimizers.adam(learning_rate)


def deep(widths, learning_rate):
    layers = [layer for w in widths for layer in (fnn.Dense(w), fnn.Relu())]
    net = fnn.serial(*layers, fnn.Dense(2))
    return net, LOSS, fnn.optimizers.adam(learning_rate)


def activated(activation, learning_rate):
    net = fnn.serial(fnn.Dense(4), activation, fnn.Dense(2))
    return net, LOSS, fnn.optimizers.adam(learning_rate)


def optimized(optimizer, learning_rate):
    return MLP, LOSS, getattr(fnn.optimizers, optimizer)(learning_rate)


def by_optax(optimizer, l2):
    return MLP, LOSS, optimizer, l2


def batched(batch_size, learning_rate):
    rate = learning_rate * batch_size**0.5
    return MLP, LOSS, fnn.optimizers.adam(rate)


def batched_alone(learning_rate):
    return MLP, LOSS, fnn.optimizers.adam(learning_rate)


RATES = [0.01, 0.1]
#: The function, the values that are compiled in, and a function that makes them again.
SWEEPS = {
    "width": (wide, "width", lambda: [2, 5]),
    "a width as a float": (wide, "width", lambda: [2.0, 5.0]),
    "a list of widths": (deep, "widths", lambda: [[3], [3, 4]]),
    "activation": (activated, "activation", lambda: [fnn.Relu(), fnn.Tanh()]),
    "optimizer": (optimized, "optimizer", lambda: ["sgd", "adam"]),
    "optax": (by_optax, "optimizer", lambda: [optax.sgd(0.1), optax.adam(0.1)]),
    "batch size": (batched, "batch_size", lambda: [8, 15]),
    "batch size alone": (batched_alone, "batch_size", lambda: [8, 15]),
}
QUICK = ("width", "batch size")


def grid_of(name):
    build, axis, values = SWEEPS[name]
    rates = {"l2" if build is by_optax else "learning_rate": RATES}
    return build, {axis: values()} | rates


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.thorough)
        for name in SWEEPS
    ],
)
def test_a_program_for_each_shape_and_every_member_is_what_fit_trains(name):
    build, grid = grid_of(name)
    (axis, values), (rate, rates) = grid.items()
    before = train_members._cache_size()
    swept = fnn.sweep(build, grid, **OPTIONS)
    assert train_members._cache_size() - before == len(values)
    again = fnn.sweep(grid_of(name)[0], grid_of(name)[1], **OPTIONS)
    assert train_members._cache_size() - before == len(values)  # made again, equal
    for column, numbers in swept.history.items():
        np.testing.assert_array_equal(numbers, again.history[column])
    assert swept.compiled_in == (axis,)
    assert list(swept.axes) == [axis, rate, "key"]
    assert swept.history["validation_loss"].shape == (2, 2, 2, 3)
    for i, j, s in [(0, 1, 0), (1, 0, 1)]:
        settings = {axis: values[i], rate: rates[j]}
        options = {k: v for k, v in OPTIONS.items() if k != "keys"}
        if axis == "batch_size":
            options["batch_size"] = values[i]
        if build is batched_alone:
            del settings["batch_size"]
        net, loss, optimizer, *l2 = build(**settings)
        fit = fnn.fit(
            net, loss, optimizer, key=KEYS[s], l2=sum(l2), **options
        )  # fmt: skip
        for column in ("train_loss", "validation_loss", "validation_accuracy"):
            np.testing.assert_allclose(
                swept.history[column][i, j, s], fit.history[column], atol=1e-5
            )
        jax.tree.map(
            lambda got, want: np.testing.assert_allclose(got, want, atol=1e-4),
            swept.variables_at((i, j, s)),
            jax.tree.map(np.asarray, fit.variables),
        )


def test_the_grid_keeps_its_order_around_what_is_compiled_in():
    """Axes: traced, compiled in, traced, compiled in."""

    def build(learning_rate, width, rate, depth):
        layers = [fnn.Dense(width), fnn.Dropout(rate)] * depth
        net = fnn.serial(*layers, fnn.Dense(2))
        return net, LOSS, fnn.optimizers.sgd(learning_rate)

    grid = {"learning_rate": RATES, "width": [2, 3], "rate": [0.0, 0.5], "depth": [1]}
    options = OPTIONS | dict(early_stopping=fnn.EarlyStopping(patience=1))
    chunks = []
    swept = fnn.sweep(
        build, grid, **options, at_once=3, on_chunk=lambda *c: chunks.append(c)
    )
    assert swept.compiled_in == ("width", "depth")
    assert swept.stopped.shape == (2, 2, 2, 1, 2)
    assert chunks == [(n, 16) for n in (3, 6, 8, 11, 14, 16)]
    options = options | dict(keys=KEYS[1])
    for index in [(1, 1, 0, 0)]:
        names = zip(grid, index, strict=True)
        alone = fnn.sweep(build, {n: [grid[n][i]] for n, i in names}, **options)
        np.testing.assert_allclose(
            swept.history["train_loss"][(*index, 1)],
            alone.history["train_loss"].ravel(),
            atol=1e-5,
        )
        weight = swept.variables_at((*index, 1)).params[0].weight
        np.testing.assert_allclose(
            weight, alone.variables.params[0].weight.reshape(weight.shape), atol=1e-5
        )
    best = swept.best()
    assert set(best) == {*grid} and isinstance(best["width"], int)
    assert swept.variables.shape == swept.stopped.shape  # of objects: shapes differ
    lines = str(swept).splitlines()
    assert lines[-1] == "compiled for each width, depth: 2 programs"
    assert max(map(len, lines)) <= 80


def test_losses_with_other_metrics_leave_gaps_in_the_history():
    def build(loss):
        target = fnn.losses.Lambda(lambda z, y: (z[..., 0] ** 2).mean())
        return MLP, LOSS if loss == "cross-entropy" else target, optax.sgd(0.1)

    swept = fnn.sweep(build, {"loss": ["cross-entropy", "own"]}, **OPTIONS)
    accuracy = swept.history["validation_accuracy"]
    assert np.isfinite(accuracy[0]).all() and np.isnan(accuracy[1]).all()
    assert swept.best("accuracy", mode="max") == {"loss": "cross-entropy"}
    assert "cross-entropy" in str(swept) or "own" in str(swept)
    # All shapes are alike, and so the variables are arrays as in any other sweep.
    assert swept.variables.params[0].weight.shape == (2, 2, 3, 4)


def test_a_number_that_only_one_group_needs_is_compiled_in_for_all():
    def build(kind, rate):
        drop = fnn.Dropout(rate) if kind == "dropout" or rate > 0.2 else fnn.Relu()
        return fnn.serial(drop, fnn.Dense(2)), LOSS, optax.sgd(0.1)

    axes = read_grid({"kind": ["dropout", "relu"], "rate": [0.0, 0.5]})
    found = [group.settings for group in groups(build, axes)]
    assert found == [
        {"kind": kind, "rate": rate} for kind in axes["kind"] for rate in (0.0, 0.5)
    ]
    (alone,) = groups(build, axes | {"kind": axes["kind"][:1]})
    assert alone.index == {"kind": 0}  # the rate is traced


def test_an_error_says_which_member_it_was():
    def build(width, kind):
        if kind == "b" and width == 3:
            raise RuntimeError("no such network")
        return fnn.serial(fnn.Dense(width), fnn.Dense(2)), LOSS, optax.sgd(0.1)

    grid = {"width": [2, 3], "kind": ["a", "b"]}
    with pytest.raises(RuntimeError, match="no such network") as caught:
        fnn.sweep(build, grid, **OPTIONS)
    (note,) = caught.value.__notes__
    assert "in build(width=3, kind='b'), for the member at (1, 1) of the grid" in note
    assert "A number is traced in the sweep where build can be traced with it" in note


def test_an_error_of_a_network_names_its_group():
    def build(shape):
        return fnn.serial(fnn.Reshape(shape), fnn.Dense(2)), LOSS, optax.sgd(0.1)

    with pytest.raises(ValueError) as caught:
        fnn.sweep(build, {"shape": [(3,), (4,)]}, **OPTIONS)
    assert caught.value.__notes__[-1] == (
        "in the members of the sweep with shape=(4,)"
    )  # fmt: skip


def test_what_is_made_again_is_the_same_setting_and_what_differs_is_another():
    made = [
        lambda rate: optax.chain(optax.clip(1.0), optax.adam(rate)),
        lambda rate: fnn.serial(fnn.Dropout(rate), fnn.Dense(3)),
        lambda rate: [{"rate": rate}, (rate, None)],
        lambda rate: lambda x: rate * x,
        lambda rate: fnn.optimizers.sgd(rate),
        lambda rate: np.full(3, rate),
    ]
    for make in made:
        assert Setting(make(0.1)) == Setting(make(0.1))
        assert hash(Setting(make(0.1))) == hash(Setting(make(0.1)))
        assert Setting(make(0.1)) != Setting(make(0.2))
    assert Setting(1) != Setting(1.0) != Setting(True) != "True"


def test_a_member_has_a_place_along_every_axis():
    build, grid = grid_of("width")
    swept = fnn.sweep(build, grid | {"width": [2]}, **OPTIONS | dict(epochs=1))
    for index in [0, (0, 0), [0, 0, 0]]:
        with pytest.raises(ValueError, match="index must be a tuple with a place"):
            swept.variables_at(index)
